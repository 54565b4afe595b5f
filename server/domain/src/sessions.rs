//! Sessions of people who are signed in: the store behind tower-sessions, and the list on the account page.
//!
//! The id in the cookie is kept as its SHA-256 only. A session ends [`LIFETIME_S`] after it began, however busy it
//! is, and at once when its row is deleted or its member disabled: every request reads the row.

use crate::{Domain, DomainError, Result};
use async_trait::async_trait;
use model::{MemberId, Time};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tower_sessions::cookie::time::OffsetDateTime;
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{self, Error};

/// Longest life of a session, in seconds: a day, the most NIST SP 800-63B allows with a password alone.
pub const LIFETIME_S: i64 = 24 * 3_600;
/// How stale "last seen" may be, in seconds: so often is it written.
const SEEN_EVERY_S: i64 = 60;
/// Longest browser name kept, in characters.
const MAX_USER_AGENT_LEN: usize = 300;
/// Longest network address kept, in characters.
const MAX_IP_LEN: usize = 45;

/// Key in a session's data: the member's id.
pub const MEMBER: &str = "member";
/// Key in a session's data: an address that somebody signed up with and that had an account already. Such a session
/// has no member and no rights; it makes the answer to a sign-up the same for known and unknown addresses.
pub const WAITING: &str = "waiting";
/// Key in a session's data: the browser's name for itself.
pub const USER_AGENT: &str = "user_agent";
/// Key in a session's data: the network address that the session began at.
pub const IP: &str = "ip";

/// The table `sessions` as tower-sessions sees it.
#[derive(Clone)]
pub struct Store(Domain);

impl Store {
    /// In the domain's database.
    pub fn new(domain: &Domain) -> Self {
        Self(domain.clone())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sessions::Store")
    }
}

fn hash(id: &Id) -> Vec<u8> {
    Sha256::digest(id.0.to_le_bytes()).to_vec()
}

fn text(record: &Record, key: &str, max_len: usize) -> String {
    let text = record.data.get(key).and_then(Value::as_str).unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(max_len).collect()
}

fn member(record: &Record) -> Option<String> {
    record.data.get(MEMBER).and_then(Value::as_str).map(str::to_owned)
}

fn backend(e: sqlx::Error) -> Error {
    Error::Backend(e.to_string())
}

fn data(record: &Record) -> session_store::Result<Value> {
    serde_json::to_value(&record.data).map_err(|e| Error::Encode(e.to_string()))
}

#[async_trait]
impl tower_sessions::SessionStore for Store {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let now = self.0.clock.security_now();
        // Two equal ids of 128 random bits do not happen; if they did, the unique key would refuse the second.
        sqlx::query!(
            "INSERT INTO sessions (id_hash, member_id, data, user_agent, ip, created_at, seen_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $6, $7)",
            hash(&record.id),
            member(record),
            data(record)?,
            text(record, USER_AGENT, MAX_USER_AGENT_LEN),
            text(record, IP, MAX_IP_LEN),
            now,
            now.plus_s(LIFETIME_S),
        )
        .execute(&self.0.pool)
        .await
        .map_err(backend)?;
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        // Never an insert: a request that was under way when its session was ended must not bring it back.
        sqlx::query!(
            "UPDATE sessions SET data = $2, member_id = $3 WHERE id_hash = $1",
            hash(&record.id),
            data(record)?,
            member(record),
        )
        .execute(&self.0.pool)
        .await
        .map_err(backend)?;
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let now = self.0.clock.security_now();
        let row = sqlx::query!(
            "SELECT data, seen_at, expires_at FROM sessions WHERE id_hash = $1 AND expires_at > $2",
            hash(id),
            now,
        )
        .fetch_optional(&self.0.pool)
        .await
        .map_err(backend)?;
        let Some(row) = row else { return Ok(None) };
        if row.seen_at.plus_s(SEEN_EVERY_S) <= now {
            sqlx::query!("UPDATE sessions SET seen_at = $2 WHERE id_hash = $1", hash(id), now)
                .execute(&self.0.pool)
                .await
                .map_err(backend)?;
        }
        Ok(Some(Record {
            id: *id,
            data: serde_json::from_value(row.data).map_err(|e| Error::Decode(e.to_string()))?,
            expiry_date: OffsetDateTime::from_unix_timestamp(row.expires_at.unix_s())
                .map_err(|e| Error::Decode(e.to_string()))?,
        }))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        sqlx::query!("DELETE FROM sessions WHERE id_hash = $1", hash(id))
            .execute(&self.0.pool)
            .await
            .map_err(backend)?;
        Ok(())
    }
}

/// Names a session without being able to use it: the hash of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle(Vec<u8>);

impl Handle {
    /// Of the session with that id.
    pub fn of(id: &Id) -> Self {
        Self(hash(id))
    }
}

impl std::fmt::Display for Handle {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Handle {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self> {
        crate::links::from_hex(text).map(Self).ok_or(DomainError::NotFound)
    }
}

/// A line of the list on the account page.
#[derive(Clone, Debug)]
pub struct Line {
    /// Names it.
    pub handle: Handle,
    /// The browser's name for itself; may be empty.
    pub user_agent: String,
    /// Network address it began at; may be empty.
    pub ip: String,
    /// When it began.
    pub created_at: Time,
    /// Last request, up to a minute old.
    pub seen_at: Time,
    /// When it ends by itself.
    pub expires_at: Time,
}

/// The member's sessions that still work, the last used first.
///
/// # Errors
/// When the database fails.
pub async fn list(domain: &Domain, member: MemberId) -> Result<Vec<Line>> {
    let rows = sqlx::query!(
        "SELECT id_hash, user_agent, ip, created_at, seen_at, expires_at FROM sessions
         WHERE member_id = $1 AND expires_at > $2 ORDER BY seen_at DESC, created_at DESC",
        member as MemberId,
        domain.clock.security_now(),
    )
    .fetch_all(&domain.pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Line {
            handle: Handle(row.id_hash),
            user_agent: row.user_agent,
            ip: row.ip,
            created_at: row.created_at,
            seen_at: row.seen_at,
            expires_at: row.expires_at,
        })
        .collect())
}

/// Ends one session of the member's own.
///
/// # Errors
/// `NotFound` when there is none with that name, or it is somebody else's.
pub async fn end(domain: &Domain, member: MemberId, handle: &Handle) -> Result<()> {
    let ended = sqlx::query!(
        "DELETE FROM sessions WHERE id_hash = $1 AND member_id = $2",
        handle.0,
        member as MemberId,
    )
    .execute(&domain.pool)
    .await?;
    if ended.rows_affected() == 0 {
        return Err(DomainError::NotFound);
    }
    Ok(())
}

/// Ends all sessions of a member but the one to keep; tells how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn end_others(
    connection: &mut sqlx::PgConnection,
    member: MemberId,
    keep: Option<&Handle>,
) -> Result<u64> {
    let ended = sqlx::query!(
        "DELETE FROM sessions WHERE member_id = $1 AND ($2::bytea IS NULL OR id_hash <> $2)",
        member as MemberId,
        keep.map(|handle| handle.0.clone()),
    )
    .execute(connection)
    .await?;
    Ok(ended.rows_affected())
}

/// The same outside a transaction.
///
/// # Errors
/// When the database fails.
pub async fn end_others_of(domain: &Domain, member: MemberId, keep: Option<&Handle>) -> Result<u64> {
    let mut connection = domain.pool.acquire().await?;
    end_others(&mut connection, member, keep).await
}
