//! What the gateway knows of a consumer in one environment: terms, counters, the rate limiter's state.
//!
//! Terms are replaced whole; the counters behind them are carried over as long as the period's start stays the same,
//! so a change of plan never resets what is used, and an admitted request gives its units back to where it took them.

use crate::headers;
use arc_swap::ArcSwap;
use http::HeaderValue;
use model::access::{Environment, Suspension};
use model::catalogue::{MeterTerms, RateLimit};
use model::snapshot::{Entitlement, MeterEntitlement};
use model::{ConsumerId, Currency, Period, PlanVersionId, SubscriptionId, Time, price};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const NS_PER_S: u64 = 1_000_000_000;

/// A consumer in one environment.
pub(crate) struct Account {
    pub(crate) consumer: ConsumerId,
    pub(crate) environment: Environment,
    /// `X-Consumer-Id`.
    pub(crate) header: HeaderValue,
    /// GCRA: the theoretical arrival time of the next request, in nanoseconds since 1970.
    arrival: AtomicU64,
    terms: ArcSwap<Terms>,
    /// Held for a change of terms, and where a spend cap spans several priced meters.
    change: Mutex<()>,
}

/// What many consumers have in common.
#[derive(Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) plan: String,
    pub(crate) features: Vec<String>,
    pub(crate) rate: RateLimit,
    pub(crate) currency: Currency,
    pub(crate) meters: Vec<(u16, MeterTerms)>,
    /// `X-Plan` and `X-Features`.
    pub(crate) plan_header: HeaderValue,
    pub(crate) features_header: HeaderValue,
    /// `RateLimit-Policy` where a meter has no ceiling of its own.
    pub(crate) policy: HeaderValue,
}

/// What holds for a consumer from one change to the next.
pub(crate) struct Terms {
    pub(crate) profile: Arc<Profile>,
    pub(crate) suspended: Option<Suspension>,
    pub(crate) subscription: Option<SubscriptionId>,
    pub(crate) plan_version: Option<PlanVersionId>,
    pub(crate) period: Period,
    pub(crate) spend_cap_minor: Option<i64>,
    pub(crate) limits: Vec<Limit>,
    /// More than one priced meter under a cap: the cost is summed at every admission.
    summed: bool,
}

/// The ceiling and the counter of a meter.
pub(crate) struct Limit {
    pub(crate) meter: u16,
    /// Hard quota, in units.
    pub(crate) quota: Option<u64>,
    /// Units that fit under the spend cap, where this is the only priced meter.
    pub(crate) within_cap: Option<u64>,
    /// `RateLimit-Policy` on this meter's routes.
    pub(crate) policy: HeaderValue,
    pub(crate) slot: Arc<Slot>,
}

impl Limit {
    /// The first ceiling that is reached, in units.
    pub(crate) fn ceiling(&self) -> Option<u64> {
        match (self.quota, self.within_cap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// Units of a meter in a period.
#[derive(Default)]
pub(crate) struct Slot {
    /// Recorded and in flight.
    taken: AtomicU64,
    /// As the ledger has it; changed only in the instant a record is written.
    pub(crate) recorded: AtomicU64,
}

/// Why units were not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Quota,
    Cap,
}

impl Slot {
    fn starting_at(units: u64) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU64::new(units),
            recorded: AtomicU64::new(units),
        })
    }
    /// Units recorded and in flight.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
    /// Gives units back.
    pub(crate) fn release(&self, units: u64) {
        self.taken.fetch_sub(units, Ordering::Relaxed);
    }

    fn take(&self, units: u64, limit: &Limit) -> Result<u64, Over> {
        let mut now = self.taken.load(Ordering::Relaxed);
        loop {
            let then = now.saturating_add(units);
            if units > 0 && limit.quota.is_some_and(|q| then > q) {
                return Err(Over::Quota);
            }
            if units > 0 && limit.within_cap.is_some_and(|c| then > c) {
                return Err(Over::Cap);
            }
            match self
                .taken
                .compare_exchange_weak(now, then, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(then),
                Err(other) => now = other,
            }
        }
    }

    /// Another count of the same units is ahead of ours: follow it.
    fn catch_up(&self, units: u64) {
        let ahead = units.saturating_sub(self.recorded.load(Ordering::Relaxed));
        if ahead > 0 {
            self.recorded.fetch_add(ahead, Ordering::Relaxed);
            self.taken.fetch_add(ahead, Ordering::Relaxed);
        }
    }
}

/// The outcome of the rate limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) allowed: bool,
    /// Requests that would be let through right now.
    pub(crate) remaining: u64,
    /// Nanoseconds until the next request is let through (refused), or until the burst is whole again (allowed).
    pub(crate) wait_ns: u64,
}

/// GCRA on one atomic. `now` is in nanoseconds since 1970; the limiter is exact: in any stretch of time `t` at most
/// `burst + t * per_second` requests pass.
pub(crate) fn gcra(arrival: &AtomicU64, rate: RateLimit, now: u64) -> Rate {
    let every = (NS_PER_S / u64::from(rate.per_second.max(1))).max(1);
    let most = every.saturating_mul(u64::from(rate.burst.max(1)));
    let mut seen = arrival.load(Ordering::Relaxed);
    loop {
        let next = seen.max(now).saturating_add(every);
        let ahead = next - now;
        if ahead > most {
            return Rate {
                allowed: false,
                remaining: 0,
                wait_ns: ahead - most,
            };
        }
        match arrival.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                return Rate {
                    allowed: true,
                    remaining: (most - ahead) / every,
                    wait_ns: ahead,
                };
            }
            Err(other) => seen = other,
        }
    }
}

/// The period around `now` that follows from a known one: the same, or a later one of equal length.
pub(crate) fn period_at(known: Period, now: Time) -> Period {
    let length = known.start.ms_until(known.end);
    if now < known.end || length <= 0 {
        return known;
    }
    let start = known.end.plus_ms(known.end.ms_until(now) / length * length);
    Period {
        start,
        end: start.plus_ms(length),
    }
}

impl Profile {
    /// What an entitlement has in common with others.
    pub(crate) fn of(e: &Entitlement) -> Self {
        Self {
            plan: e.plan.clone(),
            features: e.features.clone(),
            rate: e.rate_limit,
            currency: e.currency,
            meters: e.meters.iter().map(|m| (m.meter, m.terms.clone())).collect(),
            plan_header: headers::value(&e.plan),
            features_header: headers::value(&e.features.join(",")),
            policy: headers::policy(e.rate_limit, None),
        }
    }

    fn nothing() -> Self {
        Self {
            plan: String::new(),
            features: Vec::new(),
            rate: RateLimit {
                per_second: 1,
                burst: 1,
            },
            currency: Currency::USD,
            meters: Vec::new(),
            plan_header: HeaderValue::from_static(""),
            features_header: HeaderValue::from_static(""),
            policy: HeaderValue::from_static(""),
        }
    }
}

impl Account {
    /// A consumer nothing is known of yet: without a plan.
    pub(crate) fn unknown(consumer: ConsumerId, environment: Environment) -> Self {
        let epoch = Time::from_unix_ms(0);
        Self {
            consumer,
            environment,
            header: headers::value(&consumer.to_string()),
            arrival: AtomicU64::new(0),
            terms: ArcSwap::from_pointee(Terms {
                profile: Arc::new(Profile::nothing()),
                suspended: Some(Suspension::NoPlan),
                subscription: None,
                plan_version: None,
                period: Period {
                    start: epoch,
                    end: epoch,
                },
                spend_cap_minor: None,
                limits: Vec::new(),
                summed: false,
            }),
            change: Mutex::new(()),
        }
    }

    /// Terms as they were last told, whatever the time.
    pub(crate) fn told(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Whether everything is refused.
    pub(crate) fn suspended(&self) -> bool {
        self.terms.load().suspended.is_some()
    }

    /// The terms, with the counters of the period around `now`.
    pub(crate) fn terms(&self, now: Time) -> Arc<Terms> {
        let terms = self.terms.load_full();
        if now < terms.period.end || period_at(terms.period, now) == terms.period {
            return terms;
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let terms = self.terms.load_full();
        let period = period_at(terms.period, now);
        if period == terms.period {
            return terms;
        }
        let rolled = Arc::new(Terms {
            profile: Arc::clone(&terms.profile),
            suspended: terms.suspended,
            subscription: terms.subscription,
            plan_version: terms.plan_version,
            period,
            spend_cap_minor: terms.spend_cap_minor,
            limits: terms.limits.iter().map(Limit::emptied).collect(),
            summed: terms.summed,
        });
        self.terms.store(Arc::clone(&rolled));
        rolled
    }

    /// Takes a token of the rate limiter.
    pub(crate) fn rate(&self, rate: RateLimit, now_ns: u64) -> Rate {
        gcra(&self.arrival, rate, now_ns)
    }

    /// Reserves units; the new total on success.
    pub(crate) fn take(&self, terms: &Terms, limit: &Limit, units: u32) -> Result<u64, Over> {
        if !terms.summed || units == 0 {
            return limit.slot.take(u64::from(units), limit);
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let total = limit.slot.take(u64::from(units), limit)?;
        if terms
            .spend_cap_minor
            .is_some_and(|cap| terms.cost_minor().is_none_or(|c| c > cap))
        {
            limit.slot.release(u64::from(units));
            return Err(Over::Cap);
        }
        Ok(total)
    }

    /// Takes over what the control plane says. `own` gives the units of this gateway's ledger that are not in `used`,
    /// by meter and period start.
    pub(crate) fn update(&self, e: &Entitlement, profile: Arc<Profile>, now: Time, own: impl Fn(u16, Time) -> u64) {
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.terms.load_full();
        let period = period_at(e.period, now);
        let same = old.period.start == period.start;
        let base = |m: &MeterEntitlement| {
            let told = if period.start == e.period.start { m.used } else { 0 };
            told.saturating_add(own(m.meter, period.start))
        };
        let priced = e.meters.iter().filter(|m| m.terms.overage.is_some()).count();
        let limit = |m: &MeterEntitlement| {
            let kept = old.limits.iter().find(|l| same && l.meter == m.meter);
            let slot = match kept {
                Some(l) => {
                    l.slot.catch_up(base(m));
                    Arc::clone(&l.slot)
                }
                None => Slot::starting_at(base(m)),
            };
            let within = |cap| price::units_within(&m.terms, cap, e.currency);
            let quota = m.terms.overage.is_none().then_some(m.terms.included);
            let within_cap = e.spend_cap_minor.filter(|_| priced == 1).and_then(within);
            let ceiling = quota.into_iter().chain(within_cap).min();
            let length = period.start.ms_until(period.end).max(0) / 1000;
            Limit {
                meter: m.meter,
                quota,
                within_cap,
                policy: headers::policy(e.rate_limit, ceiling.map(|c| (c, length))),
                slot,
            }
        };
        self.terms.store(Arc::new(Terms {
            profile,
            suspended: e.suspended,
            subscription: e.subscription,
            plan_version: e.plan_version,
            period,
            spend_cap_minor: e.spend_cap_minor,
            limits: e.meters.iter().map(limit).collect(),
            summed: priced > 1 && e.spend_cap_minor.is_some(),
        }));
    }
}

impl Limit {
    fn emptied(&self) -> Self {
        Self {
            meter: self.meter,
            quota: self.quota,
            within_cap: self.within_cap,
            policy: self.policy.clone(),
            slot: Arc::default(),
        }
    }
}

impl Terms {
    /// The counter of a meter; none when the plan does not mention it, and then it is neither limited nor priced.
    pub(crate) fn limit(&self, meter: u16) -> Option<&Limit> {
        self.limits.iter().find(|l| l.meter == meter)
    }

    /// What is taken costs this much, in minor units; none when it does not fit 64 bits.
    fn cost_minor(&self) -> Option<i64> {
        self.profile.meters.iter().try_fold(0i64, |sum, (number, terms)| {
            let units = self.limit(*number).map_or(0, |l| l.slot.taken());
            sum.checked_add(price::cost(terms, units, self.profile.currency).ok()?.minor)
        })
    }

    /// The entitlement again, with these units as `used`, for the copy on disk.
    pub(crate) fn to_entitlement(&self, account: &Account, used: &[u64]) -> Entitlement {
        let meters = self.profile.meters.iter().zip(used);
        Entitlement {
            consumer: account.consumer,
            environment: account.environment,
            subscription: self.subscription,
            plan_version: self.plan_version,
            plan: self.profile.plan.clone(),
            suspended: self.suspended,
            features: self.profile.features.clone(),
            rate_limit: self.profile.rate,
            period: self.period,
            meters: meters
                .map(|((meter, terms), used)| MeterEntitlement {
                    meter: *meter,
                    terms: terms.clone(),
                    used: *used,
                })
                .collect(),
            currency: self.profile.currency,
            spend_cap_minor: self.spend_cap_minor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: a request passes when the bucket, drained at a steady rate, has room for one more.
        #[test]
        fn gcra_agrees_with_a_leaking_bucket(
            per_second in 1u32..2_000, burst in 1u32..50, gaps in proptest::collection::vec(0u64..20_000_000, 1..300),
        ) {
            let rate = RateLimit { per_second, burst };
            let every = u128::from(NS_PER_S / u64::from(per_second));
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
                let got = gcra(&arrival, rate, now);
                prop_assert_eq!(got.allowed, fits);
                if fits {
                    prop_assert_eq!(u128::from(got.remaining), (every * u128::from(burst) - level) / every);
                } else {
                    let later = gcra(&AtomicU64::new(arrival.load(Ordering::Relaxed)), rate, now + got.wait_ns);
                    prop_assert!(later.allowed);
                    let early = gcra(&AtomicU64::new(arrival.load(Ordering::Relaxed)), rate, now + got.wait_ns - 1);
                    prop_assert!(!early.allowed);
                }
            }
        }

        #[test]
        fn the_following_period_holds_now(start in 0i64..1_000_000, length in 1i64..100_000, later in 0i64..10_000_000) {
            let known = Period { start: Time::from_unix_ms(start), end: Time::from_unix_ms(start + length) };
            let now = Time::from_unix_ms(start + later);
            let period = period_at(known, now);
            prop_assert!(period.contains(now));
            prop_assert_eq!((period.start.unix_ms() - start) % length, 0);
        }
    }

    #[test]
    fn the_last_unit_is_given_once() {
        let limit = Limit {
            meter: 1,
            quota: Some(1_000),
            within_cap: None,
            policy: HeaderValue::from_static(""),
            slot: Slot::starting_at(900),
        };
        let given: usize = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4)
                .map(|_| s.spawn(|| (0..200).filter(|_| limit.slot.take(1, &limit).is_ok()).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(given, 100);
    }
}
