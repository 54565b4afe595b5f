//! Rotation: a successor takes over, and the old key works beside it for a while. Both are of one chain, which is named by
//! its first key. Limits are the chain's: a rotation renews nothing, and keys of a chain together use no more than one.

use super::{CreatedKey, MAX_KEYS, NewKey, ensure_room, ensure_verified, insert, make, note};
use crate::{Domain, DomainError, KeyManager, Result};
use model::{ConsumerId, KeyId};
use sqlx::PgConnection;

/// With rotations under way, old and new of each may work side by side.
const MAX_KEYS_ROTATING: i64 = 2 * MAX_KEYS;

/// How long a rotated key goes on working beside its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Not at all.
    None,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week.
    Week,
}

impl Overlap {
    /// Every choice, shortest first.
    pub const ALL: [Overlap; 4] = [Overlap::None, Overlap::Hour, Overlap::Day, Overlap::Week];

    /// Its length.
    pub fn seconds(self) -> i64 {
        match self {
            Overlap::None => 0,
            Overlap::Hour => 3_600,
            Overlap::Day => 86_400,
            Overlap::Week => 7 * 86_400,
        }
    }
    /// The word for it in forms.
    pub fn word(self) -> &'static str {
        match self {
            Overlap::None => "now",
            Overlap::Hour => "1h",
            Overlap::Day => "24h",
            Overlap::Week => "7d",
        }
    }
    /// The choice with that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.word() == word)
    }
}

/// Makes a successor with the same name, routes, expiry and limits; the old key works for the overlap, never past its own
/// expiry. Both count against the account's quota, and together against the limits.
///
/// # Errors
/// `NotFound`; `Conflict` when the key no longer works or was rotated before.
pub async fn rotate(domain: &Domain, manager: &KeyManager, id: KeyId, overlap: Overlap) -> Result<CreatedKey> {
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    ensure_verified(&mut tx, manager.actor()).await?;
    lock_chain(&mut tx, manager.consumer(), id).await?;
    let old = sqlx::query!(
        "SELECT environment, name, routes, expires_at, revoked_at, replaced_by FROM keys
         WHERE id = $1 AND consumer_id = $2 FOR UPDATE",
        id as KeyId,
        manager.consumer() as ConsumerId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(DomainError::NotFound)?;
    if old.revoked_at.is_some() || old.expires_at.is_some_and(|end| end <= now) {
        return Err(DomainError::Conflict(
            "This key no longer works. Create a new one.".to_owned(),
        ));
    }
    if old.replaced_by.is_some() {
        return Err(DomainError::Conflict(
            "This key was rotated already. Rotate the key that took over.".to_owned(),
        ));
    }
    ensure_room(domain, &mut tx, manager.consumer(), old.environment, MAX_KEYS_ROTATING).await?;
    let new = NewKey {
        name: old.name,
        environment: old.environment,
        expires_at: old.expires_at,
        routes: old.routes,
    };
    let mut made = make(domain, manager.consumer(), &new, 1)?;
    insert(&mut tx, &made, Some(id)).await?;
    let Some((created, _)) = made.keys.pop() else {
        return Err(DomainError::internal("no key was made"));
    };
    sqlx::query!(
        "UPDATE keys SET replaced_by = $2, expires_at = least(expires_at, $3), revoked_at = $4 WHERE id = $1",
        id as KeyId,
        created.id as KeyId,
        now.plus_s(overlap.seconds()),
        (overlap == Overlap::None).then_some(now),
    )
    .execute(&mut *tx)
    .await?;
    note(domain, &mut tx, manager, "key.rotate", &id.to_string()).await?;
    tx.commit().await?;
    Ok(created)
}

/// The first key of the chain that a key is in. Until commit no key joins the chain, and no other limits are set for it.
///
/// # Errors
/// `NotFound` when the consumer has no such key.
pub(crate) async fn lock_chain(connection: &mut PgConnection, consumer: ConsumerId, id: KeyId) -> Result<KeyId> {
    sqlx::query_scalar!(
        r#"SELECT id AS "id: KeyId" FROM keys
           WHERE id = (SELECT coalesce(root_id, id) FROM keys WHERE id = $1 AND consumer_id = $2) FOR UPDATE"#,
        id as KeyId,
        consumer as ConsumerId,
    )
    .fetch_optional(connection)
    .await?
    .ok_or(DomainError::NotFound)
}
