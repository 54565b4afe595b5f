//! A change of prices in mid-period: which units belong to which side of it.
//!
//! Stripe bills by the instant that a meter event names. What was sent before the change is on the change's own invoice;
//! what is sent after it is billed at the new price, whatever the gateway had heard of by then. The counts that our own
//! rating reads follow that, so that the running cost and the invoice stay equal to the cent.

use crate::{Domain, Result};
use model::{SubscriptionId, Time};
use sqlx::PgConnection;

/// Moves usage of a subscription to the plan version and period it is in now: what Stripe does not have yet, and what
/// it was told of as used at `since`, when the new prices began, or later. Call it in the transaction that writes the
/// new version, after writing it. Doing it again moves nothing.
///
/// # Errors
/// When the database fails.
pub async fn carry_over(
    domain: &Domain,
    connection: &mut PgConnection,
    subscription: SubscriptionId,
    since: Time,
) -> Result<()> {
    let Some(now) = sqlx::query!(
        "SELECT plan_version_id, period_start FROM subscriptions WHERE id = $1",
        subscription as SubscriptionId
    )
    .fetch_optional(&mut *connection)
    .await?
    else {
        return Ok(());
    };
    let target = Target {
        subscription,
        version: now.plan_version_id.to_string(),
        period_start: now.period_start,
    };
    target.take_unsent(connection, since, domain.clock.now()).await?;
    target.take_sent(connection, since).await
}

/// Where units are moved to.
struct Target {
    subscription: SubscriptionId,
    version: String,
    period_start: Time,
}

impl Target {
    /// Units of a period that ended by itself stay: its invoice is open for an hour and takes them.
    async fn take_unsent(&self, connection: &mut PgConnection, since: Time, now: Time) -> Result<()> {
        let rows = sqlx::query_as!(
            Moved,
            "DELETE FROM unbilled_units
             WHERE subscription_id = $1 AND (plan_version_id <> $2 OR period_start <> $3)
               AND (period_start = $3 OR (period_start < $3 AND (last_at >= $3 OR $4 <= $3)))
             RETURNING meter, period_start, plan_version_id AS version, units",
            self.subscription as SubscriptionId,
            self.version,
            self.period_start,
            since,
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            self.count(connection, &row).await?;
            sqlx::query!(
                "INSERT INTO unbilled_units AS u (subscription_id, consumer_id, meter, hour, period_start, plan_version_id,
                                                  units, last_at)
                 SELECT id, consumer_id, $2, $3, $4, $5, $6, $7 FROM subscriptions WHERE id = $1
                 ON CONFLICT (subscription_id, meter, hour, period_start, plan_version_id) DO UPDATE SET
                     units = u.units + excluded.units, last_at = greatest(u.last_at, excluded.last_at)",
                self.subscription as SubscriptionId,
                row.meter,
                now.hour(),
                self.period_start,
                self.version,
                row.units,
                now,
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }

    async fn take_sent(&self, connection: &mut PgConnection, since: Time) -> Result<()> {
        let rows = sqlx::query_as!(
            Moved,
            "UPDATE meter_events e SET plan_version_id = $2, period_start = $3
             FROM (SELECT id, plan_version_id, period_start FROM meter_events
                   WHERE subscription_id = $1 AND (plan_version_id <> $2 OR period_start <> $3)
                     AND period_start <= $3 AND at >= $3 AND at >= $4 AND state <> 'refused' FOR UPDATE) old
             WHERE e.id = old.id
             RETURNING e.meter, old.period_start, old.plan_version_id AS version, e.units",
            self.subscription as SubscriptionId,
            self.version,
            self.period_start,
            since,
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            self.count(connection, &row).await?;
        }
        Ok(())
    }

    /// Takes the units from where they are counted and counts them here.
    async fn count(&self, connection: &mut PgConnection, moved: &Moved) -> Result<()> {
        sqlx::query!(
            "WITH taken AS (
                 UPDATE usage_periods p SET units = p.units - $5 FROM subscriptions s
                 WHERE s.id = $1 AND p.consumer_id = s.consumer_id AND p.environment = 'live' AND p.meter = $2
                   AND p.period_start = $3 AND p.plan_version_id = $4
             )
             INSERT INTO usage_periods AS p (consumer_id, environment, period_start, meter, plan_version_id,
                                             subscription_id, units)
             SELECT consumer_id, 'live', $6, $2, $7, id, $5 FROM subscriptions WHERE id = $1
             ON CONFLICT (consumer_id, environment, period_start, meter, plan_version_id) DO UPDATE SET
                 units = p.units + excluded.units",
            self.subscription as SubscriptionId,
            moved.meter,
            moved.period_start,
            moved.version,
            moved.units,
            self.period_start,
            self.version,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Units on their way from one count to another.
struct Moved {
    meter: i16,
    period_start: Time,
    version: String,
    units: i64,
}
