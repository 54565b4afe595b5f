//! `turnpike usage`.

use super::Context;
use crate::output::{self, Failure};
use clap::Args;
use model::ConsumerId;
use model::access::Environment;

/// Usage of the running billing period.
#[derive(Args)]
pub(crate) struct Usage {
    /// Whose (con_...).
    #[arg(long)]
    consumer: ConsumerId,
}

/// Runs it.
pub(crate) async fn run(context: &Context, usage: Usage) -> Result<(), Failure> {
    let viewer = domain::Provider::console().viewer(usage.consumer);
    let Some(period) = domain::usage::report::period(&context.domain, &viewer, Environment::Live).await? else {
        return Err(Failure(format!("there is no consumer {}", usage.consumer)));
    };
    let cost = domain::cost::running(&context.domain, &viewer).await?;
    let rows: Vec<_> = period
        .meters
        .iter()
        .map(|m| {
            serde_json::json!({
                "meter": m.slug, "units": m.used, "included": m.terms.included, "quota": m.quota.units,
                "units_of_quota": m.counted,
            })
        })
        .collect();
    let words: Vec<String> = period
        .meters
        .iter()
        .map(|m| format!("{}: {} of {} {}s", m.name, m.counted, m.quota.units, m.unit))
        .collect();
    let cost_minor = cost.as_ref().map(|c| c.usage.minor);
    output::result(
        context.json,
        &serde_json::json!({ "consumer_id": usage.consumer, "plan": period.plan, "period_start": period.period.start, "period_end": period.period.end, "meters": rows, "usage_cost_minor": cost_minor }),
        &words.join("\n"),
    );
    Ok(())
}
