//! The provider's view of its consumers: the list, one of them, suspending and restoring, features given to it, and what it
//! has in place of its plan.

mod detail;
pub mod features;
mod list;
pub mod overrides;

pub use detail::{page, restore, suspend};
pub use list::page as list;

use crate::ui::{Tone, badge};
use leptos::prelude::*;
use model::access::SubscriptionStatus;

/// The state of a subscription, or of having none.
fn status_badge(status: Option<SubscriptionStatus>) -> impl IntoView + use<> {
    match status {
        None => badge(Tone::Plain, "no plan"),
        Some(SubscriptionStatus::Active) => badge(Tone::Good, "active"),
        Some(SubscriptionStatus::Incomplete) => badge(Tone::Warn, "first payment open"),
        Some(SubscriptionStatus::PastDue) => badge(Tone::Warn, "payment failed"),
        Some(SubscriptionStatus::Suspended) => badge(Tone::Bad, "suspended, unpaid"),
        Some(SubscriptionStatus::Cancelled) => badge(Tone::Plain, "cancelled"),
    }
}

/// `1,234,567`.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn groups_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(-1_234_567), "-1,234,567");
    }
}
