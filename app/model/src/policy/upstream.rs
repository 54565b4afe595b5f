//! How an upstream is called.

use super::{PolicyError, wrong};
use serde::{Deserialize, Serialize};

/// Longest wait for a connection that makes sense: clients have long given up by then.
const CONNECT_MOST_MS: u32 = 60_000;

/// How an upstream is called.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamPolicy {
    /// Longest wait for a connection, in milliseconds; none leaves the gateway's own bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u32>,
}

impl UpstreamPolicy {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), PolicyError> {
        match self.connect_timeout_ms {
            Some(ms) if ms == 0 || ms > CONNECT_MOST_MS => {
                wrong("connect_timeout_ms", format!("must be 1 to {CONNECT_MOST_MS}"))
            }
            _ => Ok(()),
        }
    }
}
