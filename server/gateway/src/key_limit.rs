//! What one key may use in a billing period, as its owner set it: units of all meters together, and money.
//!
//! The key's part of the bill ([`model::key_part`]) follows from counts alone, so it is the same after a restart.
//!
//! Keys of a chain of rotations share one count: a rotation renews nothing, and while two work they use one budget.

use crate::account::{Account, Terms};
use crate::limit::{Over, Slot};
use model::key_part::{self, KeyShare};
use model::snapshot::{KeyLimits, KeyRecord, KeyUse};
use model::{KeyId, Time};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Limits of a key, and the counts of its chain.
pub(crate) struct KeyLimit {
    root: Option<KeyId>,
    pub(crate) quota: Option<u64>,
    pub(crate) budget_minor: Option<i64>,
    counts: Arc<Mutex<Counts>>,
}

/// Units of a chain of keys in a period, by meter.
pub(crate) struct Counts {
    pub(crate) period_start: Time,
    pub(crate) meters: Vec<(u16, Arc<Slot>)>,
}

/// The chains of keys that have limits, by their first keys. None is ever removed: keys are not, either.
#[derive(Default)]
pub(crate) struct Chains(HashMap<KeyId, Chain>);

struct Chain {
    /// Those that were told, in no order.
    keys: Vec<KeyId>,
    counts: Arc<Mutex<Counts>>,
}

fn root(id: KeyId, told: &KeyLimits) -> KeyId {
    told.root.unwrap_or(id)
}

impl Chains {
    fn of(&mut self, root: KeyId, told: &KeyLimits) -> &mut Chain {
        self.0.entry(root).or_insert_with(|| Chain {
            keys: Vec::new(),
            counts: Arc::new(Mutex::new(Counts {
                period_start: told.period_start,
                meters: Vec::new(),
            })),
        })
    }

    /// Takes note of keys with limits, each with the last sequence number of our ledger that is in what is told of its
    /// chain's use. Gives, for all keys of their chains, the chain and the highest of these numbers.
    pub(crate) fn note(&mut self, told: &[(KeyRecord, u64)]) -> HashMap<KeyId, (KeyId, u64)> {
        let mut through: HashMap<KeyId, u64> = HashMap::new();
        for (key, seq) in told {
            let Some(limits) = &key.limits else { continue };
            let root = root(key.id, limits);
            let keys = &mut self.of(root, limits).keys;
            if !keys.contains(&key.id) {
                keys.push(key.id);
            }
            let highest = through.entry(root).or_default();
            *highest = (*highest).max(*seq);
        }
        let of_chain = |(root, seq): (KeyId, u64)| self.keys_of(root).into_iter().map(move |key| (key, (root, seq)));
        through.into_iter().flat_map(of_chain).collect()
    }

    /// The keys of a chain that were told, by its first.
    pub(crate) fn keys_of(&self, root: KeyId) -> Vec<KeyId> {
        self.0.get(&root).map_or_else(Vec::new, |chain| chain.keys.clone())
    }

    /// The limits of a key as told; `own` gives the units of this gateway's ledger that are not in what is told of a
    /// chain, by its first key, meter and period start.
    pub(crate) fn limit(
        &mut self,
        id: KeyId,
        told: &KeyLimits,
        now: Time,
        own: impl Fn(KeyId, u16, Time) -> u64,
    ) -> KeyLimit {
        let root = root(id, told);
        let counts = Arc::clone(&self.of(root, told).counts);
        KeyLimit::told(told, counts, now, |meter, start| own(root, meter, start))
    }
}

/// Which limit of a key refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyOver {
    Quota(u64),
    Budget(i64),
    /// No more of it is leased to this gateway.
    Lease,
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

    /// Begins a period with nothing counted, unless it has begun.
    fn enter(&mut self, period_start: Time) {
        if period_start > self.period_start {
            self.period_start = period_start;
            self.meters.clear();
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
        let own_more = |meter: u16| if meter == more.meter { more.units } else { 0 };
        let all_more = |meter: u16| if more.counted { 0 } else { own_more(meter) };
        let shares = terms.limits.iter().map(|limit| {
            let own = self.meters.iter().find(|(m, _)| *m == limit.meter);
            KeyShare {
                own: own.map_or(0, |(_, s)| s.taken()).saturating_add(own_more(limit.meter)),
                all: limit.slot.taken().saturating_add(all_more(limit.meter)),
                settled: limit.settled_units,
                prices: terms.meter(limit.meter).filter(|_| limit.priced),
            }
        });
        key_part::cost_minor(shares, terms.settled_minor(), terms.profile.currency)
    }
}

impl KeyLimit {
    /// As told; `own` gives the units of this gateway's ledger that are not in what is told, by meter and period start.
    fn told(told: &KeyLimits, counts: Arc<Mutex<Counts>>, now: Time, own: impl Fn(u16, Time) -> u64) -> Self {
        let limit = Self {
            root: told.root,
            quota: told.quota,
            budget_minor: told.budget_minor,
            counts,
        };
        let mut counts = limit.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if told.period_start < counts.period_start && now < counts.period_start {
            // A clock that was ahead for a while took it there.
            *counts = Counts::starting_at(told.period_start);
        }
        counts.enter(told.period_start);
        if told.period_start == counts.period_start {
            for used in &told.used {
                let base = used.units.saturating_add(own(used.meter, told.period_start));
                counts.slot(used.meter).catch_up(base);
            }
        }
        drop(counts);
        limit
    }

    /// The first key of its chain; none for that one itself.
    pub(crate) fn root(&self) -> Option<KeyId> {
        self.root
    }

    /// As [`KeyLimit::told`] takes it, with these units for the meters of [`KeyLimit::slots`].
    pub(crate) fn to_told(&self, period_start: Time, used: Vec<KeyUse>) -> KeyLimits {
        KeyLimits {
            root: self.root,
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

    /// The counter of a meter in the period that began at `start`; none when the key counts in another. `running` is the
    /// start of the consumer's running period, which the key's follows.
    pub(crate) fn slot_in(&self, start: Time, running: Time, meter: u16) -> Option<Arc<Slot>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.enter(running);
        (counts.period_start == start).then(|| counts.slot(meter))
    }

    /// Gives units that the consumer was given already; the counter they are in. `root` is the first key of its chain.
    pub(crate) fn take(
        &self,
        (account, root): (&Account, KeyId),
        terms: &Terms,
        (meter, units): (u16, u32),
        now: Time,
    ) -> Result<Given, KeyOver> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.enter(terms.period.start);
        let counted = More {
            meter,
            units: units.into(),
            counted: true,
        };
        let budget_left_minor = self.check(&counts, terms, counted)?;
        let slot = counts.slot(meter);
        match &account.desk {
            None => slot.reserve(units.into()),
            // Others are in the next period already: what is leased there is not for this one.
            Some(_) if counts.period_start != terms.period.start => return Err(KeyOver::Lease),
            Some(desk) => {
                let taken = slot.take_leased(units.into(), None, now);
                let taken = taken.map_err(|_: Over| KeyOver::Lease)?;
                desk.took(account.subject(terms, Some(root), meter), &slot, taken);
            }
        }
        Ok(Given {
            slot,
            budget_left_minor,
        })
    }

    /// The counter of a meter in the period of these terms, unless the key counts in a later one.
    pub(crate) fn slot(&self, terms: &Terms, meter: u16) -> Option<Arc<Slot>> {
        self.slot_in(terms.period.start, terms.period.start, meter)
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

#[cfg(test)]
mod tests {
    use super::*;
    use model::ConsumerId;
    use model::access::Environment;

    fn key(number: u128, root: Option<u128>) -> KeyRecord {
        let limits = KeyLimits {
            root: root.map(KeyId::from_bits),
            quota: Some(10),
            budget_minor: None,
            period_start: Time::from_unix_s(1_000),
            used: Vec::new(),
        };
        KeyRecord {
            id: KeyId::from_bits(number),
            lookup: 0,
            mac: [0; 32],
            pepper: 1,
            consumer: ConsumerId::from_bits(1),
            environment: Environment::Live,
            revoked: false,
            expires_at: None,
            routes: None,
            limits: Some(limits),
        }
    }

    /// What a ledger holds of the keys before is looked for, too, when a key that took over is told.
    #[test]
    fn a_key_that_took_over_brings_its_chain() {
        let mut chains = Chains::default();
        let id = KeyId::from_bits;
        let unlimited = KeyRecord {
            limits: None,
            ..key(9, None)
        };
        let alone = chains.note(&[(key(1, None), 5), (key(2, None), 6), (unlimited, 7)]);
        assert_eq!(alone, HashMap::from([(id(1), (id(1), 5)), (id(2), (id(2), 6))]));
        let later = chains.note(&[(key(3, Some(1)), 8)]);
        assert_eq!(later, HashMap::from([(id(1), (id(1), 8)), (id(3), (id(1), 8))]));

        let record = key(3, Some(1));
        let own = |root, meter, _| if (root, meter) == (id(1), 4) { 3 } else { 0 };
        let mut told = record.limits.unwrap();
        told.used = vec![KeyUse { meter: 4, units: 2 }];
        let now = Time::from_unix_s(0);
        let new = chains.limit(id(3), &told, now, own);
        let old = chains.limit(id(1), &KeyLimits { root: None, ..told }, now, |_, _, _| 0);
        for limit in [new, old] {
            let (_, slots) = limit.slots();
            let taken: Vec<_> = slots.iter().map(|(meter, slot)| (*meter, slot.taken())).collect();
            assert_eq!(taken, [(4, 5)]);
        }
    }
}
