//! The words and the pure rules of Turnpike: ids, money, time, the catalogue, prices, and what the gateway is told.
//!
//! Nothing here does I/O, so the price calculator in the browser, the gateway's spend cap and the invoice on the
//! server are the same functions. Everything that reads a clock or draws a random number takes it as a parameter.

pub mod access;
pub mod catalogue;
pub mod feature;
pub mod id;
pub mod issuer;
pub mod key;
pub mod key_part;
pub mod lease;
mod method;
pub mod money;
pub mod overrides;
pub mod policy;
pub mod price;
pub mod quota;
pub mod snapshot;
pub mod time;
pub mod usage;

pub use id::*;
pub use money::{Currency, Money};
pub use time::{Clock, Period, Reading, SKEW_MOST_MS, Time};

/// A source of random bytes, injected so that tests are repeatable.
pub trait Random: Send + Sync {
    /// Fills `bytes` with randomness fit for secrets.
    fn fill(&self, bytes: &mut [u8]);
}
