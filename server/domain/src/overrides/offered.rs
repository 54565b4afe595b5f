//! What a consumer's plan has that an override can change.

use crate::features::Deciding;
use crate::{Domain, Provider, Result, catalogue};
use model::catalogue::{MeterTerms, RateLimit};
use model::overrides::{Change, OVERALL};
use model::policy::RateRule;
use model::{ConsumerId, Time};
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// What is said of a consumer without a plan.
pub(super) const NO_PLAN: &str = "It has no plan, so there is nothing to override. Give it a plan first.";

/// What a consumer's plan has that an override can change.
#[derive(Debug, Clone, PartialEq)]
pub struct Offered {
    /// Name of the plan.
    pub plan: String,
    /// Its meters, with their quotas.
    pub meters: Vec<MeterTerms>,
    /// Its overall rate limit.
    pub rate_limit: RateLimit,
    /// Its named limits.
    pub limits: Vec<RateRule>,
    /// Slugs of all features of the catalogue: any can be switched on.
    pub features: Vec<String>,
    /// Slugs of the features that the consumer has, now or later, by plan, name or grant: these can be switched off.
    pub has: BTreeSet<String>,
}

impl Offered {
    /// Whether a change refers to something that is there.
    ///
    /// # Errors
    /// What is there instead.
    pub fn check(&self, change: &Change) -> Result<(), String> {
        let plan = &self.plan;
        let among = |what: &str, wanted: &str, all: Vec<&str>| match (all.contains(&wanted), all.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err(format!("The plan {plan} has no {what} {wanted:?}; it has none.")),
            (false, false) => Err(format!(
                "The plan {plan} has no {what} {wanted:?}; it has {}.",
                all.join(", ")
            )),
        };
        match change {
            Change::Quota { meter, .. } => {
                among("meter", meter, self.meters.iter().map(|m| m.meter.as_str()).collect())
            }
            Change::Limit { name, .. } => {
                let named = self.limits.iter().map(|l| l.name.as_str());
                among("limit", name, std::iter::once(OVERALL).chain(named).collect())
            }
            Change::Feature { feature, on: true } if self.features.contains(feature) => Ok(()),
            Change::Feature { on: true, .. } if self.features.is_empty() => {
                Err("The catalogue has no features.".to_owned())
            }
            Change::Feature { feature, on: true } => Err(format!(
                "{feature:?} is none of the features {}.",
                self.features.join(", ")
            )),
            Change::Feature { feature, on: false } => {
                among("feature", feature, self.has.iter().map(String::as_str).collect())
            }
        }
    }
}

/// What can be overridden for a consumer; none without a plan.
///
/// # Errors
/// When the database fails.
pub async fn offered(domain: &Domain, _provider: &Provider, consumer: ConsumerId) -> Result<Option<Offered>> {
    let mut connection = domain.pool.acquire().await?;
    load(&mut connection, consumer, domain.clock.now()).await
}

/// As [`offered`].
pub(super) async fn load(connection: &mut PgConnection, consumer: ConsumerId, now: Time) -> Result<Option<Offered>> {
    let row = sqlx::query!(
        "SELECT plan_version_id, interval FROM subscriptions WHERE consumer_id = $1 AND ended_at IS NULL",
        consumer as ConsumerId
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let terms = catalogue::terms(&mut *connection, row.plan_version_id).await?;
    let features = sqlx::query_scalar!("SELECT slug FROM features ORDER BY slug")
        .fetch_all(&mut *connection)
        .await?;
    let deciding = Deciding::load(connection, consumer).await?;
    Ok(Some(Offered {
        meters: terms.offer(row.interval).map_or_else(Vec::new, |o| o.meters.clone()),
        has: deciding.has(&terms.features, consumer, now),
        plan: terms.name,
        rate_limit: terms.rate_limit,
        limits: terms.limits,
        features,
    }))
}
