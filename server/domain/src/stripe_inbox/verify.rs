//! Stripe's signature: `t=..,v1=hex(HMAC-SHA256(secret, "{t}.{raw body}"))`, several `v1` while a secret is rolled.

use hmac::{Hmac, KeyInit, Mac};
use model::Time;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// How far the signed time may be from ours, either way, in seconds. A retry is signed anew.
pub const TOLERANCE_S: i64 = 300;
/// More signatures than Stripe ever sends; the rest of a header is not looked at.
const MAX_SIGNATURES: usize = 16;

/// Why a delivery is refused. Never says which secret, or what would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// The header is not `t=..,v1=..`.
    #[error("the signature header cannot be read")]
    Header,
    /// No signature is by one of our secrets.
    #[error("the signature is not Stripe's")]
    Signature,
    /// Signed too long ago, or in the future.
    #[error("the signature is out of date")]
    Time,
    /// Signed by Stripe, and not JSON.
    #[error("the body is not JSON")]
    Body,
}

/// Verifies a delivery: the raw body, by any of the secrets, signed within five minutes of `now`.
///
/// # Errors
/// [`Forged`], and then nothing of the body may be believed.
pub fn verify(raw: &[u8], header: &str, secrets: &[&str], now: Time) -> Result<serde_json::Value, Forged> {
    let (signed_at, signatures) = read(header).ok_or(Forged::Header)?;
    let mut good = Choice::from(0);
    for secret in secrets {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| Forged::Signature)?;
        mac.update(signed_at.as_bytes());
        mac.update(b".");
        mac.update(raw);
        let right = mac.finalize().into_bytes();
        for given in &signatures {
            good |= right.as_slice().ct_eq(given);
        }
    }
    if !bool::from(good) {
        return Err(Forged::Signature);
    }
    let t: i64 = signed_at.parse().map_err(|_| Forged::Header)?;
    if now.unix_s().abs_diff(t) > TOLERANCE_S.unsigned_abs() {
        return Err(Forged::Time);
    }
    serde_json::from_slice(raw).map_err(|_| Forged::Body)
}

fn read(header: &str) -> Option<(&str, Vec<[u8; 32]>)> {
    let mut time = None;
    let mut signatures = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=')? {
            ("t", t) => time = Some(t),
            ("v1", hex) if signatures.len() < MAX_SIGNATURES => signatures.extend(unhex(hex)),
            _ => {}
        }
    }
    Some((time?, signatures)).filter(|(_, s)| !s.is_empty())
}

fn unhex(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    let mut out = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Signs a body as Stripe does, for tests.
#[cfg(test)]
fn sign(raw: &[u8], secret: &str, at: Time) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{}.", at.unix_s()).as_bytes());
    mac.update(raw);
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    format!("t={},v1={hex}", at.unix_s())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1","type":"invoice.paid"}"#;

    fn now() -> Time {
        Time::from_unix_s(1_800_000_000)
    }

    #[test]
    fn what_stripe_signed_is_believed() {
        let header = sign(BODY, "whsec_a", now());
        assert_eq!(verify(BODY, &header, &["whsec_a"], now()).unwrap()["id"], "evt_1");
        // A known value, computed with openssl.
        let known = "t=1800000000,v1=d5b7b45f5fd4da33bbce5a2f8e08cbf04ac3ca9ae0ab7f6cd0b0c3f49ea4f0c7";
        assert_eq!(verify(BODY, known, &["whsec_b"], now()), Err(Forged::Signature));
    }

    #[test]
    fn while_a_secret_is_rolled_either_signature_will_do() {
        let (old, new) = (sign(BODY, "whsec_old", now()), sign(BODY, "whsec_new", now()));
        let both = format!("{old},{},v0=00", new.split_once(',').unwrap().1);
        assert!(verify(BODY, &both, &["whsec_new"], now()).is_ok());
        assert!(verify(BODY, &both, &["whsec_old"], now()).is_ok());
        assert!(verify(BODY, &old, &["whsec_new", "whsec_old"], now()).is_ok());
        assert_eq!(verify(BODY, &old, &["whsec_new"], now()), Err(Forged::Signature));
    }

    #[test]
    fn five_minutes_and_not_a_second_more_either_way() {
        for (late_s, good) in [(300, true), (301, false), (-300, true), (-301, false)] {
            let header = sign(BODY, "whsec_a", now());
            let outcome = verify(BODY, &header, &["whsec_a"], now().plus_s(late_s));
            assert_eq!(outcome.is_ok(), good, "{late_s}");
        }
    }

    #[test]
    fn one_changed_byte_or_a_moved_time_is_seen() {
        let header = sign(BODY, "whsec_a", now());
        let mut changed = BODY.to_vec();
        changed[8] ^= 1;
        assert_eq!(verify(&changed, &header, &["whsec_a"], now()), Err(Forged::Signature));
        let moved = header.replace("t=1800000000", "t=1800000001");
        assert_eq!(verify(BODY, &moved, &["whsec_a"], now()), Err(Forged::Signature));
        assert_eq!(verify(BODY, &header, &[], now()), Err(Forged::Signature));
    }

    #[test]
    fn odd_headers_are_refused_quietly() {
        for header in [
            "",
            "t=1",
            "v1=00",
            "t=,v1=",
            "t=1800000000,v1=zz",
            "nonsense",
            "t=1800000000;v1=aa",
            "t=é,v1=é",
        ] {
            assert!(verify(BODY, header, &["whsec_a"], now()).is_err(), "{header}");
        }
    }
}
