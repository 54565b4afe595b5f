//! What the gateway knows of a consumer in one environment: terms, counters, the rate limiter's state.
//!
//! Terms are replaced whole; the counters behind them are carried over as long as the period's start stays the same,
//! so a change of plan never resets what is used, and an admitted request gives its units back to where it took them.

mod foreign;
mod profile;
mod terms;
#[cfg(test)]
mod tests;

use crate::headers;
use crate::leases::Desk;
use crate::limit::{Limit, Over, Slot, cap_left};
use crate::memory::Held;
use crate::rate::Own;
use arc_swap::{ArcSwap, ArcSwapOption};
use foreign::Foreign;
pub(crate) use foreign::ForeignUse;
use http::HeaderValue;
use model::access::{Environment, Suspension};
use model::lease::LeaseSubject;
use model::snapshot::{Entitlement, MeterEntitlement};
use model::{ConsumerId, KeyId, Period, Time};
use profile::current;
pub(crate) use profile::{Later, Profile, Profiles};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
pub(crate) use terms::{Terms, period_at};

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
    /// Memory that its requests hold.
    pub(crate) held: Held,
    /// Where its limits are leased.
    pub(crate) desk: Option<Arc<Desk>>,
    terms: ArcSwap<Terms>,
    /// The same by plans that tokens name.
    on_plans: ArcSwapOption<Vec<OnPlan>>,
    /// Counters that only those have; taken after `change`.
    foreign: Mutex<Option<Box<Foreign>>>,
    /// Held for a change of terms, and where a spend cap spans several priced meters.
    change: Mutex<()>,
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

impl Account {
    /// A consumer nothing is known of yet: without a plan.
    pub(crate) fn unknown(consumer: ConsumerId, environment: Environment) -> Self {
        Self::named(consumer, environment, headers::value(&consumer.to_string()))
    }

    /// With limits that are leased at this desk, where there is one.
    pub(crate) fn leasing_at(self, desk: Option<Arc<Desk>>) -> Self {
        Self { desk, ..self }
    }

    /// What is leased of a meter in the period of these terms: for the account, or for a chain of its keys.
    pub(crate) fn subject(&self, terms: &Terms, root: Option<KeyId>, meter: u16) -> LeaseSubject {
        LeaseSubject {
            consumer: self.consumer,
            environment: self.environment,
            root,
            meter,
            period_start: terms.period.start,
        }
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
            held: Held::default(),
            desk: None,
            on_plans: ArcSwapOption::empty(),
            foreign: Mutex::default(),
            terms: ArcSwap::from_pointee(Terms {
                profile: Arc::new(Profile::nothing()),
                prices: None,
                later: Arc::default(),
                overrides: Arc::default(),
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

    /// Whether nothing was told of it yet.
    pub(crate) fn is_unknown(&self) -> bool {
        let period = self.terms.load().period;
        period.start == period.end
    }

    /// Terms as they were last told, whatever the time.
    pub(crate) fn told(&self) -> Arc<Terms> {
        self.terms.load_full()
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
            (terms.limits_under(&profile), terms.settled_minor)
        } else {
            (terms.emptied(&profile, period), 0)
        };
        let own = profile.rules.own(&[(&terms.profile.rules, &terms.own)]);
        let rolled = Arc::new(Terms {
            profile,
            prices: None,
            later,
            overrides: Arc::clone(&terms.overrides),
            suspended: terms.suspended,
            subscription: terms.subscription,
            plan_version: terms.plan_version,
            period,
            spend_cap_minor: terms.spend_cap_minor,
            settled_minor,
            limits,
            own,
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
        let counter = |meter, in_use: Option<&_>| self.foreign_slot(own.period.start, meter, in_use);
        let terms = Arc::new(own.on_plan(plan, before.as_ref().map(|on| &*on.terms), counter));
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
            return self.take_units(terms, limit, units, now);
        }
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let before = terms.cost_minor(None);
        let total = self.take_units(terms, limit, units, now)?;
        if terms.is_beyond_cap(before, terms.cost_minor(None)) {
            limit.slot.release(u64::from(units));
            return Err(Over::Cap);
        }
        Ok(total)
    }

    fn take_units(&self, terms: &Terms, limit: &Limit, units: u32, now: Time) -> Result<u64, Over> {
        let Some(desk) = self.desk.as_ref().filter(|_| limit.leased) else {
            return limit.slot.take(units.into(), limit, now);
        };
        let total = limit.slot.take_leased(units.into(), Some(limit), now)?;
        desk.took(self.subject(terms, None, limit.meter), &limit.slot, total);
        Ok(total)
    }

    /// Limits that changed may be passed with what is leased already, or leave room where there was none: asks again.
    fn look_again(&self, old: &Terms, new: &Terms) {
        let Some(desk) = &self.desk else { return };
        let cap_changed = (old.spend_cap_minor, old.settled_minor) != (new.spend_cap_minor, new.settled_minor);
        for limit in new.limits.iter().filter(|l| l.leased) {
            let before = old.limit(limit.meter).filter(|l| Arc::ptr_eq(&l.slot, &limit.slot));
            if before.is_some_and(|b| cap_changed || b.ceiling() != limit.ceiling()) {
                desk.look_again(self.subject(new, None, limit.meter), &limit.slot);
            }
        }
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
        let frame = profile.frame(period, cap_left(e.spend_cap_minor, settled_minor));
        let limit = |(m, metered): (&MeterEntitlement, _)| {
            let kept = old.limits.iter().find(|l| same && l.meter == m.meter);
            let slot = match kept {
                Some(l) => {
                    l.slot.catch_up(base(m));
                    Arc::clone(&l.slot)
                }
                None => Slot::starting_at(base(m)),
            };
            let settled_units = if current { m.settled_units } else { 0 };
            let limit = frame.limit(metered, settled_units, slot);
            limit.slot.follow_grace(&limit, m.used_up_at.filter(|_| current));
            limit
        };
        let limits = e.meters.iter().zip(profile.metered()).map(limit).collect();
        let own = profile.rules.own(&[(&old.profile.rules, &old.own)]);
        let new = Arc::new(Terms {
            profile,
            prices: None,
            later,
            overrides: e.overrides.clone().into(),
            suspended: e.suspended,
            subscription: e.subscription,
            plan_version: e.plan_version,
            period,
            spend_cap_minor: e.spend_cap_minor,
            settled_minor,
            limits,
            own,
            summed: frame.is_summed(),
        });
        self.terms.store(Arc::clone(&new));
        self.look_again(&old, &new);
    }

    /// Quotas with a grace that are used up by what is told and by what our ledger holds beyond it, where nobody knows
    /// since when: meter, start of the period, units that were lacking in what is told.
    pub(crate) fn lacking(&self, e: &Entitlement) -> Vec<(u16, Time, u64)> {
        let terms = self.told();
        let start = terms.period.start;
        let used = |m: &MeterEntitlement| if start == e.period.start { m.used } else { 0 };
        let lacked = |m: &MeterEntitlement| terms.limit(m.meter)?.lacked_to_grace(used(m));
        let lacking = e.meters.iter().filter_map(|m| Some((m.meter, start, lacked(m)?)));
        lacking.collect()
    }

    /// Says since when a quota with a grace is used up in the period with this start.
    pub(crate) fn used_up(&self, meter: u16, start: Time, since: Time) {
        let terms = self.told();
        if let Some(limit) = terms.limit(meter).filter(|_| terms.period.start == start) {
            limit.slot.follow_grace(limit, Some(since));
        }
    }
}
