//! `turnpike usage`.

use super::Context;
use crate::output::{self, Failure};
use clap::Args;
use model::ConsumerId;

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
    let meters = domain::usage::period_totals(&context.domain, &viewer, model::access::Environment::Live).await?;
    let cost = domain::cost::running(&context.domain, &viewer).await?;
    let rows: Vec<_> = meters
        .iter()
        .map(|m| serde_json::json!({ "meter": m.slug, "units": m.used, "included": m.included, "period_start": m.period.start, "period_end": m.period.end }))
        .collect();
    let words: Vec<String> = meters.iter().map(|m| format!("{}: {} of {} {}s", m.name, m.used, m.included, m.unit)).collect();
    let cost_minor = cost.as_ref().map(|c| c.usage.minor);
    output::result(
        context.json,
        &serde_json::json!({ "consumer_id": usage.consumer, "meters": rows, "usage_cost_minor": cost_minor }),
        &words.join("\n"),
    );
    Ok(())
}
