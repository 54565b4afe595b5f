//! Who may call a route: which credentials it takes, and where in a request they may be.

use super::{PolicyError, is_header_name, wrong};
use crate::access::Credential;
use serde::{Deserialize, Serialize};

/// Most headers that may carry a key: each is looked up in every request.
const KEY_HEADERS_MOST: usize = 5;
/// Longest name of the query parameter.
const QUERY_MOST: usize = 64;
/// Headers that frame or steer a message, or that the gateway reads itself: none of them carries a key.
const TAKEN: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Who may call a route. By default a key in `X-API-Key` or as `Authorization: Bearer`.
///
/// A request carries at most one credential; two are refused, never the first taken. The credential is removed before
/// the request is forwarded. What the route does not read is left alone: with `bearer = false` and neither `jwt` nor
/// `basic`, `Authorization` is the upstream's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthPolicy {
    /// Credentials that are taken: `key`; `jwt`, a token of one of the catalogue's issuers as `Authorization: Bearer`;
    /// `basic`, a key as the user name of HTTP basic authentication with an empty password; `anonymous`, none at all.
    pub accept: Vec<Credential>,
    /// Headers that may carry a key, by name in lower case.
    pub key_headers: Vec<String>,
    /// Whether a key may come as `Authorization: Bearer`.
    pub bearer: bool,
    /// Query parameter that may carry a key; none by default, because addresses end up in logs and histories. It is
    /// removed before the request is forwarded, the rest of the query stays byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The plan of callers without a credential. Its rate limit and its allowances hold for each client address (an IPv6
    /// network of 64 bits is one), as far as one gateway remembers. It must cost nothing, and nobody is billed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_plan: Option<String>,
}

impl Default for AuthPolicy {
    fn default() -> Self {
        Self {
            accept: vec![Credential::Key],
            key_headers: vec!["x-api-key".to_owned()],
            bearer: true,
            query: None,
            anonymous_plan: None,
        }
    }
}

impl AuthPolicy {
    /// Whether it says nothing that a route without it would not do.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a credential of this kind is taken.
    pub fn accepts(&self, credential: Credential) -> bool {
        self.accept.contains(&credential)
    }

    /// Checks what the types do not say.
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.accept.is_empty() {
            return wrong("auth.accept", "must name at least one of key, jwt, basic, anonymous");
        }
        if let Some(twice) = repeated(&self.accept) {
            return wrong("auth.accept", format!("{twice} is there twice"));
        }
        if self.key_headers.len() > KEY_HEADERS_MOST {
            return wrong("auth.key_headers", format!("at most {KEY_HEADERS_MOST}"));
        }
        if let Some(twice) = repeated(&self.key_headers) {
            return wrong("auth.key_headers", format!("{twice} is there twice"));
        }
        for name in &self.key_headers {
            if !is_header_name(name) || name.contains('_') {
                return wrong(
                    "auth.key_headers",
                    format!("{name:?} is not a header's name in lower case, without _"),
                );
            }
            if TAKEN.contains(&name.as_str()) {
                return wrong(
                    "auth.key_headers",
                    format!("{name} has a meaning of its own; use bearer for keys in Authorization"),
                );
            }
        }
        self.check_query()?;
        if self.accepts(Credential::Key) && self.key_headers.is_empty() && !self.bearer && self.query.is_none() {
            return wrong(
                "auth.accept",
                "takes keys but leaves no place for them: name a key_header, or set bearer",
            );
        }
        match (self.accepts(Credential::Anonymous), &self.anonymous_plan) {
            (true, None) => wrong(
                "auth.anonymous_plan",
                "must name the plan that callers without a credential are on",
            ),
            (false, Some(_)) => wrong("auth.anonymous_plan", "has no use unless accept holds anonymous"),
            _ => Ok(()),
        }
    }

    fn check_query(&self) -> Result<(), PolicyError> {
        let Some(name) = &self.query else { return Ok(()) };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > QUERY_MOST || !name.bytes().all(plain) {
            let problem = format!("{name:?} must be 1 to {QUERY_MOST} letters, digits, _, - and .");
            return wrong("auth.query", problem);
        }
        if self.accepts(Credential::Key) {
            return Ok(());
        }
        wrong("auth.query", "has no use unless accept holds key")
    }
}

fn repeated<T: PartialEq>(all: &[T]) -> Option<&T> {
    all.iter()
        .enumerate()
        .find(|(i, x)| all[..*i].contains(x))
        .map(|(_, x)| x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let policy: AuthPolicy = serde_json::from_str(json).map_err(|e| e.to_string())?;
        policy.check().map_err(|e| e.to_string())
    }

    #[test]
    fn left_out_it_is_what_it_always_was() {
        assert!(serde_json::from_str::<AuthPolicy>("{}").unwrap().is_default());
        assert_eq!(check("{}"), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_field() {
        for (json, field) in [
            (r#"{"accept": []}"#, "auth.accept"),
            (r#"{"accept": ["key", "key"]}"#, "auth.accept"),
            (r#"{"key_headers": [], "bearer": false}"#, "auth.accept"),
            (r#"{"key_headers": ["X-Key"]}"#, "auth.key_headers"),
            (r#"{"key_headers": ["x_key"]}"#, "auth.key_headers"),
            (r#"{"key_headers": ["cookie"]}"#, "auth.key_headers"),
            (r#"{"key_headers": ["authorization"]}"#, "auth.key_headers"),
            (r#"{"key_headers": ["a", "b", "c", "d", "e", "f"]}"#, "auth.key_headers"),
            (r#"{"query": "a=b"}"#, "auth.query"),
            (r#"{"query": ""}"#, "auth.query"),
            (r#"{"accept": ["jwt"], "query": "key"}"#, "auth.query"),
            (r#"{"accept": ["anonymous"]}"#, "auth.anonymous_plan"),
            (r#"{"anonymous_plan": "free"}"#, "auth.anonymous_plan"),
            (r#"{"accept": ["password"]}"#, "none of key, jwt, basic, anonymous"),
            (r#"{"cookie": true}"#, "unknown field"),
        ] {
            let told = check(json).unwrap_err();
            assert!(told.contains(field), "{json}: {told}");
        }
        for json in [
            r#"{"accept": ["basic"], "key_headers": [], "bearer": false}"#,
            r#"{"accept": ["key", "anonymous"], "anonymous_plan": "free", "query": "api_key"}"#,
            r#"{"accept": ["key", "jwt", "basic"]}"#,
        ] {
            assert_eq!(check(json), Ok(()), "{json}");
        }
    }
}
