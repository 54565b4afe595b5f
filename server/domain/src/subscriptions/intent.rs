//! Changes that Stripe was asked for, noted before it is asked: the answer may be lost, or the payment come hours later,
//! and then a webhook is the first to see the change. It too must let the new prices begin at the previewed instant.

use super::sync::Sold;
use crate::{Domain, Result};
use model::access::Interval;
use model::{PlanVersionId, SubscriptionId, Time};

/// What nothing came of for so long is forgotten, in seconds: a preview is acted on within an hour, and a request that
/// Stripe has not carried out after another is lost.
pub(super) const FORGOTTEN_AFTER_S: i64 = 7_200;

/// Notes what Stripe is about to be asked for, in a transaction of its own: it stays whatever becomes of the caller's.
pub(super) async fn note(domain: &Domain, id: SubscriptionId, wanted: Sold, at: Time) -> Result<()> {
    sqlx::query!(
        "UPDATE subscriptions SET changing_plan_version_id = $2, changing_interval = $3, changing_at = $4 WHERE id = $1",
        id as SubscriptionId,
        wanted.version as PlanVersionId,
        wanted.interval as Interval,
        at
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

/// Forgets what Stripe refused.
pub(super) async fn forget(domain: &Domain, id: SubscriptionId) -> Result<()> {
    sqlx::query!(
        "UPDATE subscriptions SET changing_plan_version_id = NULL, changing_interval = NULL, changing_at = NULL
         WHERE id = $1",
        id as SubscriptionId
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}
