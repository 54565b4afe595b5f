//! The machine's clock beside the database's, which all machines of an installation share.

use crate::{Domain, DomainError, Result};
use model::{SKEW_MOST_MS, Time};

/// How far the machine's clock is ahead of the database's, in milliseconds; negative when it is behind, and 0 where they
/// differ by no more than the question took.
///
/// # Errors
/// When the database fails.
pub async fn measure(domain: &Domain) -> Result<i64> {
    let before = domain.clock.security_now();
    let theirs: Time = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&domain.pool)
        .await?;
    Ok(between(before, theirs, domain.clock.security_now()))
}

/// What a clock says that was read between two readings of ours.
fn between(before: Time, theirs: Time, after: Time) -> i64 {
    theirs.ms_until(before).max(0) - after.ms_until(theirs).max(0)
}

/// Whether times can be told to others, as far as it is known.
///
/// # Errors
/// When the machine's clock and the database's differ by more than [`SKEW_MOST_MS`].
pub(crate) fn check(domain: &Domain) -> Result<()> {
    let skew_ms = domain.clock.skew_ms();
    if skew_ms.abs() <= SKEW_MOST_MS {
        return Ok(());
    }
    let (seconds, way) = (skew_ms.abs() / 1000, if skew_ms > 0 { "ahead of" } else { "behind" });
    Err(DomainError::internal(format!(
        "this machine's clock is {seconds} s {way} the database's: set it right"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_question_cannot_explain_is_a_difference() {
        let at = Time::from_unix_ms;
        assert_eq!(between(at(1_000), at(1_000), at(1_000)), 0);
        assert_eq!(between(at(1_000), at(1_400), at(2_000)), 0);
        assert_eq!(between(at(1_000), at(700), at(2_000)), 300, "ahead");
        assert_eq!(between(at(1_000), at(2_700), at(2_000)), -700, "behind");
    }
}
