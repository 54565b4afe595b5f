//! Taking in the ledgers. The records, their aggregates and the ledger's cursor move in **one** transaction: a batch
//! that is sent again is dropped by its sequence numbers, a batch that skips some is refused, and whatever dies in
//! between, nothing is lost and nothing counts twice.

mod hours;
mod keys;
mod parts;
mod periods;
mod rows;
mod sums;

use crate::{Domain, DomainError, Result, key_limits};
use model::usage::{UsageBatch, UsageRecord};
use model::{ConsumerId, Time};
use sqlx::PgConnection;
use std::collections::{BTreeSet, HashSet};
pub(crate) use sums::summed;

/// Longest name of a ledger, in bytes.
const MAX_LEDGER_LEN: usize = 100;

/// The sequence number up to which a ledger has been taken in; 0 for one never heard of.
///
/// # Errors
/// When the database fails.
pub async fn shipped_through(domain: &Domain, ledger: &str) -> Result<u64> {
    let through = sqlx::query_scalar!("SELECT shipped_through FROM ledgers WHERE id = $1", ledger)
        .fetch_optional(&domain.pool)
        .await?;
    u64::try_from(through.unwrap_or(0)).map_err(DomainError::internal)
}

/// Takes in a batch, exactly once.
///
/// # Errors
/// `Conflict` when records are missing before or inside the batch; the sender asks [`shipped_through`] and sends from
/// there.
pub async fn ship(domain: &Domain, batch: &UsageBatch) -> Result<()> {
    if batch.ledger.is_empty() || batch.ledger.len() > MAX_LEDGER_LEN {
        return Err(DomainError::invalid("ledger", "must be 1 to 100 bytes"));
    }
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    ensure_ledger(&mut tx, &batch.ledger, now).await?;
    let known = sqlx::query!(
        "SELECT shipped_through, lease_turn FROM ledgers WHERE id = $1 FOR UPDATE",
        batch.ledger
    )
    .fetch_one(&mut *tx)
    .await?;
    let through = u64::try_from(known.shipped_through).map_err(DomainError::internal)?;
    let leases = known.lease_turn > 0;
    let fresh = unseen(&batch.records, through)?;
    let Some(last) = fresh.last() else { return Ok(()) };
    let consumers = known_consumers(&mut tx, fresh).await?;
    let counted: Vec<&UsageRecord> = fresh.iter().filter(|r| consumers.contains(&r.consumer)).collect();
    // Callers without a credential have no account and no bill: the gateway's metrics count them.
    let anonymous = fresh.iter().filter(|r| r.consumer == ConsumerId::ANONYMOUS).count();
    if counted.len() + anonymous < fresh.len() {
        // A database restored from before the account was made: the records stay in the ledger's own files.
        tracing::error!(
            ledger = batch.ledger,
            records = fresh.len() - counted.len() - anonymous,
            "usage of unknown accounts"
        );
    }
    hours::add(&mut tx, &counted).await?;
    periods::add(&mut tx, &counted, now).await?;
    key_limits::count(&mut tx, &counted).await?;
    if leases {
        super::leases::count(&mut tx, &batch.ledger, &counted).await?;
    }
    super::marks::touch(&mut tx, &counted, now).await?;
    rows::add(&mut tx, &batch.ledger, &counted).await?;
    parts::add(&mut tx, &counted).await?;
    keys::touch(&mut tx, &counted).await?;
    sqlx::query!(
        "UPDATE ledgers SET shipped_through = $2, shipped_at = $3 WHERE id = $1",
        batch.ledger,
        i64::try_from(last.seq).map_err(DomainError::internal)?,
        now,
    )
    .execute(&mut *tx)
    .await?;
    if leases {
        super::leases::end_reached(&mut tx, &batch.ledger, last.seq).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// From its first word on, a ledger has a row.
pub(super) async fn ensure_ledger(connection: &mut PgConnection, ledger: &str, now: Time) -> Result<()> {
    sqlx::query!(
        "INSERT INTO ledgers (id, shipped_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        ledger,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The records after `through`, which must follow it and one another.
fn unseen(records: &[UsageRecord], through: u64) -> Result<&[UsageRecord]> {
    let seen = records.partition_point(|r| r.seq <= through);
    let fresh = records.get(seen..).unwrap_or_default();
    let in_order = fresh
        .iter()
        .zip(through.saturating_add(1)..)
        .all(|(r, seq)| r.seq == seq);
    if in_order {
        return Ok(fresh);
    }
    Err(DomainError::Conflict(format!(
        "the ledger is taken in through {through}: records are missing after it"
    )))
}

async fn known_consumers(connection: &mut PgConnection, records: &[UsageRecord]) -> Result<HashSet<ConsumerId>> {
    let ids: BTreeSet<ConsumerId> = records.iter().map(|r| r.consumer).collect();
    let ids: Vec<ConsumerId> = ids.into_iter().collect();
    let known = sqlx::query_scalar!("SELECT id FROM consumers WHERE id = ANY($1)", &ids as &[ConsumerId])
        .fetch_all(connection)
        .await?;
    Ok(known.into_iter().collect())
}

/// A number as a column has it; one too large is the largest.
pub(crate) fn saturating(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A small number as a column has it.
pub(crate) fn small(n: u16) -> i16 {
    // Numbers of routes, meters and variants come from smallint columns; statuses are below 1,000.
    i16::try_from(n).unwrap_or(0)
}
