//! What would become of a request, phase by phase, without sending it and without taking a place in any limit.
//!
//! The decisions are those of the request path itself; this asks each of them in turn and goes on behind a refusal as far
//! as that makes sense. Nothing secret is said: no key, no token, and of headers that a route sets the names alone.

mod admission;
mod ask;
mod forwarding;
mod notes;
mod offline;

pub(crate) use ask::{Knowledge, explain};
pub use offline::explain_snapshot;

use model::KeyId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A request over HTTP/1.1 that is asked about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `GET`.
    pub method: String,
    /// With or without scheme and host.
    pub url: String,
    /// Names and values, as the caller would send them; `Content-Length` says how long its body is.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The id of the key it would be sent with; none for a caller without a credential.
    #[serde(default)]
    pub key: Option<KeyId>,
    /// Where it would come from; loopback where nothing is said.
    #[serde(default)]
    pub client: Option<IpAddr>,
}

/// What one decision says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The request goes on.
    Passes,
    /// The request is refused.
    Refuses,
    /// What will be done, or what was looked at.
    Says,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `route`, `authenticate`, `admit`, `forward` or `record`.
    pub phase: String,
    /// What was looked at.
    pub about: String,
    /// What came of it.
    pub verdict: Verdict,
    /// In words.
    pub detail: String,
}

/// All decisions, and what comes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// In the order in which they are made.
    pub decisions: Vec<Decision>,
    /// The slug of the first refusal; none when the request would be forwarded, or answered by the gateway itself.
    pub refusal: Option<String>,
    /// The status of that refusal, or of the gateway's own answer (to a page that asks whether it may call, to whoever asks
    /// for the price); none when the request would be forwarded.
    pub status: Option<u16>,
    /// Whether limits are as they are in a running gateway.
    pub live: bool,
}
