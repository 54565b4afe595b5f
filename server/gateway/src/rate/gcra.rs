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
pub(crate) const SLACK_NS: u64 = NS_PER_S;

/// The last bit of an arrival time, where limits are shared: this gateway has let requests through by itself, so it is not
/// what was heard of the shared one.
const APART: u64 = 1;

/// What a gateway lets through by itself of a limit that it shares with others, for each share: 6 fifths. Traffic is never
/// spread evenly, and with less a limit would refuse what it should let pass.
const PART: (u128, u128) = (5, 6);

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

    /// Between two requests at the steady rate, in nanoseconds.
    pub(crate) fn every_ns(self) -> u64 {
        self.every_ns
    }

    /// The time that an empty burst takes to fill, in nanoseconds.
    pub(crate) fn most_ns(self) -> u64 {
        self.most_ns
    }

    /// The part of this limit that one of several gateways holds by itself: [`PART`] of its share, and never more than the
    /// limit. A request takes so much more of the same burst, so what an arrival time says goes on to hold.
    pub(crate) fn narrowed(self, gateways: u32) -> Self {
        let (of, part) = PART;
        let dearer = (u128::from(self.every_ns) * u128::from(gateways) * of).div_ceil(part);
        let every_ns = u64::try_from(dearer).unwrap_or(u64::MAX).clamp(self.every_ns, MOST_NS);
        Self {
            every_ns,
            // One at a time passes at every gateway, however many there are.
            most_ns: self.most_ns.max(every_ns),
        }
    }

    /// What it says when its arrival time is so far ahead.
    pub(crate) fn told(self, lead_ns: u64) -> Rate {
        let ahead = lead_ns.saturating_add(self.every_ns);
        let allowed = ahead <= self.most_ns;
        Rate {
            allowed,
            remaining: if allowed {
                (self.most_ns - ahead) / self.every_ns
            } else {
                0
            },
            wait_ns: if allowed { ahead } else { ahead - self.most_ns },
        }
    }

    /// Notes that the shared arrival time lay so far ahead at `now_ns`, or later. What was let through apart from the
    /// others is forgotten: the shared limit does not know it.
    pub(crate) fn learn(arrival: &AtomicU64, now_ns: u64, lead_ns: u64) {
        let heard = now_ns.saturating_add(lead_ns) & !APART;
        let later = |seen: u64| Some(if seen & APART == APART { heard } else { heard.max(seen) });
        // Nothing is refused above.
        let _ = arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Notes that this gateway lets requests through by itself.
    pub(crate) fn part_from_others(arrival: &AtomicU64) {
        // Never later, or the last request of a burst would not fit by a nanosecond. Nothing is refused here.
        let marked = |seen: u64| Some(seen.saturating_sub(APART) | APART);
        let _ = arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, marked);
    }

    /// What the shared limit would say now at best, as far as it was heard.
    pub(crate) fn peek_heard(self, arrival: &AtomicU64, now_ns: u64) -> Rate {
        match arrival.load(Ordering::Relaxed) & APART {
            APART => self.told(0),
            _ => self.peek(arrival, now_ns),
        }
    }

    /// What it says, and the arrival time after the request.
    fn judge(self, seen: u64, now_ns: u64) -> (Rate, u64) {
        let rate = self.told(seen.saturating_sub(now_ns));
        (rate, seen.max(now_ns).saturating_add(self.every_ns))
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

    #[test]
    fn what_is_heard_of_a_shared_limit_only_grows_and_replaces_what_was_let_through_apart() {
        const NOW: u64 = 1_000_000_000_000;
        let limit = Gcra::new(10, 10, 10);
        let arrival = AtomicU64::new(0);
        let left = |arrival: &AtomicU64| limit.peek_heard(arrival, NOW).remaining;
        Gcra::learn(&arrival, NOW, 4 * NS_PER_S);
        assert_eq!(left(&arrival), 5);
        Gcra::learn(&arrival, NOW, 3 * NS_PER_S);
        assert_eq!(left(&arrival), 5, "an answer that was overtaken");
        let part = limit.narrowed(5);
        assert_eq!(
            (0..5).filter(|_| part.take(&arrival, NOW).allowed).count(),
            1,
            "from where it was"
        );
        Gcra::part_from_others(&arrival);
        assert_eq!(left(&arrival), 9, "it may be whole by now");
        assert!(!part.take(&arrival, NOW).allowed);
        for requests in [7, 1_000] {
            let (limit, arrival) = (Gcra::new(requests, 1_000, 7), AtomicU64::new(0));
            let taken = (0..20).filter(|_| {
                let taken = limit.take(&arrival, NOW).allowed;
                Gcra::part_from_others(&arrival);
                taken
            });
            assert_eq!(taken.count(), 7, "marking costs no request");
        }
        Gcra::learn(&arrival, NOW, 2 * NS_PER_S);
        assert_eq!(left(&arrival), 7);
    }

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

        /// All gateways together let at most six fifths of the rate through, and each at least one request; alone, a
        /// gateway has the limit itself.
        #[test]
        fn parts_of_a_limit_are_together_a_fifth_more(
            requests in 1u32..100_000, window_s in 1u32..100_000, burst in 1u32..100_000, gateways in 1u32..1_000,
        ) {
            let limit = Gcra::new(requests, window_s, burst);
            let part = limit.narrowed(gateways);
            let share = |g: Gcra| f64::from(gateways) / (g.every_ns as f64);
            prop_assert!(share(part) <= 1.2 / (limit.every_ns as f64) * 1.000_001 || gateways == 1);
            prop_assert!(part.every_ns >= limit.every_ns);
            prop_assert_eq!(limit.narrowed(1), limit);
            let arrival = AtomicU64::new(0);
            let at_once = (0..burst.min(1_000)).filter(|_| part.take(&arrival, 1_000_000_000_000).allowed).count();
            let most = (u64::from(burst) * 6).div_ceil(u64::from(gateways) * 5).max(1);
            prop_assert!(at_once >= 1 && u64::try_from(at_once).unwrap() <= most);
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
