//! The portal over HTTP, as a browser meets it, with a database and without a network.
#![expect(clippy::unwrap_used, reason = "test code: a failed step ends the test")]
#![recursion_limit = "256"]

mod accounts;
mod browser;
mod forms;
mod headers;
mod invoices;
mod overrides;
