//! One address of an upstream, with what is known of it.

use super::{Addresses, Circuit};
use crate::upstream::TlsClient;
use model::policy::{Protocol, ServiceUrl};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// What makes a target the same in the next routing table: its connections and what is known of it stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) upstream: u16,
    pub(crate) canary: bool,
    pub(crate) url: ServiceUrl,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<Arc<TlsClient>>,
}

/// One address of an upstream. On cache lines of its own: every request changes it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Target {
    /// Open requests.
    pub(crate) in_flight: AtomicU32,
    /// Its number in this process, by which workers keep its connections.
    pub(crate) id: u64,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Requests that another target failed before.
    pub(crate) retries: AtomicU64,
    /// Times it was left out.
    pub(crate) ejections: AtomicU64,
    /// Bytes of WebSockets towards it, and back.
    pub(crate) tunnel_bytes_up: AtomicU64,
    pub(crate) tunnel_bytes_down: AtomicU64,
    pub(crate) circuit: Circuit,
    /// What the checks say.
    pub(crate) healthy: AtomicBool,
    pub(crate) identity: Identity,
    pub(crate) addresses: Addresses,
    made: Instant,
}

impl Target {
    /// A target nothing is known of yet: it counts as well.
    pub(crate) fn new(identity: Identity) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            in_flight: AtomicU32::new(0),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            tunnel_bytes_up: AtomicU64::new(0),
            tunnel_bytes_down: AtomicU64::new(0),
            circuit: Circuit::default(),
            healthy: AtomicBool::new(true),
            addresses: Addresses::new(&identity.url.host, identity.url.port),
            identity,
            made: Instant::now(),
        }
    }

    /// The circuit's time.
    pub(crate) fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_millis()).unwrap_or(u64::MAX / 2)
    }
}
