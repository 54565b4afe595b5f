//! Consumers: made with their owner, renamed, suspended and restored, and listed for the provider.

use crate::email::Email;
use crate::members::{self, NewMember};
use crate::settings::Secret;
use crate::{
    BillingManager, Domain, DomainError, Provider, Result, audit, entitlements, letters, mail, passwords, subscriptions,
};
use model::access::{Environment, Role, SubscriptionStatus};
use model::{ConsumerId, MemberId, Time};
use sqlx::PgConnection;

/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 100;
/// Longest reason for a suspension, in characters.
const MAX_REASON_CHARS: usize = 200;
/// Longest name that the provider's own systems give a consumer, in bytes.
const MAX_EXTERNAL_ID_BYTES: usize = 200;
/// Consumers on a page of the list.
const PAGE_LEN: usize = 50;

/// Inserts a consumer with its owner, in the caller's transaction.
///
/// # Errors
/// When the database fails.
pub(crate) async fn insert(
    domain: &Domain,
    connection: &mut PgConnection,
    name: &str,
    email: &Email,
    owner: MemberId,
) -> Result<ConsumerId> {
    let now = domain.clock.now();
    let consumer = ConsumerId::new(now, &*domain.random);
    sqlx::query!(
        "INSERT INTO consumers (id, name, billing_email, created_at) VALUES ($1, $2, $3, $4)",
        consumer as ConsumerId,
        name,
        email.address(),
        now,
    )
    .execute(&mut *connection)
    .await?;
    members::join(domain, connection, owner, consumer, Role::Owner).await?;
    Ok(consumer)
}

fn name_of(text: &str) -> Result<String> {
    let name = text.trim();
    let fits = (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
        .ok_or_else(|| DomainError::invalid("name", format!("Enter a name of 1 to {MAX_NAME_CHARS} characters.")))
}

/// A consumer that the provider makes.
#[derive(Clone, Debug)]
pub struct NewConsumer {
    /// Name of the account.
    pub name: String,
    /// Address of its owner.
    pub email: String,
    /// The owner's password. Without one the owner gets a mail and sets it by a reset.
    pub password: Option<Secret>,
}

/// Makes a consumer with its owner, whose address the provider vouches for, and starts it on the free plan.
///
/// # Errors
/// `Invalid` for `name`, `email` or `password`; `Conflict` when the address has an account.
pub async fn create(domain: &Domain, provider: &Provider, new: NewConsumer) -> Result<(ConsumerId, MemberId)> {
    let (name, email) = (name_of(&new.name)?, Email::parse(&new.email)?);
    let hash = match &new.password {
        Some(password) => {
            passwords::check("password", password, &email)?;
            passwords::hash(domain, password).await?
        }
        // No password has an empty hash.
        None => String::new(),
    };
    let mut tx = domain.pool.begin().await?;
    let member = NewMember {
        email: &email,
        password_hash: &hash,
        verified: new.password.is_some(),
        provider_admin: false,
    };
    let owner = members::insert(domain, &mut tx, member)
        .await?
        .ok_or_else(|| DomainError::Conflict(format!("{} has an account already.", email.address())))?;
    let consumer = insert(domain, &mut tx, &name, &email, owner).await?;
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        Some(consumer),
        "consumer.create",
        &consumer.to_string(),
    )
    .await?;
    subscriptions::start_free(domain, &mut tx, consumer).await?;
    if new.password.is_none() {
        mail::send(
            domain,
            &mut tx,
            email.address(),
            &letters::invited(&domain.settings, &name),
        )
        .await?;
    }
    tx.commit().await?;
    Ok((consumer, owner))
}

/// Changes the account's name.
///
/// # Errors
/// `Invalid` for `name`.
pub async fn rename(domain: &Domain, manager: &BillingManager, name: &str) -> Result<()> {
    let (name, consumer) = (name_of(name)?, manager.consumer());
    let mut tx = domain.pool.begin().await?;
    sqlx::query!(
        "UPDATE consumers SET name = $2 WHERE id = $1",
        consumer as ConsumerId,
        name
    )
    .execute(&mut *tx)
    .await?;
    audit::record(
        domain,
        &mut tx,
        manager.actor(),
        Some(consumer),
        "consumer.rename",
        &consumer.to_string(),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Refuses all the consumer's keys until it is restored. The reason is shown to the consumer.
///
/// # Errors
/// `Invalid` for `reason`; `NotFound`; `Conflict` when it is suspended.
pub async fn suspend(domain: &Domain, provider: &Provider, consumer: ConsumerId, reason: &str) -> Result<()> {
    let reason = reason.trim();
    if !(1..=MAX_REASON_CHARS).contains(&reason.chars().count()) {
        return Err(DomainError::invalid(
            "reason",
            format!("Say why, in 1 to {MAX_REASON_CHARS} characters; the consumer reads it."),
        ));
    }
    let now = domain.clock.security_now();
    change_suspension(domain, provider, consumer, Some((now, reason))).await
}

/// Ends a suspension by the provider. Keys work again if the plan lets them.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not suspended.
pub async fn restore(domain: &Domain, provider: &Provider, consumer: ConsumerId) -> Result<()> {
    change_suspension(domain, provider, consumer, None).await
}

async fn change_suspension(
    domain: &Domain,
    provider: &Provider,
    consumer: ConsumerId,
    suspension: Option<(Time, &str)>,
) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    let was = sqlx::query_scalar!(
        r#"SELECT suspended_at IS NOT NULL AS "was!" FROM consumers WHERE id = $1 FOR UPDATE"#,
        consumer as ConsumerId
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(DomainError::NotFound)?;
    if was == suspension.is_some() {
        let state = if was { "suspended already" } else { "not suspended" };
        return Err(DomainError::Conflict(format!("This account is {state}.")));
    }
    sqlx::query!(
        "UPDATE consumers SET suspended_at = $2, suspended_reason = $3 WHERE id = $1",
        consumer as ConsumerId,
        suspension.map(|(at, _)| at),
        suspension.map(|(_, reason)| reason),
    )
    .execute(&mut *tx)
    .await?;
    let action = if was { "consumer.restore" } else { "consumer.suspend" };
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        Some(consumer),
        action,
        &consumer.to_string(),
    )
    .await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(())
}

/// Gives a consumer the name that the provider's own systems know it by, or takes it back: tokens of issuers may call the
/// consumer so.
///
/// # Errors
/// `Invalid` for `external_id`; `NotFound`; `Conflict` when another consumer has the name.
pub async fn set_external_id(
    domain: &Domain,
    provider: &Provider,
    consumer: ConsumerId,
    external_id: Option<&str>,
) -> Result<()> {
    let plain = |id: &&str| (1..=MAX_EXTERNAL_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    if external_id.is_some_and(|id| !plain(&id)) {
        return Err(DomainError::invalid(
            "external_id",
            format!("must be 1 to {MAX_EXTERNAL_ID_BYTES} visible ASCII characters"),
        ));
    }
    let mut tx = domain.pool.begin().await?;
    let taken = sqlx::query_scalar!(
        "SELECT id FROM consumers WHERE external_id = $1 AND id <> $2",
        external_id,
        consumer as ConsumerId
    )
    .fetch_optional(&mut *tx)
    .await?;
    if taken.is_some() {
        return Err(DomainError::Conflict(
            "Another consumer has this external id.".to_owned(),
        ));
    }
    let changed = sqlx::query!(
        "UPDATE consumers SET external_id = $2 WHERE id = $1",
        consumer as ConsumerId,
        external_id
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(DomainError::NotFound);
    }
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        Some(consumer),
        "consumer.external_id",
        external_id.unwrap_or_default(),
    )
    .await?;
    entitlements::recompile(domain, &mut tx, consumer).await?;
    tx.commit().await?;
    Ok(())
}

/// A line of the provider's list.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its id.
    pub id: ConsumerId,
    /// Its name.
    pub name: String,
    /// Where invoices go.
    pub billing_email: String,
    /// Name of the plan in force.
    pub plan: Option<String>,
    /// Where the agreement stands.
    pub status: Option<SubscriptionStatus>,
    /// Keys that work, live and test.
    pub keys: i64,
    /// Units used in the running period, of all meters, live.
    pub units: i64,
    /// Since when the provider has it suspended.
    pub suspended_at: Option<Time>,
    /// Since when it exists.
    pub created_at: Time,
}

/// A page of the provider's list, the newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// At most fifty.
    pub lines: Vec<Line>,
    /// Where the next page begins; none on the last.
    pub next: Option<ConsumerId>,
}

/// Lists consumers whose name or billing address contains `search` (all when it is empty), or whose id it is;
/// `before` is [`Page::next`] of the page before.
///
/// # Errors
/// When the database fails.
pub async fn list(domain: &Domain, _provider: &Provider, search: &str, before: Option<ConsumerId>) -> Result<Page> {
    let search = search.trim();
    let mut lines = sqlx::query_as!(
        Line,
        // Ids sort by the time they were made. The wildcards of LIKE are characters like others to whoever searches.
        r#"WITH page AS (
             SELECT id, name, billing_email, suspended_at, created_at FROM consumers
             WHERE ($1 = '' OR id = $1 OR name ILIKE $2 OR billing_email ILIKE $2) AND ($3::text IS NULL OR id < $3)
             ORDER BY id DESC LIMIT $4)
           SELECT c.id AS "id!: ConsumerId", c.name AS "name!", c.billing_email AS "billing_email!",
                  c.suspended_at, c.created_at AS "created_at!",
                  v.terms ->> 'name' AS plan, s.status AS "status?: SubscriptionStatus",
                  (SELECT count(*) FROM keys k WHERE k.consumer_id = c.id AND k.revoked_at IS NULL
                     AND (k.expires_at IS NULL OR k.expires_at > $5)) AS "keys!",
                  coalesce((SELECT sum(u.units) FROM usage_periods u WHERE u.consumer_id = c.id AND u.environment = $6
                     AND u.period_start = s.period_start), 0)::bigint AS "units!"
           FROM page c
           LEFT JOIN subscriptions s ON s.consumer_id = c.id AND s.ended_at IS NULL
           LEFT JOIN plan_versions v ON v.id = s.plan_version_id
           ORDER BY c.id DESC"#,
        search,
        format!(
            "%{}%",
            search.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
        ),
        before as Option<ConsumerId>,
        i64::try_from(PAGE_LEN + 1).unwrap_or(i64::MAX),
        domain.clock.now(),
        Environment::Live.word(),
    )
    .fetch_all(&domain.pool)
    .await?;
    let more = lines.len() > PAGE_LEN;
    lines.truncate(PAGE_LEN);
    let next = lines.last().filter(|_| more).map(|line| line.id);
    Ok(Page { lines, next })
}

/// A consumer as its provider sees it.
#[derive(Clone, Debug)]
pub struct Detail {
    /// Its id.
    pub id: ConsumerId,
    /// Its name.
    pub name: String,
    /// Where invoices go.
    pub billing_email: String,
    /// Stripe's customer.
    pub stripe_customer: Option<String>,
    /// Since when the provider has it suspended.
    pub suspended_at: Option<Time>,
    /// Why.
    pub suspended_reason: Option<String>,
    /// Since when it exists.
    pub created_at: Time,
    /// Its people, the first the oldest.
    pub members: Vec<MemberLine>,
    /// Units used in the running period, by meter.
    pub usage: Vec<MeterLine>,
    /// The last things that happened to it, the newest first.
    pub history: Vec<HistoryLine>,
}

/// A person of a consumer.
#[derive(Clone, Debug)]
pub struct MemberLine {
    /// Address.
    pub email: String,
    /// Role.
    pub role: Role,
    /// When the address was confirmed.
    pub verified_at: Option<Time>,
    /// Since when.
    pub created_at: Time,
}

/// Use of one meter.
#[derive(Clone, Debug)]
pub struct MeterLine {
    /// Name of the meter.
    pub meter: String,
    /// What it counts.
    pub unit: String,
    /// Which world.
    pub environment: Environment,
    /// How much.
    pub units: i64,
    /// When the period began.
    pub period_start: Time,
}

/// A line of the audit log.
#[derive(Clone, Debug)]
pub struct HistoryLine {
    /// When.
    pub at: Time,
    /// Who.
    pub actor: String,
    /// What, such as `key.create`.
    pub action: String,
    /// With what.
    pub target: String,
}

/// One consumer with its people, use and history.
///
/// # Errors
/// `NotFound`.
pub async fn detail(domain: &Domain, _provider: &Provider, consumer: ConsumerId) -> Result<Detail> {
    let row = sqlx::query!(
        "SELECT name, billing_email, stripe_customer, suspended_at, suspended_reason, created_at
         FROM consumers WHERE id = $1",
        consumer as ConsumerId
    )
    .fetch_optional(&domain.pool)
    .await?
    .ok_or(DomainError::NotFound)?;
    let members = sqlx::query_as!(
        MemberLine,
        "SELECT m.email, s.role, m.verified_at, s.created_at FROM memberships s JOIN members m ON m.id = s.member_id
         WHERE s.consumer_id = $1 ORDER BY s.created_at, m.id",
        consumer as ConsumerId
    )
    .fetch_all(&domain.pool)
    .await?;
    let history = sqlx::query_as!(
        HistoryLine,
        "SELECT at, actor, action, target FROM audit_log WHERE consumer_id = $1 ORDER BY id DESC LIMIT 20",
        consumer as ConsumerId
    )
    .fetch_all(&domain.pool)
    .await?;
    Ok(Detail {
        id: consumer,
        name: row.name,
        billing_email: row.billing_email,
        stripe_customer: row.stripe_customer,
        suspended_at: row.suspended_at,
        suspended_reason: row.suspended_reason,
        created_at: row.created_at,
        members,
        usage: usage(domain, consumer).await?,
        history,
    })
}

async fn usage(domain: &Domain, consumer: ConsumerId) -> Result<Vec<MeterLine>> {
    Ok(sqlx::query_as!(
        MeterLine,
        r#"SELECT m.name AS meter, m.unit, u.environment, u.units, u.period_start
           FROM usage_periods u JOIN meters m ON m.number = u.meter
           WHERE u.consumer_id = $1 AND u.period_start = (
               SELECT max(period_start) FROM usage_periods w
               WHERE w.consumer_id = $1 AND w.environment = u.environment AND w.meter = u.meter)
           ORDER BY u.environment, m.name"#,
        consumer as ConsumerId
    )
    .fetch_all(&domain.pool)
    .await?)
}
