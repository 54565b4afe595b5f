//! Repeats of a request that get the first one's answer (draft-ietf-httpapi-idempotency-key-header-07).

use super::{PolicyError, wrong};
use serde::{Deserialize, Serialize};

/// Longest time an answer is kept, in seconds: a week.
const KEEP_MOST_S: u32 = 7 * 86_400;
/// Largest body that may be kept, in bytes.
const ANSWER_MOST: u32 = 1 << 20;

/// Requests with an `Idempotency-Key` are done once; a repeat gets the first answer and is not billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idempotency {
    /// Whether POST and PATCH without a key are refused.
    pub required: bool,
    /// How long an answer is kept, in seconds.
    pub keep_s: u32,
    /// Largest body of an answer that is kept, in bytes; a repeat of what had a larger one is refused.
    pub max_answer_bytes: u32,
    /// Whether failures of the upstream (500 and above, except 503) are kept, too. Left out, a repeat is done anew:
    /// right for upstreams that undo what failed.
    pub keep_failures: bool,
}

impl Default for Idempotency {
    fn default() -> Self {
        Self {
            required: false,
            keep_s: 86_400,
            max_answer_bytes: 64 << 10,
            keep_failures: false,
        }
    }
}

impl Idempotency {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.keep_s == 0 || self.keep_s > KEEP_MOST_S {
            return wrong("idempotency.keep_s", format!("must be 1 to {KEEP_MOST_S} seconds"));
        }
        if self.max_answer_bytes == 0 || self.max_answer_bytes > ANSWER_MOST {
            return wrong("idempotency.max_answer_bytes", format!("must be 1 to {ANSWER_MOST}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_unless_something_else_is_said_and_never_for_ever() {
        let plain: Idempotency = toml::from_str("").unwrap();
        assert_eq!((plain.required, plain.keep_s), (false, 86_400));
        for (toml, field) in [
            ("keep_s = 0", "keep_s"),
            ("keep_s = 604801", "keep_s"),
            ("max_answer_bytes = 0", "max_answer_bytes"),
            ("max_answer_bytes = 1048577", "max_answer_bytes"),
        ] {
            let policy: Idempotency = toml::from_str(toml).unwrap();
            assert!(policy.check().unwrap_err().to_string().contains(field), "{toml}");
        }
    }
}
