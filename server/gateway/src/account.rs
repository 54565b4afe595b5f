//! What the gateway knows of a consumer in one environment: terms, counters, the rate limiter's state.
//!
//! Terms are replaced whole; the counters behind them are carried over as long as the period's start stays the same,
//! so a change of plan never resets what is used, and an admitted request gives its units back to where it took them.

use crate::headers;
use crate::limit::{Frame, Limit, Over, Slot, cap_left};
use crate::metrics;
use crate::rate::{Gcra, Own, Rules};
use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use model::access::{Environment, Suspension};
use model::catalogue::{CacheHits, MeterTerms, RateLimit};
use model::snapshot::{Entitlement, FeatureLife, LaterFeatures, MeterEntitlement, Variants};
use model::{ConsumerId, Currency, Period, PlanVersionId, SubscriptionId, Time, price};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

/// A consumer in one environment.
pub(crate) struct Account {
    pub(crate) consumer: ConsumerId,
    pub(crate) environment: Environment,
    /// `X-Consumer-Id`.
    pub(crate) header: HeaderValue,
    /// The name that the provider gave the consumer.
    pub(crate) external_id: ArcSwapOption<String>,
    /// GCRA: the theoretical arrival time of the plan's overall rate limit, in nanoseconds since 1970.
    arrival: AtomicU64,
    /// Requests in flight, where the plan bounds them.
    in_flight: AtomicU32,
    terms: ArcSwap<Terms>,
    /// The same by plans that tokens name.
    on_plans: ArcSwapOption<Vec<OnPlan>>,
    /// Held for a change of terms, and where a spend cap spans several priced meters.
    change: Mutex<()>,
}

/// What many consumers have in common.
#[derive(Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) plan: String,
    /// The plan's number in the metrics.
    pub(crate) plan_number: u16,
    pub(crate) features: Vec<String>,
    pub(crate) variants: Variants,
    pub(crate) rate_limit: RateLimit,
    /// The overall limit, ready to be used.
    pub(crate) rate: Gcra,
    /// Further limits.
    pub(crate) rules: Rules,
    /// Requests a consumer may have in flight.
    pub(crate) concurrency: Option<u32>,
    /// Who is let in first when there is more to do than can be done; 0 to 9.
    pub(crate) priority: u8,
    /// Whether answers that were kept count like others.
    pub(crate) cache_hits: CacheHits,
    pub(crate) currency: Currency,
    pub(crate) meters: Vec<(u16, MeterTerms)>,
    /// `X-Plan` and `X-Features`.
    pub(crate) plan_header: HeaderValue,
    pub(crate) features_header: HeaderValue,
    /// `RateLimit-Policy` where a meter has no ceiling of its own.
    pub(crate) policy: HeaderValue,
}

/// Profiles that begin later, in the order of time.
pub(crate) type Later = Arc<[(Time, Arc<Profile>)]>;

/// The profiles of an entitlement: of now, and of each later instant.
pub(crate) struct Profiles {
    pub(crate) now: Arc<Profile>,
    pub(crate) later: Later,
}

/// What holds at `now`, and what still lies ahead.
fn current(profile: &Arc<Profile>, later: &Later, now: Time) -> (Arc<Profile>, Later) {
    match later.iter().rposition(|(from, _)| *from <= now) {
        None => (Arc::clone(profile), Arc::clone(later)),
        Some(begun) => (
            Arc::clone(&later[begun].1),
            Arc::from(later.get(begun + 1..).unwrap_or_default()),
        ),
    }
}

/// A plan that tokens may name.
pub(crate) struct TokenPlan {
    pub(crate) profile: Arc<Profile>,
}

/// What holds for a consumer whose token names a plan.
#[derive(Clone)]
struct OnPlan {
    plan: Arc<TokenPlan>,
    /// The consumer's own terms, which it follows from.
    own: Arc<Terms>,
    terms: Arc<Terms>,
}

/// Plans of tokens remembered for each account; with more, the one that came first begins anew.
const ON_PLANS_MOST: usize = 32;

/// What holds for a consumer from one change to the next.
pub(crate) struct Terms {
    pub(crate) profile: Arc<Profile>,
    /// Whose prices hold where a token names another plan: that changes what may be done, not what is charged.
    prices: Option<Arc<Profile>>,
    /// What holds instead from an instant on, in the order of time: other features.
    later: Later,
    pub(crate) suspended: Option<Suspension>,
    pub(crate) subscription: Option<SubscriptionId>,
    pub(crate) plan_version: Option<PlanVersionId>,
    pub(crate) period: Period,
    pub(crate) spend_cap_minor: Option<i64>,
    /// Charged in this period under earlier plan versions, in minor units.
    settled_minor: i64,
    pub(crate) limits: Vec<Limit>,
    /// Arrival times of the rate limits that count by this consumer alone.
    pub(crate) own: Own,
    /// More than one priced meter under a cap: the cost is summed at every admission.
    summed: bool,
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

/// Features as the upstream is told them: `search,ranking=b`.
fn features(e: &Entitlement) -> Vec<String> {
    let said = |feature: &String| match e.feature_life.variants.of.get(feature) {
        Some(variant) => format!("{feature}={variant}"),
        None => feature.clone(),
    };
    e.features.iter().map(said).collect()
}

impl Profile {
    /// What an entitlement has in common with others.
    pub(crate) fn of(e: &Entitlement) -> Self {
        Self {
            plan: e.plan.clone(),
            plan_number: metrics::plan_number(&e.plan),
            features: e.features.clone(),
            variants: e.feature_life.variants.clone(),
            rate_limit: e.rate_limit,
            rate: Gcra::from(e.rate_limit),
            rules: Rules::of_plan(&e.limits),
            concurrency: e.concurrency,
            priority: e.priority,
            cache_hits: e.cache_hits,
            currency: e.currency,
            meters: e.meters.iter().map(|m| (m.meter, m.terms.clone())).collect(),
            plan_header: headers::value(&e.plan),
            features_header: headers::value(&features(e).join(",")),
            policy: headers::policy(e.rate_limit, None),
        }
    }

    fn nothing() -> Self {
        let rate_limit = RateLimit {
            per_second: 1,
            burst: 1,
        };
        Self {
            plan: String::new(),
            plan_number: 0,
            features: Vec::new(),
            variants: Variants::default(),
            rate_limit,
            rate: Gcra::from(rate_limit),
            rules: Rules::default(),
            concurrency: None,
            priority: 0,
            cache_hits: CacheHits::default(),
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
        Self::named(consumer, environment, headers::value(&consumer.to_string()))
    }

    /// The same, with what `X-Consumer-Id` says.
    pub(crate) fn named(consumer: ConsumerId, environment: Environment, header: HeaderValue) -> Self {
        let epoch = Time::from_unix_ms(0);
        Self {
            consumer,
            environment,
            header,
            external_id: ArcSwapOption::empty(),
            arrival: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            on_plans: ArcSwapOption::empty(),
            terms: ArcSwap::from_pointee(Terms {
                profile: Arc::new(Profile::nothing()),
                prices: None,
                later: Arc::default(),
                suspended: Some(Suspension::NoPlan),
                subscription: None,
                plan_version: None,
                period: Period {
                    start: epoch,
                    end: epoch,
                },
                spend_cap_minor: None,
                settled_minor: 0,
                limits: Vec::new(),
                own: Own::default(),
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

    /// The terms that hold at `now`: with the counters of the period around it, and without what ended before it.
    pub(crate) fn terms(&self, now: Time) -> Arc<Terms> {
        let terms = self.terms.load_full();
        if terms.hold_at(now) {
            return terms;
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let terms = self.terms.load_full();
        if terms.hold_at(now) {
            return terms;
        }
        let period = period_at(terms.period, now);
        let (profile, later) = current(&terms.profile, &terms.later, now);
        let (limits, settled_minor) = if period == terms.period {
            (terms.limits.clone(), terms.settled_minor)
        } else {
            (terms.emptied(period), 0)
        };
        let rolled = Arc::new(Terms {
            profile,
            prices: None,
            later,
            suspended: terms.suspended,
            subscription: terms.subscription,
            plan_version: terms.plan_version,
            period,
            spend_cap_minor: terms.spend_cap_minor,
            settled_minor,
            limits,
            own: terms.own.clone(),
            summed: terms.summed,
        });
        self.terms.store(Arc::clone(&rolled));
        rolled
    }

    /// The terms that hold at `now` for a caller whose token names a plan.
    pub(crate) fn terms_on(&self, now: Time, plan: &Arc<TokenPlan>) -> Arc<Terms> {
        let own = self.terms(now);
        let of_plan = |on: &&OnPlan| on.plan.profile.plan == plan.profile.plan;
        let find = |all: &Option<Arc<Vec<OnPlan>>>| all.as_ref().and_then(|all| all.iter().find(of_plan).cloned());
        let holds = |on: &OnPlan| Arc::ptr_eq(&on.own, &own) && Arc::ptr_eq(&on.plan, plan);
        if let Some(on) = find(&self.on_plans.load()).filter(holds) {
            return on.terms;
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.on_plans.load_full();
        let before = find(&all);
        if let Some(on) = before.as_ref().filter(|on| holds(on)) {
            return Arc::clone(&on.terms);
        }
        let terms = Arc::new(own.on_plan(plan, before.as_ref().map(|on| &*on.terms)));
        let others = all.iter().flat_map(|all| all.iter());
        let mut all: Vec<OnPlan> = others.filter(|on| !of_plan(on)).cloned().collect();
        if all.len() >= ON_PLANS_MOST {
            all.remove(0);
        }
        all.push(OnPlan {
            plan: Arc::clone(plan),
            own,
            terms: Arc::clone(&terms),
        });
        self.on_plans.store(Some(Arc::new(all)));
        terms
    }

    /// Requests in flight, where the plan bounds them.
    pub(crate) fn in_flight(&self) -> &AtomicU32 {
        &self.in_flight
    }

    /// Where the plan's overall rate limit stands.
    pub(crate) fn arrival(&self) -> &AtomicU64 {
        &self.arrival
    }

    /// Reserves units; the new total on success.
    pub(crate) fn take(&self, terms: &Terms, limit: &Limit, units: u32, now: Time) -> Result<u64, Over> {
        if !terms.summed || units == 0 {
            return limit.slot.take(u64::from(units), limit, now);
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let before = terms.cost_minor(None);
        let total = limit.slot.take(u64::from(units), limit, now)?;
        if terms.is_beyond_cap(before, terms.cost_minor(None)) {
            limit.slot.release(u64::from(units));
            return Err(Over::Cap);
        }
        Ok(total)
    }

    /// Takes over what the control plane says, with its profiles. `own` gives the units of this gateway's ledger that
    /// are not in `used`, by meter and period start.
    pub(crate) fn update(&self, e: &Entitlement, told: Profiles, now: Time, own: impl Fn(u16, Time) -> u64) {
        let (profile, later) = current(&told.now, &told.later, now);
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.external_id.store(e.external_id.clone().map(Arc::new));
        let old = self.terms.load_full();
        let period = period_at(e.period, now);
        let same = old.period.start == period.start;
        // What is told of another period says nothing about this one.
        let current = period.start == e.period.start;
        let settled_minor = if current { e.settled_minor } else { 0 };
        let base = |m: &MeterEntitlement| {
            let told = if current { m.used } else { 0 };
            told.saturating_add(own(m.meter, period.start))
        };
        let frame = Frame {
            rate: e.rate_limit,
            currency: e.currency,
            period,
            cap_left_minor: cap_left(e.spend_cap_minor, settled_minor),
            priced: e.meters.iter().filter(|m| m.terms.overage.is_some()).count(),
        };
        let limit = |m: &MeterEntitlement| {
            let kept = old.limits.iter().find(|l| same && l.meter == m.meter);
            let slot = match kept {
                Some(l) => {
                    l.slot.catch_up(base(m));
                    Arc::clone(&l.slot)
                }
                None => Slot::starting_at(base(m)),
            };
            let settled_units = if current { m.settled_units } else { 0 };
            let limit = frame.limit(m.meter, &m.terms, settled_units, slot);
            limit.slot.follow_grace(&limit, m.used_up_at.filter(|_| current));
            limit
        };
        let own = profile.rules.own(&[(&old.profile.rules, &old.own)]);
        self.terms.store(Arc::new(Terms {
            profile,
            prices: None,
            later,
            suspended: e.suspended,
            subscription: e.subscription,
            plan_version: e.plan_version,
            period,
            spend_cap_minor: e.spend_cap_minor,
            settled_minor,
            limits: e.meters.iter().map(limit).collect(),
            own,
            summed: frame.is_summed(),
        }));
    }
}

impl Terms {
    /// What holds instead for a caller whose token names a plan: its profile and quotas. Counters are shared, and a meter
    /// or a limit that the consumer's own plan lacks goes on from where it was `before`.
    fn on_plan(&self, plan: &TokenPlan, before: Option<&Self>) -> Self {
        let profile = &plan.profile;
        let before = before.filter(|b| b.period.start == self.period.start);
        let length_s = self.period.start.ms_until(self.period.end).max(0) / 1000;
        let hard = |meter: u16| {
            let told = profile.meters.iter().find(|(n, _)| *n == meter);
            told.map(|(_, terms)| terms).filter(|terms| terms.overage.is_none())
        };
        let shared = self.limits.iter().cloned();
        let foreign = profile.meters.iter().filter(|(meter, _)| self.limit(*meter).is_none());
        let foreign = foreign.map(|(meter, _)| Limit {
            meter: *meter,
            quota: None,
            grace: None,
            priced: false,
            within_cap: None,
            settled_units: 0,
            policy: HeaderValue::from_static(""),
            slot: before
                .and_then(|b| b.limit(*meter))
                .map_or_else(Arc::default, |l| Arc::clone(&l.slot)),
        });
        let limits = shared.chain(foreign).map(|mut limit| {
            limit.quota = hard(limit.meter).map(|terms| terms.included);
            limit.grace = hard(limit.meter).and_then(|terms| terms.grace);
            limit.policy = headers::policy(profile.rate_limit, limit.ceiling().map(|c| (c, length_s)));
            limit
        });
        let own = (&self.profile.rules, &self.own);
        let kept: Vec<_> = std::iter::once(own)
            .chain(before.map(|b| (&b.profile.rules, &b.own)))
            .collect();
        Self {
            profile: Arc::clone(profile),
            prices: Some(Arc::clone(&self.profile)),
            later: Later::default(),
            suspended: self.suspended,
            subscription: self.subscription,
            plan_version: self.plan_version,
            period: self.period,
            spend_cap_minor: self.spend_cap_minor,
            settled_minor: self.settled_minor,
            limits: limits.collect(),
            own: profile.rules.own(&kept),
            summed: self.summed,
        }
    }

    /// The profile whose prices hold.
    fn prices(&self) -> &Profile {
        self.prices.as_ref().unwrap_or(&self.profile)
    }

    /// Whether nothing of this has ended by `now`.
    fn hold_at(&self, now: Time) -> bool {
        let in_period = now < self.period.end || period_at(self.period, now) == self.period;
        in_period && self.later.first().is_none_or(|(from, _)| now < *from)
    }

    /// The counter of a meter; none when the plan does not mention it, and then it is neither limited nor priced.
    pub(crate) fn limit(&self, meter: u16) -> Option<&Limit> {
        self.limits.iter().find(|l| l.meter == meter)
    }

    /// The same limits with nothing used, for a period that begins.
    fn emptied(&self, period: Period) -> Vec<Limit> {
        let meters = &self.profile.meters;
        let frame = Frame {
            rate: self.profile.rate_limit,
            currency: self.profile.currency,
            period,
            cap_left_minor: cap_left(self.spend_cap_minor, 0),
            priced: meters.iter().filter(|(_, terms)| terms.overage.is_some()).count(),
        };
        let limit = |(meter, terms): &(u16, MeterTerms)| frame.limit(*meter, terms, 0, Arc::default());
        meters.iter().map(limit).collect()
    }

    /// What is taken under these terms, with `more` units of a meter, costs this much, in minor units; none when it does
    /// not fit 64 bits.
    fn cost_minor(&self, more: Option<(u16, u64)>) -> Option<i64> {
        self.prices().meters.iter().try_fold(0i64, |sum, (number, terms)| {
            let since = |l: &Limit| l.slot.taken().saturating_sub(l.settled_units);
            let more = more.filter(|(meter, _)| meter == number).map_or(0, |(_, n)| n);
            let units = self.limit(*number).map_or(0, since).saturating_add(more);
            sum.checked_add(price::cost(terms, units, self.prices().currency).ok()?.minor)
        })
    }

    /// Whether a cost is beyond what is left of the spend cap, and units made it so.
    fn is_beyond_cap(&self, before: Option<i64>, then: Option<i64>) -> bool {
        let over = |cost: i64, left: i64| cost > left && before.is_none_or(|b| cost > b);
        cap_left(self.spend_cap_minor, self.settled_minor).is_some_and(|left| then.is_none_or(|cost| over(cost, left)))
    }

    /// Whether units of a meter would be given just now.
    pub(crate) fn peek(&self, limit: &Limit, units: u32, now: Time) -> Result<(), Over> {
        limit.slot.peek(u64::from(units), limit, now)?;
        let more = Some((limit.meter, u64::from(units)));
        if self.summed && units > 0 && self.is_beyond_cap(self.cost_minor(None), self.cost_minor(more)) {
            return Err(Over::Cap);
        }
        Ok(())
    }

    /// Charged in this period under earlier plan versions, in minor units.
    pub(crate) fn settled_minor(&self) -> i64 {
        self.settled_minor
    }

    /// What is left of the spend cap, in minor units.
    pub(crate) fn budget_left_minor(&self) -> Option<i64> {
        let left = cap_left(self.spend_cap_minor, self.settled_minor)?;
        Some(left.saturating_sub(self.cost_minor(None)?).max(0))
    }

    /// Units that the plan in force includes of a meter.
    pub(crate) fn included(&self, number: u16) -> Option<u64> {
        let meters = &self.profile.meters;
        let found = meters.iter().find(|(n, _)| *n == number);
        found.map(|(_, terms)| terms.included)
    }

    /// The terms that a meter's units are charged by.
    pub(crate) fn meter(&self, number: u16) -> Option<&MeterTerms> {
        let meters = &self.prices().meters;
        meters.iter().find(|(n, _)| *n == number).map(|(_, terms)| terms)
    }

    fn feature_life(&self) -> FeatureLife {
        let later = self.later.iter().map(|(from, profile)| LaterFeatures {
            from: *from,
            features: profile.features.clone(),
            variants: profile.variants.clone(),
        });
        FeatureLife {
            variants: self.profile.variants.clone(),
            later: later.collect(),
        }
    }

    /// The entitlement again, with these units as `used`, for the copy on disk.
    pub(crate) fn to_entitlement(&self, account: &Account, used: &[u64]) -> Entitlement {
        let settled = self.limits.iter().map(|l| (l.settled_units, l.slot.used_up_at()));
        let meters = self.profile.meters.iter().zip(used).zip(settled);
        Entitlement {
            consumer: account.consumer,
            environment: account.environment,
            external_id: account.external_id.load_full().map(|id| String::clone(&id)),
            subscription: self.subscription,
            plan_version: self.plan_version,
            plan: self.profile.plan.clone(),
            suspended: self.suspended,
            features: self.profile.features.clone(),
            rate_limit: self.profile.rate_limit,
            limits: self.profile.rules.told.clone(),
            concurrency: self.profile.concurrency,
            priority: self.profile.priority,
            cache_hits: self.profile.cache_hits,
            feature_life: self.feature_life(),
            period: self.period,
            meters: meters
                .map(
                    |(((meter, terms), used), (settled_units, used_up_at))| MeterEntitlement {
                        meter: *meter,
                        terms: terms.clone(),
                        used: *used,
                        settled_units,
                        used_up_at,
                    },
                )
                .collect(),
            currency: self.profile.currency,
            spend_cap_minor: self.spend_cap_minor,
            settled_minor: self.settled_minor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::price::TierModel;
    use proptest::prelude::*;
    use std::sync::atomic::Ordering;

    proptest! {
        #[test]
        fn the_following_period_holds_now(start in 0i64..1_000_000, length in 1i64..100_000, later in 0i64..10_000_000) {
            let known = Period { start: Time::from_unix_ms(start), end: Time::from_unix_ms(start + length) };
            let now = Time::from_unix_ms(start + later);
            let period = period_at(known, now);
            prop_assert!(period.contains(now));
            prop_assert_eq!((period.start.unix_ms() - start) % length, 0);
        }
    }

    fn profiles(e: &Entitlement) -> Profiles {
        Profiles {
            now: Arc::new(Profile::of(e)),
            later: Arc::default(),
        }
    }

    /// What a plan charges for a meter: an allowance, then two tiers.
    fn prices() -> impl Strategy<Value = MeterTerms> {
        let parts = (any::<bool>(), 0u64..300, 1u64..300, 0u32..3_000, 1u32..3_000);
        parts.prop_map(|(volume, included, step, a, b)| {
            let tier = |up_to, thousandths: u32| price::OverageTier {
                up_to,
                unit_minor: format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)
                    .parse()
                    .unwrap(),
            };
            let model = if volume {
                TierModel::Volume
            } else {
                TierModel::Graduated
            };
            MeterTerms {
                meter: String::new(),
                included,
                overage: Some(price::Overage {
                    model,
                    package_units: 1,
                    tiers: vec![tier(Some(included + step), a), tier(None, b)],
                }),
                ..MeterTerms::default()
            }
        })
    }

    fn entitled(plan: &[MeterTerms], used: &[u64], settled: &[u64], settled_minor: i64, cap: i64) -> Entitlement {
        let period = Period {
            start: Time::from_unix_s(0),
            end: Time::from_unix_s(1_000),
        };
        let meters = (1u16..).zip(plan).zip(used.iter().zip(settled));
        Entitlement {
            consumer: ConsumerId::from_bits(1),
            environment: Environment::Live,
            external_id: None,
            subscription: Some(SubscriptionId::from_bits(2)),
            plan_version: Some(PlanVersionId::from_bits(3)),
            plan: "p".to_owned(),
            suspended: None,
            features: Vec::new(),
            feature_life: FeatureLife::default(),
            rate_limit: RateLimit {
                per_second: 1,
                burst: 1,
            },
            limits: Vec::new(),
            concurrency: None,
            priority: 0,
            cache_hits: CacheHits::default(),
            period,
            meters: meters
                .map(|((meter, terms), (used, settled))| MeterEntitlement {
                    meter,
                    terms: terms.clone(),
                    used: *used,
                    settled_units: *settled,
                    used_up_at: None,
                })
                .collect(),
            currency: Currency::USD,
            spend_cap_minor: Some(cap),
            settled_minor,
        }
    }

    /// What the invoices come to for units of each meter.
    fn cost(plan: &[MeterTerms], units: &[u64]) -> i64 {
        let each = plan.iter().zip(units);
        each.map(|(terms, n)| price::cost(terms, *n, Currency::USD).unwrap().minor)
            .sum()
    }

    /// Asks for units of a meter, and records them when they are given.
    fn ask(account: &Account, meter: usize, units: u32) -> bool {
        let terms = account.told();
        let limit = &terms.limits[meter];
        let given = account.take(&terms, limit, units, terms.period.start).is_ok();
        let recorded = if given { u64::from(units) } else { 0 };
        limit.slot.recorded.fetch_add(recorded, Ordering::Relaxed);
        given
    }

    proptest! {
        /// Whenever the plan changes: what counts under the old version at its prices, the rest at the new ones, together
        /// never above the cap by a request that was let through, and no request refused that would have stayed below.
        #[test]
        fn the_spend_cap_is_held_against_what_the_invoices_come_to(
            plans in (1usize..=2).prop_flat_map(|n| {
                (proptest::collection::vec(prices(), n), proptest::collection::vec(prices(), n))
            }),
            before in proptest::collection::vec((0usize..2, 1u32..40), 0..60),
            behind in 0u64..60,
            after in proptest::collection::vec((0usize..2, 1u32..40), 1..120),
            cap in 0i64..600,
        ) {
            let (old, new) = plans;
            let count = new.len();
            let account = Account::unknown(ConsumerId::from_bits(1), Environment::Live);
            let now = Time::from_unix_s(500);
            let first = entitled(&old, &[0, 0], &[0, 0], 0, cap);
            account.update(&first, profiles(&first), now, |_, _| 0);
            let mut taken = [0u64; 2];
            for (meter, units) in before {
                let meter = meter % count;
                if ask(&account, meter, units) {
                    taken[meter] += u64::from(units);
                }
            }
            // The last units arrive after the change and are billed at the new prices.
            let settled = taken.map(|n| n.saturating_sub(behind));
            let settled_minor = cost(&old, &settled);
            let second = entitled(&new, &settled, &settled, settled_minor, cap);
            let late = |meter: u16, _: Time| taken[usize::from(meter) - 1] - settled[usize::from(meter) - 1];
            account.update(&second, profiles(&second), now, late);
            let total = |units: &[u64; 2]| settled_minor + cost(&new, &[units[0] - settled[0], units[1] - settled[1]]);
            for (meter, units) in after {
                let meter = meter % count;
                let was = total(&taken);
                let mut then = taken;
                then[meter] += u64::from(units);
                if ask(&account, meter, units) {
                    prop_assert!(total(&then) <= cap.max(was), "{} to {} with a cap of {cap}", was, total(&then));
                    taken = then;
                    continue;
                }
                // A volume price falls where a tier begins. No units are given beyond a count that is too dear: units that
                // are given back would lead there.
                let mut border = then;
                border[meter] = settled[meter] + new[meter].overage.as_ref().unwrap().tiers[0].up_to.unwrap();
                let dearest = if border[meter] <= then[meter] { total(&then).max(total(&border)) } else { total(&then) };
                prop_assert!(dearest > cap, "refused at {dearest} with a cap of {cap}, {settled_minor} of it settled");
            }
        }
    }

    #[test]
    fn what_was_settled_is_forgotten_with_its_period() {
        let terms = MeterTerms {
            meter: String::new(),
            included: 0,
            overage: Some(price::Overage {
                model: TierModel::Graduated,
                package_units: 1,
                tiers: vec![price::OverageTier {
                    up_to: None,
                    unit_minor: 1.into(),
                }],
            }),
            ..MeterTerms::default()
        };
        let account = Account::unknown(ConsumerId::from_bits(1), Environment::Live);
        let told = entitled(&[terms], &[100], &[100], 30, 50);
        account.update(&told, profiles(&told), Time::from_unix_s(500), |_, _| 0);
        let left = |account: &Account| (0..200).filter(|_| ask(account, 0, 1)).count();
        assert_eq!(left(&account), 20, "30 of 50 cents are gone");
        account.terms(Time::from_unix_s(1_500));
        assert_eq!(left(&account), 50, "the next period has the whole cap");
        account.update(&told, profiles(&told), Time::from_unix_s(1_600), |_, _| 0);
        assert_eq!(
            left(&account),
            0,
            "and what is told of the period before changes nothing"
        );
    }
}
