//! Which answers of a route the gateway keeps and gives again (RFC 9111).

use super::{PolicyError, is_header_name, wrong};
use serde::{Deserialize, Serialize};

/// Largest answer that may be kept, in bytes: a part of the gateway's memory for answers, so that one does not push out
/// all others.
const OBJECT_MOST: u32 = 4 << 20;
/// Longest time an answer counts as fresh that says nothing about it: a day.
const DEFAULT_TTL_MOST_S: u32 = 86_400;
/// Most headers that shared answers may differ by.
const HEADERS_MOST: usize = 16;
/// What says who the caller is, or what the gateway says itself: answers for several callers cannot differ by it.
const NOT_SHARED: [&str; 8] = [
    "authorization",
    "cookie",
    "host",
    "range",
    "x-api-key",
    "x-consumer-id",
    "x-key-id",
    "x-forwarded-for",
];

/// Answers to GET and HEAD are kept as the upstream's `Cache-Control`, `Expires` and `Vary` say.
///
/// An answer is kept for those who share it, and what tells them apart does not reach the upstream: it cannot answer
/// one of them with what is meant for another.
///
/// | `shared_by` | kept for | the upstream is not told |
/// | --- | --- | --- |
/// | `key` | the key alone | |
/// | `consumer` (the default) | all keys of a consumer | `X-Key-Id` |
/// | `plan` | all consumers with that plan and those features | that, `X-Consumer-Id`, `X-Forwarded-For` |
/// | `everyone` | all consumers | that, `X-Plan`, `X-Features` |
///
/// With `plan` and `everyone`, of what the client itself says only `Accept`, `Accept-Encoding`, `Accept-Language` and
/// `headers` reach the upstream, and an answer is given only to requests in which they are the same. So it is for callers
/// without a credential, whatever `shared_by` says: with `key` and `consumer` those share who have an address in common,
/// and they may be strangers to each other. Live and test never share, nor do callers for whom a gate leaves out other
/// fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CachePolicy {
    /// Who is given the same answer.
    #[serde(skip_serializing_if = "SharedBy::is_default")]
    pub shared_by: SharedBy,
    /// How long an answer counts as fresh that does not say it itself, in seconds; none means that it is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_ttl_s: Option<u32>,
    /// Largest body that is kept, in bytes.
    #[serde(skip_serializing_if = "ObjectBytes::is_default")]
    pub max_object_bytes: ObjectBytes,
    /// Further request headers by which shared answers may differ, in lower case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// Who is given the same answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedBy {
    /// Requests with one key.
    Key,
    /// Requests of one consumer; of callers without a credential, those from one address.
    #[default]
    Consumer,
    /// Consumers whose plan and features are the same.
    Plan,
    /// All consumers.
    Everyone,
}

impl SharedBy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether several consumers share.
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Plan | Self::Everyone)
    }
}

/// Bytes of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectBytes(pub u32);

impl Default for ObjectBytes {
    /// 1 MiB.
    fn default() -> Self {
        Self(1 << 20)
    }
}

impl ObjectBytes {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl CachePolicy {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.default_ttl_s.is_some_and(|s| s == 0 || s > DEFAULT_TTL_MOST_S) {
            let problem =
                format!("must be 1 to {DEFAULT_TTL_MOST_S} seconds; leave it out to keep only what says how long");
            return wrong("cache.default_ttl_s", problem);
        }
        if self.max_object_bytes.0 == 0 || self.max_object_bytes.0 > OBJECT_MOST {
            return wrong("cache.max_object_bytes", format!("must be 1 to {OBJECT_MOST}"));
        }
        if self.headers.len() > HEADERS_MOST {
            return wrong("cache.headers", format!("at most {HEADERS_MOST}"));
        }
        if !self.headers.is_empty() && !self.shared_by.is_shared() {
            let problem = "all headers reach the upstream unless shared_by is \"plan\" or \"everyone\"; leave them out";
            return wrong("cache.headers", problem);
        }
        for name in &self.headers {
            if !is_header_name(name) {
                return wrong(
                    "cache.headers",
                    format!("{name:?} is not a header's name in lower case"),
                );
            }
            if NOT_SHARED.contains(&name.as_str()) || name.starts_with("if-") || name.starts_with("x-forwarded-") {
                return wrong(
                    "cache.headers",
                    format!("answers cannot be shared by {name}: remove it"),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(toml: &str) -> Result<CachePolicy, String> {
        let policy: CachePolicy = toml::from_str(toml).map_err(|e| e.message().to_owned())?;
        policy.check().map_err(|e| e.to_string())?;
        Ok(policy)
    }

    #[test]
    fn nothing_said_keeps_answers_for_one_consumer_and_only_what_asks_for_it() {
        let plain = checked("").unwrap();
        assert_eq!((plain.shared_by, plain.default_ttl_s), (SharedBy::Consumer, None));
        assert_eq!(serde_json::to_string(&plain).unwrap(), "{}");
    }

    #[test]
    fn errors_say_what_to_do() {
        for (toml, said) in [
            ("default_ttl_s = 0", "1 to 86400"),
            ("max_object_bytes = 5000000", "1 to 4194304"),
            ("headers = [\"x-tenant\"]", "shared_by"),
            ("shared_by = \"plan\"\nheaders = [\"Cookie\"]", "lower case"),
            ("shared_by = \"plan\"\nheaders = [\"cookie\"]", "remove it"),
            ("shared_by = \"everybody\"", "unknown variant"),
            ("ttl = 5", "unknown field"),
        ] {
            let problem = checked(toml).unwrap_err();
            assert!(problem.contains(said), "{toml}: {problem}");
        }
        assert!(checked("shared_by = \"everyone\"\nheaders = [\"x-tenant\"]\ndefault_ttl_s = 60").is_ok());
    }
}
