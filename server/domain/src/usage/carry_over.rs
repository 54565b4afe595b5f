//! A change of prices in mid-period: which units belong to which side of it.
//!
//! Stripe bills by the instant that a meter event names. What was sent before the change is on the change's own invoice;
//! what is sent after it is billed at the new price, whatever the gateway had heard of by then. The counts that our own
//! rating reads follow that, so that the running cost and the invoice stay equal to the cent.

use crate::{Domain, Result};
use model::{Period, SubscriptionId, Time};
use sqlx::PgConnection;

/// Moves usage of a subscription to the plan version and period it is in now: what Stripe does not have yet, and what
/// it was told of as used at `since`, when the new prices began, or later. `before` is the period that was recorded
/// before the change. Call it in the transaction that writes the new version, after writing it. Doing it again moves
/// nothing.
///
/// # Errors
/// When the database fails.
pub async fn carry_over(
    domain: &Domain,
    connection: &mut PgConnection,
    subscription: SubscriptionId,
    since: Time,
    before: Period,
) -> Result<()> {
    let Some(target) = Target::of(connection, subscription).await? else {
        return Ok(());
    };
    // A period that was cut short has its invoice already; one that ended by itself has a draft for an hour.
    let cut_short = (target.period_start < before.end).then_some(before.start);
    target.take_unsent(connection, cut_short, domain.clock.now()).await?;
    target.take_sent(connection, since).await
}

/// Moves what Stripe does not have yet of a period whose invoice is final to the plan version and period that run, where
/// they have a price for it: it is billed there, as of now. What has none stays. The caller holds the locks under which
/// rows are collected and handed out.
///
/// # Errors
/// When the database fails.
pub(crate) async fn carry_late(
    domain: &Domain,
    connection: &mut PgConnection,
    subscription: SubscriptionId,
    period_start: Time,
) -> Result<()> {
    let now = domain.clock.now();
    let Some(target) = Target::of(connection, subscription).await? else {
        return Ok(());
    };
    let mut moved = target.take_late_unsent(connection, period_start, now).await?;
    moved += target.take_late_events(connection, period_start, now).await?;
    if moved == 0 {
        return Ok(());
    }
    tracing::warn!(%subscription, units = moved, "usage that missed its invoice is billed in the running period");
    // Gateways count it from now on, and members hear of marks that it reaches.
    sqlx::query!(
        "UPDATE entitlements SET period_end = period_end WHERE environment = 'live'
            AND consumer_id = (SELECT consumer_id FROM subscriptions WHERE id = $1)",
        subscription as SubscriptionId
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO usage_touched (consumer_id, touched_at) SELECT consumer_id, $2 FROM subscriptions WHERE id = $1
         ON CONFLICT (consumer_id) DO UPDATE SET touched_at = excluded.touched_at",
        subscription as SubscriptionId,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Where units are moved to.
struct Target {
    subscription: SubscriptionId,
    version: String,
    period_start: Time,
}

impl Target {
    /// What runs now.
    async fn of(connection: &mut PgConnection, subscription: SubscriptionId) -> Result<Option<Self>> {
        let row = sqlx::query!(
            "SELECT plan_version_id, period_start FROM subscriptions WHERE id = $1",
            subscription as SubscriptionId
        )
        .fetch_optional(connection)
        .await?;
        Ok(row.map(|now| Self {
            subscription,
            version: now.plan_version_id.to_string(),
            period_start: now.period_start,
        }))
    }

    /// Units of other periods than the one that was cut short stay: an invoice of theirs takes them.
    async fn take_unsent(&self, connection: &mut PgConnection, cut_short: Option<Time>, now: Time) -> Result<()> {
        let rows = sqlx::query_as!(
            Moved,
            "DELETE FROM unbilled_units
             WHERE subscription_id = $1 AND (plan_version_id <> $2 OR period_start <> $3)
               AND (period_start = $3 OR period_start = $4 OR (period_start < $3 AND last_at >= $3))
             RETURNING meter, period_start, plan_version_id AS version, units",
            self.subscription as SubscriptionId,
            self.version,
            self.period_start,
            cut_short as Option<Time>,
        )
        .fetch_all(&mut *connection)
        .await?;
        self.put(connection, &rows, now, false).await
    }

    /// Counts units here that are in no row yet; gives how many there are.
    async fn take_late_unsent(&self, connection: &mut PgConnection, period_start: Time, now: Time) -> Result<i64> {
        let rows = sqlx::query_as!(
            Moved,
            "DELETE FROM unbilled_units
             WHERE subscription_id = $1 AND period_start = $2 AND is_priced($1, $3, meter)
             RETURNING meter, period_start, plan_version_id AS version, units",
            self.subscription as SubscriptionId,
            period_start,
            self.version,
        )
        .fetch_all(&mut *connection)
        .await?;
        self.put(connection, &rows, now, true).await?;
        Ok(rows.iter().map(|r| r.units).sum())
    }

    /// Counts units here whose rows were certainly not sent; gives how many there are. A row keeps its identifier: should
    /// it be on its way to Stripe after all, it counts once.
    async fn take_late_events(&self, connection: &mut PgConnection, period_start: Time, now: Time) -> Result<i64> {
        let rows = sqlx::query_as!(
            Moved,
            "UPDATE meter_events e SET plan_version_id = $3, period_start = $4, at = $5
             FROM (SELECT o.id, o.plan_version_id, o.period_start FROM meter_events o
                   WHERE o.subscription_id = $1 AND o.period_start = $2 AND o.state = 'pending'
                     AND is_priced($1, $3, o.meter) FOR UPDATE) old
             WHERE e.id = old.id
             RETURNING e.meter, old.period_start, old.plan_version_id AS version, e.units",
            self.subscription as SubscriptionId,
            period_start,
            self.version,
            self.period_start,
            now,
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            self.count(connection, row, true).await?;
        }
        Ok(rows.iter().map(|r| r.units).sum())
    }

    /// Puts units where the outbox takes them from, as used now, and counts them here.
    async fn put(&self, connection: &mut PgConnection, rows: &[Moved], now: Time, late: bool) -> Result<()> {
        for row in rows {
            self.count(connection, row, late).await?;
            sqlx::query!(
                "INSERT INTO unbilled_units AS u (subscription_id, consumer_id, meter, hour, period_start, plan_version_id,
                                                  units, last_at)
                 SELECT id, consumer_id, $2, $3, $4, $5, $6, $7 FROM subscriptions
                 WHERE id = $1 AND is_priced($1, $5, $2)
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
        for row in &rows {
            self.count(connection, row, false).await?;
        }
        Ok(())
    }

    /// Takes the units from where they are counted and counts them here; `late` are those of an earlier period.
    async fn count(&self, connection: &mut PgConnection, moved: &Moved, late: bool) -> Result<()> {
        sqlx::query!(
            "WITH taken AS (
                 UPDATE usage_periods p SET units = p.units - $5, late_units = least(p.late_units, p.units - $5)
                 FROM subscriptions s
                 WHERE s.id = $1 AND p.consumer_id = s.consumer_id AND p.environment = 'live' AND p.meter = $2
                   AND p.period_start = $3 AND p.plan_version_id = $4
             )
             INSERT INTO usage_periods AS p (consumer_id, environment, period_start, meter, plan_version_id,
                                             subscription_id, units, late_units)
             SELECT consumer_id, 'live', $6, $2, $7, id, $5, CASE WHEN $8 THEN $5 ELSE 0 END
             FROM subscriptions WHERE id = $1
             ON CONFLICT (consumer_id, environment, period_start, meter, plan_version_id) DO UPDATE SET
                 units = p.units + excluded.units, late_units = p.late_units + excluded.late_units",
            self.subscription as SubscriptionId,
            moved.meter,
            moved.period_start,
            moved.version,
            moved.units,
            self.period_start,
            self.version,
            late,
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
