//! The provider's first admin: made on the console, or by whoever holds the one-time token printed there. There is no
//! default password, and of several who try at once exactly one becomes it.

use crate::email::Email;
use crate::links::Token;
use crate::members::{self, NewMember};
use crate::settings::Secret;
use crate::{Actor, Domain, DomainError, Provider, Result, audit, locks, passwords};
use model::MemberId;
use sqlx::PgConnection;

async fn has_admin(connection: &mut PgConnection) -> Result<bool> {
    Ok(
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM members WHERE provider_admin) AS "there!""#)
            .fetch_one(connection)
            .await?,
    )
}

/// Makes one of the provider's people, for the command line. Somebody who has an account gets the mark and the new
/// password, and every session of theirs ends.
///
/// # Errors
/// `Invalid` for `email` or `password`.
pub async fn create_admin(domain: &Domain, provider: &Provider, email: &str, password: &Secret) -> Result<MemberId> {
    let email = Email::parse(email)?;
    passwords::check("password", password, &email)?;
    let hash = passwords::hash(domain, password).await?;
    let mut tx = domain.pool.begin().await?;
    let member = match insert(domain, &mut tx, &email, &hash).await? {
        Some(member) => member,
        None => promote(domain, &mut tx, &email, &hash).await?,
    };
    audit::record(
        domain,
        &mut tx,
        provider.actor(),
        None,
        "admin.create",
        &member.to_string(),
    )
    .await?;
    tx.commit().await?;
    Ok(member)
}

async fn insert(domain: &Domain, connection: &mut PgConnection, email: &Email, hash: &str) -> Result<Option<MemberId>> {
    let new = NewMember {
        email,
        password_hash: hash,
        verified: true,
        provider_admin: true,
    };
    members::insert(domain, connection, new).await
}

async fn promote(domain: &Domain, connection: &mut PgConnection, email: &Email, hash: &str) -> Result<MemberId> {
    let member = sqlx::query_scalar!(
        "UPDATE members SET provider_admin = true, disabled_at = NULL, verified_at = coalesce(verified_at, $2)
         WHERE email_key = $1 RETURNING id",
        email.key(),
        domain.clock.security_now(),
    )
    .fetch_one(&mut *connection)
    .await?;
    members::set_password(domain, connection, member, hash, None).await?;
    Ok(member)
}

/// Whether the page for the first admin is open: there is no admin yet.
///
/// # Errors
/// When the database fails.
pub async fn is_open(domain: &Domain) -> Result<bool> {
    let mut connection = domain.pool.acquire().await?;
    Ok(!has_admin(&mut connection).await?)
}

/// The address to print at start while there is no admin; it holds a new one-time token, and earlier ones stop
/// working, because only hashes are kept and they cannot be shown again.
///
/// # Errors
/// When the database fails.
pub async fn setup_address(domain: &Domain) -> Result<Option<String>> {
    let mut tx = domain.pool.begin().await?;
    locks::hold(&mut tx, locks::FIRST_ADMIN).await?;
    if has_admin(&mut tx).await? {
        return Ok(None);
    }
    let (now, token) = (domain.clock.security_now(), Token::new(domain));
    sqlx::query!("UPDATE bootstrap_tokens SET used_at = $1 WHERE used_at IS NULL", now)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "INSERT INTO bootstrap_tokens (token_hash, created_at) VALUES ($1, $2)",
        token.hash(),
        now,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(format!(
        "{}/admin/setup?token={}",
        domain.settings.portal_url,
        token.expose()
    )))
}

/// Makes the first admin with the one-time token.
///
/// # Errors
/// `Invalid` for `token`, `email` or `password`; `NotFound` when there is an admin already.
pub async fn first_admin(domain: &Domain, token: &Token, email: &str, password: &Secret) -> Result<MemberId> {
    let email = Email::parse(email)?;
    passwords::check("password", password, &email)?;
    if !is_open(domain).await? {
        return Err(DomainError::NotFound);
    }
    // The token first: nobody without it makes the machine hash.
    let good = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM bootstrap_tokens WHERE token_hash = $1 AND used_at IS NULL) AS "good!""#,
        token.hash()
    )
    .fetch_one(&domain.pool)
    .await?;
    let wrong = || {
        DomainError::invalid(
            "token",
            "This is not the token that the program printed at its last start.",
        )
    };
    if !good {
        return Err(wrong());
    }
    let hash = passwords::hash(domain, password).await?;
    let mut tx = domain.pool.begin().await?;
    locks::hold(&mut tx, locks::FIRST_ADMIN).await?;
    if has_admin(&mut tx).await? {
        return Err(DomainError::NotFound);
    }
    let used = sqlx::query!(
        "UPDATE bootstrap_tokens SET used_at = $2 WHERE token_hash = $1 AND used_at IS NULL",
        token.hash(),
        domain.clock.security_now(),
    )
    .execute(&mut *tx)
    .await?;
    if used.rows_affected() == 0 {
        return Err(wrong());
    }
    let member = match insert(domain, &mut tx, &email, &hash).await? {
        Some(member) => member,
        None => promote(domain, &mut tx, &email, &hash).await?,
    };
    audit::record(
        domain,
        &mut tx,
        &Actor::Member(member),
        None,
        "admin.first",
        &member.to_string(),
    )
    .await?;
    tx.commit().await?;
    Ok(member)
}
