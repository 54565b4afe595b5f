//! The spend cap: the consumer's own ceiling on usage charges in a period, enforced by the gateway on every request.

use crate::{BillingManager, Domain, DomainError, Result, Viewer, audit, cost, entitlements};
use model::{ConsumerId, Currency, Money, Period};

/// Highest cap, in minor units: beyond it a cap is a typing mistake.
const MAX_CAP_MINOR: i64 = 100_000_000_000;

/// The spend cap and what it is measured against.
#[derive(Debug, Clone)]
pub struct Budget {
    /// The cap; none means usage charges have no ceiling.
    pub cap: Option<Money>,
    /// Usage charges so far in the period.
    pub spent: Money,
    /// The running period; none without a subscription.
    pub period: Option<Period>,
    /// Currency of both.
    pub currency: Currency,
}

/// What setting a cap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapSet {
    /// Requests go on.
    Room,
    /// The period has spent as much or more: paid usage is refused from now on.
    StopsNow,
}

/// The spend cap in force.
///
/// # Errors
/// When the database fails.
pub async fn read(domain: &Domain, viewer: &Viewer) -> Result<Budget> {
    let cap = sqlx::query_scalar!(
        "SELECT spend_cap_minor FROM consumers WHERE id = $1",
        viewer.consumer() as ConsumerId
    )
    .fetch_optional(&domain.pool)
    .await?
    .ok_or(DomainError::NotFound)?;
    let running = cost::running(domain, viewer).await?;
    let currency = running.as_ref().map_or(Currency::USD, |c| c.usage.currency);
    Ok(Budget {
        cap: cap.map(|minor| Money { minor, currency }),
        spent: running.as_ref().map_or(Money::zero(currency), |c| c.usage),
        period: running.map(|c| c.period),
        currency,
    })
}

/// Sets or removes the cap; reaches the gateways within a second.
///
/// # Errors
/// `Invalid` for a negative cap or one beyond a billion.
pub async fn set(domain: &Domain, manager: &BillingManager, cap_minor: Option<i64>) -> Result<CapSet> {
    if cap_minor.is_some_and(|minor| !(0..=MAX_CAP_MINOR).contains(&minor)) {
        return Err(DomainError::invalid("cap", "Give an amount from 0 to 1,000,000,000."));
    }
    let mut tx = domain.pool.begin().await?;
    sqlx::query!(
        "UPDATE consumers SET spend_cap_minor = $2 WHERE id = $1",
        manager.consumer() as ConsumerId,
        cap_minor,
    )
    .execute(&mut *tx)
    .await?;
    entitlements::recompile(domain, &mut tx, manager.consumer()).await?;
    let target = cap_minor.map_or_else(|| "none".to_owned(), |minor| minor.to_string());
    let consumer = Some(manager.consumer());
    audit::record(domain, &mut tx, manager.actor(), consumer, "spend_cap.set", &target).await?;
    tx.commit().await?;
    let budget = read(domain, manager).await?;
    Ok(match budget.cap {
        Some(cap) if budget.spent.minor >= cap.minor => CapSet::StopsNow,
        _ => CapSet::Room,
    })
}
