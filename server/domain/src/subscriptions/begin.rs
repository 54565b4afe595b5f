//! Agreements that need no payment: the free plan, and what the provider gives away.

use crate::{Domain, DomainError, Provider, Result, audit, catalogue, entitlements};
use model::access::{Interval, Settlement, SubscriptionStatus};
use model::{ConsumerId, Period, PlanVersionId, SubscriptionId, Time};
use sqlx::PgConnection;

/// Puts a consumer on the free plan, in the caller's transaction, and compiles its entitlements. Without a free plan
/// in the catalogue it is left without a plan: it can look around and subscribe, and its keys are refused.
///
/// # Errors
/// [`DomainError::Conflict`] when an agreement is in force.
pub async fn start_free(domain: &Domain, connection: &mut PgConnection, consumer: ConsumerId) -> Result<()> {
    if let Some((plan, _)) = catalogue::free_plan(&mut *connection).await? {
        let begin = Begin {
            consumer,
            version: plan.version,
            interval: Interval::Month,
            settlement: Settlement::Free,
        };
        begin.insert(domain, connection).await?;
    }
    entitlements::recompile(domain, connection, consumer).await
}

/// Gives a consumer a plan without charging for it: metered and limited by its terms, never billed. Replaces the free
/// plan or an earlier gift, not an agreement that is paid for.
///
/// # Errors
/// [`DomainError::Invalid`] when there is no such plan or it has no such interval; [`DomainError::Conflict`] when the
/// consumer pays for a plan.
pub async fn grant_complimentary(
    domain: &Domain,
    provider: &Provider,
    consumer: ConsumerId,
    plan: &str,
    interval: Interval,
) -> Result<SubscriptionId> {
    let mut tx = domain.pool.begin().await?;
    lock_consumer(&mut tx, consumer).await?;
    // Not only what is on sale: a gift needs no price in Stripe.
    let row = sqlx::query!(
        "SELECT v.id, v.terms FROM plan_versions v JOIN plans p ON p.id = v.plan_id
         WHERE p.slug = $1 AND p.retired_at IS NULL ORDER BY v.number DESC LIMIT 1",
        plan
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| DomainError::invalid("plan", format!("there is no plan {plan:?}")))?;
    let terms: model::catalogue::PlanTerms = serde_json::from_value(row.terms)?;
    if terms.offer(interval).is_none() {
        return Err(DomainError::invalid(
            "interval",
            format!("{plan} is not sold by the {interval}"),
        ));
    }
    end_unpaid(&mut tx, consumer, domain.clock.now()).await?;
    let begin = Begin {
        consumer,
        version: row.id,
        interval,
        settlement: Settlement::Complimentary,
    };
    let id = begin.insert(domain, &mut tx).await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        Some(consumer),
        "subscription.grant",
        &id.to_string(),
    )
    .await?;
    tx.commit().await?;
    Ok(id)
}

/// Takes the consumer's row lock: whatever changes its agreement happens one after the other.
pub(crate) async fn lock_consumer(connection: &mut PgConnection, consumer: ConsumerId) -> Result<()> {
    sqlx::query!(
        "SELECT id FROM consumers WHERE id = $1 FOR NO KEY UPDATE",
        consumer as ConsumerId
    )
    .fetch_optional(connection)
    .await?
    .map(|_| ())
    .ok_or(DomainError::NotFound)
}

/// Ends an agreement that Stripe does not settle, when one is in force.
pub(crate) async fn end_unpaid(connection: &mut PgConnection, consumer: ConsumerId, now: Time) -> Result<()> {
    sqlx::query!(
        "UPDATE subscriptions SET ended_at = $2, status = 'cancelled'
         WHERE consumer_id = $1 AND ended_at IS NULL AND settlement <> 'stripe'",
        consumer as ConsumerId,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An agreement to be made.
struct Begin {
    consumer: ConsumerId,
    version: PlanVersionId,
    interval: Interval,
    settlement: Settlement,
}

impl Begin {
    async fn insert(&self, domain: &Domain, connection: &mut PgConnection) -> Result<SubscriptionId> {
        let now = domain.clock.now();
        let id = SubscriptionId::new(now, &*domain.random);
        let period = Period::nth(now, self.interval, 0);
        let done = sqlx::query!(
            "INSERT INTO subscriptions (id, consumer_id, plan_version_id, interval, status, settlement,
                                        period_start, period_end, anchor, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7, $7)
             ON CONFLICT (consumer_id) WHERE ended_at IS NULL DO NOTHING",
            id as SubscriptionId,
            self.consumer as ConsumerId,
            self.version as PlanVersionId,
            self.interval as Interval,
            SubscriptionStatus::Active as SubscriptionStatus,
            self.settlement as Settlement,
            period.start,
            period.end
        )
        .execute(connection)
        .await?;
        if done.rows_affected() == 0 {
            return Err(DomainError::Conflict(
                "There is a subscription already; change it instead.".to_owned(),
            ));
        }
        Ok(id)
    }
}
