//! The domain's rules against a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "test code: a failed step ends the test")]

mod accounts;
mod billing;
mod emulated;
mod usage;
mod world;
