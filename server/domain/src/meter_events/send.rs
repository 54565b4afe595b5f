//! Handing rows to Stripe.

use super::reconcile::reconcile;
use super::{AHEAD_S, DRAFT_S, EVERY_S, LEASE_S, MAX_BACKOFF_S, RECONCILE_WAIT_S, RESEND_S, TOO_OLD_S, collect};
use crate::jobs::Job;
use crate::payments::{NewMeterEvent, PaymentsError};
use crate::{Domain, DomainError, Result, locks, skew};
use futures::future::try_join_all;
use model::{ConsumerId, SubscriptionId, Time};
use serde::{Deserialize, Serialize};

/// Calls in flight at once, each for another customer or meter. Stripe allows 25 a second in its sandbox.
const SENDERS: usize = 4;
/// Rows that one run of the job sends at most by each sender, so that it ends well before its time limit.
const ROWS_A_RUN: u32 = 200;

/// How often and how far apart Stripe is asked whether it has counted: about eight seconds, of somebody's patience.
const SETTLE_LOOKS: u32 = 16;
const SETTLE_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Sends what was used, every [`EVERY_S`] seconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct SendMeterEvents {}

#[async_trait::async_trait]
impl Job for SendMeterEvents {
    const KIND: &'static str = "meter_events.send";
    const ASKS_STRIPE: bool = true;
    const EVERY_S: Option<i64> = Some(EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        if let Err(error) = send_all(domain).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "usage is not on its way to Stripe"
            );
        }
        Ok(())
    }
}

async fn send_all(domain: &Domain) -> Result<()> {
    collect(domain, None).await?;
    // Stripe would count it in another period, or refuse it for good.
    skew::check(domain)?;
    try_join_all((0..SENDERS).map(|_| send_some(domain, None))).await?;
    Ok(())
}

/// Sends all that a subscription used so far: before its invoice becomes final, and before its prices change.
///
/// # Errors
/// `PaymentsUnavailable` when not everything is acknowledged (or refused) in the end.
pub async fn flush(domain: &Domain, stripe_subscription: &str) -> Result<()> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM subscriptions WHERE stripe_subscription = $1",
        stripe_subscription
    )
    .fetch_optional(&domain.pool)
    .await?;
    let Some(id) = id else { return Ok(()) };
    collect(domain, Some(id)).await?;
    if let Err(error) = skew::check(domain) {
        return Err(DomainError::PaymentsUnavailable(error.chain().into()));
    }
    send_some(domain, Some(id)).await?;
    let open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM meter_events
           WHERE subscription_id = $1 AND state IN ('pending', 'sending', 'ambiguous')"#,
        id as SubscriptionId,
    )
    .fetch_one(&domain.pool)
    .await?;
    if open == 0 {
        return Ok(());
    }
    Err(DomainError::PaymentsUnavailable(
        format!("{open} meter events of {id} are not acknowledged").into(),
    ))
}

/// [`flush`], and waits until Stripe has counted it, a few seconds at most: Stripe counts what it took a moment later,
/// and what is not counted when prices change is on no invoice. When it takes longer, that is logged, and the change goes
/// on: the difference is in the consumer's favour, and the invoice's check finds it.
///
/// # Errors
/// As [`flush`].
pub async fn flush_and_settle(domain: &Domain, stripe_subscription: &str) -> Result<()> {
    flush(domain, stripe_subscription).await?;
    for _ in 0..SETTLE_LOOKS {
        if is_counted(domain, stripe_subscription).await? {
            return Ok(());
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    tracing::error!(
        subscription = stripe_subscription,
        "Stripe has not counted all usage before a change of prices"
    );
    Ok(())
}

/// Whether Stripe's sums of the running period hold all that it acknowledged.
async fn is_counted(domain: &Domain, stripe_subscription: &str) -> Result<bool> {
    let rows = sqlx::query!(
        r#"SELECT m.stripe_meter AS "meter!", c.stripe_customer AS "customer!", date_trunc('minute', s.period_start) AS "start!",
                  sum(e.units)::bigint AS "units!"
           FROM subscriptions s JOIN consumers c ON c.id = s.consumer_id
           JOIN meter_events e ON e.consumer_id = c.id AND e.at >= date_trunc('minute', s.period_start)
           JOIN meters m ON m.number = e.meter
           WHERE s.stripe_subscription = $1 AND e.state = 'acknowledged' AND m.stripe_meter IS NOT NULL
             AND c.stripe_customer IS NOT NULL
           GROUP BY 1, 2, 3"#,
        stripe_subscription
    )
    .fetch_all(&domain.pool)
    .await?;
    let end = Time::from_unix_s((domain.clock.now().plus_s(AHEAD_S).unix_s() / 60 + 1) * 60);
    for row in rows {
        let counted = domain
            .payments
            .meter_total(&row.meter, &row.customer, row.start, end)
            .await?;
        if counted < u64::try_from(row.units).map_err(DomainError::internal)? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn send_some(domain: &Domain, subscription: Option<SubscriptionId>) -> Result<()> {
    for _ in 0..ROWS_A_RUN {
        let Some(row) = claim(domain, subscription).await? else {
            break;
        };
        let outcome = if row.ambiguous {
            reconcile(domain, &row).await
        } else {
            send(domain, &row).await
        };
        settle(domain, &row, outcome).await?;
    }
    Ok(())
}

/// A row in hand.
pub(super) struct Claimed {
    pub(super) id: i64,
    pub(super) consumer: ConsumerId,
    pub(super) subscription: SubscriptionId,
    pub(super) meter: i16,
    pub(super) hour: Time,
    pub(super) period_start: Time,
    pub(super) plan_version: String,
    pub(super) units: i64,
    pub(super) at: Time,
    pub(super) event_name: String,
    pub(super) stripe_meter: Option<String>,
    pub(super) customer: Option<String>,
    identifier: String,
    first_sent_at: Option<Time>,
    attempts: i32,
    ambiguous: bool,
}

/// What became of a row in hand.
pub(super) enum Outcome {
    /// Stripe has it.
    Acknowledged,
    /// Certainly not sent.
    NotSent(String),
    /// Perhaps sent.
    Unknown(String),
    /// Asked for and not found: to be sent again, with a clock of its own.
    Absent,
    /// Never to be sent.
    Refused(String),
}

/// Takes the next row that is due, and with it its customer and meter: no other row of theirs is handed out meanwhile.
async fn claim(domain: &Domain, subscription: Option<SubscriptionId>) -> Result<Option<Claimed>> {
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    locks::hold(&mut tx, locks::HANDING_OUT).await?;
    let row = sqlx::query!(
        r#"SELECT e.id, e.consumer_id, e.subscription_id, e.meter, e.hour, e.period_start, e.plan_version_id, e.units, e.at, e.identifier, e.state,
                  e.first_sent_at, e.attempts, m.event_name, m.stripe_meter, c.stripe_customer,
                  takes_usage(e.subscription_id, e.period_start, $4) AS "takes!"
           FROM meter_events e JOIN meters m ON m.number = e.meter JOIN consumers c ON c.id = e.consumer_id
           WHERE e.state IN ('pending', 'sending', 'ambiguous') AND (e.retry_at IS NULL OR e.retry_at <= $1)
             AND e.at <= $2 AND ($3::text IS NULL OR e.subscription_id = $3)
             AND (e.state <> 'pending' OR takes_usage(e.subscription_id, e.period_start, $4))
             AND NOT EXISTS (SELECT FROM meter_events o WHERE o.consumer_id = e.consumer_id AND o.meter = e.meter
                             AND o.id <> e.id AND o.state IN ('sending', 'ambiguous'))
           ORDER BY e.id LIMIT 1"#,
        now,
        now.plus_s(AHEAD_S),
        subscription as Option<SubscriptionId>,
        now.plus_s(-DRAFT_S),
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    // Sent again it would count twice, or be on no invoice.
    let late = !row.takes || row.first_sent_at.is_some_and(|first| first.plus_s(RESEND_S) <= now);
    let was_ambiguous = row.state == "ambiguous";
    let ambiguous = was_ambiguous || (row.state == "sending" && late);
    let wait = if ambiguous && !was_ambiguous {
        RECONCILE_WAIT_S
    } else {
        LEASE_S
    };
    sqlx::query!(
        "UPDATE meter_events SET state = $2, retry_at = $3, attempts = attempts + 1,
             first_sent_at = CASE WHEN state = 'pending' THEN $4 ELSE first_sent_at END WHERE id = $1",
        row.id,
        if ambiguous { "ambiguous" } else { "sending" },
        now.plus_s(wait),
        now,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    if ambiguous && !was_ambiguous {
        tracing::error!(
            event = row.identifier,
            "a meter event is neither acknowledged nor refused, and too old to be sent again"
        );
        return Ok(None);
    }
    Ok(Some(Claimed {
        id: row.id,
        consumer: row.consumer_id,
        subscription: row.subscription_id,
        meter: row.meter,
        hour: row.hour,
        period_start: row.period_start,
        plan_version: row.plan_version_id,
        units: row.units,
        at: row.at,
        identifier: row.identifier,
        first_sent_at: row.first_sent_at,
        attempts: row.attempts,
        event_name: row.event_name,
        stripe_meter: row.stripe_meter,
        customer: row.stripe_customer,
        ambiguous,
    }))
}

async fn send(domain: &Domain, row: &Claimed) -> Result<Outcome> {
    if row.at.plus_s(TOO_OLD_S) <= domain.clock.now() {
        return Ok(Outcome::Refused(
            "older than 35 days, which is the oldest Stripe takes".to_owned(),
        ));
    }
    let Some(customer) = row.customer.clone() else {
        return Ok(Outcome::NotSent("the account has no customer at Stripe".to_owned()));
    };
    let event = NewMeterEvent {
        event_name: row.event_name.clone(),
        customer,
        units: u64::try_from(row.units).map_err(DomainError::internal)?,
        at: row.at,
        identifier: row.identifier.clone(),
    };
    Ok(match domain.payments.send_meter_event(&event).await {
        Ok(()) => Outcome::Acknowledged,
        // The answer to an earlier try was lost, the event was not.
        Err(PaymentsError::Refused { message, .. }) if is_known(&message) => Outcome::Acknowledged,
        Err(error) => outcome_of(&error),
    })
}

/// Whether a refusal says that Stripe has an event of this identifier. It has no code of its own for that.
fn is_known(message: &str) -> bool {
    message.contains("already exists with identifier")
}

/// What an error says about the row.
pub(super) fn outcome_of(error: &PaymentsError) -> Outcome {
    let text = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    match error {
        PaymentsError::Refused { .. } | PaymentsError::Missing => Outcome::Refused(text),
        PaymentsError::Unavailable(_) => Outcome::NotSent(text),
        PaymentsError::Ambiguous(_) => Outcome::Unknown(text),
    }
}

/// Notes what became of a row.
async fn settle(domain: &Domain, row: &Claimed, outcome: Result<Outcome>) -> Result<()> {
    let now = domain.clock.now();
    let doublings = u32::try_from(row.attempts).unwrap_or(0).min(16);
    let later = now.plus_s((2i64 << doublings).min(MAX_BACKOFF_S));
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Unknown(error.to_string()),
    };
    let (state, error, first_sent_at) = match outcome {
        Outcome::Acknowledged => ("acknowledged", None, row.first_sent_at.or(Some(now))),
        Outcome::Absent => ("pending", Some("Stripe did not have it".to_owned()), None),
        Outcome::NotSent(why) | Outcome::Unknown(why) if row.ambiguous => ("ambiguous", Some(why), row.first_sent_at),
        // Nothing of it ever reached Stripe, so no clock runs.
        Outcome::NotSent(why) if row.first_sent_at.is_none() => ("pending", Some(why), None),
        Outcome::NotSent(why) | Outcome::Unknown(why) => ("sending", Some(why), row.first_sent_at.or(Some(now))),
        Outcome::Refused(why) => {
            tracing::error!(
                event = row.identifier,
                units = row.units,
                why,
                "usage that Stripe refuses is not billed"
            );
            ("refused", Some(why), row.first_sent_at)
        }
    };
    sqlx::query!(
        "UPDATE meter_events SET state = $2, last_error = $3, first_sent_at = $4, retry_at = $5,
             acknowledged_at = CASE WHEN $2 = 'acknowledged' THEN $6::timestamptz END WHERE id = $1",
        row.id,
        state,
        error,
        first_sent_at as Option<Time>,
        later,
        now,
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}
