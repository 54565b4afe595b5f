//! Passwords: which are good enough, how they are kept, and how many are checked at once.
//!
//! Kept as argon2id in a PHC string. Hashing takes 19 MiB and tens of milliseconds on purpose, so it runs in a bounded
//! pool: a flood of log-ins fills its short queue and is refused instead of starving the machine.

use crate::email::Email;
use crate::settings::Secret;
use crate::{Domain, DomainError, Result};
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use std::num::NonZeroUsize;
use std::sync::LazyLock;
use tokio::sync::{Semaphore, SemaphorePermit};
use unicode_normalization::UnicodeNormalization as _;

/// Memory of one hash in KiB, passes and lanes: OWASP's first choice for argon2id.
const COST: (u32, u32, u32) = (19_456, 2, 1);
/// Bytes of salt.
const SALT_LEN: usize = 16;
/// Shortest password, in characters. NIST SP 800-63B-4 asks for 15 where a password is all there is; 12 with a list of
/// common ones refused is what developers' sites ask for today. Raise it rather than add rules about characters.
const MIN_CHARS: usize = 12;
/// Longest password, in bytes. Refused before it is hashed.
const MAX_LEN: usize = 1_024;
/// Fewer different characters than this is a pattern, not a password.
const MIN_DISTINCT_CHARS: usize = 5;
/// Hashes at once for each core.
const RUNNING_PER_CORE: usize = 2;
/// Hashes that may wait, for each that may run: about a second of work.
const QUEUED_PER_RUNNING: usize = 8;
/// What somebody hears who finds the queue full, in seconds.
const RETRY_AFTER_S: u64 = 2;

/// Compared with when there is no such account, so that the answer takes as long. No password has this hash.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Words that passwords are made of by people in a hurry, one a line, in lower case.
static COMMON: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    include_str!("common_passwords.txt")
        .lines()
        .filter(|l| !l.is_empty())
        .collect()
});

struct Slots {
    running: Semaphore,
    /// Those that run and those that wait.
    admitted: Semaphore,
}

/// One pool for the process, because it is the machine's cores that are shared.
static SLOTS: LazyLock<Slots> = LazyLock::new(|| {
    let running = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) * RUNNING_PER_CORE;
    Slots {
        running: Semaphore::new(running),
        admitted: Semaphore::new(running * (1 + QUEUED_PER_RUNNING)),
    }
});

/// Runs expensive work when it is its turn. The place is given back when the work ends, also when nobody waits for it
/// any more.
async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let full = |_| DomainError::TooMany {
        retry_after_s: RETRY_AFTER_S,
    };
    let admitted: SemaphorePermit<'static> = SLOTS.admitted.try_acquire().map_err(full)?;
    let running: SemaphorePermit<'static> = SLOTS.running.acquire().await.map_err(DomainError::internal)?;
    tokio::task::spawn_blocking(move || {
        let result = work();
        drop((running, admitted));
        result
    })
    .await
    .map_err(DomainError::internal)
}

fn hasher() -> Result<Argon2<'static>> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).map_err(|e| DomainError::internal(e.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// One form for what different keyboards send for the same letters.
fn normal(password: &Secret) -> String {
    password.expose().nfc().collect()
}

/// Refuses a password that guessing would find, for the field given.
///
/// # Errors
/// `Invalid` with what to do.
pub fn check(field: &'static str, password: &Secret, email: &Email) -> Result<()> {
    let text = password.expose();
    let refuse = |problem: String| Err(DomainError::invalid(field, problem));
    if text.len() > MAX_LEN {
        return refuse(format!("Use at most {MAX_LEN} bytes."));
    }
    if text.chars().count() < MIN_CHARS {
        return refuse(format!(
            "Use at least {MIN_CHARS} characters. Length is what counts: a few words in a row do well."
        ));
    }
    let lower = text.to_lowercase();
    let mut distinct: Vec<char> = lower.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < MIN_DISTINCT_CHARS || is_common(&lower) {
        return refuse("This one is on every list of common passwords. Choose one that nobody else has.".to_owned());
    }
    let local = email.key().split('@').next().unwrap_or_default();
    let same_word = !bare(local).is_empty() && bare(&lower) == bare(local);
    if same_word || lower.contains(email.key()) {
        return refuse("Do not use your e-mail address as the password.".to_owned());
    }
    Ok(())
}

/// Without the digits and signs that people put around a word.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| !c.is_alphabetic())
}

fn is_common(lower: &str) -> bool {
    COMMON.iter().any(|word| {
        let rest = lower.replace(word, "");
        lower == *word || bare(lower) == *word || (rest.is_empty() && !word.is_empty())
    })
}

/// The hash to keep.
///
/// # Errors
/// `TooMany` when the pool's queue is full.
pub async fn hash(domain: &Domain, password: &Secret) -> Result<String> {
    let mut salt = [0; SALT_LEN];
    domain.random.fill(&mut salt);
    let (password, hasher) = (normal(password), hasher()?);
    in_turn(move || {
        let hash = hasher.hash_password_with_salt(password.as_bytes(), &salt);
        hash.map(|hash| hash.to_string())
            .map_err(|e| DomainError::internal(e.to_string()))
    })
    .await?
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Not the password, or no such account.
    No,
    /// The password.
    Yes,
    /// The password, kept in a weaker way than today's: hash it again.
    Outdated,
}

/// Compares with what is kept; takes as long when nothing is.
///
/// # Errors
/// `TooMany` when the pool's queue is full.
pub async fn compare(password: &Secret, kept: Option<&str>) -> Result<Match> {
    let known = kept.is_some();
    // Too long to be anybody's: the same answer for every account, without the work.
    if password.expose().len() > MAX_LEN {
        return Ok(Match::No);
    }
    let (password, kept) = (normal(password), kept.unwrap_or(NOBODYS).to_owned());
    let matches = in_turn(move || {
        let verdict = match PasswordHash::new(&kept) {
            Ok(parsed) if Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() => Match::Yes,
            _ => Match::No,
        };
        (verdict, kept)
    })
    .await?;
    Ok(match matches {
        (Match::Yes, kept) if known => {
            if is_current(&kept) {
                Match::Yes
            } else {
                Match::Outdated
            }
        }
        _ => Match::No,
    })
}

fn is_current(kept: &str) -> bool {
    let (memory, passes, lanes) = COST;
    kept.starts_with(&format!("$argon2id$v=19$m={memory},t={passes},p={lanes}$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(password: &str) -> bool {
        let email = Email::parse("mara.lindqvist@lumen.dev").unwrap();
        check("password", &Secret::new(password), &email).is_err()
    }

    #[test]
    fn refuses_what_lists_hold_and_takes_a_few_words() {
        for password in [
            "",
            "short-one",
            "elevenchars",
            "aaaaaaaaaaaaaaaa",
            "ababababababab",
            "passwordpassword",
            "Password2026!",
            "PASSWORD1234",
            "1234567890123",
            "qwertyuiop123",
            "correcthorsebatterystaple",
            "mara.lindqvist@lumen.dev",
            "mara.lindqvist2026",
        ] {
            assert!(refused(password), "{password}");
        }
        for password in [
            "three green kites",
            "\u{e5}tta r\u{f6}da b\u{e5}tar",
            "x9!kQm2#vLp0",
            "mara sails at dawn",
        ] {
            assert!(!refused(password), "{password}");
        }
        assert!(refused(&"three green kites ".repeat(60)), "more than {MAX_LEN} bytes");
    }

    #[tokio::test]
    async fn knows_an_old_hash_and_nobodys() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let kept = weak
            .hash_password_with_salt(b"three green kites", &[7; 16])
            .unwrap()
            .to_string();
        let password = Secret::new("three green kites");
        assert_eq!(compare(&password, Some(&kept)).await.unwrap(), Match::Outdated);
        assert_eq!(
            compare(&Secret::new("three green kite"), Some(&kept)).await.unwrap(),
            Match::No
        );
        assert_eq!(compare(&password, None).await.unwrap(), Match::No);
        assert!(PasswordHash::new(NOBODYS).is_ok() && is_current(NOBODYS));
    }

    #[tokio::test]
    async fn two_ways_to_type_a_letter_are_one_password() {
        let strong = hasher().unwrap();
        let kept = strong
            .hash_password_with_salt(normal(&Secret::new("caf\u{e9} au lait 7")).as_bytes(), &[7; 16])
            .unwrap()
            .to_string();
        let decomposed = Secret::new("cafe\u{301} au lait 7");
        assert_eq!(compare(&decomposed, Some(&kept)).await.unwrap(), Match::Yes);
    }
}
