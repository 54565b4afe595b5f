//! The generic cell rate algorithm (ITU-T I.371): one instant, the theoretical arrival time, is all there is to keep.
//!
//! An arrival time that is past says as much as none at all: the whole burst is there.

use model::catalogue::RateLimit;
use model::policy::RateRule;
use std::sync::atomic::{AtomicU64, Ordering};

const NS_PER_S: u64 = 1_000_000_000;
/// Longest time that a full burst may stand for: a century, so that no sum of instants leaves 64 bits.
const MOST_NS: u64 = 100 * 366 * 86_400 * NS_PER_S;

/// How far beyond a full burst an arrival time may lie because a thread read the clock some time ago.
const SLACK_NS: u64 = NS_PER_S;

/// A rate: in any stretch of time `t` at most `burst + t / every` requests pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gcra {
    /// Between two requests at the steady rate; rounded up, so that the rate is never passed.
    every_ns: u64,
    /// The burst, as the time it takes to fill again.
    most_ns: u64,
}

/// What a limit says to one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) allowed: bool,
    /// Requests that would be let through after this one, at once.
    pub(crate) remaining: u64,
    /// Nanoseconds until the next request is let through (refused), or until the burst is whole again (allowed).
    pub(crate) wait_ns: u64,
}

impl Rate {
    /// The wait in whole seconds, rounded up.
    pub(crate) fn seconds(self) -> u64 {
        self.wait_ns.div_ceil(NS_PER_S)
    }
}

impl From<RateLimit> for Gcra {
    fn from(limit: RateLimit) -> Self {
        Self::new(limit.per_second, 1, limit.burst)
    }
}

impl From<&RateRule> for Gcra {
    fn from(rule: &RateRule) -> Self {
        Self::new(rule.requests, rule.per.seconds(), rule.burst())
    }
}

impl Gcra {
    /// `requests` in each window of `window_s` seconds on average, `burst` at once; 0 is read as 1.
    pub(crate) fn new(requests: u32, window_s: u32, burst: u32) -> Self {
        let window = u64::from(window_s.max(1)) * NS_PER_S;
        let every_ns = window.div_ceil(u64::from(requests.max(1)));
        Self {
            every_ns,
            most_ns: every_ns.saturating_mul(u64::from(burst.max(1))).min(MOST_NS),
        }
    }

    /// Seconds that an empty burst takes to fill, rounded up.
    pub(crate) fn fill_s(self) -> u64 {
        self.most_ns.div_ceil(NS_PER_S)
    }

    /// What it says, and the arrival time after the request.
    fn judge(self, seen: u64, now_ns: u64) -> (Rate, u64) {
        let next = seen.max(now_ns).saturating_add(self.every_ns);
        let ahead = next - now_ns;
        let allowed = ahead <= self.most_ns;
        let rate = Rate {
            allowed,
            remaining: if allowed {
                (self.most_ns - ahead) / self.every_ns
            } else {
                0
            },
            wait_ns: if allowed { ahead } else { ahead - self.most_ns },
        };
        (rate, next)
    }

    /// The arrival time. One that lies further ahead than a full burst was left by a wider limit of the same name, or
    /// by a clock that was put back since: nobody pays for that with a longer wait than this limit can cause.
    fn seen(self, arrival: &AtomicU64, now_ns: u64) -> u64 {
        let seen = arrival.load(Ordering::Relaxed);
        let most = now_ns.saturating_add(self.most_ns);
        if seen <= most.saturating_add(SLACK_NS) {
            return seen;
        }
        arrival.fetch_min(most, Ordering::Relaxed).min(most)
    }

    /// What it would say now. Takes nothing.
    pub(crate) fn peek(self, arrival: &AtomicU64, now_ns: u64) -> Rate {
        self.judge(self.seen(arrival, now_ns), now_ns).0
    }

    /// Takes a request's place, when there is one. `now_ns` is steady time in nanoseconds.
    pub(crate) fn take(self, arrival: &AtomicU64, now_ns: u64) -> Rate {
        let mut seen = self.seen(arrival, now_ns);
        loop {
            let (rate, next) = self.judge(seen, now_ns);
            if !rate.allowed {
                return rate;
            }
            match arrival.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return rate,
                Err(other) => seen = other,
            }
        }
    }

    /// What is left when a request that this limit lets pass is not taken after all.
    pub(crate) fn without(self, rate: Rate) -> Rate {
        Rate {
            remaining: rate.remaining + 1,
            wait_ns: rate.wait_ns.saturating_sub(self.every_ns),
            ..rate
        }
    }

    /// Gives back what was taken a moment ago.
    pub(crate) fn give_back(self, arrival: &AtomicU64) {
        arrival.fetch_sub(self.every_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: a request passes when the bucket, drained at a steady rate, has room for one more.
        #[test]
        fn it_agrees_with_a_leaking_bucket(
            requests in 1u32..2_000, window_s in 1u32..100, burst in 1u32..50,
            gaps in proptest::collection::vec(0u64..20_000_000, 1..300),
        ) {
            let limit = Gcra::new(requests, window_s, burst);
            let every = u128::from((u64::from(window_s) * NS_PER_S).div_ceil(u64::from(requests)));
            let arrival = AtomicU64::new(0);
            let (mut now, mut level, mut before) = (1_000_000_000_000u64, 0u128, 1_000_000_000_000u64);
            for gap in gaps {
                now += gap;
                level = level.saturating_sub(u128::from(now - before));
                before = now;
                let fits = level + every <= every * u128::from(burst);
                if fits {
                    level += every;
                }
                prop_assert_eq!(limit.peek(&arrival, now).allowed, fits);
                let got = limit.take(&arrival, now);
                prop_assert_eq!(got.allowed, fits);
                if fits {
                    prop_assert_eq!(u128::from(got.remaining), (every * u128::from(burst) - level) / every);
                } else {
                    prop_assert!(limit.peek(&arrival, now + got.wait_ns).allowed);
                    prop_assert!(!limit.peek(&arrival, now + got.wait_ns - 1).allowed);
                }
            }
        }

        /// Whatever was kept, by whatever other limit or clock: the wait is at most what this limit itself can cause.
        #[test]
        fn no_wait_is_longer_than_the_limit_can_cause(
            requests in 1u32..u32::MAX, window_s in 1u32..100_000, burst in 1u32..u32::MAX,
            arrival in any::<u64>(), now in 0u64..u64::MAX / 4,
        ) {
            let limit = Gcra::new(requests, window_s, burst);
            let got = limit.take(&AtomicU64::new(arrival), now);
            prop_assert!(got.wait_ns <= limit.most_ns.max(limit.every_ns) + SLACK_NS);
        }
    }
}
