//! `turnpike override`.

use super::Context;
use crate::output::{self, Failure};
use clap::{ArgGroup, Args, Subcommand};
use domain::Provider;
use domain::overrides::{self, Line, NewOverride, State};
use model::access::QuotaKind;
use model::overrides::Change;
use model::{ConsumerId, OverrideId, Time};

/// What one consumer has in place of what its plan says.
#[derive(Subcommand)]
pub(crate) enum Override {
    /// Give a consumer another quota, another rate limit, or a feature on or off, for a time. Invoices stay as the plan
    /// says.
    Add(Add),
    /// The overrides of a consumer: active, coming, and the last that ended.
    List {
        /// Whose (con_...).
        #[arg(long, value_name = "ID")]
        consumer: ConsumerId,
    },
    /// End an override now, or take it back before it begins.
    End {
        /// Which (ovr_...).
        id: OverrideId,
    },
}

/// An override to be added.
#[derive(Args)]
#[command(group(ArgGroup::new("change").required(true).args(["quota", "limit", "feature"])))]
pub(crate) struct Add {
    /// Whose (con_...).
    #[arg(long, value_name = "ID")]
    consumer: ConsumerId,
    /// Units of a meter in a billing period.
    #[arg(long, value_name = "METER=UNITS", value_parser = number::<u64>)]
    quota: Option<(String, u64)>,
    /// hard (then refused) or soft (then let through); by default as the plan says.
    #[arg(long, conflicts_with_all = ["limit", "feature"])]
    kind: Option<QuotaKind>,
    /// Requests of a rate limit of the plan in each of its windows; rate is the overall one, in requests a second.
    #[arg(long, value_name = "NAME=COUNT", value_parser = number::<u32>)]
    limit: Option<(String, u32)>,
    /// Requests at once; by default as the plan says.
    #[arg(long, conflicts_with_all = ["quota", "feature"])]
    burst: Option<u32>,
    /// A feature, switched on or off whatever the plan says.
    #[arg(long, value_name = "SLUG=on|off", value_parser = switch)]
    feature: Option<(String, bool)>,
    /// Its first day (2026-12-24, in UTC), or the instant it begins (RFC 3339); by default now.
    #[arg(long, value_parser = start)]
    from: Option<Time>,
    /// Its last day (2026-12-24, in UTC), or the instant it ends (RFC 3339); by default it has no end.
    #[arg(long, value_parser = super::account::end)]
    until: Option<Time>,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Add {
    /// None when nothing is to be changed, which the command line refuses.
    fn change(&self) -> Option<Change> {
        let quota = self.quota.clone().map(|(meter, units)| Change::Quota {
            meter,
            units,
            kind: self.kind,
        });
        let limit = self.limit.clone().map(|(name, count)| Change::Limit {
            name,
            count,
            burst: self.burst,
        });
        let feature = self.feature.clone();
        let feature = feature.map(|(feature, on)| Change::Feature { feature, on });
        quota.or(limit).or(feature)
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<(String, N), &'static str> {
    let (name, number) = text.split_once('=').ok_or("NAME=NUMBER is wanted")?;
    let number = number
        .trim()
        .parse()
        .map_err(|_| "NAME=NUMBER is wanted, a whole number")?;
    Ok((name.trim().to_owned(), number))
}

fn switch(text: &str) -> Result<(String, bool), &'static str> {
    match text.split_once('=') {
        Some((slug, "on")) => Ok((slug.trim().to_owned(), true)),
        Some((slug, "off")) => Ok((slug.trim().to_owned(), false)),
        _ => Err("SLUG=on or SLUG=off is wanted"),
    }
}

fn start(text: &str) -> Result<Time, &'static str> {
    Time::parse_start(text).ok_or("a day (2026-12-24) or an instant (2026-12-24T18:00:00Z) is wanted")
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: Override) -> Result<(), Failure> {
    let (domain, provider) = (&context.domain, Provider::console());
    match command {
        Override::Add(asked) => add(context, asked).await,
        Override::List { consumer } => {
            domain::provision::find_consumer(domain, &provider, consumer)
                .await
                .map_err(|e| output::missing(e, "consumer", &consumer))?;
            let now = domain.clock.now();
            let lines = overrides::list(domain, &provider, consumer).await?;
            let rows: Vec<_> = lines.iter().map(|line| row(line, now)).collect();
            let text: Vec<String> = lines.iter().map(|line| words(line, now)).collect();
            let text = match text.is_empty() {
                true => format!("{consumer} has no overrides"),
                false => text.join("\n"),
            };
            output::result(
                context.json,
                &serde_json::json!({ "consumer_id": consumer, "overrides": rows }),
                &text,
            );
            Ok(())
        }
        Override::End { id } => {
            let consumer = overrides::owner(domain, &provider, id)
                .await
                .map_err(|e| output::missing(e, "override", &id))?;
            overrides::end(domain, &provider, consumer, id).await?;
            output::result(
                context.json,
                &serde_json::json!({ "override_id": id, "consumer_id": consumer, "ended": true }),
                &format!("{id} has ended"),
            );
            Ok(())
        }
    }
}

async fn add(context: &Context, asked: Add) -> Result<(), Failure> {
    let change = asked
        .change()
        .ok_or_else(|| Failure("--quota, --limit or --feature is wanted".to_owned()))?;
    let new = NewOverride {
        change: change.clone(),
        reason: asked.reason,
        starts_at: asked.from,
        ends_at: asked.until,
    };
    let id = overrides::add(&context.domain, &Provider::console(), asked.consumer, new)
        .await
        .map_err(|e| output::missing(e, "consumer", &asked.consumer))?;
    let end = asked
        .until
        .map_or("without an end".to_owned(), |until| format!("until {}", until.minute()));
    output::result(
        context.json,
        &serde_json::json!({ "override_id": id, "consumer_id": asked.consumer, "change": change, "from": asked.from, "until": asked.until }),
        &format!("{id}: {} for {}, {end}", change.words(), asked.consumer),
    );
    Ok(())
}

fn row(line: &Line, now: Time) -> serde_json::Value {
    serde_json::json!({
        "override_id": line.id,
        "change": line.change,
        "state": line.state(now).word(),
        "starts_at": line.starts_at,
        "ends_at": line.ends_at,
        "removed_at": line.removed_at,
        "reason": line.reason,
        "created_by": line.created_by,
        "created_at": line.created_at,
        "does_not_apply": line.misfit,
    })
}

fn words(line: &Line, now: Time) -> String {
    let state = line.state(now);
    let end = match (state, line.ends_at) {
        (State::Ended(at), _) => format!("until {}", at.minute()),
        (_, Some(end)) => format!("until {}", end.minute()),
        (_, None) => "without an end".to_owned(),
    };
    let misfit = line.misfit.as_ref().filter(|_| !matches!(state, State::Ended(_)));
    let misfit = misfit.map_or_else(String::new, |why| format!(" (does not apply to this plan: {why})"));
    format!(
        "{} {}: {}, from {} {end}: {}{misfit}",
        line.id,
        state.word(),
        line.change.words(),
        line.starts_at.minute(),
        line.reason,
    )
}
