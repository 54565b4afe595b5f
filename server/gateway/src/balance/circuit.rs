//! A circuit breaker: closed while a target answers, open after failures, then half-open for one request that tries it.

use super::dice::Dice;
use super::window::{Counts, Window};
use model::policy::Breaker;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Most doublings of the time a target is left out.
const DOUBLINGS_MOST: u32 = 16;
/// Part of that time that is drawn by lot, in percent: targets that failed together are not tried together.
const JITTER_PERCENT: u64 = 20;
/// Longest wait for the outcome of the request that tries a target, in milliseconds; then another one may.
const PROBE_MOST_MS: u64 = 60_000;

/// When a circuit opens and for how long.
#[derive(Debug)]
pub(crate) struct Trip {
    consecutive: u32,
    percent: u64,
    min_requests: u64,
    window_ms: u64,
    open_ms: u64,
    max_open_ms: u64,
    /// Most targets left out at a time, in percent.
    pub(crate) ejected_percent: usize,
    statuses: Vec<u16>,
}

impl Trip {
    /// From a policy.
    pub(crate) fn compile(policy: &Breaker) -> Self {
        Self {
            consecutive: policy.consecutive_failures,
            percent: u64::from(policy.failure_percent),
            min_requests: u64::from(policy.min_requests),
            window_ms: u64::from(policy.window_ms),
            open_ms: u64::from(policy.open_ms),
            max_open_ms: u64::from(policy.max_open_ms),
            ejected_percent: usize::from(policy.max_ejected_percent),
            statuses: policy.statuses.clone(),
        }
    }

    /// Whether an answer with this status is a failure.
    pub(crate) fn is_failure(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }
}

/// What a circuit says about the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Closed,
    /// One request may try it.
    HalfOpen,
    /// Nothing goes through, for so many milliseconds.
    Open(u64),
}

/// The state of one target's breaker. Times are milliseconds of any clock that only goes on.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    consecutive: AtomicU32,
    window: Window,
    /// 0 while closed.
    open_until_ms: AtomicU64,
    /// Times it opened without closing in between.
    trips: AtomicU32,
    /// When the request that tries it began; 0 when there is none.
    probing_ms: AtomicU64,
    /// Whether it ever failed since it was last well: while not, an answer changes nothing.
    troubled: AtomicBool,
}

impl Circuit {
    /// What holds now.
    pub(crate) fn gate(&self, now_ms: u64) -> Gate {
        match self.open_until_ms.load(Ordering::Relaxed) {
            0 => Gate::Closed,
            until if now_ms < until => Gate::Open(until - now_ms),
            _ if self.is_probed(now_ms) => Gate::Open(1),
            _ => Gate::HalfOpen,
        }
    }

    fn is_probed(&self, now_ms: u64) -> bool {
        let since = self.probing_ms.load(Ordering::Relaxed);
        since > 0 && now_ms < since + PROBE_MOST_MS
    }

    /// Takes the right to try it; one caller gets it.
    pub(crate) fn probe(&self, now_ms: u64) -> bool {
        let since = self.probing_ms.load(Ordering::Relaxed);
        let free = since == 0 || now_ms >= since + PROBE_MOST_MS;
        let taken = self
            .probing_ms
            .compare_exchange(since, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed);
        free && taken.is_ok()
    }

    /// The request that tried it ended without an outcome.
    pub(crate) fn probe_gone(&self) {
        self.probing_ms.store(0, Ordering::Relaxed);
    }

    /// The target answered. `probe` is whether this was the request that tried it.
    pub(crate) fn succeeded(&self, trip: &Trip, now_ms: u64, probe: bool) {
        if probe {
            self.window.clear();
            self.trips.store(0, Ordering::Relaxed);
            self.open_until_ms.store(0, Ordering::Relaxed);
            self.probing_ms.store(0, Ordering::Relaxed);
        }
        if trip.percent > 0 {
            self.count(trip, now_ms, 0);
        }
        if self.troubled.load(Ordering::Relaxed) {
            self.troubled.store(false, Ordering::Relaxed);
            self.consecutive.store(0, Ordering::Relaxed);
        }
    }

    /// The target failed; whether it should be left out now.
    pub(crate) fn failed(&self, trip: &Trip, now_ms: u64, probe: bool) -> bool {
        self.troubled.store(true, Ordering::Relaxed);
        let row = self.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let counts = self.count(trip, now_ms, 1);
        let share = trip.percent > 0
            && counts.all >= trip.min_requests.max(1)
            && counts.marked * 100 >= counts.all * trip.percent;
        let closed = self.open_until_ms.load(Ordering::Relaxed) == 0;
        probe || (closed && (share || (trip.consecutive > 0 && row >= trip.consecutive)))
    }

    fn count(&self, trip: &Trip, now_ms: u64, failures: u64) -> Counts {
        let counts = self.window.update(now_ms, trip.window_ms, |c| {
            Some(Counts {
                all: c.all + 1,
                marked: c.marked + failures,
            })
        });
        counts.unwrap_or(Counts { all: 0, marked: 0 })
    }

    /// Leaves the target out: longer each time it opens again without having closed.
    pub(crate) fn open(&self, trip: &Trip, now_ms: u64, dice: &Dice) {
        let before = self.trips.fetch_add(1, Ordering::Relaxed);
        let grown = trip.open_ms.saturating_mul(1 << before.min(DOUBLINGS_MOST));
        let longest = grown.min(trip.max_open_ms).max(1);
        let drawn = dice.below(longest * JITTER_PERCENT / 100 + 1);
        let until = now_ms + (longest - drawn).max(1);
        self.open_until_ms.store(until, Ordering::Relaxed);
        self.probing_ms.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trip(policy: &Breaker) -> Trip {
        Trip::compile(policy)
    }

    #[test]
    fn it_opens_tries_and_waits_longer_each_time_up_to_a_bound() {
        let seed = 7;
        let (dice, circuit) = (Dice::new(seed), Circuit::default());
        let trip = trip(&Breaker {
            consecutive_failures: 2,
            open_ms: 1000,
            max_open_ms: 4000,
            ..Breaker::default()
        });
        assert!(!circuit.failed(&trip, 0, false));
        circuit.succeeded(&trip, 0, false);
        assert!(
            !circuit.failed(&trip, 0, false),
            "an answer between them starts the row anew"
        );
        assert!(circuit.failed(&trip, 0, false));
        let mut now = 10;
        for longest in [1000, 2000, 4000, 4000, 4000] {
            circuit.open(&trip, now, &dice);
            let Gate::Open(left) = circuit.gate(now) else {
                panic!("seed {seed}")
            };
            assert!(
                left <= longest && left >= longest * 8 / 10,
                "{left} of {longest}, seed {seed}"
            );
            now += left;
            assert_eq!(circuit.gate(now), Gate::HalfOpen);
            assert!(circuit.probe(now) && !circuit.probe(now), "one request tries it");
            assert!(matches!(circuit.gate(now), Gate::Open(_)), "and the others wait for it");
            assert!(circuit.failed(&trip, now, true));
        }
        circuit.open(&trip, now, &dice);
        now += 4000;
        assert!(circuit.probe(now));
        circuit.probe_gone();
        assert!(circuit.probe(now), "a try without an outcome is none");
        circuit.succeeded(&trip, now, true);
        assert_eq!(circuit.gate(now), Gate::Closed);
    }

    #[test]
    fn a_share_of_failures_counts_once_there_are_enough_requests() {
        let circuit = Circuit::default();
        let trip = trip(&Breaker {
            consecutive_failures: 0,
            failure_percent: 50,
            min_requests: 10,
            ..Breaker::default()
        });
        let opened: Vec<bool> = (0..12)
            .map(|i| {
                if i % 2 == 0 {
                    circuit.succeeded(&trip, 5, false);
                    false
                } else {
                    circuit.failed(&trip, 5, false)
                }
            })
            .collect();
        assert_eq!(opened.iter().position(|o| *o), Some(9), "{opened:?}");
    }
}
