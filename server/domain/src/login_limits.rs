//! How guessing passwords slows down: by account and by network, kept in the database so that a restart or a second
//! portal is no way round.
//!
//! A try is counted before the password is looked at, so tries made side by side count as if made one after another.
//! Nothing here ends a session or closes the way to a password reset: somebody else's tries lock nobody out.

use crate::{Domain, DomainError, Result};
use model::Time;
use sqlx::PgConnection;
use std::net::IpAddr;

/// Tries at one account without a delay.
const FREE_TRIES: i32 = 5;
/// Longest delay after more, in seconds.
const MAX_DELAY_S: i64 = 15 * 60;
/// Tries at an account are forgotten after so many seconds without one.
const FORGET_S: i64 = 24 * 3_600;
/// Tries from one network in [`NETWORK_WINDOW_S`], at any accounts: an office behind one address passes, a list does
/// not.
const NETWORK_TRIES: i32 = 30;
/// What they are counted in, in seconds.
const NETWORK_WINDOW_S: i64 = 60;

/// Seconds to wait after that many tries in a row: none, then 1, 2, 4 and so on.
fn delay_s(tries: i32) -> i64 {
    let over = u32::try_from(tries - FREE_TRIES).ok();
    over.map_or(0, |over| 2i64.saturating_pow(over).min(MAX_DELAY_S))
}

/// The network an address belongs to: /24 of IPv4, /64 of IPv6, because one customer has as many.
fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("network:{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("network:{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn until(now: Time, end: Time) -> DomainError {
    let ms = u64::try_from(now.ms_until(end)).unwrap_or(0);
    DomainError::TooMany {
        retry_after_s: ms.div_ceil(1000).max(1),
    }
}

struct Bucket {
    tries: i32,
    last_at: Time,
    blocked_until: Option<Time>,
}

/// Reads a bucket and keeps others off it until the transaction ends.
async fn lock(connection: &mut PgConnection, bucket: &str, now: Time) -> Result<Bucket> {
    sqlx::query!(
        "INSERT INTO login_failures (bucket, failures, last_at) VALUES ($1, 0, $2) ON CONFLICT (bucket) DO NOTHING",
        bucket,
        now,
    )
    .execute(&mut *connection)
    .await?;
    Ok(sqlx::query_as!(
        Bucket,
        "SELECT failures AS tries, last_at, blocked_until FROM login_failures WHERE bucket = $1 FOR UPDATE",
        bucket,
    )
    .fetch_one(connection)
    .await?)
}

async fn store(connection: &mut PgConnection, bucket: &str, state: &Bucket) -> Result<()> {
    sqlx::query!(
        "UPDATE login_failures SET failures = $2, last_at = $3, blocked_until = $4 WHERE bucket = $1",
        bucket,
        state.tries,
        state.last_at,
        state.blocked_until,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts a try at an account, named by its address or by what is tried.
///
/// # Errors
/// `TooMany` while it must wait. Such a try does not lengthen the wait.
pub(crate) async fn try_account(domain: &Domain, account: &str) -> Result<()> {
    let (now, bucket) = (domain.clock.security_now(), format!("account:{account}"));
    let mut tx = domain.pool.begin().await?;
    let mut state = lock(&mut tx, &bucket, now).await?;
    if let Some(end) = state.blocked_until.filter(|end| now < *end) {
        return Err(until(now, end));
    }
    if state.last_at.plus_s(FORGET_S) <= now {
        state.tries = 0;
    }
    state.tries = state.tries.saturating_add(1);
    state.last_at = now;
    state.blocked_until = Some(delay_s(state.tries)).filter(|s| *s > 0).map(|s| now.plus_s(s));
    store(&mut tx, &bucket, &state).await?;
    tx.commit().await?;
    Ok(())
}

/// Forgets the tries at an account: the right password was given, or a new one set.
///
/// # Errors
/// When the database fails.
pub(crate) async fn forget_account(connection: &mut PgConnection, account: &str) -> Result<()> {
    sqlx::query!(
        "DELETE FROM login_failures WHERE bucket = $1",
        format!("account:{account}")
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts a try from a network. A program on this machine has none.
///
/// # Errors
/// `TooMany` when there were too many in the last minute.
pub(crate) async fn try_network(domain: &Domain, ip: Option<IpAddr>) -> Result<()> {
    let Some(ip) = ip else { return Ok(()) };
    let (now, bucket) = (domain.clock.security_now(), network(ip));
    let mut tx = domain.pool.begin().await?;
    let mut state = lock(&mut tx, &bucket, now).await?;
    let end = state.last_at.plus_s(NETWORK_WINDOW_S);
    if end <= now {
        // `last_at` of a network is when its window began.
        (state.tries, state.last_at) = (0, now);
    } else if state.tries >= NETWORK_TRIES {
        return Err(until(now, end));
    }
    state.tries += 1;
    store(&mut tx, &bucket, &state).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether something, such as a mail to one address, may happen again: at most once in so many seconds. Counted in the
/// caller's transaction.
///
/// # Errors
/// When the database fails.
pub(crate) async fn once(domain: &Domain, connection: &mut PgConnection, what: &str, every_s: i64) -> Result<bool> {
    let now = domain.clock.security_now();
    let done = sqlx::query!(
        "INSERT INTO login_failures (bucket, failures, last_at, blocked_until) VALUES ($1, 0, $2, $3)
         ON CONFLICT (bucket) DO UPDATE SET last_at = $2, blocked_until = $3 WHERE login_failures.blocked_until <= $2",
        format!("once:{what}"),
        now,
        now.plus_s(every_s),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Drops what no longer matters.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sweep(domain: &Domain) -> Result<()> {
    sqlx::query!(
        "DELETE FROM login_failures WHERE last_at < $1",
        domain.clock.security_now().plus_s(-FORGET_S),
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_quarter_of_an_hour() {
        let delays: Vec<i64> = (1..=17).map(delay_s).collect();
        assert_eq!(
            delays,
            [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
        );
        assert_eq!(delay_s(i32::MAX), MAX_DELAY_S);
    }

    #[test]
    fn neighbours_share_a_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("::ffff:192.0.2.9"), of("192.0.2.1"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
