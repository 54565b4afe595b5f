//! Headers that a route adds, sets and removes, of requests on their way to the upstream and of answers on their way
//! to the client.

use super::{PolicyError, is_header_name, wrong};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most edits of one direction: what a person can still oversee.
const MOST: usize = 50;
/// Longest value of a header, in bytes.
const VALUE_MOST_BYTES: usize = 4096;

/// What happens to the headers of a message, in this order: names are removed, set, added to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Names in lower case that do not pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// The only value a name has from here on, whatever was there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// One more value of a name, beside what was there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub(super) fn check(&self, field: &'static str) -> Result<(), PolicyError> {
        if self.remove.len() + self.set.len() + self.add.len() > MOST {
            return wrong(field, format!("at most {MOST} edits"));
        }
        for name in self.remove.iter().chain(self.set.keys()).chain(self.add.keys()) {
            if !is_header_name(name) {
                return wrong(field, format!("{name:?} is not a header's name in lower case"));
            }
            if is_ours(name) {
                let problem = format!("{name} frames the message or is the gateway's own to say: leave it out");
                return wrong(field, problem);
            }
        }
        for (name, value) in self.set.iter().chain(&self.add) {
            let visible = value.bytes().all(|b| (b' '..0x7f).contains(&b)) && value.trim() == value;
            if value.is_empty() || value.len() > VALUE_MOST_BYTES || !visible {
                let problem = format!("the value of {name} must be visible ASCII of 1 to {VALUE_MOST_BYTES} bytes");
                return wrong(field, problem);
            }
        }
        Ok(())
    }
}

/// Names that frame a message, say where it goes, or tell who calls: an edit of them would break what the gateway
/// promises to clients and upstreams.
fn is_ours(name: &str) -> bool {
    let name = name.replace('_', "-");
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "forwarded"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "ratelimit"
            | "ratelimit-policy"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-consumer-id"
            | "x-environment"
            | "x-features"
            | "x-identity-token"
            | "x-key-id"
            | "x-plan"
            | "x-request-id"
    ) || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gateway_says_cannot_be_edited() {
        for (json, good) in [
            (
                r#"{"remove": ["server"], "set": {"x-api": "atlas"}, "add": {"vary": "x-api"}}"#,
                true,
            ),
            (r#"{"remove": ["X-Api"]}"#, false),
            (r#"{"remove": ["x_consumer_id"]}"#, false),
            (r#"{"set": {"x-identity-token": "a"}}"#, false),
            (r#"{"set": {"transfer-encoding": "chunked"}}"#, false),
            (r#"{"add": {"x-forwarded-for": "1.2.3.4"}}"#, false),
            (r#"{"set": {"x-a": ""}}"#, false),
            (r#"{"set": {"x-a": "b\r\nx-c: d"}}"#, false),
            (r#"{"set": {"x-a": " b"}}"#, false),
        ] {
            let edits: HeaderEdits = serde_json::from_str(json).unwrap();
            assert_eq!(edits.check("request_headers").is_ok(), good, "{json}");
        }
    }
}
