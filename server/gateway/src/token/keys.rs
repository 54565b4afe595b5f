//! The keys of an issuer: each for one algorithm, whatever a token says.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use model::access::TokenAlgorithm;
use serde::Deserialize;
use serde_json::Value;

/// Most keys of an issuer: in rotation it has two or three.
const KEYS_MOST: usize = 64;
/// Shortest RSA key, in bytes of its modulus (RFC 7518, 3.3).
const RSA_LEAST: usize = 256;
/// Shortest secret, in bytes: as long as the hash (RFC 7518, 3.2).
const SECRET_LEAST: usize = 32;

/// A key that signatures are checked with.
pub(super) struct VerifyingKey {
    kid: Option<String>,
    algorithm: TokenAlgorithm,
    key: DecodingKey,
}

impl VerifyingKey {
    /// Whether it made this signature.
    pub(super) fn made(&self, signature: &str, signed: &[u8]) -> bool {
        crypto::verify(signature, signed, &self.key, library_name(self.algorithm)).unwrap_or(false)
    }
}

fn library_name(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// All keys of an issuer.
pub(super) struct KeySet(Vec<VerifyingKey>);

impl KeySet {
    /// The key that a token means. Without a name it is the only one for the algorithm; a key that has no name itself is
    /// meant by every name.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: TokenAlgorithm) -> Option<&VerifyingKey> {
        let mut fitting = self.0.iter().filter(|k| k.algorithm == algorithm);
        match kid {
            Some(kid) => fitting.find(|k| k.kid.as_deref().is_none_or(|own| own == kid)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }

    /// How many there are.
    #[cfg(feature = "fuzzing")]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A shared secret.
    pub(super) fn of_secret(secret: &[u8]) -> Result<Self, String> {
        let secret = secret.trim_ascii_end();
        if secret.len() < SECRET_LEAST {
            return Err(format!("the secret must be at least {SECRET_LEAST} bytes"));
        }
        Ok(Self(vec![VerifyingKey {
            kid: None,
            algorithm: TokenAlgorithm::Hs256,
            key: DecodingKey::from_secret(secret),
        }]))
    }

    /// One public key, as PEM or JWK.
    pub(super) fn of_public_key(text: &str, algorithm: TokenAlgorithm) -> Result<Self, String> {
        if text.trim_start().starts_with('{') {
            let value = serde_json::from_str(text).map_err(|e| e.to_string())?;
            let mut key = of_jwk(value, &[algorithm])?;
            // There is no other, so a token may call it what it likes.
            key.kid = None;
            return Ok(Self(vec![key]));
        }
        let key = match algorithm {
            TokenAlgorithm::Rs256 => DecodingKey::from_rsa_pem(text.as_bytes()),
            TokenAlgorithm::Es256 => DecodingKey::from_ec_pem(text.as_bytes()),
            TokenAlgorithm::EdDsa => DecodingKey::from_ed_pem(text.as_bytes()),
            TokenAlgorithm::Hs256 => return Err("HS256 has no public key".to_owned()),
        };
        let key = key.map_err(|e| e.to_string())?;
        Ok(Self(vec![VerifyingKey {
            kid: None,
            algorithm,
            key,
        }]))
    }

    /// A JWK Set (RFC 7517, 5). Keys that are for something else are passed over.
    pub(super) fn of_jwks(body: &[u8], algorithms: &[TokenAlgorithm]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(body).map_err(|e| format!("is no JWK Set: {e}"))?;
        if set.keys.len() > KEYS_MOST {
            return Err(format!("holds more than {KEYS_MOST} keys"));
        }
        let mut keys: Vec<VerifyingKey> = Vec::new();
        for value in set.keys {
            match of_jwk(value, algorithms) {
                Ok(key) if keys.iter().any(|k| k.kid == key.kid && k.algorithm == key.algorithm) => {
                    tracing::warn!(kid = ?key.kid, "an issuer has two keys of one name; the first counts");
                }
                Ok(key) => keys.push(key),
                Err(why) => tracing::debug!(why, "a key of an issuer is passed over"),
            }
        }
        if keys.is_empty() {
            return Err("holds no key for the algorithms that are taken".to_owned());
        }
        Ok(Self(keys))
    }
}

/// A public key, for the one algorithm that it is for.
fn of_jwk(value: Value, algorithms: &[TokenAlgorithm]) -> Result<VerifyingKey, String> {
    if value.get("d").is_some() || value.get("k").is_some() {
        return Err("it is a secret and public: whoever reads it can sign".to_owned());
    }
    let jwk: Jwk = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let common = &jwk.common;
    let signs = common
        .public_key_use
        .as_ref()
        .is_none_or(|u| *u == PublicKeyUse::Signature);
    let operations = common.key_operations.as_deref();
    if !signs || operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
        return Err("it is not for signatures".to_owned());
    }
    let (algorithm, named, sound) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => (
            TokenAlgorithm::Rs256,
            KeyAlgorithm::RS256,
            decoded_len(&rsa.n) >= RSA_LEAST,
        ),
        AlgorithmParameters::EllipticCurve(ec) => {
            let point = decoded_len(&ec.x) == 32 && decoded_len(&ec.y) == 32;
            (
                TokenAlgorithm::Es256,
                KeyAlgorithm::ES256,
                ec.curve == EllipticCurve::P256 && point,
            )
        }
        AlgorithmParameters::OctetKeyPair(pair) => {
            let point = decoded_len(&pair.x) == 32;
            (
                TokenAlgorithm::EdDsa,
                KeyAlgorithm::EdDSA,
                pair.curve == EllipticCurve::Ed25519 && point,
            )
        }
        _ => return Err("its kind is not taken".to_owned()),
    };
    if !sound || !algorithms.contains(&algorithm) || common.key_algorithm.is_some_and(|a| a != named) {
        return Err("it is too weak, or for an algorithm that is not taken".to_owned());
    }
    Ok(VerifyingKey {
        kid: common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(&jwk).map_err(|e| e.to_string())?,
    })
}

/// Bytes behind base 64 without padding.
fn decoded_len(text: &str) -> usize {
    text.len() * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    #[test]
    fn a_key_is_strong_public_and_for_signatures() {
        let rsa = |bytes: usize| json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(vec![0xC5; bytes]), "e": "AQAB"});
        let all = [TokenAlgorithm::Rs256, TokenAlgorithm::Es256, TokenAlgorithm::EdDsa];
        let taken = |key: &Value, algorithms| {
            let set = json!({ "keys": [key] }).to_string();
            KeySet::of_jwks(set.as_bytes(), algorithms).is_ok()
        };
        assert!(taken(&rsa(256), &all));
        assert!(!taken(&rsa(256), &all[1..]), "an algorithm that is not taken");
        assert!(!taken(&rsa(128), &all), "1,024 bits");
        for (name, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("alg", json!("PS256")),
            ("d", json!("AA")),
        ] {
            let mut key = rsa(256);
            key[name] = value;
            assert!(!taken(&key, &all), "{key}");
        }
        let point = URL_SAFE_NO_PAD.encode([1; 32]);
        for (curve, kind, fits) in [
            ("P-256", "EC", true),
            ("P-384", "EC", false),
            ("Ed25519", "OKP", true),
            ("P-256", "OKP", false),
        ] {
            let key = json!({"kty": kind, "crv": curve, "x": point, "y": point});
            assert_eq!(taken(&key, &all), fits, "{key}");
        }
        assert!(KeySet::of_secret(&[b'x'; 31]).is_err());
    }
}
