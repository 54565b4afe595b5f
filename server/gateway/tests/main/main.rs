//! The gateway from outside: real sockets, a recording upstream, a control plane in memory.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clients;
mod durability;
mod framing;
mod kill;
mod limits;
mod pages;
mod refusals;
mod routing;
mod streams;
mod support;
mod upstreams;
