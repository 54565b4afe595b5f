//! The keys that tokens for upstreams are signed with.
//!
//! The secret of a month (30 days) is the HMAC-SHA-256 of its number under the first pepper. So every gateway signs with
//! the same key, a restart changes nothing, nothing is stored or sent, and a key is replaced each month. The keys of the
//! month before and of the month after are published too: who keeps the set for a day never misses one. So are those of
//! the other peppers: while gateways are told a new pepper one after the other, each publishes what any of them signs with.

use crate::config::Peppers;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::sync::Arc;

/// How long a key signs, in seconds.
const MONTH_S: i64 = 30 * 86_400;
/// What is hashed under the pepper, before the month's number. No key of a consumer begins so.
const PURPOSE: &str = "turnpike identity token, month ";
/// What stands before the secret of an Ed25519 key in PKCS #8 (RFC 8410, 7).
const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// The keys of a month.
struct Month {
    number: i64,
    kid: String,
    key: EncodingKey,
    /// The JWK Set, as text.
    published: Bytes,
}

/// Makes keys, and keeps those of the running month.
pub(super) struct Keys {
    peppers: Peppers,
    month: ArcSwapOption<Month>,
}

impl Keys {
    pub(super) fn new(peppers: Peppers) -> Self {
        Self {
            peppers,
            month: ArcSwapOption::empty(),
        }
    }

    /// Signs claims.
    pub(super) fn sign(&self, claims: &Value, now_s: i64) -> Option<String> {
        let month = self.month(now_s)?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(month.kid.clone());
        encode(&header, claims, &month.key).ok()
    }

    /// The public keys, as a JWK Set.
    pub(super) fn published(&self, now_s: i64) -> Bytes {
        let month = self.month(now_s);
        month.map_or_else(|| Bytes::from_static(b"{\"keys\":[]}"), |m| m.published.clone())
    }

    fn month(&self, now_s: i64) -> Option<Arc<Month>> {
        let number = now_s.div_euclid(MONTH_S);
        if let Some(known) = self.month.load_full().filter(|m| m.number == number) {
            return Some(known);
        }
        let made = self.make(number);
        if made.is_none() {
            tracing::error!("there is no key to sign tokens for upstreams with");
        }
        let made = Arc::new(made?);
        self.month.store(Some(Arc::clone(&made)));
        Some(made)
    }

    fn make(&self, number: i64) -> Option<Month> {
        let (key, _, kid) = self.key(self.peppers.any(), number)?;
        let mut all = Vec::new();
        for pepper in self.peppers.numbers() {
            for month in [number, number + 1, number - 1] {
                all.push(self.key(pepper, month)?.1);
            }
        }
        let published = json!({ "keys": all });
        Some(Month {
            number,
            kid,
            key,
            published: Bytes::from(published.to_string()),
        })
    }

    /// The key of a month, its public half and its name: the thumbprint (RFC 7638).
    fn key(&self, pepper: u16, number: i64) -> Option<(EncodingKey, Jwk, String)> {
        let secret = self.peppers.mac(pepper, format!("{PURPOSE}{number}").as_bytes())?;
        let key = EncodingKey::from_ed_der(&[&PKCS8[..], &secret[..]].concat());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).ok()?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).ok()?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(KeyAlgorithm::EdDSA);
        Some((key, jwk, kid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn kids(keys: &Keys, now_s: i64) -> HashSet<String> {
        let set: Value = serde_json::from_slice(&keys.published(now_s)).unwrap();
        let all = set["keys"].as_array().unwrap();
        assert!(all.iter().all(|k| k.get("d").is_none()), "{set}");
        all.iter().map(|k| k["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_gateway_has_the_same_keys_and_each_is_known_before_it_signs() {
        let new = |pepper: &[u8]| Keys::new(Peppers::new([(1, pepper)]));
        let (one, two, other) = (new(b"pepper"), new(b"pepper"), new(b"salt"));
        let mut before = HashSet::new();
        for month in 600..612 {
            let now_s = month * MONTH_S + 5;
            let kid = one.month(now_s).unwrap().kid.clone();
            let here = kids(&one, now_s);
            assert_eq!((here.len(), &here), (3, &kids(&two, now_s)));
            assert!(here.is_disjoint(&kids(&other, now_s)));
            assert!(here.contains(&kid));
            assert!(
                before.is_empty() || before.contains(&kid),
                "it was published a month before"
            );
            assert_eq!(
                before.intersection(&here).count(),
                if before.is_empty() { 0 } else { 2 }
            );
            before = here;
        }
    }

    #[test]
    fn a_new_pepper_is_published_before_it_signs() {
        let new = |peppers: &[(u16, &str)]| Keys::new(Peppers::new(peppers.iter().copied()));
        let (old, both) = (new(&[(1, "old")]), new(&[(1, "old"), (2, "new")]));
        let (turned, alone) = (new(&[(2, "new"), (1, "old")]), new(&[(2, "new")]));
        let now_s = 600 * MONTH_S;
        let signs = |keys: &Keys| keys.month(now_s).unwrap().kid.clone();
        assert_eq!(signs(&old), signs(&both));
        assert_eq!(signs(&turned), signs(&alone));
        for (before, after) in [(&old, &both), (&both, &turned), (&turned, &alone)] {
            assert!(
                kids(before, now_s).contains(&signs(after)),
                "who still holds the set before"
            );
            assert!(
                kids(after, now_s).contains(&signs(before)),
                "tokens signed a moment before"
            );
        }
    }

    #[test]
    fn without_a_pepper_nothing_is_signed() {
        let none = Keys::new(Peppers::default());
        assert_eq!(none.sign(&json!({}), 0), None);
        assert!(kids(&none, 0).is_empty());
    }
}
