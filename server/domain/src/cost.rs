//! The running cost of a period: what was paid in advance, what usage costs so far by our own rating, and what the next
//! invoice comes to if nothing more is used.

use crate::snapshot::rolled;
use crate::subscriptions::{self, Subscription};
use crate::{Domain, DomainError, Result, Viewer, catalogue};
use model::access::{Interval, Settlement};
use model::catalogue::PlanTerms;
use model::price::{UsageLine, rate};
use model::{ConsumerId, Currency, Money, Period, PlanVersionId, Time};
use sqlx::PgConnection;

/// What a subscription costs in its running period.
#[derive(Debug, Clone)]
pub struct Cost {
    /// The running period.
    pub period: Period,
    /// Name of the plan.
    pub plan: String,
    /// Who settles it: what is not settled by Stripe is never charged.
    pub settlement: Settlement,
    /// Paid in advance for the period.
    pub flat: Money,
    /// Usage by plan version and meter; more than one version after a change in mid-period.
    pub meters: Vec<MeterCost>,
    /// All usage of the period.
    pub usage: Money,
    /// The next invoice as it stands; none when there will be none.
    pub next_invoice: Option<NextInvoice>,
}

/// What the usage of a meter costs under one plan version.
#[derive(Debug, Clone)]
pub struct MeterCost {
    /// Name of the meter on pages.
    pub name: String,
    /// One of what is counted, in the singular.
    pub unit: String,
    /// Name of the plan whose prices hold.
    pub plan: String,
    /// Units.
    pub units: u64,
    /// Those of them that were used in an earlier period and came after its invoice was final.
    pub late: u64,
    /// As an invoice shows it.
    pub lines: Vec<UsageLine>,
    /// Sum of the lines.
    pub amount: Money,
    /// Charged already, when the plan was changed.
    pub invoiced: bool,
}

/// The next invoice as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextInvoice {
    /// When it is made.
    pub at: Time,
    /// The next period in advance; zero when the subscription ends.
    pub flat: Money,
    /// Usage so far that is on no invoice yet.
    pub usage: Money,
    /// Both.
    pub total: Money,
}

/// Adds amounts of one currency.
pub(crate) fn sum(currency: Currency, amounts: impl IntoIterator<Item = Money>) -> Result<Money> {
    amounts.into_iter().try_fold(Money::zero(currency), |total, m| {
        total
            .checked_add(m)
            .ok_or_else(|| DomainError::internal("amounts of two currencies, or too large"))
    })
}

/// The running cost; none without a subscription.
///
/// # Errors
/// When the database fails.
pub async fn running(domain: &Domain, viewer: &Viewer) -> Result<Option<Cost>> {
    let Some(subscription) = subscriptions::current(domain, viewer).await? else {
        return Ok(None);
    };
    let mut connection = domain.pool.acquire().await?;
    let now = domain.clock.now();
    of_subscription(&mut connection, viewer.consumer(), &subscription, now)
        .await
        .map(Some)
}

async fn of_subscription(
    connection: &mut PgConnection,
    consumer: ConsumerId,
    subscription: &Subscription,
    now: Time,
) -> Result<Cost> {
    let offer = subscription
        .offer()
        .ok_or_else(|| DomainError::internal("a subscription to an interval that its plan does not have"))?;
    let currency = offer.flat.currency;
    let period = rolled(subscription.period, now);
    let mut meters = Vec::new();
    for used in used(connection, consumer, period.start).await? {
        let terms = if used.version == subscription.version {
            subscription.terms.clone()
        } else {
            catalogue::terms(connection, used.version).await?
        };
        let invoiced = used.version != subscription.version;
        meters.extend(meter_cost(&used, &terms, subscription, invoiced, currency)?);
    }
    let usage = sum(currency, meters.iter().map(|m| m.amount))?;
    let open = sum(currency, meters.iter().filter(|m| !m.invoiced).map(|m| m.amount))?;
    Ok(Cost {
        next_invoice: next_invoice(subscription, period, open)?,
        period,
        plan: subscription.terms.name.clone(),
        settlement: subscription.settlement,
        flat: offer.flat,
        meters,
        usage,
    })
}

struct Used {
    version: PlanVersionId,
    slug: String,
    name: String,
    unit: String,
    units: u64,
    late: u64,
}

async fn used(connection: &mut PgConnection, consumer: ConsumerId, period_start: Time) -> Result<Vec<Used>> {
    let rows = sqlx::query!(
        r#"SELECT u.plan_version_id, u.units, u.late_units, m.slug, m.name, m.unit FROM usage_periods u
           JOIN meters m ON m.number = u.meter
           WHERE u.consumer_id = $1 AND u.environment = 'live' AND u.period_start = $2 AND u.units > 0
             AND u.plan_version_id <> '' ORDER BY u.plan_version_id, u.meter"#,
        consumer as ConsumerId,
        period_start,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Used {
                version: r.plan_version_id.parse().map_err(DomainError::internal)?,
                slug: r.slug,
                name: r.name,
                unit: r.unit,
                units: u64::try_from(r.units).map_err(DomainError::internal)?,
                late: u64::try_from(r.late_units).map_err(DomainError::internal)?,
            })
        })
        .collect()
}

/// The usage lines of a meter under a plan version; none where the version does not sell it.
pub(crate) fn usage_lines(
    terms: &PlanTerms,
    interval: Interval,
    meter: &str,
    units: u64,
    currency: Currency,
) -> Result<Option<Vec<UsageLine>>> {
    let meter = terms
        .offer(interval)
        .and_then(|o| o.meters.iter().find(|m| m.meter == meter));
    let lines = meter.map(|m| rate(m, units, currency));
    lines.transpose().map_err(DomainError::internal)
}

fn meter_cost(
    used: &Used,
    terms: &PlanTerms,
    subscription: &Subscription,
    invoiced: bool,
    currency: Currency,
) -> Result<Option<MeterCost>> {
    let Some(lines) = usage_lines(terms, subscription.interval, &used.slug, used.units, currency)? else {
        return Ok(None);
    };
    Ok(Some(MeterCost {
        name: used.name.clone(),
        unit: used.unit.clone(),
        plan: terms.name.clone(),
        units: used.units,
        late: used.late,
        amount: sum(currency, lines.iter().map(|l| l.amount))?,
        lines,
        invoiced,
    }))
}

fn next_invoice(subscription: &Subscription, period: Period, usage: Money) -> Result<Option<NextInvoice>> {
    if !subscription.is_paid() {
        return Ok(None);
    }
    let currency = usage.currency;
    let next = match &subscription.scheduled {
        _ if subscription.cancel_at_period_end => None,
        Some(scheduled) => scheduled.terms.offer(scheduled.interval),
        None => subscription.offer(),
    };
    let flat = next.map_or(Money::zero(currency), |o| o.flat);
    if next.is_none() && usage.minor == 0 {
        return Ok(None);
    }
    Ok(Some(NextInvoice {
        at: period.end,
        flat,
        usage,
        total: sum(currency, [flat, usage])?,
    }))
}
