//! What the control page can set: faults, webhook mischief, the end of dunning.

use serde::{Deserialize, Serialize};

/// A fault for coming API requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// `status` answers `status`, `slow` waits `delay_ms` first, `drop_after_commit` does the work and hangs up.
    pub kind: String,
    /// The HTTP status of a `status` fault: 429, 500 or another.
    #[serde(default)]
    pub status: u16,
    /// How many requests it meets.
    #[serde(default = "one")]
    pub count: u32,
    /// How long a `slow` fault waits, in milliseconds of real time.
    #[serde(default)]
    pub delay_ms: u64,
}

fn one() -> u32 {
    1
}

/// What to do to webhook deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mischief {
    /// Send every event twice.
    pub duplicate: bool,
    /// Send each batch backwards.
    pub reorder: bool,
    /// Wait this long before each delivery, in milliseconds of real time.
    pub delay_ms: u64,
    /// Lose every delivery: none is sent, none is retried, the events stay undelivered.
    pub drop: bool,
}

/// What becomes of a subscription when the last retry of a payment fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterRetries {
    /// The subscription becomes `unpaid`; later invoices stay drafts.
    #[default]
    Unpaid,
    /// The subscription is canceled.
    Canceled,
    /// The subscription stays `past_due`.
    PastDue,
}

/// Everything that the control page can set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Faults still to come, oldest first.
    pub faults: Vec<Fault>,
    /// The decline code of the next charge; `authentication_required` asks for 3-D Secure.
    pub fail_next_charge: Option<String>,
    /// What happens to deliveries.
    pub webhooks: Mischief,
    /// The end of dunning.
    pub after_retries: AfterRetries,
    /// Real milliseconds to wait after a step of the clock that drafted an invoice, so that the receiver can report usage.
    pub pause_ms: u64,
}
