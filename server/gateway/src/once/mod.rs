//! Requests that are done once (draft-ietf-httpapi-idempotency-key-header-07), on routes that say so
//! ([`model::policy::Idempotency`]).
//!
//! A key belongs to a consumer in an environment on a route. The first request with it claims it, goes to the upstream
//! and is followed to its end even when its client goes away; its answer is kept. A repeat, which is the same in
//! method, host, path, query, content type and body, gets that answer and no units are counted; another request with the key
//! is refused, and so is one that comes while the first is under way.

mod kept;
mod shard;

pub(crate) use kept::{Claim, Claimed, Once};

use crate::authenticate::network;
use crate::methods;
use crate::refusal::{Refusal, Refused};
use crate::route;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use model::ConsumerId;
use model::access::Environment;
use model::policy::Idempotency;
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// Largest body of a request with a key, in bytes: it is held in memory to be compared.
pub(crate) const BODY_MOST: u64 = 1 << 20;
/// Seconds after which a caller may have room for another key: some end all the time.
const FULL_RETRY_S: u64 = 60;
/// Longest key, in bytes.
const KEY_MOST: usize = 255;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is the one to an earlier request.
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// An answer that is kept.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What a key belongs to.
pub(crate) struct Owner {
    pub(crate) consumer: ConsumerId,
    /// Of callers who are no consumer.
    pub(crate) address: Option<IpAddr>,
    pub(crate) environment: Environment,
    pub(crate) route: u16,
}

/// The key of a request that may change something; none when it has none, and needs none.
///
/// # Errors
/// When it has none and needs one, or it is no key.
pub(crate) fn key<'a>(policy: &Idempotency, parts: &'a Parts) -> Result<Option<&'a [u8]>, Refused> {
    if methods::is_safe(&parts.method) {
        return Ok(None);
    }
    let mut given = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next() else {
        if policy.required && matches!(parts.method, Method::POST | Method::PATCH) {
            let detail = "Send the header Idempotency-Key with a value of your own that is new for each operation, such \
                          as a UUID, and the same one when you repeat it.";
            return Err(Refused::new(Refusal::IdempotencyKeyMissing, detail));
        }
        return Ok(None);
    };
    // A structured field's string, or the bare text that most clients send.
    let text = value.as_bytes().trim_ascii();
    let bare = text
        .strip_prefix(b"\"")
        .and_then(|t| t.strip_suffix(b"\""))
        .unwrap_or(text);
    if given.next().is_some() || bare.is_empty() || bare.len() > KEY_MOST {
        let detail = format!("There must be one Idempotency-Key, of 1 to {KEY_MOST} characters.");
        return Err(Refused::new(Refusal::BadRequest, detail));
    }
    Ok(Some(bare))
}

/// Where an answer is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Whose memory it is.
    holder: u64,
    /// What it is found by.
    key: [u8; 16],
}

/// The first bytes of a SHA-256.
fn first<const N: usize>(sum: Sha256) -> [u8; N] {
    let all: [u8; 32] = sum.finalize().into();
    std::array::from_fn(|n| all[n])
}

/// Where the answer to a request with a key is kept. A hash stands for the key: it is small, and nobody finds another
/// caller's.
pub(crate) fn place(owner: &Owner, key: &[u8]) -> Place {
    let of = |address: Option<IpAddr>| {
        let address = address.map_or(String::new(), |a| a.to_canonical().to_string());
        Sha256::new()
            .chain_update(owner.consumer.to_bits().to_le_bytes())
            .chain_update(owner.environment.word())
            .chain_update([0])
            .chain_update(address)
            .chain_update([0])
    };
    let key = of(owner.address)
        .chain_update(owner.route.to_le_bytes())
        .chain_update(key);
    Place {
        holder: u64::from_le_bytes(first(of(owner.address.map(network)))),
        key: first(key),
    }
}

/// What a repeat must be the same in. `hidden` names the fields that are left out for this caller.
pub(crate) fn print(parts: &Parts, body: &[u8], hidden: &str) -> [u8; 16] {
    let mut sum = Sha256::new();
    let mut part = |bytes: &[u8]| {
        sum.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        sum.update(bytes);
    };
    part(parts.method.as_str().as_bytes());
    let host = route::asked_host(&parts.uri, &parts.headers);
    part(host.as_deref().unwrap_or_default().as_bytes());
    part(parts.uri.path_and_query().map_or("/", |p| p.as_str()).as_bytes());
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        part(parts.headers.get(name).map_or(&[][..], HeaderValue::as_bytes));
    }
    part(hidden.as_bytes());
    part(body);
    first(sum)
}

/// Whether an answer ends what a key stands for. One that says "not now" does not, and neither does a failure unless
/// the route says so: the operation is then done anew when the request is repeated.
pub(crate) fn is_final(policy: &Idempotency, status: StatusCode) -> bool {
    let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    !later && (policy.keep_failures || !status.is_server_error())
}

/// The refusal of a request whose key is not free.
pub(crate) fn refused(claimed: &Claimed) -> Option<Refused> {
    match claimed {
        Claimed::Mine(_) | Claimed::Answered(_) => None,
        Claimed::Running => {
            let detail = "The first request with this Idempotency-Key is still under way.";
            Some(Refused::new(Refusal::IdempotencyBusy, detail).retry_after(1))
        }
        Claimed::Full => {
            let detail = "You use more Idempotency-Keys than can be remembered just now, and what was done with none of \
                          them is forgotten before its time.";
            Some(Refused::new(Refusal::Overloaded, detail).retry_after(FULL_RETRY_S))
        }
        Claimed::Other => {
            let detail = "This Idempotency-Key was used for a request with another method, host, path, query or body.";
            Some(Refused::new(Refusal::IdempotencyReused, detail))
        }
        Claimed::Lost => {
            let detail = "The first request with this Idempotency-Key was done, or may have been, but its answer is not \
                          kept: it was too large, broke off, could not be passed on, did not come in time, or made \
                          room for others.";
            Some(Refused::new(Refusal::IdempotencyLost, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(method: &str, keys: &[&str]) -> Parts {
        let mut request = Request::builder().method(method).uri("/a?b=1").header("host", "A:443");
        for key in keys {
            request = request.header("idempotency-key", *key);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_key_is_one_short_text() {
        let policy = |required| Idempotency {
            required,
            ..Idempotency::default()
        };
        let read = |required, method: &str, keys: &[&str]| {
            let parts = parts(method, keys);
            let key = key(&policy(required), &parts);
            key.map(|k| k.map(<[u8]>::to_vec)).map_err(|r| r.refusal())
        };
        assert_eq!(read(true, "POST", &["\"a b\""]), Ok(Some(b"a b".to_vec())));
        assert_eq!(read(true, "PUT", &["a"]), Ok(Some(b"a".to_vec())));
        assert_eq!(read(true, "GET", &["a"]), Ok(None));
        assert_eq!(read(false, "POST", &[]), Ok(None));
        assert_eq!(read(true, "DELETE", &[]), Ok(None));
        assert_eq!(read(true, "PROPFIND", &["a"]), Ok(None), "safe: nothing is done twice");
        assert_eq!(read(true, "MKCOL", &["a"]), Ok(Some(b"a".to_vec())));
        assert_eq!(read(true, "PATCH", &[]), Err(Refusal::IdempotencyKeyMissing));
        for bad in [&[""][..], &["\"\""], &["a", "a"], &["x".repeat(256).as_str()]] {
            assert_eq!(read(false, "POST", bad), Err(Refusal::BadRequest), "{bad:?}");
        }
    }

    #[test]
    fn everything_that_matters_changes_the_print() {
        let base = print(&parts("POST", &[]), b"body", "");
        assert_eq!(base, print(&parts("POST", &["k"]), b"body", ""));
        assert_ne!(base, print(&parts("PUT", &[]), b"body", ""));
        let at = |host: &'static str| {
            let mut parts = parts("POST", &[]);
            parts.headers.insert("host", HeaderValue::from_static(host));
            print(&parts, b"body", "")
        };
        assert_eq!(base, at("a"));
        assert_ne!(base, at("b"));
        assert_ne!(base, print(&parts("POST", &[]), b"bod", "y"));
        assert_ne!(base, print(&parts("POST", &[]), b"body", "-1"));
    }
}
