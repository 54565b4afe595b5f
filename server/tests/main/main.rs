//! The program from outside: the binary as an operator runs it, and the portal's whole table of addresses.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod bad_input;
mod cli;
mod counts;
mod crash;
mod explain;
mod kept;
mod matrix;
mod methods;
mod outage;
mod overrides;
mod partition;
mod portal;
#[path = "../../gateway/tests/main/redis_server.rs"]
#[expect(dead_code, reason = "not every test needs all of it")]
mod redis_server;
mod refusals;
mod restart;
mod revoke;
mod support;
