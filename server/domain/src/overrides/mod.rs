//! Overrides: what one consumer has in place of what its plan says, from an instant on, until another or until somebody
//! ends it. `model::overrides` has the rules of what they come to; here is who has which, and when.
//!
//! An override refers to something that the consumer's plan has. After a change of plan it stays, holds where the new
//! plan has a thing of that name, and otherwise has no effect until such a plan comes back. Two of the same target never
//! hold at once: one that would overlap another is refused, so that nobody loses track of what was promised.
//!
//! Those of quotas and limits hold for live keys; test keys stay limited like the free plan. Those of features hold for
//! both, as grants do. What an invoice says does not change: allowance and prices are the plan's.

mod offered;

pub use offered::{Offered, offered};

use crate::snapshot::entitlement_of;
use crate::{Domain, DomainError, Provider, Result, Viewer, audit, entitlements};
use model::access::Environment;
use model::overrides::{self, Change, Override};
use model::snapshot::Entitlement;
use model::{ConsumerId, OverrideId, Time};
use sqlx::PgConnection;

/// Most overrides of one consumer that hold or are to come: each begins and ends in every gateway's memory.
pub const MOST: usize = 20;
/// Longest reason, in characters.
pub const REASON_MOST: usize = 300;
/// How far ahead one may begin, in seconds: a year.
const START_MOST_S: i64 = 366 * 86_400;
/// How far ahead one may end, in seconds: ten years. Beyond that no end is meant.
const END_MOST_S: i64 = 10 * START_MOST_S;
/// Lines of the provider's list: all that hold or are to come, and the last that ended.
const LIST_MOST: i64 = 60;

/// What is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOverride {
    /// What it changes.
    pub change: Change,
    /// Why, for the provider's own people; 1 to [`REASON_MOST`] characters.
    pub reason: String,
    /// Its first instant; none means now.
    pub starts_at: Option<Time>,
    /// The first instant without it; none means until somebody ends it.
    pub ends_at: Option<Time>,
}

/// An override as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its id.
    pub id: OverrideId,
    /// What it changes.
    pub change: Change,
    /// Why.
    pub reason: String,
    /// Its first instant.
    pub starts_at: Time,
    /// The first instant without it, as it was meant.
    pub ends_at: Option<Time>,
    /// Who added it.
    pub created_by: String,
    /// When.
    pub created_at: Time,
    /// When somebody ended it early.
    pub removed_at: Option<Time>,
    /// Why it has no effect on the consumer's plan; none when it has.
    pub misfit: Option<String>,
}

/// Where an override stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It begins later.
    Coming,
    /// It holds.
    Active,
    /// It is over, since that instant.
    Ended(Time),
}

impl State {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Coming => "coming",
            Self::Active => "active",
            Self::Ended(_) => "ended",
        }
    }
}

impl Line {
    /// Where it stands at an instant.
    pub fn state(&self, now: Time) -> State {
        match (self.removed_at, self.ends_at) {
            (Some(removed), _) => State::Ended(removed),
            (None, Some(end)) if end <= now => State::Ended(end),
            _ if now < self.starts_at => State::Coming,
            _ => State::Active,
        }
    }
}

/// Adds an override; gateways have it within a second, and begin and end it by themselves.
///
/// # Errors
/// `Invalid` for `target`, `amount`, `burst`, `reason`, `from` or `until`; `NotFound` when there is no such consumer;
/// `Conflict` when it has no plan, when the override would overlap another of the same target, or is one too many.
pub async fn add(domain: &Domain, provider: &Provider, consumer: ConsumerId, new: NewOverride) -> Result<OverrideId> {
    let now = domain.clock.now();
    let reason = check_reason(&new.reason)?;
    new.change
        .check()
        .map_err(|e| DomainError::invalid(e.field, e.problem))?;
    let added = Override {
        id: OverrideId::new(now, &*domain.random),
        starts_at: new.starts_at.unwrap_or(now),
        ends_at: new.ends_at,
        change: new.change,
    };
    check_times(&added, now)?;
    let mut tx = domain.pool.begin().await?;
    lock(&mut tx, consumer).await?;
    let offered = offered::load(&mut tx, consumer, now).await?;
    let offered = offered.ok_or_else(|| DomainError::Conflict(offered::NO_PLAN.to_owned()))?;
    offered
        .check(&added.change)
        .map_err(|problem| DomainError::invalid("target", problem))?;
    check_others(&added, &not_ended(&mut tx, consumer, now).await?)?;
    sqlx::query!(
        "INSERT INTO overrides (id, consumer_id, change, reason, starts_at, ends_at, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        added.id as OverrideId,
        consumer as ConsumerId,
        serde_json::to_value(&added.change)?,
        reason,
        added.starts_at,
        added.ends_at as Option<Time>,
        provider.actor().to_string(),
        now,
    )
    .execute(&mut *tx)
    .await?;
    let target = format!("{} {}: {reason}", added.id, added.change.words());
    let actor = provider.actor();
    audit::record(domain, &mut tx, actor, Some(consumer), "override.add", &target).await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(added.id)
}

fn check_reason(reason: &str) -> Result<&str> {
    let reason = reason.trim();
    let plain = !reason.chars().any(char::is_control);
    if !reason.is_empty() && reason.chars().count() <= REASON_MOST && plain {
        return Ok(reason);
    }
    let problem = format!("Say why, in one line of at most {REASON_MOST} characters; it goes into the audit log.");
    Err(DomainError::invalid("reason", problem))
}

fn check_times(added: &Override, now: Time) -> Result<()> {
    let wrong = |field, problem: &str| Err(DomainError::invalid(field, problem));
    if added.starts_at < now {
        return wrong("from", "Choose a start to come, or none for now.");
    }
    if now.plus_s(START_MOST_S) < added.starts_at {
        return wrong("from", "Choose a start within a year.");
    }
    match added.ends_at {
        Some(end) if end <= now => wrong("until", "Choose an end that is not over."),
        Some(end) if end <= added.starts_at => wrong("until", "Choose an end after the start."),
        Some(end) if now.plus_s(END_MOST_S) < end => {
            wrong("until", "Choose an end within ten years, or none for no end.")
        }
        _ => Ok(()),
    }
}

fn check_others(added: &Override, others: &[Override]) -> Result<()> {
    if let Some(other) = others.iter().find(|other| other.overlaps(added)) {
        let (what, which) = other.change.target();
        return Err(DomainError::Conflict(format!(
            "{} changes the {what} {which} already, from {} {}. End it first, or choose a time in which it does not hold.",
            other.id,
            other.starts_at,
            other.until(),
        )));
    }
    if others.len() >= MOST {
        let problem = format!("It has {MOST} overrides that hold or are to come. End one first.");
        return Err(DomainError::Conflict(problem));
    }
    Ok(())
}

/// Ends an override now, or takes it back before it begins; what it changed is as the plan says within a second.
///
/// # Errors
/// `NotFound` when the consumer has no such override; `Conflict` when it has ended already.
pub async fn end(domain: &Domain, provider: &Provider, consumer: ConsumerId, id: OverrideId) -> Result<()> {
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    lock(&mut tx, consumer).await?;
    let row = sqlx::query!(
        "SELECT change, ends_at, removed_at FROM overrides WHERE id = $1 AND consumer_id = $2",
        id as OverrideId,
        consumer as ConsumerId
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(DomainError::NotFound)?;
    if let Some(over) = row.removed_at.or(row.ends_at.filter(|end| *end <= now)) {
        return Err(DomainError::Conflict(format!("It ended on {}.", over.minute())));
    }
    sqlx::query!(
        "UPDATE overrides SET removed_at = $2 WHERE id = $1",
        id as OverrideId,
        now
    )
    .execute(&mut *tx)
    .await?;
    let change: Change = serde_json::from_value(row.change)?;
    let target = format!("{id} {}", change.words());
    let actor = provider.actor();
    audit::record(domain, &mut tx, actor, Some(consumer), "override.end", &target).await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(())
}

/// A consumer's overrides: those that hold or are to come, then the last that ended.
///
/// # Errors
/// When the database fails.
pub async fn list(domain: &Domain, _provider: &Provider, consumer: ConsumerId) -> Result<Vec<Line>> {
    let now = domain.clock.now();
    let mut connection = domain.pool.acquire().await?;
    let rows = sqlx::query!(
        "SELECT id, change, reason, starts_at, ends_at, created_by, created_at, removed_at FROM overrides
         WHERE consumer_id = $1
         ORDER BY removed_at IS NULL AND (ends_at IS NULL OR ends_at > $2) DESC, starts_at DESC, id LIMIT $3",
        consumer as ConsumerId,
        now,
        LIST_MOST
    )
    .fetch_all(&mut *connection)
    .await?;
    let offered = offered::load(&mut connection, consumer, now).await?;
    rows.into_iter()
        .map(|r| {
            let change: Change = serde_json::from_value(r.change)?;
            let misfit = match &offered {
                None => Some(offered::NO_PLAN.to_owned()),
                Some(offered) => offered.check(&change).err(),
            };
            Ok(Line {
                id: r.id,
                change,
                reason: r.reason,
                starts_at: r.starts_at,
                ends_at: r.ends_at,
                created_by: r.created_by,
                created_at: r.created_at,
                removed_at: r.removed_at,
                misfit,
            })
        })
        .collect()
}

/// Whose an override is.
///
/// # Errors
/// `NotFound` when there is no such override.
pub async fn owner(domain: &Domain, _provider: &Provider, id: OverrideId) -> Result<ConsumerId> {
    sqlx::query_scalar!("SELECT consumer_id FROM overrides WHERE id = $1", id as OverrideId)
        .fetch_optional(&domain.pool)
        .await?
        .ok_or(DomainError::NotFound)
}

/// What a consumer's live keys have now in place of what its plan says.
///
/// # Errors
/// When the database fails.
pub async fn in_force(domain: &Domain, viewer: &Viewer) -> Result<Vec<Override>> {
    let now = domain.clock.now();
    let mut connection = domain.pool.acquire().await?;
    let record = entitlement_of(&mut connection, viewer.consumer(), Environment::Live, now).await?;
    let all = record.map(|r| r.overrides).unwrap_or_default();
    Ok(overrides::in_force(&all, now).cloned().collect())
}

/// Those of a consumer that hold or are to come.
///
/// # Errors
/// When the database fails, or holds one that this program cannot read.
pub(crate) async fn not_ended(connection: &mut PgConnection, consumer: ConsumerId, now: Time) -> Result<Vec<Override>> {
    let rows = sqlx::query!(
        "SELECT id, change, starts_at, ends_at FROM overrides
         WHERE consumer_id = $1 AND removed_at IS NULL AND (ends_at IS NULL OR ends_at > $2) ORDER BY starts_at, id",
        consumer as ConsumerId,
        now
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Override {
                id: r.id,
                change: serde_json::from_value(r.change)?,
                starts_at: r.starts_at,
                ends_at: r.ends_at,
            })
        })
        .collect()
}

/// Those that have an effect on what a record says.
pub(crate) fn that_fit(record: &Entitlement, own: &[Override]) -> Vec<Override> {
    let live = record.environment == Environment::Live;
    let fits = |change: &Change| match change {
        Change::Quota { meter, .. } => live && record.meters.iter().any(|m| m.terms.meter == *meter),
        Change::Limit { name, .. } => {
            live && (name == overrides::OVERALL || record.limits.iter().any(|l| l.name == *name))
        }
        Change::Feature { .. } => true,
    };
    let has_plan = record.plan_version.is_some();
    let fitting = own.iter().filter(|o| has_plan && fits(&o.change));
    fitting.cloned().collect()
}

/// Holds the consumer's row, so that overrides are added and ended one after another.
async fn lock(connection: &mut PgConnection, consumer: ConsumerId) -> Result<()> {
    sqlx::query_scalar!(
        "SELECT name FROM consumers WHERE id = $1 FOR NO KEY UPDATE",
        consumer as ConsumerId
    )
    .fetch_optional(connection)
    .await?
    .map(drop)
    .ok_or(DomainError::NotFound)
}
