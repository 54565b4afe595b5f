//! Counters of meters that a consumer's own plan lacks, and plans that its tokens name have.
//!
//! The control plane tells no counts of these. What this gateway counted is in its stored copy, and its ledger completes
//! that.

use super::Account;
use crate::ledger::Ledger;
use crate::limit::Slot;
use model::access::Environment;
use model::{ConsumerId, Time};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, MutexGuard, PoisonError};

/// Counters in one period.
pub(super) struct Foreign {
    start: Time,
    slots: Vec<(u16, Arc<Slot>)>,
}

/// What was counted of a meter, as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct ForeignUse {
    pub(crate) consumer: ConsumerId,
    pub(crate) environment: Environment,
    pub(crate) meter: u16,
    pub(crate) period_start: Time,
    pub(crate) units: u64,
    /// When a quota with a grace was used up.
    used_up_at: Option<Time>,
    /// The last sequence number of our ledger that is in it.
    pub(crate) through: u64,
}

impl Foreign {
    fn of(start: Time) -> Box<Self> {
        let slots = Vec::new();
        Box::new(Self { start, slots })
    }

    fn find(&self, meter: u16) -> Option<&Arc<Slot>> {
        self.slots.iter().find(|(m, _)| *m == meter).map(|(_, slot)| slot)
    }
}

impl Account {
    fn foreign(&self) -> MutexGuard<'_, Option<Box<Foreign>>> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter of a meter in the period with this start: the one that is in use for the same plan, or the one that is
    /// known for another or from before a restart.
    pub(super) fn foreign_slot(&self, start: Time, meter: u16, in_use: Option<&Arc<Slot>>) -> Arc<Slot> {
        let mut held = self.foreign();
        if held.as_ref().is_none_or(|known| known.start < start) {
            *held = Some(Foreign::of(start));
        }
        let known = held.as_mut().filter(|known| known.start == start);
        let slot = in_use
            .or_else(|| known.as_ref()?.find(meter))
            .cloned()
            .unwrap_or_default();
        if let Some(known) = known {
            known.slots.retain(|(m, _)| *m != meter);
            known.slots.push((meter, Arc::clone(&slot)));
        }
        slot
    }

    /// What was counted, for the copy on disk.
    pub(crate) fn foreign_uses(&self, ledger: &Ledger) -> Vec<ForeignUse> {
        let held = self.foreign();
        let Some(known) = held.as_deref() else {
            return Vec::new();
        };
        let counters: Vec<_> = known.slots.iter().map(|(_, slot)| &slot.recorded).collect();
        let (used, through) = ledger.agreed(&counters);
        let of_meter = |((meter, slot), units): (&(u16, Arc<Slot>), u64)| ForeignUse {
            consumer: self.consumer,
            environment: self.environment,
            meter: *meter,
            period_start: known.start,
            units,
            used_up_at: slot.used_up_at(),
            through,
        };
        known.slots.iter().zip(used).map(of_meter).collect()
    }

    /// Goes on from what was counted before a restart, where the own plan does not count it. `more` is what is in our ledger
    /// beyond it.
    pub(crate) fn recall_foreign(&self, meter: u16, start: Time, stored: Option<&ForeignUse>, more: u64) {
        let terms = self.told();
        if terms.period.start != start || terms.limit(meter).is_some() {
            return;
        }
        let slot = self.foreign_slot(start, meter, None);
        slot.catch_up(stored.map_or(0, |s| s.units).saturating_add(more));
        if let Some(since) = stored.and_then(|s| s.used_up_at) {
            slot.used_up(since);
        }
    }
}
