//! The mirror: Stripe's subscription, fetched and written in the consumer's turn. Every webhook, the return page and
//! every change of our own end here, so it does not matter in which order they come or how often.

use super::begin::{end_unpaid, lock_consumer};
use super::grace::{self, Standing};
use super::intent;
use super::refund::CancelDuplicate;
use super::turn::Turn;
use crate::payments::{PaymentsError, StripeSubscription};
use crate::{Domain, DomainError, Result, entitlements, jobs, usage};
use model::access::{Interval, Settlement, SubscriptionStatus};
use model::{ConsumerId, Period, PlanVersionId, SubscriptionId, Time};
use sqlx::PgConnection;

/// Copies a subscription by Stripe's id, in a turn of its own. One of a customer that is none of ours is left alone.
///
/// # Errors
/// When Stripe cannot be asked, or the subscription has no price that we know and none is recorded for it.
pub(crate) async fn sync_subscription(domain: &Domain, stripe_id: &str) -> Result<()> {
    let Some(consumer) = owner(domain, stripe_id).await? else {
        tracing::warn!(
            subscription = stripe_id,
            "a subscription of a customer that is none of ours"
        );
        return Ok(());
    };
    let mut turn = Turn::take(domain, consumer).await?;
    copy(domain, &mut turn, stripe_id).await?;
    turn.commit().await
}

async fn owner(domain: &Domain, stripe_id: &str) -> Result<Option<ConsumerId>> {
    let known = sqlx::query_scalar!(
        "SELECT consumer_id FROM subscriptions WHERE stripe_subscription = $1",
        stripe_id
    )
    .fetch_optional(&domain.pool)
    .await?;
    if known.is_some() {
        return Ok(known);
    }
    match domain.payments.subscription(stripe_id).await {
        Ok(object) => by_customer(domain, &object.customer).await,
        Err(PaymentsError::Missing) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The consumer behind one of Stripe's customers.
pub(crate) async fn by_customer(domain: &Domain, customer: &str) -> Result<Option<ConsumerId>> {
    Ok(
        sqlx::query_scalar!("SELECT id FROM consumers WHERE stripe_customer = $1", customer)
            .fetch_optional(&domain.pool)
            .await?,
    )
}

/// Copies a subscription in a turn that is held: fetches it, writes it, compiles the entitlements.
pub(crate) async fn copy(domain: &Domain, turn: &mut Turn, stripe_id: &str) -> Result<()> {
    let object = match domain.payments.subscription(stripe_id).await {
        Ok(object) => Some(object),
        // Test data is deleted with its clock; for us it has ended.
        Err(PaymentsError::Missing) => None,
        Err(e) => return Err(e.into()),
    };
    let consumer = turn.consumer();
    let recorded = recorded(turn.connection(), stripe_id).await?;
    match (object, recorded) {
        (Some(object), recorded) if !is_over(&object) => {
            let next = next_prices(domain, &object).await?;
            match recorded {
                Some(row) => update(domain, turn.connection(), &row, &object, &next).await?,
                None => adopt(domain, turn, &object, &next).await?,
            }
        }
        (object, Some(row)) if row.ended_at.is_none() => {
            let at = object.and_then(|o| o.ended_at).unwrap_or_else(|| domain.clock.now());
            finish(domain, turn.connection(), consumer, row.id, at).await?;
        }
        // Never recorded, or recorded as ended already.
        _ => {}
    }
    Ok(())
}

fn is_over(object: &StripeSubscription) -> bool {
    matches!(object.status.as_str(), "canceled" | "incomplete_expired")
}

/// Prices of the phase that a schedule has for later.
async fn next_prices(domain: &Domain, object: &StripeSubscription) -> Result<Vec<String>> {
    match &object.schedule {
        None => Ok(Vec::new()),
        Some(id) => Ok(domain.payments.schedule(id).await?.next_prices),
    }
}

/// What is recorded of a subscription.
pub(crate) struct Recorded {
    pub(crate) id: SubscriptionId,
    pub(crate) consumer: ConsumerId,
    pub(crate) version: PlanVersionId,
    pub(crate) interval: Interval,
    period: Period,
    pub(crate) status: SubscriptionStatus,
    pub(crate) grace_until: Option<Time>,
    pub(crate) ended_at: Option<Time>,
    /// What Stripe was asked to change it to, and the instant of the preview.
    intended: Option<(Sold, Time)>,
}

pub(crate) async fn recorded(connection: &mut PgConnection, stripe_id: &str) -> Result<Option<Recorded>> {
    let row = sqlx::query!(
        "SELECT id, consumer_id, plan_version_id, interval, period_start, period_end, status, grace_until, ended_at,
                changing_plan_version_id, changing_interval, changing_at
         FROM subscriptions WHERE stripe_subscription = $1",
        stripe_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|r| Recorded {
        id: r.id,
        consumer: r.consumer_id,
        version: r.plan_version_id,
        interval: r.interval,
        period: Period {
            start: r.period_start,
            end: r.period_end,
        },
        status: r.status,
        grace_until: r.grace_until,
        ended_at: r.ended_at,
        intended: match (r.changing_plan_version_id, r.changing_interval, r.changing_at) {
            (Some(version), Some(interval), Some(at)) => Some((Sold { version, interval }, at)),
            _ => None,
        },
    }))
}

impl Recorded {
    /// The instant at which a change that we asked for was previewed; none for one that was made elsewhere.
    fn intended_at(&self, sold: Sold) -> Option<Time> {
        self.intended.filter(|(wanted, _)| *wanted == sold).map(|(_, at)| at)
    }

    /// Whether what we asked for may come yet: it waits for its payment, or Stripe was asked just now.
    fn still_intends(&self, object: &StripeSubscription, now: Time) -> bool {
        let recent = |(_, at): &(Sold, Time)| now < at.plus_s(intent::FORGOTTEN_AFTER_S);
        object.pending_until.is_some() || self.intended.as_ref().is_some_and(recent)
    }
}

/// What a set of prices sells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sold {
    pub(super) version: PlanVersionId,
    pub(super) interval: Interval,
}

/// The plan version behind prices; an item we know nothing of (something the provider added by hand) is left out.
async fn sold(connection: &mut PgConnection, prices: &[String]) -> Result<Option<Sold>> {
    let row = sqlx::query!(
        // The flat part names the plan where there is one.
        "SELECT plan_version_id, interval FROM plan_prices WHERE stripe_price = ANY($1) ORDER BY part LIMIT 1",
        prices
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|r| Sold {
        version: r.plan_version_id,
        interval: r.interval,
    }))
}

async fn sold_by(connection: &mut PgConnection, object: &StripeSubscription) -> Result<Option<Sold>> {
    let prices: Vec<String> = object.items.iter().map(|i| i.price.clone()).collect();
    sold(connection, &prices).await
}

/// The period of the items that make the plan.
async fn period(connection: &mut PgConnection, object: &StripeSubscription) -> Result<Option<Period>> {
    for item in &object.items {
        if sold(connection, std::slice::from_ref(&item.price)).await?.is_some() {
            return Ok(Some(item.period));
        }
    }
    Ok(object.items.first().map(|i| i.period))
}

/// What is scheduled after the running period, unless it is what runs already.
async fn scheduled(connection: &mut PgConnection, next: &[String], now: Sold) -> Result<Option<Sold>> {
    if next.is_empty() {
        return Ok(None);
    }
    Ok(sold(connection, next).await?.filter(|s| *s != now))
}

async fn update(
    domain: &Domain,
    connection: &mut PgConnection,
    row: &Recorded,
    object: &StripeSubscription,
    next: &[String],
) -> Result<()> {
    if row.ended_at.is_some() {
        // Ended here and alive there: only when somebody restored it by hand. Nothing is granted for it.
        tracing::error!(subscription = object.id, "Stripe has a subscription that ended here");
        return Ok(());
    }
    let sold = sold_by(connection, object).await?.unwrap_or_else(|| {
        tracing::error!(
            subscription = object.id,
            "no price of it is known: the plan stays as it is"
        );
        Sold {
            version: row.version,
            interval: row.interval,
        }
    });
    let (period, scheduled) = (
        period(connection, object).await?,
        scheduled(connection, next, sold).await?,
    );
    let changed = (sold.version, sold.interval) != (row.version, row.interval);
    lock_consumer(connection, row.consumer).await?;
    let standing = grace::standing(domain, connection, Some(row), sold.version, &object.status).await?;
    sqlx::query!(
        "UPDATE subscriptions SET plan_version_id = $2, interval = $3, status = $4, grace_until = $5,
                period_start = coalesce($6, period_start), period_end = coalesce($7, period_end),
                cancel_at_period_end = $8, scheduled_plan_version_id = $9, scheduled_interval = $10,
                stripe_schedule = $11, pending_until = $12, stripe_invoice = $13,
                changing_plan_version_id = CASE WHEN $14 THEN changing_plan_version_id END,
                changing_interval = CASE WHEN $14 THEN changing_interval END,
                changing_at = CASE WHEN $14 THEN changing_at END
         WHERE id = $1",
        row.id as SubscriptionId,
        sold.version as PlanVersionId,
        sold.interval as Interval,
        standing.status as SubscriptionStatus,
        standing.grace_until,
        period.map(|p| p.start),
        period.map(|p| p.end),
        object.cancel_at_period_end,
        scheduled.map(|s| s.version) as Option<PlanVersionId>,
        scheduled.map(|s| s.interval) as Option<Interval>,
        object.schedule,
        object.pending_until,
        object.latest_invoice,
        !changed && row.still_intends(object, domain.clock.now())
    )
    .execute(&mut *connection)
    .await?;
    if changed {
        let since = period.map(|p| p.start).filter(|start| *start != row.period.start);
        let since = since
            .or_else(|| row.intended_at(sold))
            .unwrap_or_else(|| domain.clock.now());
        usage::carry_over(domain, &mut *connection, row.id, since, row.period).await?;
    }
    grace::follow_up(domain, connection, Some(row), &standing, object).await?;
    entitlements::recompile(domain, connection, row.consumer).await
}

/// Records a subscription seen for the first time. What is not paid for is not recorded: nothing is granted for it.
async fn adopt(domain: &Domain, turn: &mut Turn, object: &StripeSubscription, next: &[String]) -> Result<()> {
    if object.status == "incomplete" {
        return Ok(());
    }
    let consumer = turn.consumer();
    if let Some(other) = open_paid(turn.connection(), consumer).await? {
        match domain.payments.subscription(&other.stripe).await {
            // It is over, and the event that says so comes later than this one.
            Ok(first) if is_over(&first) => {
                let at = first.ended_at.unwrap_or_else(|| domain.clock.now());
                end_row(turn.connection(), other.id, at).await?;
            }
            Err(PaymentsError::Missing) => end_row(turn.connection(), other.id, domain.clock.now()).await?,
            Err(e) => return Err(e.into()),
            Ok(_) => {
                tracing::warn!(
                    subscription = object.id,
                    kept = other.stripe,
                    "a second paid subscription"
                );
                let job = CancelDuplicate {
                    consumer,
                    subscription: object.id.clone(),
                };
                return jobs::enqueue(domain, turn.connection(), &job, domain.clock.now()).await;
            }
        }
    }
    insert(domain, turn.connection(), consumer, object, next).await
}

async fn insert(
    domain: &Domain,
    connection: &mut PgConnection,
    consumer: ConsumerId,
    object: &StripeSubscription,
    next: &[String],
) -> Result<()> {
    let (Some(sold), Some(period)) = (sold_by(connection, object).await?, period(connection, object).await?) else {
        return Err(DomainError::Conflict(format!(
            "Stripe's {} has no price that is known here.",
            object.id
        )));
    };
    let now = domain.clock.now();
    lock_consumer(connection, consumer).await?;
    end_unpaid(connection, consumer, now).await?;
    let scheduled = scheduled(connection, next, sold).await?;
    let standing = grace::standing(domain, connection, None, sold.version, &object.status).await?;
    sqlx::query!(
        "INSERT INTO subscriptions (id, consumer_id, plan_version_id, interval, status, grace_until, settlement,
                period_start, period_end, anchor, cancel_at_period_end, scheduled_plan_version_id, scheduled_interval,
                stripe_subscription, stripe_schedule, pending_until, stripe_invoice, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8, $10, $11, $12, $13, $14, $15, $16, $17)",
        SubscriptionId::new(now, &*domain.random) as SubscriptionId,
        consumer as ConsumerId,
        sold.version as PlanVersionId,
        sold.interval as Interval,
        standing.status as SubscriptionStatus,
        standing.grace_until,
        Settlement::Stripe as Settlement,
        period.start,
        period.end,
        object.cancel_at_period_end,
        scheduled.map(|s| s.version) as Option<PlanVersionId>,
        scheduled.map(|s| s.interval) as Option<Interval>,
        object.id,
        object.schedule,
        object.pending_until,
        object.latest_invoice,
        now
    )
    .execute(&mut *connection)
    .await?;
    grace::follow_up(domain, connection, None, &standing, object).await?;
    entitlements::recompile(domain, connection, consumer).await
}

/// An agreement that Stripe settles, in force.
struct OpenPaid {
    id: SubscriptionId,
    stripe: String,
}

async fn open_paid(connection: &mut PgConnection, consumer: ConsumerId) -> Result<Option<OpenPaid>> {
    let row = sqlx::query!(
        r#"SELECT id, stripe_subscription AS "stripe!" FROM subscriptions
           WHERE consumer_id = $1 AND ended_at IS NULL AND stripe_subscription IS NOT NULL"#,
        consumer as ConsumerId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|r| OpenPaid {
        id: r.id,
        stripe: r.stripe,
    }))
}

async fn end_row(connection: &mut PgConnection, id: SubscriptionId, at: Time) -> Result<()> {
    sqlx::query!(
        "UPDATE subscriptions SET ended_at = $2, status = 'cancelled', grace_until = NULL, pending_until = NULL,
                scheduled_plan_version_id = NULL, scheduled_interval = NULL
         WHERE id = $1 AND ended_at IS NULL",
        id as SubscriptionId,
        at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends an agreement and goes back to the free plan, with the same keys.
async fn finish(
    domain: &Domain,
    connection: &mut PgConnection,
    consumer: ConsumerId,
    id: SubscriptionId,
    at: Time,
) -> Result<()> {
    lock_consumer(connection, consumer).await?;
    end_row(connection, id, at).await?;
    super::start_free(domain, connection, consumer).await
}

/// The customer was deleted in Stripe: what it paid for ends, and the next Checkout makes a new customer.
///
/// # Errors
/// When the database fails.
pub(crate) async fn customer_deleted(domain: &Domain, customer: &str) -> Result<()> {
    let Some(consumer) = by_customer(domain, customer).await? else {
        return Ok(());
    };
    let mut turn = Turn::take(domain, consumer).await?;
    if let Some(open) = open_paid(turn.connection(), consumer).await? {
        // Deleting a customer ends its subscriptions; ask all the same, the event may be a replay.
        copy(domain, &mut turn, &open.stripe).await?;
    }
    if open_paid(turn.connection(), consumer).await?.is_none() {
        sqlx::query!(
            "UPDATE consumers SET stripe_customer = NULL WHERE id = $1 AND stripe_customer = $2",
            consumer as ConsumerId,
            customer
        )
        .execute(turn.connection())
        .await?;
    }
    turn.commit().await
}

impl Standing {
    /// Whether the standing is worse than what is recorded.
    pub(super) fn begins_grace(&self, row: Option<&Recorded>) -> bool {
        self.status == SubscriptionStatus::PastDue && row.is_none_or(|r| r.status != SubscriptionStatus::PastDue)
    }
}
