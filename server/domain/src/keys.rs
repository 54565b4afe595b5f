//! Keys: made and shown once, listed, rotated with an overlap, revoked. What is stored is the HMAC-SHA-256 of the whole
//! key under a pepper that is not in the database, so a dump of it opens nothing.

mod rotation;

pub(crate) use rotation::lock_chain;
pub use rotation::{Overlap, rotate};

use crate::settings::Secret;
use crate::{Actor, Domain, DomainError, KeyManager, Result, Viewer, audit};
use hmac::{Hmac, KeyInit, Mac};
use model::access::Environment;
use model::key::PlainKey;
use model::{ConsumerId, KeyId, Time};
use sha2::Sha256;

/// Working keys a consumer may hold in an environment: enough for every service and stage, few enough to oversee.
pub const MAX_KEYS: i64 = 20;
/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 80;
/// Most keys a list shows.
const MAX_LISTED: i64 = 200;
/// Keys written by one statement of [`create_many`]: 5,000 rows of 200 bytes are a megabyte.
const BATCH: usize = 5_000;
/// A list warns this long before a key expires, in seconds.
const EXPIRING_S: i64 = 30 * 86_400;

/// What a new key may do.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Name in lists, 1 to [`MAX_NAME_CHARS`] characters.
    pub name: String,
    /// Live or test.
    pub environment: Environment,
    /// Refused from then on; in the future.
    pub expires_at: Option<Time>,
    /// Slugs of the routes it may use; none means all.
    pub routes: Option<Vec<String>>,
}

/// A key just made: the only moment at which its text exists outside its owner's hands.
pub struct CreatedKey {
    /// Its id.
    pub id: KeyId,
    /// The key itself.
    pub plain: PlainKey,
    /// Its name.
    pub name: String,
    /// Refused from then on.
    pub expires_at: Option<Time>,
    /// Slugs of the routes it may use; none means all.
    pub routes: Option<Vec<String>>,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Works.
    Active,
    /// Works, but for at most 30 days more.
    Expiring,
    /// Works for the overlap; another took over.
    Rotated,
    /// Its time is over.
    Expired,
    /// Revoked.
    Revoked,
}

/// A key as lists show it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// Live or test.
    pub environment: Environment,
    /// Its name.
    pub name: String,
    /// What is shown before the dots.
    pub shown_prefix: String,
    /// What is shown after them.
    pub last4: String,
    /// Slugs of the routes it may use; none means all.
    pub routes: Option<Vec<String>>,
    /// Refused from then on.
    pub expires_at: Option<Time>,
    /// Refused since then.
    pub revoked_at: Option<Time>,
    /// The key that took over.
    pub replaced_by: Option<KeyId>,
    /// Last request, to the minute.
    pub last_used_at: Option<Time>,
    /// When it was made.
    pub created_at: Time,
}

impl Key {
    /// Where it stands.
    pub fn state(&self, now: Time) -> KeyState {
        if self.revoked_at.is_some() {
            return KeyState::Revoked;
        }
        match self.expires_at {
            Some(end) if end <= now => KeyState::Expired,
            _ if self.replaced_by.is_some() => KeyState::Rotated,
            Some(end) if end <= now.plus_s(EXPIRING_S) => KeyState::Expiring,
            _ => KeyState::Active,
        }
    }
    /// Whether the gateway accepts it.
    pub fn works(&self, now: Time) -> bool {
        !matches!(self.state(now), KeyState::Expired | KeyState::Revoked)
    }
}

/// HMAC-SHA-256 of a key's whole text: what is stored and what the gateway compares with.
pub fn mac(pepper: &Secret, key: &PlainKey) -> [u8; 32] {
    // HMAC takes a secret of any length, so there is no error to tell.
    Hmac::<Sha256>::new_from_slice(pepper.expose().as_bytes())
        .map(|mut mac| {
            mac.update(key.reveal().as_bytes());
            mac.finalize().into_bytes().into()
        })
        .unwrap_or([0; 32])
}

/// Makes a key.
///
/// # Errors
/// `Invalid` for a wrong name, expiry or route; `Conflict` when the member's address is not verified or there are
/// [`MAX_KEYS`] working keys in the environment.
pub async fn create(domain: &Domain, manager: &KeyManager, new: NewKey) -> Result<CreatedKey> {
    let new = checked(domain, new).await?;
    let mut tx = domain.pool.begin().await?;
    ensure_verified(&mut tx, manager.actor()).await?;
    ensure_room(domain, &mut tx, manager.consumer(), new.environment, MAX_KEYS).await?;
    let mut made = make(domain, manager.consumer(), &new, 1)?;
    insert(&mut tx, &made, None).await?;
    let Some((created, _)) = made.keys.pop() else {
        return Err(DomainError::internal("no key was made"));
    };
    note(domain, &mut tx, manager, "key.create", &created.id.to_string()).await?;
    tx.commit().await?;
    Ok(created)
}

/// Makes many keys of one kind, for the command line: [`MAX_KEYS`] does not hold, and `each` is given every one as soon
/// as its batch is stored.
///
/// # Errors
/// As [`create`]; what earlier batches stored stays.
pub async fn create_many(
    domain: &Domain,
    manager: &KeyManager,
    new: NewKey,
    count: usize,
    mut each: impl FnMut(CreatedKey),
) -> Result<()> {
    let new = checked(domain, new).await?;
    let mut left = count;
    while left > 0 {
        let made = make(domain, manager.consumer(), &new, left.min(BATCH))?;
        left -= made.keys.len();
        let mut tx = domain.pool.begin().await?;
        ensure_verified(&mut tx, manager.actor()).await?;
        insert(&mut tx, &made, None).await?;
        let target = format!("{} keys", made.keys.len());
        note(domain, &mut tx, manager, "key.create", &target).await?;
        tx.commit().await?;
        made.keys.into_iter().for_each(|(key, _)| each(key));
    }
    Ok(())
}

/// Notes in the audit log what was done with the consumer's keys.
async fn note(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    manager: &KeyManager,
    action: &str,
    target: &str,
) -> Result<()> {
    let consumer = Some(manager.consumer());
    audit::record(domain, connection, manager.actor(), consumer, action, target).await
}

/// The newest 200 keys, those that work first.
///
/// # Errors
/// When the database fails.
pub async fn list(domain: &Domain, viewer: &Viewer) -> Result<Vec<Key>> {
    Ok(sqlx::query_as!(
        Key,
        "SELECT id, environment, name, shown_prefix, last4, routes, expires_at, revoked_at, replaced_by, last_used_at,
                created_at
         FROM keys WHERE consumer_id = $1
         ORDER BY (revoked_at IS NOT NULL OR coalesce(expires_at <= $2, false)), created_at DESC, id DESC LIMIT $3",
        viewer.consumer() as ConsumerId,
        domain.clock.now(),
        MAX_LISTED,
    )
    .fetch_all(&domain.pool)
    .await?)
}

/// One key.
///
/// # Errors
/// `NotFound` when the consumer has no such key.
pub async fn get(domain: &Domain, viewer: &Viewer, id: KeyId) -> Result<Key> {
    sqlx::query_as!(
        Key,
        "SELECT id, environment, name, shown_prefix, last4, routes, expires_at, revoked_at, replaced_by, last_used_at,
                created_at
         FROM keys WHERE consumer_id = $1 AND id = $2",
        viewer.consumer() as ConsumerId,
        id as KeyId,
    )
    .fetch_optional(&domain.pool)
    .await?
    .ok_or(DomainError::NotFound)
}

/// Ends a key now. Doing it again changes nothing.
///
/// # Errors
/// `NotFound` when the consumer has no such key.
pub async fn revoke(domain: &Domain, manager: &KeyManager, id: KeyId) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    let row = sqlx::query!(
        "SELECT revoked_at FROM keys WHERE id = $1 AND consumer_id = $2 FOR UPDATE",
        id as KeyId,
        manager.consumer() as ConsumerId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(DomainError::NotFound)?;
    if row.revoked_at.is_some() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE keys SET revoked_at = $2 WHERE id = $1",
        id as KeyId,
        domain.clock.now()
    )
    .execute(&mut *tx)
    .await?;
    note(domain, &mut tx, manager, "key.revoke", &id.to_string()).await?;
    tx.commit().await?;
    Ok(())
}

/// A route that a key can be bound to.
#[derive(Debug, Clone)]
pub struct KeyRoute {
    /// Name on keys and in usage.
    pub slug: String,
    /// Path pattern.
    pub path: String,
    /// Methods.
    pub methods: Vec<model::access::Method>,
}

/// The routes on sale, for the form and for the first `curl` line.
///
/// # Errors
/// When the database fails.
pub async fn routes(domain: &Domain) -> Result<Vec<KeyRoute>> {
    Ok(sqlx::query_as!(
        KeyRoute,
        r#"SELECT slug, path, methods AS "methods: Vec<model::access::Method>" FROM routes
           WHERE retired_at IS NULL ORDER BY number"#
    )
    .fetch_all(&domain.pool)
    .await?)
}

async fn checked(domain: &Domain, mut new: NewKey) -> Result<NewKey> {
    new.name = new.name.trim().to_owned();
    let good = (1..=MAX_NAME_CHARS).contains(&new.name.chars().count()) && !new.name.chars().any(char::is_control);
    if !good {
        return Err(DomainError::invalid(
            "name",
            format!("Give it a name of 1 to {MAX_NAME_CHARS} characters."),
        ));
    }
    if new.expires_at.is_some_and(|end| end <= domain.clock.now()) {
        return Err(DomainError::invalid("expires", "Choose a time in the future."));
    }
    if let Some(slugs) = &mut new.routes {
        slugs.sort();
        slugs.dedup();
        let known = sqlx::query_scalar!(
            "SELECT count(*) FROM routes WHERE slug = ANY($1) AND retired_at IS NULL",
            slugs.as_slice()
        )
        .fetch_one(&domain.pool)
        .await?;
        if slugs.is_empty() || known != i64::try_from(slugs.len()).ok() {
            return Err(DomainError::invalid(
                "routes",
                "Choose at least one route of the list, or allow all.",
            ));
        }
    }
    Ok(new)
}

async fn ensure_verified(connection: &mut sqlx::PgConnection, actor: &Actor) -> Result<()> {
    let Actor::Member(member) = actor else { return Ok(()) };
    let verified = sqlx::query_scalar!(
        "SELECT verified_at IS NOT NULL OR provider_admin FROM members WHERE id = $1",
        *member as model::MemberId,
    )
    .fetch_optional(connection)
    .await?
    .flatten();
    if verified == Some(true) {
        return Ok(());
    }
    Err(DomainError::Conflict(
        "Confirm your e-mail address first: open the link in the mail we sent you.".to_owned(),
    ))
}

async fn ensure_room(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    consumer: ConsumerId,
    environment: Environment,
    limit: i64,
) -> Result<()> {
    // The consumer's row is the lock that two forms sent at once queue at.
    sqlx::query!(
        "SELECT id FROM consumers WHERE id = $1 FOR UPDATE",
        consumer as ConsumerId
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(DomainError::NotFound)?;
    let working = sqlx::query_scalar!(
        "SELECT count(*) FROM keys WHERE consumer_id = $1 AND environment = $2 AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > $3)",
        consumer as ConsumerId,
        environment as Environment,
        domain.clock.now(),
    )
    .fetch_one(connection)
    .await?;
    if working.unwrap_or(0) < limit {
        return Ok(());
    }
    Err(DomainError::Conflict(format!(
        "You have {limit} working {environment} keys, the most there can be. Revoke one you no longer need."
    )))
}

struct Made {
    consumer: ConsumerId,
    pepper: i16,
    now: Time,
    new: NewKey,
    keys: Vec<(CreatedKey, [u8; 32])>,
}

fn make(domain: &Domain, consumer: ConsumerId, new: &NewKey, count: usize) -> Result<Made> {
    let (pepper, secret) = domain
        .settings
        .newest_pepper()
        .ok_or_else(|| DomainError::internal("no pepper is set"))?;
    let now = domain.clock.now();
    let keys = (0..count)
        .map(|_| {
            let plain = PlainKey::generate(&domain.settings.key_prefix, new.environment, &*domain.random);
            let mac = mac(secret, &plain);
            let created = CreatedKey {
                id: KeyId::new(now, &*domain.random),
                plain,
                name: new.name.clone(),
                expires_at: new.expires_at,
                routes: new.routes.clone(),
            };
            (created, mac)
        })
        .collect();
    Ok(Made {
        consumer,
        pepper: *pepper,
        now,
        new: new.clone(),
        keys,
    })
}

/// One statement however many keys; `after` is the key that they take over from. A lookup that is taken (one in
/// 2 x 10^14) fails the transaction.
async fn insert(connection: &mut sqlx::PgConnection, made: &Made, after: Option<KeyId>) -> Result<()> {
    let column = |f: fn(&CreatedKey) -> String| made.keys.iter().map(|(k, _)| f(k)).collect::<Vec<_>>();
    let lookups: Vec<i64> = made
        .keys
        .iter()
        .map(|(k, _)| i64::try_from(k.plain.lookup().0).map_err(DomainError::internal))
        .collect::<Result<_>>()?;
    let macs: Vec<Vec<u8>> = made.keys.iter().map(|(_, mac)| mac.to_vec()).collect();
    sqlx::query!(
        "INSERT INTO keys (id, consumer_id, environment, name, lookup, mac, pepper, shown_prefix, last4, routes,
                           expires_at, created_at, root_id, quota_units, budget_minor)
         SELECT k.id, $6, $7, $8, k.lookup, k.mac, $9, k.shown_prefix, k.last4, $10, $11, $12,
                coalesce(old.root_id, old.id), old.quota_units, old.budget_minor
         FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::text[], $5::text[])
              AS k (id, lookup, mac, shown_prefix, last4)
         LEFT JOIN keys old ON old.id = $13",
        &column(|k| k.id.to_string()),
        &lookups,
        &macs,
        &column(|k| k.plain.shown_prefix().to_owned()),
        &column(|k| k.plain.last4().to_owned()),
        made.consumer as ConsumerId,
        made.new.environment as Environment,
        made.new.name,
        made.pepper,
        made.new.routes.as_deref(),
        made.new.expires_at as Option<Time>,
        made.now,
        after as Option<KeyId>,
    )
    .execute(connection)
    .await?;
    Ok(())
}
