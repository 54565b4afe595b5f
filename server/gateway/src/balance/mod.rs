//! Which of an upstream's targets gets a request, and which get none for a while.
//!
//! A `target` is one address of an upstream with what is known of it; it stays the same through new routing tables while
//! its address and its transport do. `choice` picks the one with the fewest open requests for its weight among those
//! that can take any, and hands out a `lease` that counts the request as open and takes its outcome. `circuit` leaves
//! out targets that fail, `watch` asks each target whether it is well and looks names up again. `budget` bounds retries.
//!
//! Everything here is atomics that requests of all worker threads share; an upstream with one target and no breaker
//! costs a request two of them.

mod budget;
mod choice;
mod circuit;
mod dice;
mod lease;
mod metrics;
mod names;
mod target;
mod watch;
mod window;

pub(crate) use budget::Retry;
pub(crate) use choice::{Balance, CanaryRule, Member, Memory, Unavailable};
pub(crate) use circuit::{Circuit, Gate, Trip};
pub(crate) use lease::Lease;
pub(crate) use metrics::render;
pub(crate) use names::Addresses;
pub(crate) use target::{Identity, Target};
pub(crate) use watch::run as watch;
