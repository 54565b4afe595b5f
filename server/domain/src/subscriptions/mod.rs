//! Subscriptions: a consumer's dated agreement to a plan version. At most one is in force.
//!
//! A free or complimentary one is ours alone and follows the calendar from its first day. A paid one is a mirror:
//! Stripe's object is the truth, [`sync`] copies it here, and only then do entitlements change.

mod begin;
mod current;

pub use begin::{grant_complimentary, start_free};
pub(crate) use current::of;
pub use current::{Subscription, current};
