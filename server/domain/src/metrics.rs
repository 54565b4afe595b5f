//! Figures for the provider: who is there, what they pay, what goes through today.

use crate::{Domain, Provider, Result};
use model::access::Interval;
use model::catalogue::PlanTerms;
use model::{Currency, Money, Time};
use rust_decimal::Decimal;
use std::collections::BTreeMap;

/// The provider's overview.
#[derive(Debug, Clone)]
pub struct Overview {
    /// Accounts.
    pub consumers: i64,
    /// Subscriptions in force by plan, in no order of worth.
    pub plans: Vec<PlanCount>,
    /// What all paid subscriptions come to in a month: monthly flat prices, and a twelfth of yearly ones. Usage is not
    /// in it.
    pub mrr: Money,
    /// Requests since midnight UTC.
    pub requests: i64,
    /// Of these, refused by the gateway.
    pub refused: i64,
    /// Of these, failed by the API (5xx).
    pub errors: i64,
    /// Meter events that Stripe has not acknowledged.
    pub unsent: i64,
    /// The time the oldest of them was used.
    pub oldest_unsent: Option<Time>,
    /// Meter events that Stripe refused: usage that is not billed.
    pub refused_events: i64,
    /// Invoices that differ from our own rating.
    pub differing_invoices: i64,
}

/// Subscriptions in force to a plan.
#[derive(Debug, Clone)]
pub struct PlanCount {
    /// Slug of the plan.
    pub slug: String,
    /// Name of the plan.
    pub name: String,
    /// Subscriptions, free and complimentary ones too.
    pub subscriptions: i64,
    /// Those that pay.
    pub paid: i64,
    /// What they come to in a month.
    pub mrr: Money,
}

/// Reads it all.
///
/// # Errors
/// When the database fails.
pub async fn overview(domain: &Domain, _provider: &Provider) -> Result<Overview> {
    let midnight = Time::from_unix_s(domain.clock.now().unix_s().div_euclid(86_400) * 86_400);
    let plans = plans(domain).await?;
    let currency = plans.first().map_or(Currency::USD, |p| p.mrr.currency);
    let today = sqlx::query!(
        r#"SELECT coalesce(sum(requests), 0)::bigint AS "requests!", coalesce(sum(refused), 0)::bigint AS "refused!",
                  coalesce(sum(errors), 0)::bigint AS "errors!"
           FROM usage_hours WHERE hour >= $1"#,
        midnight,
    )
    .fetch_one(&domain.pool)
    .await?;
    let state = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM consumers) AS "consumers!",
                  (SELECT count(*) FROM meter_events WHERE state IN ('pending', 'sending', 'ambiguous')) AS "unsent!",
                  (SELECT min(at) FROM meter_events WHERE state IN ('pending', 'sending', 'ambiguous')) AS oldest,
                  (SELECT count(*) FROM meter_events WHERE state = 'refused') AS "refused_events!",
                  (SELECT count(*) FROM invoices WHERE rated_usage_minor <> billed_usage_minor) AS "differing!""#
    )
    .fetch_one(&domain.pool)
    .await?;
    Ok(Overview {
        consumers: state.consumers,
        mrr: crate::cost::sum(currency, plans.iter().map(|p| p.mrr))?,
        plans,
        requests: today.requests,
        refused: today.refused,
        errors: today.errors,
        unsent: state.unsent,
        oldest_unsent: state.oldest,
        refused_events: state.refused_events,
        differing_invoices: state.differing,
    })
}

async fn plans(domain: &Domain) -> Result<Vec<PlanCount>> {
    let rows = sqlx::query!(
        r#"SELECT p.slug, p.position, v.terms, s.interval,
                  count(*) AS "subscriptions!",
                  count(*) FILTER (WHERE s.settlement = 'stripe' AND s.status IN ('active', 'past_due')) AS "paid!"
           FROM subscriptions s JOIN plan_versions v ON v.id = s.plan_version_id JOIN plans p ON p.id = v.plan_id
           WHERE s.ended_at IS NULL GROUP BY p.slug, p.position, v.id, s.interval ORDER BY p.position, p.slug"#
    )
    .fetch_all(&domain.pool)
    .await?;
    let mut plans: BTreeMap<(i32, String), (PlanCount, Decimal)> = BTreeMap::new();
    for row in rows {
        let terms: PlanTerms = serde_json::from_value(row.terms)?;
        let Some(offer) = terms.offer(row.interval) else {
            continue;
        };
        let months = match row.interval {
            Interval::Month => Decimal::ONE,
            Interval::Year => Decimal::from(12),
        };
        let (plan, mrr) = plans.entry((row.position, row.slug.clone())).or_insert_with(|| {
            let plan = PlanCount {
                slug: row.slug,
                name: terms.name.clone(),
                subscriptions: 0,
                paid: 0,
                mrr: Money::zero(offer.flat.currency),
            };
            (plan, Decimal::ZERO)
        });
        plan.subscriptions += row.subscriptions;
        plan.paid += row.paid;
        *mrr += Decimal::from(offer.flat.minor) * Decimal::from(row.paid) / months;
    }
    plans
        .into_values()
        .map(|(mut plan, mrr)| {
            // Rounded once a plan, so that the plans' lines add up to the total shown.
            plan.mrr = Money::from_minor_half_up(mrr, plan.mrr.currency).map_err(crate::DomainError::internal)?;
            Ok(plan)
        })
        .collect()
}
