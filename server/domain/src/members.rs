//! People: signing up, confirming the address, logging in, and passwords lost and changed.
//!
//! Nobody learns here whether an address has an account. Sign-up and reset answer the same for known and unknown
//! addresses and do the same work; only the mail differs, and that reaches the address's owner alone. Until the address
//! is confirmed an account has no rights, so somebody who signed up with another person's address has nothing, and
//! loses even the password when that person resets it.

use crate::email::Email;
use crate::jobs::{self, Job, Registry};
use crate::links::{self, Purpose, Token};
use crate::passwords::{self, Match};
use crate::sessions::{self, Handle};
use crate::settings::Secret;
use crate::{Actor, Domain, DomainError, Result, audit, consumers, letters, login_limits, mail, subscriptions};
use async_trait::async_trait;
use model::access::Role;
use model::{ConsumerId, MemberId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::net::IpAddr;

/// Seconds between two mails of a kind to one address, whoever asks.
pub const MAIL_EVERY_S: i64 = 60;
/// Seconds between two sweeps of what has expired.
const SWEEP_EVERY_S: i64 = 3_600;
/// How long a used or expired link is kept, in seconds, for whoever looks into an incident: a week.
const KEEP_LINKS_S: i64 = 7 * 24 * 3_600;

/// What somebody signs up with.
#[derive(Clone, Debug)]
pub struct SignUp {
    /// As typed.
    pub email: String,
    /// As typed.
    pub password: Secret,
}

/// What came of a sign-up. A page answers both in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedUp {
    /// A consumer was made with this member as its owner; the address waits to be confirmed.
    Member(MemberId),
    /// The address has an account already; its owner gets a mail that says so.
    Known(Email),
}

/// Makes a consumer and its first member, and mails the link that confirms the address.
///
/// # Errors
/// `Invalid` for `email` or `password`; `TooMany` from one network.
pub async fn sign_up(domain: &Domain, ip: Option<IpAddr>, request: SignUp) -> Result<SignedUp> {
    let email = Email::parse(&request.email)?;
    passwords::check("password", &request.password, &email)?;
    login_limits::try_network(domain, ip).await?;
    // Also for an address that is known: the time it takes must not tell.
    let hash = passwords::hash(domain, &request.password).await?;
    let mut tx = domain.pool.begin().await?;
    let new = NewMember {
        email: &email,
        password_hash: &hash,
        verified: false,
        provider_admin: false,
    };
    let outcome = match insert(domain, &mut tx, new).await? {
        Some(member) => {
            let name: String = email.address().chars().take(consumers::MAX_NAME_CHARS).collect();
            let consumer = consumers::insert(domain, &mut tx, &name, &email, member).await?;
            audit::record(
                domain,
                &mut tx,
                &Actor::Member(member),
                Some(consumer),
                "member.sign_up",
                &member.to_string(),
            )
            .await?;
            send_verification(domain, &mut tx, member, &email).await?;
            SignedUp::Member(member)
        }
        None => {
            remind(domain, &mut tx, &email).await?;
            SignedUp::Known(email)
        }
    };
    tx.commit().await?;
    Ok(outcome)
}

/// A row of `members` to be.
pub(crate) struct NewMember<'a> {
    pub(crate) email: &'a Email,
    pub(crate) password_hash: &'a str,
    pub(crate) verified: bool,
    pub(crate) provider_admin: bool,
}

/// Inserts a member, unless the address is taken.
///
/// # Errors
/// When the database fails.
pub(crate) async fn insert(
    domain: &Domain,
    connection: &mut PgConnection,
    new: NewMember<'_>,
) -> Result<Option<MemberId>> {
    let now = domain.clock.security_now();
    let member = MemberId::new(now, &*domain.random);
    let inserted = sqlx::query!(
        "INSERT INTO members (id, email, email_key, password_hash, verified_at, provider_admin, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (email_key) DO NOTHING",
        member as MemberId,
        new.email.address(),
        new.email.key(),
        new.password_hash,
        new.verified.then_some(now),
        new.provider_admin,
        now,
    )
    .execute(connection)
    .await?;
    Ok((inserted.rows_affected() == 1).then_some(member))
}

async fn send_verification(
    domain: &Domain,
    connection: &mut PgConnection,
    member: MemberId,
    email: &Email,
) -> Result<()> {
    if login_limits::once(domain, connection, &format!("verify:{}", email.key()), MAIL_EVERY_S).await? {
        let token = links::issue(domain, connection, member, Purpose::Verify).await?;
        mail::send(
            domain,
            connection,
            email.address(),
            &letters::verify(&domain.settings, &token),
        )
        .await?;
    }
    Ok(())
}

async fn remind(domain: &Domain, connection: &mut PgConnection, email: &Email) -> Result<()> {
    if login_limits::once(domain, connection, &format!("verify:{}", email.key()), MAIL_EVERY_S).await? {
        // To the address as its owner wrote it, which may differ in case.
        let owner = sqlx::query_scalar!("SELECT email FROM members WHERE email_key = $1", email.key())
            .fetch_one(&mut *connection)
            .await?;
        mail::send(domain, connection, &owner, &letters::already(&domain.settings)).await?;
    }
    Ok(())
}

/// Sends what the sign-up with this address sent, again: at most once in [`MAIL_EVERY_S`], silently.
///
/// # Errors
/// `TooMany` from one network.
pub async fn resend(domain: &Domain, ip: Option<IpAddr>, member: Option<MemberId>, email: &str) -> Result<()> {
    let email = Email::parse(email)?;
    login_limits::try_network(domain, ip).await?;
    let mut tx = domain.pool.begin().await?;
    match member {
        Some(member) => send_verification(domain, &mut tx, member, &email).await?,
        None => remind(domain, &mut tx, &email).await?,
    }
    tx.commit().await?;
    Ok(())
}

/// Confirms the address of a member who is signed in, and puts the consumer on the free plan if there is one. Only the
/// member's own link does it: whoever opens it elsewhere logs in first, so that clicking a link in an unasked-for mail
/// never confirms a stranger's account.
///
/// # Errors
/// `Conflict` when the link was used, is too old or is another member's.
pub async fn verify(domain: &Domain, member: MemberId, token: &Token) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    if links::consume(domain, &mut tx, token, Purpose::Verify).await? != Some(member) {
        // The transaction is rolled back, so another member's link stays good.
        return Err(DomainError::Conflict(
            "This link no longer works: it was used, is older than 24 hours, or there is a newer one. Ask for a new one."
                .to_owned(),
        ));
    }
    confirm(domain, &mut tx, member).await?;
    tx.commit().await?;
    Ok(())
}

/// Marks the address as confirmed; the first time, what the member owns starts on the free plan.
async fn confirm(domain: &Domain, connection: &mut PgConnection, member: MemberId) -> Result<()> {
    let first = sqlx::query!(
        "UPDATE members SET verified_at = $2 WHERE id = $1 AND verified_at IS NULL",
        member as MemberId,
        domain.clock.security_now(),
    )
    .execute(&mut *connection)
    .await?;
    if first.rows_affected() == 0 {
        return Ok(());
    }
    audit::record(
        domain,
        connection,
        &Actor::Member(member),
        None,
        "member.verify",
        &member.to_string(),
    )
    .await?;
    let without_plan = sqlx::query_scalar!(
        "SELECT consumer_id FROM memberships s WHERE member_id = $1 AND role = $2
         AND NOT EXISTS (SELECT FROM subscriptions b WHERE b.consumer_id = s.consumer_id AND b.ended_at IS NULL)",
        member as MemberId,
        Role::Owner.word(),
    )
    .fetch_all(&mut *connection)
    .await?;
    for consumer in without_plan {
        subscriptions::start_free(domain, connection, consumer).await?;
    }
    Ok(())
}

fn wrong_credentials() -> DomainError {
    DomainError::Conflict("The e-mail address or the password is wrong.".to_owned())
}

/// Checks an address and a password; the caller begins the session.
///
/// # Errors
/// `Conflict` when they do not fit together, whatever is wrong; `TooMany` after too many tries.
pub async fn log_in(domain: &Domain, ip: Option<IpAddr>, email: &str, password: &Secret) -> Result<MemberId> {
    login_limits::try_network(domain, ip).await?;
    let Ok(email) = Email::parse(email) else {
        return Err(wrong_credentials());
    };
    login_limits::try_account(domain, email.key()).await?;
    let row = sqlx::query!(
        "SELECT id, password_hash FROM members WHERE email_key = $1 AND disabled_at IS NULL",
        email.key()
    )
    .fetch_optional(&domain.pool)
    .await?;
    let verdict = passwords::compare(password, row.as_ref().map(|row| row.password_hash.as_str())).await?;
    let (Some(row), true) = (row, verdict != Match::No) else {
        return Err(wrong_credentials());
    };
    let mut connection = domain.pool.acquire().await?;
    login_limits::forget_account(&mut connection, email.key()).await?;
    if verdict == Match::Outdated {
        let hash = passwords::hash(domain, password).await?;
        sqlx::query!(
            "UPDATE members SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
            row.id as MemberId,
            row.password_hash,
            hash,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(row.id)
}

/// Mails a link to set a new password, if the address has an account. The answer and the work here are the same if it
/// has none: a job looks.
///
/// # Errors
/// `Invalid` for `email`; `TooMany` from one network.
pub async fn ask_reset(domain: &Domain, ip: Option<IpAddr>, email: &str) -> Result<()> {
    let email = Email::parse(email)?;
    login_limits::try_network(domain, ip).await?;
    let mut tx = domain.pool.begin().await?;
    if login_limits::once(domain, &mut tx, &format!("reset:{}", email.key()), MAIL_EVERY_S).await? {
        let job = SendReset {
            email_key: email.key().to_owned(),
        };
        jobs::enqueue(domain, &mut tx, &job, domain.clock.now()).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Mails a link to set a new password, if there is such an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SendReset {
    email_key: String,
}

#[async_trait]
impl Job for SendReset {
    const KIND: &'static str = "member.send_reset";

    async fn run(&self, domain: &Domain) -> Result<()> {
        let mut tx = domain.pool.begin().await?;
        let row = sqlx::query!(
            "SELECT id, email FROM members WHERE email_key = $1 AND disabled_at IS NULL",
            self.email_key
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = row {
            let token = links::issue(domain, &mut tx, row.id, Purpose::Reset).await?;
            mail::send(domain, &mut tx, &row.email, &letters::reset(&domain.settings, &token)).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Sets a new password by a mailed link and ends every session. Owning the mailbox also confirms the address.
///
/// # Errors
/// `Conflict` when the link was used or is too old; `Invalid` for `password`, which leaves the link good.
pub async fn reset(domain: &Domain, token: &Token, password: &Secret) -> Result<MemberId> {
    let spent = || {
        DomainError::Conflict(
            "This link no longer works: it was used, is older than 30 minutes, or there is a newer one. Ask for a new one."
                .to_owned(),
        )
    };
    let member = links::owner(domain, token, Purpose::Reset).await?.ok_or_else(spent)?;
    let email = email_of(domain, member).await?;
    passwords::check("password", password, &email)?;
    let hash = passwords::hash(domain, password).await?;
    let mut tx = domain.pool.begin().await?;
    if links::consume(domain, &mut tx, token, Purpose::Reset).await? != Some(member) {
        return Err(spent());
    }
    links::void(domain, &mut tx, member, Purpose::Verify).await?;
    confirm(domain, &mut tx, member).await?;
    login_limits::forget_account(&mut tx, email.key()).await?;
    let change = PasswordChange {
        member,
        email: &email,
        hash: &hash,
        keep: None,
        action: "member.reset_password",
    };
    change.store(domain, &mut tx).await?;
    tx.commit().await?;
    Ok(member)
}

/// Changes the password of a member who knows the present one, and ends every session but the one to keep.
///
/// # Errors
/// `Invalid` for `current` or `password`; `TooMany` after too many tries.
pub async fn change_password(
    domain: &Domain,
    member: MemberId,
    current: &Secret,
    password: &Secret,
    keep: Option<&Handle>,
) -> Result<()> {
    let email = email_of(domain, member).await?;
    passwords::check("password", password, &email)?;
    // A bucket of its own: tries at the log-in page do not bar somebody who is inside.
    let bucket = format!("change:{member}");
    login_limits::try_account(domain, &bucket).await?;
    let kept = sqlx::query_scalar!("SELECT password_hash FROM members WHERE id = $1", member as MemberId)
        .fetch_one(&domain.pool)
        .await?;
    if passwords::compare(current, Some(&kept)).await? == Match::No {
        return Err(DomainError::invalid("current", "This is not your present password."));
    }
    let hash = passwords::hash(domain, password).await?;
    let mut tx = domain.pool.begin().await?;
    login_limits::forget_account(&mut tx, &bucket).await?;
    let change = PasswordChange {
        member,
        email: &email,
        hash: &hash,
        keep,
        action: "member.change_password",
    };
    change.store(domain, &mut tx).await?;
    tx.commit().await?;
    Ok(())
}

struct PasswordChange<'a> {
    member: MemberId,
    email: &'a Email,
    hash: &'a str,
    keep: Option<&'a Handle>,
    action: &'static str,
}

impl PasswordChange<'_> {
    async fn store(&self, domain: &Domain, connection: &mut PgConnection) -> Result<()> {
        set_password(domain, connection, self.member, self.hash, self.keep).await?;
        let actor = Actor::Member(self.member);
        audit::record(domain, connection, &actor, None, self.action, &self.member.to_string()).await?;
        let letter = letters::password_changed(&domain.settings, domain.clock.security_now());
        mail::send(domain, connection, self.email.address(), &letter).await
    }
}

/// Stores a new password's hash, voids links that would set another one, and ends sessions.
pub(crate) async fn set_password(
    domain: &Domain,
    connection: &mut PgConnection,
    member: MemberId,
    hash: &str,
    keep: Option<&Handle>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE members SET password_hash = $2 WHERE id = $1",
        member as MemberId,
        hash
    )
    .execute(&mut *connection)
    .await?;
    links::void(domain, connection, member, Purpose::Reset).await?;
    sessions::end_others(connection, member, keep).await?;
    Ok(())
}

async fn email_of(domain: &Domain, member: MemberId) -> Result<Email> {
    let address = sqlx::query_scalar!(
        "SELECT email FROM members WHERE id = $1 AND disabled_at IS NULL",
        member as MemberId
    )
    .fetch_optional(&domain.pool)
    .await?
    .ok_or(DomainError::NotFound)?;
    Email::parse(&address)
}

/// Gives a person a role in a consumer.
///
/// # Errors
/// When the database fails.
pub(crate) async fn join(
    domain: &Domain,
    connection: &mut PgConnection,
    member: MemberId,
    consumer: ConsumerId,
    role: Role,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO memberships (consumer_id, member_id, role, created_at) VALUES ($1, $2, $3, $4)",
        consumer as ConsumerId,
        member as MemberId,
        role.word(),
        domain.clock.security_now(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Drops sessions, links and counts that have expired; repeats itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sweep {}

#[async_trait]
impl Job for Sweep {
    const KIND: &'static str = "member.sweep";
    const EVERY_S: Option<i64> = Some(SWEEP_EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let now = domain.clock.security_now();
        sqlx::query!("DELETE FROM sessions WHERE expires_at <= $1", now)
            .execute(&domain.pool)
            .await?;
        sqlx::query!(
            "DELETE FROM link_tokens WHERE expires_at <= $1",
            now.plus_s(-KEEP_LINKS_S)
        )
        .execute(&domain.pool)
        .await?;
        login_limits::sweep(domain).await
    }
}

/// The jobs of accounts.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<mail::SendMail>().with::<SendReset>().with::<Sweep>()
}

/// Starts the job that repeats, unless it is there.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    let mut connection = domain.pool.acquire().await?;
    jobs::enqueue(domain, &mut connection, &Sweep {}, domain.clock.now()).await
}
