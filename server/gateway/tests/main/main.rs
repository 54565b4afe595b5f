//! The gateway from outside: real sockets, a recording upstream, a control plane in memory.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod refusals;
mod support;
