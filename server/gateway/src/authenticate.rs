//! Phase two: whose request it is. No database and no waiting: form and checksum, one lookup, one HMAC, one compare.

use crate::config::Peppers;
use crate::headers::X_API_KEY;
use crate::refusal::{Refusal, Refused};
use crate::tables::{KeyEntry, Tables};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use model::{Time, key};
use subtle::ConstantTimeEq;

/// What `Authorization` must begin with, in any case.
const BEARER: &[u8] = b"bearer ";
/// Seconds after which an unknown key may be tried again while the control plane is away.
const RETRY_AFTER_S: u64 = 5;

/// Whose request it is.
pub(crate) struct Caller {
    pub(crate) key: KeyEntry,
    pub(crate) lookup: u64,
}

/// A caller that is known but not let in, so that it can be recorded.
pub(crate) type NotLetIn = (Option<Box<Caller>>, Refused);

/// Finds the caller and takes the credential out of the headers.
pub(crate) fn authenticate(
    tables: &Tables,
    peppers: &Peppers,
    headers: &mut HeaderMap,
    now: Time,
) -> Result<Caller, NotLetIn> {
    let presented = credential(headers).map_err(|r| (None, r))?;
    let caller = identify(tables, peppers, presented.as_bytes()).map_err(|r| (None, r))?;
    if caller.key.revoked {
        let refused = Refused::new(
            Refusal::KeyRevoked,
            "This key was revoked. Use another one, or create one.",
        );
        return Err((Some(Box::new(caller)), refused));
    }
    if caller.key.expired(now) {
        let refused = Refused::new(Refusal::KeyExpired, "This key's time is over. Create a new one.");
        return Err((Some(Box::new(caller)), refused));
    }
    Ok(caller)
}

/// Exactly one credential; it never reaches the upstream.
fn credential(headers: &mut HeaderMap) -> Result<HeaderValue, Refused> {
    let twice = || {
        Refused::new(
            Refusal::TwoCredentials,
            "Give one key, in X-API-Key or as Authorization: Bearer.",
        )
    };
    let more = |headers: &HeaderMap, name: &http::HeaderName| headers.get_all(name).iter().nth(1).is_some();
    if more(headers, &X_API_KEY) || more(headers, &AUTHORIZATION) {
        return Err(twice());
    }
    match (headers.remove(X_API_KEY), headers.remove(AUTHORIZATION)) {
        (Some(_), Some(_)) => Err(twice()),
        (Some(key), None) => Ok(key),
        (None, Some(bearer)) => {
            let bytes = bearer.as_bytes();
            let (scheme, key) = bytes.split_at_checked(BEARER.len()).unwrap_or((bytes, &[]));
            if !scheme.eq_ignore_ascii_case(BEARER) {
                return Err(missing());
            }
            HeaderValue::from_bytes(key.trim_ascii()).map_err(|_| missing())
        }
        (None, None) => Err(missing()),
    }
}

fn missing() -> Refused {
    Refused::new(
        Refusal::KeyMissing,
        "Send your key in the header X-API-Key, or as Authorization: Bearer.",
    )
}

fn unknown() -> Refused {
    Refused::new(Refusal::KeyUnknown, "The key is mistyped, or it does not exist.")
}

fn identify(tables: &Tables, peppers: &Peppers, text: &[u8]) -> Result<Caller, Refused> {
    let (environment, lookup) = key::parse(text).ok_or_else(unknown)?;
    let lookup = lookup.0;
    let Some(entry) = tables.key(lookup) else {
        // The same work as for a key that exists, so that time does not tell which ids do.
        let mac = peppers.mac(peppers.any(), text).unwrap_or_default();
        let same = bool::from(mac.ct_eq(&[0u8; 32]));
        return if tables.connected() || same {
            Err(unknown())
        } else {
            let refused = Refused::new(
                Refusal::KeysUnavailable,
                "This key is new to the gateway, and the key store is away.",
            );
            Err(refused.retry_after(RETRY_AFTER_S))
        };
    };
    let Some(mac) = peppers.mac(entry.pepper, text) else {
        tracing::error!(pepper = entry.pepper, "a key's pepper is not configured");
        let refused = Refused::new(Refusal::KeysUnavailable, "The gateway cannot check this key.");
        return Err(refused.retry_after(RETRY_AFTER_S));
    };
    let right = bool::from(mac.ct_eq(&entry.mac)) && entry.account.environment == environment;
    if right {
        Ok(Caller { key: entry, lookup })
    } else {
        Err(unknown())
    }
}
