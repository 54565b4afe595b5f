//! Disputes: a cardholder contests a payment at the bank. While one is open keys are refused, or only the provider is
//! told, as the operator chose; won, everything is as before; lost, the plan ends that the payment was for.

use super::sync::{by_customer, copy};
use super::turn::Turn;
use crate::payments::{PaymentsError, StripeDispute};
use crate::settings::DisputePolicy;
use crate::{Actor, Domain, Provider, Result, audit, entitlements};
use model::{ConsumerId, Currency, Money, Time};
use sqlx::PgConnection;

/// Disputes that are shown of a consumer.
const MAX_LISTED: i64 = 20;

/// A dispute as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// Stripe's id.
    pub id: String,
    /// What is contested.
    pub amount: Money,
    /// The bank's word for why.
    pub reason: String,
    /// Stripe's word.
    pub status: String,
    /// When it was opened.
    pub opened_at: Time,
    /// When we heard that it is decided.
    pub closed_at: Option<Time>,
}

/// The newest disputes of a consumer.
///
/// # Errors
/// When the database fails.
pub async fn disputes(domain: &Domain, _provider: &Provider, consumer: ConsumerId) -> Result<Vec<Dispute>> {
    let rows = sqlx::query!(
        r#"SELECT stripe_dispute, amount_minor, currency AS "currency: Currency", reason, status, opened_at, closed_at
           FROM disputes WHERE consumer_id = $1 ORDER BY opened_at DESC, stripe_dispute LIMIT $2"#,
        consumer as ConsumerId,
        MAX_LISTED
    )
    .fetch_all(&domain.pool)
    .await?;
    let disputes = rows.into_iter().map(|r| Dispute {
        id: r.stripe_dispute,
        amount: Money {
            minor: r.amount_minor,
            currency: r.currency,
        },
        reason: r.reason,
        status: r.status,
        opened_at: r.opened_at,
        closed_at: r.closed_at,
    });
    Ok(disputes.collect())
}

/// Whether a consumer's keys are refused because of a dispute. An inquiry, whose status begins with `warning_`, takes no
/// money and stops nothing.
pub(crate) async fn stops(domain: &Domain, connection: &mut PgConnection, consumer: ConsumerId) -> Result<bool> {
    if domain.settings.dispute_policy == DisputePolicy::Flag {
        return Ok(false);
    }
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM disputes WHERE consumer_id = $1 AND closed_at IS NULL
                          AND NOT starts_with(status, 'warning_')) AS "stops!""#,
        consumer as ConsumerId
    )
    .fetch_one(connection)
    .await?)
}

/// A dispute was opened, changed or decided: asks Stripe, writes what is there now, and lets access follow.
///
/// # Errors
/// When Stripe cannot be asked.
pub(crate) async fn disputed(domain: &Domain, id: &str) -> Result<()> {
    let dispute = match domain.payments.dispute(id).await {
        Ok(dispute) => dispute,
        Err(PaymentsError::Missing) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let consumer = match &dispute.customer {
        Some(customer) => by_customer(domain, customer).await?,
        None => None,
    };
    let Some(consumer) = consumer else {
        tracing::warn!(dispute = id, "a disputed payment of nobody we know");
        return Ok(());
    };
    let mut turn = Turn::take(domain, consumer).await?;
    let changed = write(domain, turn.connection(), consumer, &dispute).await?;
    if changed && dispute.status == "lost" {
        end(domain, &mut turn, dispute.subscription.as_deref()).await?;
    }
    entitlements::recompile(domain, turn.connection(), consumer).await?;
    if changed {
        tracing::warn!(dispute = id, %consumer, status = dispute.status, "a payment is disputed");
        let (actor, action) = (Actor::System("stripe"), format!("payment.dispute.{}", dispute.status));
        audit::record(domain, turn.connection(), &actor, Some(consumer), &action, id).await?;
    }
    turn.commit().await
}

/// Stores a dispute; whether its status is news.
async fn write(
    domain: &Domain,
    connection: &mut PgConnection,
    consumer: ConsumerId,
    dispute: &StripeDispute,
) -> Result<bool> {
    let known = sqlx::query_scalar!("SELECT status FROM disputes WHERE stripe_dispute = $1", dispute.id)
        .fetch_optional(&mut *connection)
        .await?;
    if known.as_ref() == Some(&dispute.status) {
        return Ok(false);
    }
    let closed = matches!(dispute.status.as_str(), "won" | "lost" | "warning_closed" | "prevented");
    sqlx::query!(
        "INSERT INTO disputes (stripe_dispute, consumer_id, stripe_subscription, amount_minor, currency, reason, status,
                               opened_at, closed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (stripe_dispute) DO UPDATE SET status = excluded.status, amount_minor = excluded.amount_minor,
             closed_at = excluded.closed_at",
        dispute.id,
        consumer as ConsumerId,
        dispute.subscription,
        dispute.amount.minor,
        dispute.amount.currency as Currency,
        dispute.reason,
        dispute.status,
        dispute.created,
        closed.then(|| domain.clock.now())
    )
    .execute(connection)
    .await?;
    Ok(true)
}

/// Ends the subscription that a lost payment was for, when it is still in force. Nothing more is charged for it.
async fn end(domain: &Domain, turn: &mut Turn, subscription: Option<&str>) -> Result<()> {
    let Some(subscription) = subscription else {
        return Ok(());
    };
    match domain.payments.cancel_now(subscription, false).await {
        // Ended already: Stripe does not find it any more.
        Ok(()) | Err(PaymentsError::Missing) => {}
        Err(e) => return Err(e.into()),
    }
    copy(domain, turn, subscription).await
}
