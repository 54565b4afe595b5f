//! What one key may use in a billing period, as its owner set it: units of all meters together, and money.
//!
//! The key's part of the bill is what its units are of all units of a meter, times what that meter costs so far: the parts
//! of all keys are the whole. It follows from counts alone, so it is the same after a restart. What counted under plan
//! versions before this one is shared by the units of all meters.

use crate::account::Terms;
use crate::limit::Slot;
use model::snapshot::{KeyLimits, KeyUse};
use model::{Time, price};
use std::sync::{Arc, Mutex, PoisonError};

/// Limits of a key, and its counts.
pub(crate) struct KeyLimit {
    pub(crate) quota: Option<u64>,
    pub(crate) budget_minor: Option<i64>,
    counts: Arc<Mutex<Counts>>,
}

/// Units of a key in a period, by meter.
pub(crate) struct Counts {
    pub(crate) period_start: Time,
    pub(crate) meters: Vec<(u16, Arc<Slot>)>,
}

/// Which limit of a key refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyOver {
    Quota(u64),
    Budget(i64),
}

/// What a key was given.
pub(crate) struct Given {
    pub(crate) slot: Arc<Slot>,
    /// What is left of its budget, in minor units.
    pub(crate) budget_left_minor: Option<i64>,
}

/// Units of a meter that a key is about to be given.
#[derive(Clone, Copy)]
struct More {
    meter: u16,
    units: u64,
    /// Whether they are in the consumer's count already.
    counted: bool,
}

impl Counts {
    fn starting_at(period_start: Time) -> Self {
        Self {
            period_start,
            meters: Vec::new(),
        }
    }

    fn slot(&mut self, meter: u16) -> Arc<Slot> {
        if let Some((_, slot)) = self.meters.iter().find(|(m, _)| *m == meter) {
            return Arc::clone(slot);
        }
        let slot = Arc::<Slot>::default();
        self.meters.push((meter, Arc::clone(&slot)));
        slot
    }

    fn units(&self) -> u64 {
        self.meters.iter().map(|(_, s)| s.taken()).sum()
    }

    /// The key's part of the bill, in minor units, with `more` units of its own; none where it does not fit.
    fn cost_minor(&self, terms: &Terms, more: More) -> Option<i64> {
        let part = |cost: i64, own: u64, all: u64| {
            let all = i128::from(all.max(own).max(1));
            i64::try_from(i128::from(cost) * i128::from(own) / all).ok()
        };
        let own_more = |meter: u16| if meter == more.meter { more.units } else { 0 };
        let all_more = |meter: u16| if more.counted { 0 } else { own_more(meter) };
        let (mut cost, mut own_of_all, mut all_of_all) = (0i64, 0u64, 0u64);
        for limit in &terms.limits {
            let own = self.meters.iter().find(|(m, _)| *m == limit.meter);
            let own = own.map_or(0, |(_, s)| s.taken()).saturating_add(own_more(limit.meter));
            let all = limit.slot.taken().saturating_add(all_more(limit.meter));
            own_of_all = own_of_all.saturating_add(own);
            all_of_all = all_of_all.saturating_add(all);
            if let Some(prices) = terms.meter(limit.meter).filter(|_| own > 0 && limit.priced) {
                let since = all.saturating_sub(limit.settled_units);
                let whole = price::cost(prices, since, terms.profile.currency).ok()?;
                cost = cost.checked_add(part(whole.minor, own, all)?)?;
            }
        }
        cost.checked_add(part(terms.settled_minor(), own_of_all, all_of_all)?)
    }
}

impl KeyLimit {
    /// As told; `before` are the counts that the key has already, and `own` gives the units of this gateway's ledger that
    /// are not in what is told, by meter and period start.
    pub(crate) fn told(told: &KeyLimits, before: Option<&Self>, own: impl Fn(u16, Time) -> u64) -> Self {
        let counts = before.map_or_else(
            || Arc::new(Mutex::new(Counts::starting_at(told.period_start))),
            |b| Arc::clone(&b.counts),
        );
        let limit = Self {
            quota: told.quota,
            budget_minor: told.budget_minor,
            counts,
        };
        let mut counts = limit.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if told.period_start > counts.period_start {
            counts.period_start = told.period_start;
            counts.meters.clear();
        }
        if told.period_start == counts.period_start {
            for used in &told.used {
                let base = used.units.saturating_add(own(used.meter, told.period_start));
                counts.slot(used.meter).catch_up(base);
            }
        }
        drop(counts);
        limit
    }

    /// As [`KeyLimit::told`] takes it, with these units for the meters of [`KeyLimit::slots`].
    pub(crate) fn to_told(&self, period_start: Time, used: Vec<KeyUse>) -> KeyLimits {
        KeyLimits {
            quota: self.quota,
            budget_minor: self.budget_minor,
            period_start,
            used,
        }
    }

    /// Its period and its counters.
    pub(crate) fn slots(&self) -> (Time, Vec<(u16, Arc<Slot>)>) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.period_start, counts.meters.clone())
    }

    /// Gives units that the consumer was given already; the counter they are in.
    pub(crate) fn take(&self, terms: &Terms, meter: u16, units: u32) -> Result<Given, KeyOver> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if terms.period.start > counts.period_start {
            counts.period_start = terms.period.start;
            counts.meters.clear();
        }
        let counted = More {
            meter,
            units: units.into(),
            counted: true,
        };
        let budget_left_minor = self.check(&counts, terms, counted)?;
        let slot = counts.slot(meter);
        slot.reserve(units.into());
        Ok(Given {
            slot,
            budget_left_minor,
        })
    }

    /// Whether units would be given just now; what would be left of the budget then.
    pub(crate) fn peek(&self, terms: &Terms, meter: u16, units: u32) -> Result<Option<i64>, KeyOver> {
        let more = More {
            meter,
            units: units.into(),
            counted: false,
        };
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if terms.period.start > counts.period_start {
            return self.check(&Counts::starting_at(terms.period.start), terms, more);
        }
        self.check(&counts, terms, more)
    }

    /// Units that it was given in the period of these terms.
    pub(crate) fn units(&self, terms: &Terms) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if terms.period.start > counts.period_start {
            0
        } else {
            counts.units()
        }
    }

    fn check(&self, counts: &Counts, terms: &Terms, more: More) -> Result<Option<i64>, KeyOver> {
        let units = more.units;
        if let Some(quota) = self.quota
            && units > 0
            && counts.units().saturating_add(units) > quota
        {
            return Err(KeyOver::Quota(quota));
        }
        let Some(budget) = self.budget_minor else {
            return Ok(None);
        };
        let left = counts
            .cost_minor(terms, more)
            .map_or(-1, |cost| budget.saturating_sub(cost));
        if units > 0 && left < 0 {
            return Err(KeyOver::Budget(budget));
        }
        Ok(Some(left.max(0)))
    }
}
