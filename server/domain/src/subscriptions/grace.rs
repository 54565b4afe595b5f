//! Grace: a failed renewal leaves access as it is until a deadline, then keys are refused, and paying opens the same
//! keys again. Also the nightly look at every paid subscription, which ends what an event that never came left open.

use super::sync::{Recorded, sync_subscription};
use crate::jobs::{self, Job};
use crate::payments::StripeSubscription;
use crate::{Domain, DomainError, Result, audit, catalogue, letters, mail};
use model::access::SubscriptionStatus;
use model::{ConsumerId, PlanVersionId, SubscriptionId, Time};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

const DAY_S: i64 = 86_400;
/// How often every paid subscription is compared with Stripe's.
pub(super) const RECONCILE_EVERY_S: i64 = DAY_S;
/// Subscriptions in one run of [`Reconcile`]; a run has 60 s.
const RECONCILE_PAGE: i64 = 40;
/// The next page begins then at the latest, in seconds: when the run before it has been stopped.
const NEXT_PAGE_S: i64 = 60;

/// Where a subscription stands for us.
pub(crate) struct Standing {
    pub(crate) status: SubscriptionStatus,
    pub(crate) grace_until: Option<Time>,
}

/// What Stripe's status means: past due is access until the grace period that began with the first failure ends.
pub(super) async fn standing(
    domain: &Domain,
    connection: &mut PgConnection,
    row: Option<&Recorded>,
    version: PlanVersionId,
    stripe_status: &str,
) -> Result<Standing> {
    let settled = |status| Standing {
        status,
        grace_until: None,
    };
    Ok(match stripe_status {
        "active" | "trialing" => settled(SubscriptionStatus::Active),
        "past_due" => {
            let now = domain.clock.now();
            let grace_until = match row.and_then(|r| r.grace_until) {
                Some(until) => until,
                None => {
                    let days = catalogue::terms(connection, version).await?.grace_days;
                    now.plus_s(i64::from(days) * DAY_S)
                }
            };
            let over = grace_until <= now;
            Standing {
                status: if over {
                    SubscriptionStatus::Suspended
                } else {
                    SubscriptionStatus::PastDue
                },
                grace_until: Some(grace_until),
            }
        }
        // Stripe gave up (unpaid), or the trial ended without a card (paused).
        "unpaid" | "paused" => Standing {
            status: SubscriptionStatus::Suspended,
            grace_until: row.and_then(|r| r.grace_until),
        },
        "incomplete" => settled(SubscriptionStatus::Incomplete),
        other => {
            tracing::error!(
                status = other,
                "a status of Stripe's that is not known: nothing is changed"
            );
            Standing {
                status: row.map_or(SubscriptionStatus::Incomplete, |r| r.status),
                grace_until: row.and_then(|r| r.grace_until),
            }
        }
    })
}

/// What a change of standing sets off: the deadline's job, and a line in the audit log.
pub(super) async fn follow_up(
    domain: &Domain,
    connection: &mut PgConnection,
    row: Option<&Recorded>,
    standing: &Standing,
    object: &StripeSubscription,
) -> Result<()> {
    let Some(row) = row else { return Ok(()) };
    let actor = crate::Actor::System("stripe");
    if let Some(until) = standing.grace_until.filter(|_| standing.begins_grace(Some(row))) {
        let job = EndGrace {
            subscription: row.id,
            stripe_subscription: object.id.clone(),
        };
        jobs::enqueue(domain, connection, &job, until).await?;
        tell(domain, connection, row.consumer, object, until).await?;
    }
    let action = match (row.status, standing.status) {
        (before, after) if before == after => return Ok(()),
        (_, SubscriptionStatus::PastDue) => "subscription.grace_begins",
        (_, SubscriptionStatus::Suspended) => "subscription.suspended",
        (_, SubscriptionStatus::Active) => "subscription.restored",
        _ => return Ok(()),
    };
    audit::record(
        domain,
        connection,
        &actor,
        Some(row.consumer),
        action,
        &row.id.to_string(),
    )
    .await
}

/// Tells the consumer that a payment failed, what is due, and how long access goes on.
async fn tell(
    domain: &Domain,
    connection: &mut PgConnection,
    consumer: ConsumerId,
    object: &StripeSubscription,
    until: Time,
) -> Result<()> {
    let Some(invoice) = &object.latest_invoice else {
        return Ok(());
    };
    let invoice = domain.payments.invoice(invoice).await?;
    let email = sqlx::query_scalar!(
        "SELECT billing_email FROM consumers WHERE id = $1",
        consumer as ConsumerId
    )
    .fetch_one(&mut *connection)
    .await?;
    let due = invoice.amount_due.to_string();
    let letter = letters::payment_failed(&domain.settings, &due, Some(until), invoice.needs_confirmation);
    mail::send(domain, connection, &email, &letter).await
}

/// Runs when a grace period ends: asks Stripe once more, and suspends when nothing was paid.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndGrace {
    /// Ours.
    pub subscription: SubscriptionId,
    /// Stripe's.
    pub stripe_subscription: String,
}

#[async_trait::async_trait]
impl Job for EndGrace {
    const KIND: &'static str = "subscriptions.end_grace";
    const ASKS_STRIPE: bool = true;

    fn dedup_key(&self) -> Option<String> {
        Some(self.subscription.to_string())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        sync_subscription(domain, &self.stripe_subscription).await?;
        // Paid and failed again meanwhile: the deadline is a later one.
        let until = sqlx::query_scalar!(
            "SELECT grace_until FROM subscriptions WHERE id = $1 AND ended_at IS NULL AND status = 'past_due'",
            self.subscription as SubscriptionId
        )
        .fetch_optional(&domain.pool)
        .await?
        .flatten();
        if let Some(until) = until {
            let mut connection = domain.pool.acquire().await?;
            jobs::enqueue(domain, &mut connection, self, until).await?;
        }
        Ok(())
    }
}

/// Begins a round of [`Reconcile`] once a day, and carries to Stripe what is on offer and failed to get there.
#[derive(Debug, Serialize, Deserialize)]
pub struct EveryNight {}

#[async_trait::async_trait]
impl Job for EveryNight {
    const KIND: &'static str = "subscriptions.every_night";
    const ASKS_STRIPE: bool = true;
    const EVERY_S: Option<i64> = Some(RECONCILE_EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let mut connection = domain.pool.acquire().await?;
        jobs::enqueue(domain, &mut connection, &Reconcile { after: None }, domain.clock.now()).await?;
        drop(connection);
        catalogue::ensure_recurring(domain).await
    }
}

/// Copies every paid subscription, a page a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reconcile {
    /// The last subscription done; none begins a round.
    pub after: Option<SubscriptionId>,
}

#[async_trait::async_trait]
impl Job for Reconcile {
    const KIND: &'static str = "subscriptions.reconcile";
    const ASKS_STRIPE: bool = true;

    fn dedup_key(&self) -> Option<String> {
        Some(self.after.map_or_else(String::new, |id| id.to_string()))
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let after = self.after.map_or_else(String::new, |id| id.to_string());
        let page = sqlx::query!(
            r#"SELECT id, consumer_id, stripe_subscription AS "stripe!" FROM subscriptions
               WHERE id > $1 AND ended_at IS NULL AND stripe_subscription IS NOT NULL ORDER BY id LIMIT $2"#,
            after,
            RECONCILE_PAGE
        )
        .fetch_all(&domain.pool)
        .await?;
        // The next page first: a failure below must not keep the others from it. It waits until this one is done, or was
        // stopped.
        let next = page.last().map(|last| Reconcile { after: Some(last.id) });
        enqueue(domain, next.as_ref(), NEXT_PAGE_S).await?;
        let mut away = None;
        for row in &page {
            match compare(domain, row.id, &row.stripe).await {
                Ok(()) => {}
                // Tried again with the rest of the page.
                Err(error @ DomainError::PaymentsUnavailable(_)) => away = Some(error),
                Err(error) => tracing::error!(
                    subscription = row.stripe,
                    consumer = %row.consumer_id,
                    error = &error as &dyn std::error::Error,
                    "a subscription cannot be compared with Stripe's"
                ),
            }
        }
        enqueue(domain, next.as_ref(), 0).await?;
        away.map_or(Ok(()), Err)
    }
}

async fn enqueue(domain: &Domain, next: Option<&Reconcile>, wait_s: i64) -> Result<()> {
    let Some(next) = next else { return Ok(()) };
    let mut connection = domain.pool.acquire().await?;
    jobs::enqueue(domain, &mut connection, next, domain.clock.now().plus_s(wait_s)).await
}

/// Copies a subscription, and tells when that changed anything.
async fn compare(domain: &Domain, id: SubscriptionId, stripe: &str) -> Result<()> {
    let before = state(domain, id).await?;
    sync_subscription(domain, stripe).await?;
    if state(domain, id).await? != before {
        tracing::warn!(subscription = stripe, "drift: an event was missed");
    }
    Ok(())
}

/// What of a subscription a missed event would have left behind.
async fn state(domain: &Domain, id: SubscriptionId) -> Result<Option<serde_json::Value>> {
    Ok(sqlx::query_scalar!(
        "SELECT to_jsonb(s) FROM subscriptions s WHERE id = $1",
        id as SubscriptionId
    )
    .fetch_optional(&domain.pool)
    .await?
    .flatten())
}
