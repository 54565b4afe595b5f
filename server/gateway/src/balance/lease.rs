//! A request at its target.

use super::{Target, Unavailable};
use crate::route::Upstream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Counts a request as open at its target, until it is dropped, and takes what became of it.
#[derive(Debug)]
pub(crate) struct Lease {
    upstream: Arc<Upstream>,
    place: usize,
    /// Whether this is the request that tries a target that was left out, and its outcome is not known yet.
    probe: bool,
}

impl Lease {
    /// Chooses a target. `tried` has a bit for each that failed this request before.
    pub(crate) fn take(upstream: &Arc<Upstream>, canary: bool, tried: u128, now: Instant) -> Result<Self, Unavailable> {
        let (place, probe) = upstream.balance.choose(canary, tried, now)?;
        let lease = Self {
            upstream: Arc::clone(upstream),
            place,
            probe,
        };
        let target = lease.target();
        target.in_flight.fetch_add(1, Ordering::Relaxed);
        if tried == 0 {
            target.requests.fetch_add(1, Ordering::Relaxed);
        }
        Ok(lease)
    }

    /// The request is sent here after another target failed it.
    pub(crate) fn count_retry(&self) {
        let target = self.target();
        target.requests.fetch_add(1, Ordering::Relaxed);
        target.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The target.
    pub(crate) fn target(&self) -> &Target {
        &self.upstream.balance.members[self.place].target
    }
    /// Whose target it is.
    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }
    /// The target's place among those of its upstream.
    pub(crate) fn place(&self) -> usize {
        self.place
    }
    /// The target's bit.
    pub(crate) fn bit(&self) -> u128 {
        1 << self.place
    }

    /// The target answered with this status.
    pub(crate) fn answered(&mut self, status: u16) {
        let Some(trip) = &self.upstream.balance.trip else {
            return;
        };
        if trip.is_failure(status) {
            return self.failed();
        }
        let target = self.target();
        target.circuit.succeeded(trip, target.ms(Instant::now()), self.probe);
        self.probe = false;
    }

    /// The target failed.
    pub(crate) fn failed(&mut self) {
        let target = self.target();
        target.failures.fetch_add(1, Ordering::Relaxed);
        let balance = &self.upstream.balance;
        if let Some(trip) = &balance.trip {
            let now = Instant::now();
            if target.circuit.failed(trip, target.ms(now), self.probe) {
                balance.eject(self.place, now);
            }
        }
        self.probe = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let target = self.target();
        target.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probe {
            target.circuit.probe_gone();
        }
    }
}
