//! Usage that comes after the invoice of its period is final: a gateway was cut off, or Stripe was. Sent as of when it was
//! used it would be on no invoice. So it moves to the running period and is billed there, as of now, and pages say so; what
//! no running period has a price for is refused here, which the provider sees.

use super::{DRAFT_S, Unbilled, insert_all};
use crate::{Domain, Result, invoices, locks, subscriptions, usage};
use model::{SubscriptionId, Time};
use sqlx::PgConnection;

/// So long after its end a subscription's last invoice is waited for, in seconds: one that ended at once may have none.
const LAST_INVOICE_S: i64 = 86_400;
/// A draft younger than this is one still, in seconds; from then on Stripe is asked.
const SURELY_DRAFT_S: i64 = DRAFT_S - 300;

/// Moves, or refuses, what no invoice would have any more, of all subscriptions or of one. Where Stripe cannot be asked
/// usage stays as it is.
///
/// # Errors
/// When the database fails.
pub(super) async fn carry(domain: &Domain, subscription: Option<SubscriptionId>) -> Result<()> {
    for period in unsent(domain, subscription).await? {
        if let Err(error) = period.settle(domain).await {
            tracing::error!(
                subscription = period.stripe,
                error = &error as &dyn std::error::Error,
                "late usage waits"
            );
        }
    }
    Ok(())
}

/// A period that is over, or seems so, with usage that Stripe has not acknowledged.
struct Unsent {
    subscription: SubscriptionId,
    stripe: String,
    start: Time,
}

async fn unsent(domain: &Domain, subscription: Option<SubscriptionId>) -> Result<Vec<Unsent>> {
    Ok(sqlx::query_as!(
        Unsent,
        r#"SELECT s.id AS "subscription: SubscriptionId", s.stripe_subscription AS "stripe!", w.period_start AS "start!: Time"
           FROM (SELECT subscription_id, period_start FROM unbilled_units
                 UNION SELECT subscription_id, period_start FROM meter_events WHERE state IN ('pending', 'sending')) w
           JOIN subscriptions s ON s.id = w.subscription_id
           WHERE ($1::text IS NULL OR s.id = $1) AND s.stripe_subscription IS NOT NULL
             AND (s.ended_at IS NOT NULL OR w.period_start < s.period_start
                  OR (w.period_start = s.period_start AND s.period_end <= $2))
           ORDER BY s.id, w.period_start"#,
        subscription as Option<SubscriptionId>,
        domain.clock.now().plus_s(-DRAFT_S),
    )
    .fetch_all(&domain.pool)
    .await?)
}

/// What becomes of a period's unsent usage.
#[derive(PartialEq, Eq)]
enum Fate {
    /// Its invoice takes it, or it is not known yet.
    Stays,
    /// It is billed in the running period.
    Moves,
    /// There is nothing to bill it with.
    Refused,
}

/// What the mirror says of a period.
struct Known {
    running: Time,
    running_end: Time,
    ended_at: Option<Time>,
    takes: bool,
    /// There is an invoice of it, draft or not.
    invoiced: bool,
    /// The newest invoice of the subscription is not mirrored.
    newest_unknown: Option<String>,
}

impl Unsent {
    async fn settle(&self, domain: &Domain) -> Result<()> {
        self.ask_stripe(domain).await?;
        let now = domain.clock.now();
        let fate = self.known(domain).await?.fate(self.start, now);
        if fate == Fate::Stays {
            return Ok(());
        }
        let mut tx = domain.pool.begin().await?;
        for lock in [locks::COLLECTING, locks::HANDING_OUT] {
            locks::hold(&mut tx, lock).await?;
        }
        if fate == Fate::Moves {
            usage::carry_late(domain, &mut tx, self.subscription, self.start).await?;
        }
        self.refuse(&mut tx, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Brings up to date what the mirror has of the period: the renewal, whether its draft is one still, and the newest
    /// invoice.
    async fn ask_stripe(&self, domain: &Domain) -> Result<()> {
        let now = domain.clock.now();
        let known = self.known(domain).await?;
        if known.ended_at.is_none() && known.running_end <= now.plus_s(-DRAFT_S) {
            subscriptions::sync_subscription(domain, &self.stripe).await?;
        }
        if let Some(newest) = self.known(domain).await?.newest_unknown {
            invoices::sync(domain, &newest).await?;
        }
        let drafts = sqlx::query_scalar!(
            "SELECT stripe_invoice FROM invoices
             WHERE stripe_subscription = $1 AND status = 'draft' AND created_at <= $2 AND period_start >= $3",
            self.stripe,
            now.plus_s(-SURELY_DRAFT_S),
            self.start
        )
        .fetch_all(&domain.pool)
        .await?;
        for draft in drafts {
            invoices::sync(domain, &draft).await?;
        }
        Ok(())
    }

    async fn known(&self, domain: &Domain) -> Result<Known> {
        Ok(sqlx::query_as!(
            Known,
            r#"SELECT s.period_start AS running, s.period_end AS running_end, s.ended_at,
                      takes_usage(s.id, $2, $3) AS "takes!",
                      EXISTS (SELECT FROM invoices i WHERE i.stripe_subscription = s.stripe_subscription
                                 AND i.period_start < i.period_end
                                 AND (i.period_start = $2 OR (i.period_start > $2 AND s.ended_at IS NOT NULL))) AS "invoiced!",
                      CASE WHEN NOT EXISTS (SELECT FROM invoices i WHERE i.stripe_invoice = s.stripe_invoice)
                           THEN s.stripe_invoice END AS newest_unknown
               FROM subscriptions s WHERE s.id = $1"#,
            self.subscription as SubscriptionId,
            self.start,
            domain.clock.now().plus_s(-DRAFT_S),
        )
        .fetch_one(&domain.pool)
        .await?)
    }

    /// Lists as refused what is left of the period.
    async fn refuse(&self, connection: &mut PgConnection, now: Time) -> Result<()> {
        let taken = sqlx::query_as!(
            Unbilled,
            "DELETE FROM unbilled_units WHERE subscription_id = $1 AND period_start = $2
             RETURNING subscription_id, consumer_id, meter, hour, period_start, plan_version_id, units, last_at",
            self.subscription as SubscriptionId,
            self.start,
        )
        .fetch_all(&mut *connection)
        .await?;
        insert_all(connection, taken, now).await?;
        let units = sqlx::query_scalar!(
            r#"WITH refused AS (
                   UPDATE meter_events SET state = 'refused', last_error = 'it came after the last invoice that could bill it'
                   WHERE subscription_id = $1 AND period_start = $2 AND state = 'pending' RETURNING units)
               SELECT coalesce(sum(units), 0)::bigint AS "units!" FROM refused"#,
            self.subscription as SubscriptionId,
            self.start,
        )
        .fetch_one(connection)
        .await?;
        if units > 0 {
            tracing::error!(
                subscription = self.stripe,
                units,
                "usage that came after its last invoice is not billed"
            );
        }
        Ok(())
    }
}

impl Known {
    fn fate(&self, start: Time, now: Time) -> Fate {
        if self.takes {
            return Fate::Stays;
        }
        match self.ended_at {
            Some(ended) if self.invoiced || ended.plus_s(LAST_INVOICE_S) <= now => Fate::Refused,
            Some(_) => Fate::Stays,
            // Its invoice is final, or the newest is another's: Stripe made none for it.
            None if start < self.running
                && (self.invoiced || self.newest_unknown.is_none())
                && (self.running..self.running_end).contains(&now) =>
            {
                Fate::Moves
            }
            None => Fate::Stays,
        }
    }
}
