//! A key: form and checksum, one lookup, one HMAC, one constant-time compare.

use super::{Caller, NotLetIn};
use crate::config::Peppers;
use crate::refusal::{Refusal, Refused};
use crate::tables::Tables;
use model::{Time, key};
use subtle::ConstantTimeEq;

/// Seconds after which an unknown key may be tried again while the control plane is away.
const RETRY_AFTER_S: u64 = 5;

/// Bytes of an HMAC.
const MAC_LEN: usize = 32;

/// An HMAC in pieces to be compared in constant time, which takes an eighth of what it does byte by byte.
fn words(mac: &[u8; MAC_LEN]) -> [u64; 4] {
    let (words, _) = mac.as_chunks();
    std::array::from_fn(|i| words.get(i).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// The caller behind a key that works now.
pub(super) fn caller(tables: &Tables, peppers: &Peppers, text: &[u8], now: Time) -> Result<Caller, NotLetIn> {
    let caller = identify(tables, peppers, text).map_err(|r| (None, r))?;
    if !tables.connected() && caller.key.account.is_unknown() {
        // The key was told, and what it may do comes with a later part.
        return Err((
            None,
            away("This key is new to the gateway, which is being told what it may do."),
        ));
    }
    alive(caller, now)
}

/// The caller, if its key has not ended.
pub(super) fn alive(caller: Caller, now: Time) -> Result<Caller, NotLetIn> {
    let ended = if caller.key.revoked {
        (
            Refusal::KeyRevoked,
            "This key was revoked. Use another one, or create one.",
        )
    } else if caller.key.expired(now) {
        (Refusal::KeyExpired, "This key's time is over. Create a new one.")
    } else {
        return Ok(caller);
    };
    Err((Some(Box::new(caller)), Refused::new(ended.0, ended.1)))
}

pub(super) fn unknown() -> Refused {
    Refused::new(Refusal::KeyUnknown, "The key is mistyped, or it does not exist.")
}

fn away(why: &'static str) -> Refused {
    Refused::new(Refusal::KeysUnavailable, why).retry_after(RETRY_AFTER_S)
}

fn identify(tables: &Tables, peppers: &Peppers, text: &[u8]) -> Result<Caller, Refused> {
    let (environment, lookup) = key::parse(text).ok_or_else(unknown)?;
    let lookup = lookup.0;
    let Some(entry) = tables.key(lookup) else {
        // The same work as for a key that exists, so that time does not tell which ids do.
        let mac = peppers.mac(peppers.any(), text).unwrap_or_default();
        let same = bool::from(words(&mac).ct_eq(&words(&[0; MAC_LEN])));
        return if tables.connected() || same {
            Err(unknown())
        } else {
            Err(away("This key is new to the gateway, and the key store is away."))
        };
    };
    let Some(mac) = peppers.mac(entry.pepper, text) else {
        tracing::error!(pepper = entry.pepper, "a key's pepper is not configured");
        return Err(away("The gateway cannot check this key."));
    };
    let right = bool::from(words(&mac).ct_eq(&words(&entry.mac))) && entry.account.environment == environment;
    if right {
        Ok(Caller::of_key(entry, lookup))
    } else {
        Err(unknown())
    }
}
