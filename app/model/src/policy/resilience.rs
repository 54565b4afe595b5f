//! What happens when a target of an upstream fails.

use super::{PolicyError, wrong};
use serde::{Deserialize, Serialize};

/// Most attempts for one request: more multiply load where it hurts.
const ATTEMPTS_MOST: u8 = 5;
/// Longest time a target is left out, in milliseconds: an hour.
const OPEN_MOST_MS: u32 = 3_600_000;
/// Shortest and longest time between two checks of a target, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=3_600_000;

/// When a request is sent to another target. Only an idempotent one without a body is, or one of which no byte was sent,
/// and never after the client got a byte of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Most attempts for a request, the first included: 1 to 5. 1 means no retries.
    pub attempts: u8,
    /// Answers that are tried elsewhere, such as 503; none unless they are listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// Most retries, in percent of the requests of the last seconds.
    pub budget_percent: u8,
    /// Retries a second that are always allowed, however few requests there are.
    pub budget_min_per_second: u16,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            statuses: Vec::new(),
            budget_percent: 10,
            budget_min_per_second: 3,
        }
    }
}

impl Retries {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if !(1..=ATTEMPTS_MOST).contains(&self.attempts) {
            return wrong("retries.attempts", format!("must be 1 to {ATTEMPTS_MOST}"));
        }
        if self.budget_percent > 100 {
            return wrong("retries.budget_percent", "must be 0 to 100");
        }
        check_failures("retries.statuses", &self.statuses)
    }
}

fn check_failures(field: &'static str, statuses: &[u16]) -> Result<(), PolicyError> {
    if statuses.iter().all(|s| (500..=599).contains(s)) {
        return Ok(());
    }
    wrong(field, "must be statuses from 500 to 599")
}

/// When a target that failed gets no requests for a while. A broken or refused connection, an answer that is none, a
/// first byte that does not come in time and the `statuses` are failures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// So many failures in a row leave it out; 0 never does.
    pub consecutive_failures: u32,
    /// Such a share of failures within the window leaves it out, in percent; 0 never does.
    pub failure_percent: u8,
    /// Requests in a window below which its share says nothing.
    pub min_requests: u32,
    /// Length of the window, in milliseconds.
    pub window_ms: u32,
    /// How long it is left out the first time, in milliseconds. Then one request tries it; each failure of that doubles
    /// the time.
    pub open_ms: u32,
    /// Longest time it is left out, in milliseconds.
    pub max_open_ms: u32,
    /// At most this share of the targets is left out at a time, in percent, but at least one. Only 100 lets the last one
    /// go. An upstream with a single target is always cut off whole.
    pub max_ejected_percent: u8,
    /// Statuses that are failures of the target.
    pub statuses: Vec<u16>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_percent: 0,
            min_requests: 20,
            window_ms: 10_000,
            open_ms: 5_000,
            max_open_ms: 60_000,
            max_ejected_percent: 50,
            statuses: vec![502, 503, 504],
        }
    }
}

impl Breaker {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.failure_percent > 100 {
            return wrong("breaker.failure_percent", "must be 0 to 100");
        }
        if self.max_ejected_percent > 100 {
            return wrong("breaker.max_ejected_percent", "must be 0 to 100");
        }
        if self.window_ms == 0 || self.window_ms > OPEN_MOST_MS {
            return wrong("breaker.window_ms", format!("must be 1 to {OPEN_MOST_MS}"));
        }
        if self.open_ms == 0 || self.open_ms > self.max_open_ms || self.max_open_ms > OPEN_MOST_MS {
            return wrong(
                "breaker.open_ms",
                format!("must be 1 to max_open_ms, and that at most {OPEN_MOST_MS}"),
            );
        }
        check_failures("breaker.statuses", &self.statuses)
    }
}

/// Questions asked to each target from time to time, whose answers say whether it gets requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is asked for with GET: a path, with a query or without.
    pub path: String,
    /// Time between two checks, in milliseconds.
    #[serde(default = "interval_ms")]
    pub interval_ms: u32,
    /// Longest wait for the answer, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u32,
    /// So many good answers in a row bring a target back.
    #[serde(default = "two")]
    pub healthy_after: u16,
    /// So many bad ones in a row take it out.
    #[serde(default = "three")]
    pub unhealthy_after: u16,
    /// Answers that are good; none means every 2xx.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
}

fn interval_ms() -> u32 {
    5_000
}
fn timeout_ms() -> u32 {
    2_000
}
fn two() -> u16 {
    2
}
fn three() -> u16 {
    3
}

impl Health {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        let plain = |b: u8| (b'!'..0x7f).contains(&b) && b != b'#';
        if !self.path.starts_with('/') || self.path.len() > 512 || !self.path.bytes().all(plain) {
            return wrong("health.path", "must begin with / and hold visible ASCII alone");
        }
        if !INTERVAL_MS.contains(&self.interval_ms) {
            let (least, most) = (INTERVAL_MS.start(), INTERVAL_MS.end());
            return wrong("health.interval_ms", format!("must be {least} to {most}"));
        }
        if self.timeout_ms == 0 || self.timeout_ms > *INTERVAL_MS.end() {
            return wrong("health.timeout_ms", format!("must be 1 to {}", INTERVAL_MS.end()));
        }
        if self.healthy_after == 0 || self.unhealthy_after == 0 {
            return wrong("health", "healthy_after and unhealthy_after must be at least 1");
        }
        if self.statuses.iter().any(|s| !(200..=599).contains(s)) {
            return wrong("health.statuses", "must be statuses from 200 to 599");
        }
        Ok(())
    }
}
