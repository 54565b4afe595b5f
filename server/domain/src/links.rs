//! Single-use links by mail: a random token, of which only the SHA-256 is kept.
//!
//! Opening a link never uses it up, because mail scanners open links too: the page behind it has a button, and the
//! button's POST does. A new link of a kind makes the older ones of that kind worthless.

use crate::{Domain, Result};
use model::MemberId;
use sha2::{Digest as _, Sha256};

/// Random bytes of a token.
const TOKEN_LEN: usize = 32;

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Confirms the address.
    Verify,
    /// Sets a new password.
    Reset,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Verify => "verify",
            Purpose::Reset => "reset",
        }
    }
    /// How long a link works, in seconds: an account is at stake with a reset, so its link is short-lived.
    pub fn lifetime_s(self) -> i64 {
        match self {
            Purpose::Verify => 24 * 3_600,
            Purpose::Reset => 30 * 60,
        }
    }
}

/// The secret part of a link: 64 hexadecimal digits.
pub struct Token(String);

impl Token {
    /// A new one.
    pub(crate) fn new(domain: &Domain) -> Self {
        let mut bytes = [0; TOKEN_LEN];
        domain.random.fill(&mut bytes);
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
    /// As it was given, right or wrong.
    pub fn given(text: &str) -> Self {
        Self(text.to_owned())
    }
    /// The text that goes into the link.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
    /// What is kept of it. Of 256 random bits a plain hash cannot be undone.
    pub(crate) fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.as_bytes()).to_vec()
    }
}

/// The bytes of a SHA-256 written as 64 lower-case hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let well_formed = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !well_formed {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
        .collect()
}

/// Makes a link's token and voids the member's older ones for the same purpose.
///
/// # Errors
/// When the database fails.
pub(crate) async fn issue(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    member: MemberId,
    purpose: Purpose,
) -> Result<Token> {
    let now = domain.clock.security_now();
    void(domain, connection, member, purpose).await?;
    let token = Token::new(domain);
    sqlx::query!(
        "INSERT INTO link_tokens (token_hash, member_id, purpose, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        token.hash(),
        member as MemberId,
        purpose.word(),
        now,
        now.plus_s(purpose.lifetime_s()),
    )
    .execute(connection)
    .await?;
    Ok(token)
}

/// Makes the member's unused links for a purpose worthless.
///
/// # Errors
/// When the database fails.
pub(crate) async fn void(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    member: MemberId,
    purpose: Purpose,
) -> Result<()> {
    sqlx::query!(
        "UPDATE link_tokens SET used_at = $3 WHERE member_id = $1 AND purpose = $2 AND used_at IS NULL",
        member as MemberId,
        purpose.word(),
        domain.clock.security_now(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whose link it is, while it works. Uses nothing up.
///
/// # Errors
/// When the database fails.
pub async fn owner(domain: &Domain, token: &Token, purpose: Purpose) -> Result<Option<MemberId>> {
    Ok(sqlx::query_scalar!(
        "SELECT member_id FROM link_tokens
         WHERE token_hash = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > $3",
        token.hash(),
        purpose.word(),
        domain.clock.security_now(),
    )
    .fetch_optional(&domain.pool)
    .await?)
}

/// Uses a link up in the caller's transaction; of two at once exactly one gets the member.
///
/// # Errors
/// When the database fails.
pub(crate) async fn consume(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    token: &Token,
    purpose: Purpose,
) -> Result<Option<MemberId>> {
    Ok(sqlx::query_scalar!(
        "UPDATE link_tokens SET used_at = $3
         WHERE token_hash = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > $3
         RETURNING member_id",
        token.hash(),
        purpose.word(),
        domain.clock.security_now(),
    )
    .fetch_optional(connection)
    .await?)
}
