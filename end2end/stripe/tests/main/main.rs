//! The real async-stripe client, and plain requests, against a running emulator.

mod chain;
mod lifecycle;
mod proration;
mod refusals;
mod support;
mod webhooks;
