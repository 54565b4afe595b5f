//! The written form of a token: header, claims and signature in base 64, with dots between.

use super::verify::Denied;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::access::TokenAlgorithm;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::collections::HashMap;

/// Longest token, in bytes. Those of large identity providers are below 4 KiB.
const TOKEN_MOST: usize = 8 << 10;
/// Longest name of a key, in bytes.
const KID_MOST: usize = 256;
/// Types of a token that may be an access token (RFC 7519, 5.1; RFC 9068, 2.1); other kinds are for other purposes.
const TYPES: &[&str] = &["jwt", "application/jwt", "at+jwt", "application/at+jwt"];
/// What would make the token mean something that is not understood here: extensions that must be understood, unencoded
/// or compressed content, encryption, a token inside the token.
const NOT_UNDERSTOOD: &[&str] = &["crit", "b64", "zip", "enc", "cty"];

/// A token taken apart, with nothing proven.
pub(super) struct Compact<'a> {
    /// What was signed.
    pub(super) signed: &'a [u8],
    /// The signature, in base 64.
    pub(super) signature: &'a str,
    pub(super) algorithm: TokenAlgorithm,
    pub(super) kid: Option<String>,
    pub(super) claims: Object,
}

/// A JSON object in which no name stands twice: of two readers one would take the first and one the last.
pub(super) struct Object(HashMap<String, Value>);

impl Object {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Object;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut all = HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if all.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(Object(all))
            }
        }
        d.deserialize_map(Names)
    }
}

/// Refuses a token that is too long, whatever it holds.
pub(crate) fn check_length(text: &[u8]) -> Result<(), Denied> {
    if text.len() > TOKEN_MOST {
        return Err(Denied::Invalid("It is longer than 8 KiB."));
    }
    Ok(())
}

/// Takes a token apart.
pub(super) fn parse(text: &[u8]) -> Result<Compact<'_>, Denied> {
    check_length(text)?;
    let malformed = Denied::Invalid("It is not three parts of base 64 with dots between.");
    let text = std::str::from_utf8(text).map_err(|_| malformed)?;
    let (signed, signature) = text.rsplit_once('.').ok_or(malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(malformed)?;
    if claims.contains('.') || signature.is_empty() {
        return Err(malformed);
    }
    let header = object(header)?;
    let (algorithm, kid) = read_header(&header)?;
    Ok(Compact {
        signed: signed.as_bytes(),
        signature,
        algorithm,
        kid,
        claims: object(claims)?,
    })
}

fn object(part: &str) -> Result<Object, Denied> {
    let wrong = Denied::Invalid("Its header and its claims must be JSON objects in base 64, with no name twice.");
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| wrong)?;
    serde_json::from_slice(&bytes).map_err(|_| wrong)
}

fn read_header(header: &Object) -> Result<(TokenAlgorithm, Option<String>), Denied> {
    if NOT_UNDERSTOOD.iter().any(|name| header.get(name).is_some()) {
        return Err(Denied::Invalid(
            "Its header asks for something that is not understood here.",
        ));
    }
    let kind = header
        .get("typ")
        .map(|t| t.as_str().unwrap_or_default().to_ascii_lowercase());
    if kind.is_some_and(|kind| !TYPES.contains(&kind.as_str())) {
        return Err(Denied::Invalid("It is a token of another type."));
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(|a| a.parse().ok());
    let algorithm = algorithm.ok_or(Denied::Invalid("Its algorithm is not taken."))?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_MOST => Some(kid.clone()),
        Some(_) => return Err(Denied::Invalid("The name of its key is none.")),
    };
    Ok((algorithm, kid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &[u8]) -> &'static str {
        match parse(text).err() {
            Some(Denied::Invalid(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// T39: what is behind the first thing that is wrong would be refused for another reason, if it were looked at.
    #[test]
    fn what_is_monstrous_is_refused_before_the_rest_is_decoded() {
        let header = |json: &str| URL_SAFE_NO_PAD.encode(json);
        assert!(why(&[0xFF; 100 << 10]).contains("8 KiB"), "not even read as text");
        let jwe = format!("{}.!.!.!.!", header(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#));
        assert!(why(jwe.as_bytes()).contains("three parts"), "its header is not decoded");
        for asked in ["enc", "zip", "cty", "crit", "b64"] {
            let text = format!("{}.!.!", header(&format!(r#"{{"alg":"EdDSA","{asked}":"DEF"}}"#)));
            assert!(
                why(text.as_bytes()).contains("not understood"),
                "{asked}: its claims are not decoded"
            );
        }
        let deep = header(&format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000)));
        assert!(why(format!("{deep}.!.!").as_bytes()).contains("JSON objects"));
    }
}
