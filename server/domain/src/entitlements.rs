//! Entitlements: all that a consumer may do, compiled into one flat row per environment that the gateway reads.
//!
//! The row follows from the agreement in force, how features are switched on and granted, overrides, the consumer's spend
//! cap, and whether it is suspended or disputes a payment, and from nothing else: compiling twice gives the same row, and an
//! unchanged row keeps its version, so no gateway hears of it.

use crate::features::{self, Deciding};
use crate::jobs::{self, Job, Registry};
use crate::{Domain, DomainError, Result, catalogue, overrides, subscriptions};
use model::access::{Environment, Interval, Settlement, SubscriptionStatus, Suspension};
use model::catalogue::{CacheHits, MeterTerms, PlanTerms, RateLimit};
use model::feature::Life;
use model::snapshot::{Entitlement, FeatureLife, MeterEntitlement};
use model::{ConsumerId, Currency, Period, PlanVersionId, SubscriptionId, Time};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// Consumers in one run of a job; the rest follows in the next run.
const PAGE: i64 = 200;
/// How often periods are looked at, in seconds. The gateway counts from zero at a period's end by itself; this only
/// bounds how long its row names the old one.
const ROLL_EVERY_S: i64 = 30;
/// What a consumer without a plan may do: nothing; the numbers are the smallest that are valid.
const NO_RATE: RateLimit = RateLimit {
    per_second: 1,
    burst: 1,
};

/// The jobs of entitlements.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<RecompileAll>().with::<RollPeriods>()
}

/// Starts the jobs that repeat; doing so again changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    let mut connection = domain.pool.acquire().await?;
    jobs::enqueue(domain, &mut connection, &RollPeriods {}, domain.clock.now()).await
}

/// Compiles the rows of a consumer, live and test, in the caller's transaction. Takes the consumer's row lock, so two
/// compilations never overtake each other.
///
/// # Errors
/// [`DomainError::NotFound`] when there is no such consumer.
pub async fn recompile(domain: &Domain, connection: &mut PgConnection, consumer: ConsumerId) -> Result<()> {
    let now = domain.clock.now();
    let facts = sqlx::query!(
        "SELECT spend_cap_minor, suspended_at, created_at, external_id FROM consumers WHERE id = $1 FOR NO KEY UPDATE",
        consumer as ConsumerId
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(DomainError::NotFound)?;
    // Somebody whose bank took a payment back is to talk to the provider, who may let them in again.
    let stopped = facts.suspended_at.is_some() || subscriptions::stops(domain, connection, consumer).await?;
    let world = World {
        consumer,
        spend_cap_minor: facts.spend_cap_minor,
        suspended: stopped.then_some(Suspension::Provider),
        created_at: facts.created_at,
        external_id: facts.external_id,
        meters: catalogue::meters(&mut *connection).await?,
        currency: currency(connection).await?,
        now,
    };
    let features = Deciding::load(&mut *connection, consumer).await?;
    let own = overrides::not_ended(&mut *connection, consumer, now).await?;
    let agreement = agreement(connection, consumer).await?;
    let free = catalogue::free_plan(&mut *connection).await?;
    let test = world.test(free.map(|(plan, _)| (plan.version, plan.terms)));
    for mut record in [world.live(agreement), test] {
        record.overrides = overrides::that_fit(&record, &own);
        features.apply(&mut *connection, &mut record, now).await?;
        write(connection, &record).await?;
    }
    Ok(())
}

/// Compiles the rows of one consumer in a transaction of its own.
///
/// # Errors
/// As [`recompile`].
pub async fn recompile_now(domain: &Domain, consumer: ConsumerId) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(())
}

/// What callers without a credential may do on a plan, each client address for itself; none when nobody can be let in for
/// nothing on that plan.
///
/// # Errors
/// When the database fails.
pub(crate) async fn anonymous(connection: &mut PgConnection, plan: &str, now: Time) -> Result<Option<Entitlement>> {
    of_nobody(connection, plan, now, PlanTerms::is_free).await
}

/// What a plan that a token names lets its caller do.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_token(connection: &mut PgConnection, plan: &str, now: Time) -> Result<Option<Entitlement>> {
    of_nobody(connection, plan, now, |_| true).await
}

async fn of_nobody(
    connection: &mut PgConnection,
    plan: &str,
    now: Time,
    fits: impl Fn(&PlanTerms) -> bool,
) -> Result<Option<Entitlement>> {
    let plans = catalogue::plans(&mut *connection).await?;
    let Some(plan) = plans.into_iter().find(|p| p.terms.slug == plan && fits(&p.terms)) else {
        return Ok(None);
    };
    let world = World {
        consumer: ConsumerId::ANONYMOUS,
        spend_cap_minor: None,
        suspended: None,
        // Periods are the calendar's months.
        created_at: Time::from_unix_s(0),
        external_id: None,
        meters: catalogue::meters(&mut *connection).await?,
        currency: currency(connection).await?,
        now,
    };
    let mut record = world.granted(Environment::Live, plan.version, &plan.terms, Interval::Month);
    record.plan_version = None;
    // Nobody in particular is among the consumers that a rollout has reached so far.
    let lives = features::lives(connection).await?;
    let reaches_all = |f: &String| lives.get(f).is_none_or(Life::reaches_all);
    record.features.retain(reaches_all);
    Ok(Some(record))
}

async fn currency(connection: &mut PgConnection) -> Result<Currency> {
    let row = sqlx::query!(r#"SELECT currency AS "currency: Currency" FROM products ORDER BY slug LIMIT 1"#)
        .fetch_optional(connection)
        .await?;
    Ok(row.map_or(Currency::USD, |r| r.currency))
}

/// The agreement in force, as far as it decides what may be done.
struct Agreement {
    id: SubscriptionId,
    version: PlanVersionId,
    interval: Interval,
    status: SubscriptionStatus,
    period: Period,
    grace_until: Option<Time>,
    terms: PlanTerms,
}

async fn agreement(connection: &mut PgConnection, consumer: ConsumerId) -> Result<Option<Agreement>> {
    let row = sqlx::query!(
        "SELECT id, plan_version_id, interval, status, period_start, period_end, grace_until
         FROM subscriptions WHERE consumer_id = $1 AND ended_at IS NULL",
        consumer as ConsumerId
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Agreement {
        id: row.id,
        version: row.plan_version_id,
        interval: row.interval,
        status: row.status,
        period: Period {
            start: row.period_start,
            end: row.period_end,
        },
        grace_until: row.grace_until,
        terms: catalogue::terms(connection, row.plan_version_id).await?,
    }))
}

/// What both rows of a consumer are made from.
struct World {
    consumer: ConsumerId,
    spend_cap_minor: Option<i64>,
    suspended: Option<Suspension>,
    created_at: Time,
    external_id: Option<String>,
    meters: Vec<catalogue::Meter>,
    currency: Currency,
    now: Time,
}

impl World {
    fn live(&self, agreement: Option<Agreement>) -> Entitlement {
        let Some(a) = agreement else {
            return self.nothing(Environment::Live);
        };
        let refused = match a.status {
            SubscriptionStatus::Active => None,
            SubscriptionStatus::PastDue if a.grace_until.is_none_or(|until| self.now < until) => None,
            SubscriptionStatus::PastDue | SubscriptionStatus::Suspended => Some(Suspension::Payment),
            SubscriptionStatus::Incomplete | SubscriptionStatus::Cancelled => Some(Suspension::NoPlan),
        };
        Entitlement {
            subscription: Some(a.id),
            suspended: self.suspended.or(refused),
            period: a.period,
            spend_cap_minor: self.spend_cap_minor,
            ..self.granted(Environment::Live, a.version, &a.terms, a.interval)
        }
    }

    fn test(&self, free: Option<(PlanVersionId, PlanTerms)>) -> Entitlement {
        match free {
            None => self.nothing(Environment::Test),
            Some((version, terms)) => self.granted(Environment::Test, version, &terms, Interval::Month),
        }
    }

    fn granted(
        &self,
        environment: Environment,
        version: PlanVersionId,
        terms: &PlanTerms,
        interval: Interval,
    ) -> Entitlement {
        let offered = terms.offer(interval).map_or(&[][..], |o| &o.meters);
        Entitlement {
            plan_version: Some(version),
            plan: terms.slug.clone(),
            suspended: self.suspended,
            features: terms.features.clone(),
            rate_limit: terms.rate_limit,
            limits: terms.limits.clone(),
            concurrency: terms.concurrency,
            priority: terms.priority,
            cache_hits: terms.cache_hits,
            meters: offered.iter().filter_map(|t| self.meter(t)).collect(),
            ..self.nothing(environment)
        }
    }

    fn meter(&self, terms: &MeterTerms) -> Option<MeterEntitlement> {
        let meter = self.meters.iter().find(|m| m.slug == terms.meter)?;
        Some(MeterEntitlement::unused(meter.number, terms.clone()))
    }

    /// The row of somebody without a plan; its period is the calendar month counted from the account's first day.
    fn nothing(&self, environment: Environment) -> Entitlement {
        Entitlement {
            consumer: self.consumer,
            environment,
            external_id: self.external_id.clone(),
            subscription: None,
            plan_version: None,
            plan: String::new(),
            suspended: self.suspended.or(Some(Suspension::NoPlan)),
            features: Vec::new(),
            feature_life: FeatureLife::default(),
            rate_limit: NO_RATE,
            limits: Vec::new(),
            concurrency: None,
            priority: 0,
            cache_hits: CacheHits::default(),
            period: Period::around(self.created_at, Interval::Month, self.now),
            meters: Vec::new(),
            currency: self.currency,
            spend_cap_minor: None,
            settled_minor: 0,
            overrides: Vec::new(),
        }
    }
}

/// Writes a row unless it is there already: not an upsert, because that would draw a version, and the lock that comes
/// with it, for every row compared.
async fn write(connection: &mut PgConnection, record: &Entitlement) -> Result<()> {
    let json = serde_json::to_value(record)?;
    let known = sqlx::query!(
        "SELECT record FROM entitlements WHERE consumer_id = $1 AND environment = $2",
        record.consumer as ConsumerId,
        record.environment as Environment
    )
    .fetch_optional(&mut *connection)
    .await?;
    match known {
        Some(row) if row.record == json => Ok(()),
        Some(_) => {
            sqlx::query!(
                "UPDATE entitlements SET record = $3, period_end = $4 WHERE consumer_id = $1 AND environment = $2",
                record.consumer as ConsumerId,
                record.environment as Environment,
                json,
                record.period.end
            )
            .execute(connection)
            .await?;
            Ok(())
        }
        None => {
            sqlx::query!(
                "INSERT INTO entitlements (consumer_id, environment, record, period_end) VALUES ($1, $2, $3, $4)",
                record.consumer as ConsumerId,
                record.environment as Environment,
                json,
                record.period.end
            )
            .execute(connection)
            .await?;
            Ok(())
        }
    }
}

/// Compiles every consumer again, a page a run: after a catalogue was published.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecompileAll {
    /// The last consumer done.
    pub after: Option<ConsumerId>,
}

#[async_trait::async_trait]
impl Job for RecompileAll {
    const KIND: &'static str = "entitlements.recompile_all";

    fn dedup_key(&self) -> Option<String> {
        Some(self.after.map_or_else(String::new, |id| id.to_string()))
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let after = self.after.map_or_else(String::new, |id| id.to_string());
        let page = sqlx::query!(
            "SELECT id FROM consumers WHERE id > $1 ORDER BY id LIMIT $2",
            after,
            PAGE
        )
        .fetch_all(&domain.pool)
        .await?;
        // The next page first: a failure below must not keep the others from it.
        if let Some(last) = page.last() {
            let mut connection = domain.pool.acquire().await?;
            let next = Self { after: Some(last.id) };
            jobs::enqueue(domain, &mut connection, &next, domain.clock.now()).await?;
        }
        for row in &page {
            log_failure(row.id, recompile_now(domain, row.id).await);
        }
        Ok(())
    }
}

/// Moves what is not settled by Stripe into its next calendar period once the running one has ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct RollPeriods {}

#[async_trait::async_trait]
impl Job for RollPeriods {
    const KIND: &'static str = "entitlements.roll_periods";
    const EVERY_S: Option<i64> = Some(ROLL_EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let now = domain.clock.now();
        let live = sqlx::query!(
            "SELECT consumer_id FROM subscriptions
             WHERE ended_at IS NULL AND settlement <> 'stripe' AND period_end <= $1 ORDER BY period_end LIMIT $2",
            now,
            PAGE
        )
        .fetch_all(&domain.pool)
        .await?;
        let mut done = 0;
        for row in &live {
            done += i64::from(log_failure(row.consumer_id, roll(domain, row.consumer_id, now).await));
        }
        let test = sqlx::query!(
            "SELECT consumer_id FROM entitlements
             WHERE environment = 'test' AND period_end <= $1 ORDER BY period_end LIMIT $2",
            now,
            PAGE
        )
        .fetch_all(&domain.pool)
        .await?;
        for row in &test {
            done += i64::from(log_failure(
                row.consumer_id,
                recompile_now(domain, row.consumer_id).await,
            ));
        }
        let full = i64::try_from(live.len().max(test.len())).unwrap_or(PAGE) >= PAGE;
        if full && done > 0 {
            let mut connection = domain.pool.acquire().await?;
            jobs::enqueue(domain, &mut connection, self, now).await?;
        }
        Ok(())
    }
}

/// One consumer that cannot be compiled keeps no other from it. Tells whether it could.
fn log_failure(consumer: ConsumerId, outcome: Result<()>) -> bool {
    if let Err(error) = &outcome {
        tracing::error!(%consumer, error = error as &dyn std::error::Error, "entitlements cannot be compiled");
    }
    outcome.is_ok()
}

async fn roll(domain: &Domain, consumer: ConsumerId, now: Time) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    let row = sqlx::query!(
        "SELECT id, settlement, interval, anchor FROM subscriptions
         WHERE consumer_id = $1 AND ended_at IS NULL AND period_end <= $2 FOR UPDATE",
        consumer as ConsumerId,
        now
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = row.filter(|r| r.settlement != Settlement::Stripe) {
        let period = Period::around(row.anchor, row.interval, now);
        sqlx::query!(
            "UPDATE subscriptions SET period_start = $2, period_end = $3 WHERE id = $1",
            row.id as SubscriptionId,
            period.start,
            period.end
        )
        .execute(&mut *tx)
        .await?;
        recompile(domain, &mut tx, consumer).await?;
    }
    tx.commit().await?;
    Ok(())
}
