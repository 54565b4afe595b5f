//! Our address at Stripe, the secrets that sign deliveries to it, and the types of events we want.

use crate::jobs::Job;
use crate::{Domain, Result};
use serde::{Deserialize, Serialize};

/// The types of events that are handled; the endpoint asks for these and no others.
pub const HANDLED: &[&str] = &[
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.refunded",
    "checkout.session.async_payment_failed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.subscription.resumed",
    "customer.subscription.updated",
    "invoice.created",
    "invoice.deleted",
    "invoice.finalization_failed",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.overdue",
    "invoice.paid",
    "invoice.payment_action_required",
    "invoice.payment_failed",
    "invoice.updated",
    "invoice.voided",
    "subscription_schedule.aborted",
    "subscription_schedule.canceled",
    "subscription_schedule.completed",
    "subscription_schedule.created",
    "subscription_schedule.released",
    "subscription_schedule.updated",
];
/// How long the secret of a replaced endpoint is still good, in seconds: Stripe's own overlap when a secret is rolled.
const OVERLAP_S: i64 = 24 * 3_600;
/// How often the endpoint is looked for.
const EVERY_S: i64 = 6 * 3_600;

pub(super) fn is_handled(kind: &str) -> bool {
    HANDLED.contains(&kind)
}

/// Secrets that sign deliveries to our address: the newest endpoint's, and for a day those it replaced.
pub(super) async fn secrets(domain: &Domain) -> Result<Vec<String>> {
    let url = super::url(domain);
    Ok(sqlx::query_scalar!(
        "SELECT secret FROM stripe_endpoints e WHERE url = $1 AND NOT EXISTS
            (SELECT FROM stripe_endpoints n WHERE n.url = e.url AND n.created_at > e.created_at AND n.created_at < $2)",
        url,
        domain.clock.now().plus_s(-OVERLAP_S)
    )
    .fetch_all(&domain.pool)
    .await?)
}

/// Registers our address with Stripe unless it is registered, and looks again a few times a day.
#[derive(Debug, Serialize, Deserialize)]
pub struct EnsureEndpoint {}

#[async_trait::async_trait]
impl Job for EnsureEndpoint {
    const KIND: &'static str = "stripe_inbox.ensure_endpoint";
    const ASKS_STRIPE: bool = true;
    const EVERY_S: Option<i64> = Some(EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        ensure(domain).await
    }
}

async fn ensure(domain: &Domain) -> Result<()> {
    let url = super::url(domain);
    let known = sqlx::query_scalar!(
        "SELECT stripe_id FROM stripe_endpoints WHERE url = $1 ORDER BY created_at DESC LIMIT 1",
        url
    )
    .fetch_optional(&domain.pool)
    .await?;
    if let Some(id) = known
        && let Some(types) = domain.payments.endpoint_types(&id).await?
    {
        // Registered by a version of this program that handled other types.
        if HANDLED.iter().any(|handled| !types.iter().any(|t| t == handled)) {
            domain.payments.set_endpoint_types(&id, HANDLED).await?;
        }
        return Ok(());
    }
    let (id, secret, version) = domain.payments.create_endpoint(&url, HANDLED).await?;
    sqlx::query!(
        "INSERT INTO stripe_endpoints (stripe_id, url, secret, api_version, created_at) VALUES ($1, $2, $3, $4, $5)",
        id,
        url,
        secret,
        version,
        domain.clock.now()
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}
