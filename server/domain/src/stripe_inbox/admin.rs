//! The inbox as the provider sees it.

use super::handle::HandleEvents;
use crate::{Domain, DomainError, Provider, Result, audit, jobs};
use model::Time;

/// Events on a page.
pub const PAGE: i64 = 50;

/// Which events are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// received, done, ignored or dead; none lists all.
    pub state: Option<String>,
    /// Only what was received before this event: the next page.
    pub before: Option<String>,
}

/// An event in the inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Stripe's id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// What it is about.
    pub object: String,
    /// received, done, ignored or dead.
    pub state: String,
    /// When it came.
    pub received_at: Time,
    /// When it was handled.
    pub done_at: Option<Time>,
    /// Tries that failed.
    pub attempts: i32,
    /// Why the last try failed.
    pub last_error: Option<String>,
}

/// Events, the newest first.
///
/// # Errors
/// When the database fails.
pub async fn list(domain: &Domain, _provider: &Provider, filter: &Filter) -> Result<Vec<Entry>> {
    Ok(sqlx::query_as!(
        Entry,
        "SELECT id, type AS kind, object_id AS object, state, received_at, done_at, attempts, last_error FROM stripe_events
         WHERE ($1::text IS NULL OR state = $1)
           AND ($2::text IS NULL OR (received_at, id) < (SELECT b.received_at, b.id FROM stripe_events b WHERE b.id = $2))
         ORDER BY received_at DESC, id DESC LIMIT $3",
        filter.state.as_deref(),
        filter.before.as_deref(),
        PAGE
    )
    .fetch_all(&domain.pool)
    .await?)
}

/// An event with what Stripe sent.
///
/// # Errors
/// [`DomainError::NotFound`] when it is not there.
pub async fn detail(domain: &Domain, _provider: &Provider, id: &str) -> Result<(Entry, serde_json::Value)> {
    let entry = sqlx::query_as!(
        Entry,
        "SELECT id, type AS kind, object_id AS object, state, received_at, done_at, attempts, last_error
         FROM stripe_events WHERE id = $1",
        id
    )
    .fetch_optional(&domain.pool)
    .await?
    .ok_or(DomainError::NotFound)?;
    let raw = sqlx::query_scalar!("SELECT raw FROM stripe_events WHERE id = $1", id)
        .fetch_one(&domain.pool)
        .await?;
    Ok((entry, raw))
}

/// Handles an event again. Harmless at any time: the object is fetched, not the event believed.
///
/// # Errors
/// [`DomainError::NotFound`] when it is not there; [`DomainError::Conflict`] when it is of a kind that is not handled.
pub async fn replay(domain: &Domain, provider: &Provider, id: &str) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    let row = sqlx::query!(
        "SELECT type AS kind, object_id, livemode FROM stripe_events WHERE id = $1 FOR UPDATE",
        id
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(DomainError::NotFound)?;
    if !super::endpoint::is_handled(&row.kind) || row.livemode != domain.payments.livemode() {
        return Err(DomainError::Conflict(
            "Events like this one are stored and not handled.".to_owned(),
        ));
    }
    sqlx::query!(
        "UPDATE stripe_events SET state = 'received', attempts = 0, last_error = NULL, done_at = NULL WHERE id = $1",
        id
    )
    .execute(&mut *tx)
    .await?;
    let job = HandleEvents { object: row.object_id };
    jobs::enqueue(domain, &mut tx, &job, domain.clock.now()).await?;
    audit::record(domain, &mut tx, provider.actor(), None, "stripe_event.replay", id).await?;
    tx.commit().await?;
    Ok(())
}
