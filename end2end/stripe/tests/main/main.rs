//! The real async-stripe client, and plain requests, against a running emulator.
#![expect(clippy::unwrap_used, reason = "a test's helper that fails is the test failing")]

mod chain;
mod lifecycle;
mod proration;
mod refusals;
mod support;
mod webhooks;
