//! The outbox of usage to Stripe: every unit in exactly one meter event, every event counted once.
//!
//! Units that the shipper added up become rows with a deterministic identifier; a row is then handed to Stripe, one at a
//! time for each customer and meter. Stripe counts an identifier once in 24 hours, so a lost answer is mended by sending
//! the same row again, for [`RESEND_S`]. After that nobody knows any more: the row is *ambiguous*, and what Stripe has
//! is asked for, compared, and only the difference is sent.

mod late;
mod reconcile;
mod send;

pub use send::{SendMeterEvents, flush, flush_and_settle};

use crate::jobs::{self, Registry};
use crate::{Domain, Result, locks};
use model::{ConsumerId, SubscriptionId, Time};
use sqlx::PgConnection;

/// How often usage goes to Stripe, in seconds.
pub const EVERY_S: i64 = 30;
/// How long a row may be sent again under its identifier: Stripe remembers one for at least 24 hours.
pub const RESEND_S: i64 = 20 * 3_600;
/// How long after its last try an ambiguous row is reconciled: Stripe's sums lag behind.
const RECONCILE_WAIT_S: i64 = 600;
/// Stripe takes no usage older than 35 days.
const TOO_OLD_S: i64 = 35 * 86_400;
/// Stripe takes no usage further in the future than five minutes; one is left for the clocks.
const AHEAD_S: i64 = 240;
/// An invoice is a draft for an hour at least after its period has ended, in seconds.
const DRAFT_S: i64 = 3_600;
/// A row handed out belongs to its sender that long: longer than a call may take.
const LEASE_S: i64 = 60;
/// Longest wait between two tries, in seconds.
const MAX_BACKOFF_S: i64 = 900;

/// The jobs of the outbox.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<SendMeterEvents>()
}

/// Starts the jobs that repeat; doing so again changes nothing. Without a Stripe key usage waits where it is.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    if !domain.payments.is_configured() {
        return Ok(());
    }
    let mut connection = domain.pool.acquire().await?;
    jobs::enqueue(domain, &mut connection, &SendMeterEvents {}, domain.clock.now()).await
}

/// Turns unbilled units into rows, all or of one subscription. Units leave one table and enter the other in one
/// transaction. What its invoice would miss goes to the running period first; what nobody knows the fate of waits.
///
/// # Errors
/// When the database fails.
pub async fn collect(domain: &Domain, subscription: Option<SubscriptionId>) -> Result<()> {
    late::carry(domain, subscription).await?;
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    locks::hold(&mut tx, locks::COLLECTING).await?;
    let taken = sqlx::query_as!(
        Unbilled,
        "DELETE FROM unbilled_units
         WHERE ($1::text IS NULL OR subscription_id = $1) AND takes_usage(subscription_id, period_start, $2)
         RETURNING subscription_id, consumer_id, meter, hour, period_start, plan_version_id, units, last_at",
        subscription as Option<SubscriptionId>,
        now.plus_s(-DRAFT_S),
    )
    .fetch_all(&mut *tx)
    .await?;
    insert_all(&mut tx, taken, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Units of an hour that are in no row yet.
struct Unbilled {
    subscription_id: SubscriptionId,
    consumer_id: ConsumerId,
    meter: i16,
    hour: Time,
    period_start: Time,
    plan_version_id: String,
    units: i64,
    last_at: Time,
}

/// Adds a row for each. Within an hour several may come at once, one for each period and plan version that met in it.
/// The caller holds the collecting lock.
async fn insert_all(connection: &mut PgConnection, taken: Vec<Unbilled>, now: Time) -> Result<()> {
    for row in taken {
        let bucket = Bucket {
            subscription: row.subscription_id,
            consumer: row.consumer_id,
            meter: row.meter,
            hour: row.hour,
            period_start: row.period_start,
            plan_version: row.plan_version_id,
        };
        // Never before the period it is billed in, and not ahead of the clock where that can be helped.
        let at = row.last_at.min(now).max(row.period_start);
        insert(connection, &bucket, row.units, at).await?;
    }
    Ok(())
}

/// What a row's units have in common.
struct Bucket {
    subscription: SubscriptionId,
    consumer: ConsumerId,
    meter: i16,
    hour: Time,
    period_start: Time,
    plan_version: String,
}

/// Adds a row with the next number of its hour. The caller holds the collecting lock.
async fn insert(connection: &mut PgConnection, bucket: &Bucket, units: i64, at: Time) -> Result<()> {
    let sequence = sqlx::query_scalar!(
        r#"SELECT coalesce(max(sequence), 0) + 1 AS "sequence!" FROM meter_events
           WHERE subscription_id = $1 AND meter = $2 AND hour = $3"#,
        bucket.subscription as SubscriptionId,
        bucket.meter,
        bucket.hour,
    )
    .fetch_one(&mut *connection)
    .await?;
    let identifier = format!(
        "{}-{}-{}-{sequence}",
        bucket.subscription,
        bucket.meter,
        bucket.hour.unix_s()
    );
    sqlx::query!(
        "INSERT INTO meter_events (consumer_id, subscription_id, meter, hour, sequence, units, identifier, at,
                                   period_start, plan_version_id, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'pending')",
        bucket.consumer as ConsumerId,
        bucket.subscription as SubscriptionId,
        bucket.meter,
        bucket.hour,
        sequence,
        units,
        identifier,
        at,
        bucket.period_start,
        bucket.plan_version,
    )
    .execute(connection)
    .await?;
    Ok(())
}
