//! The gateway from outside: real sockets, a recording upstream, a control plane in memory.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod answers;
mod clients;
mod concurrency;
mod crossing;
mod differential;
mod durability;
mod exhaustion;
mod faults;
mod fields;
mod framing;
mod gates;
mod health;
mod hostile_upstream;
mod http2_abuse;
mod http2_upstream;
mod kill;
mod limits;
mod overload;
mod pages;
mod process;
mod rates;
mod recorder;
mod refusals;
mod routing;
mod scripted;
mod smuggling;
mod streams;
mod strict;
mod stub;
mod support;
mod targets;
mod tls;
mod upstreams;
mod websocket;
