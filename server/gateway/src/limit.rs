//! The ceiling of a meter, in units: a hard quota, or what a spend cap leaves room for.
//!
//! A spend cap is money and holds for the whole period, prices hold from one plan version to the next. What the period
//! cost before the version in force is told as settled, in money and in units; the rest of the cap is for the units since,
//! at the prices in force. That is how the invoices are made.

use crate::headers;
use http::HeaderValue;
use model::catalogue::{MeterTerms, RateLimit};
use model::{Currency, Period, price};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ceiling and the counter of a meter.
#[derive(Clone)]
pub(crate) struct Limit {
    pub(crate) meter: u16,
    /// Hard quota, in units.
    pub(crate) quota: Option<u64>,
    /// Whether units beyond the allowance cost something.
    pub(crate) priced: bool,
    /// Units that fit under the spend cap, where this is the only priced meter.
    pub(crate) within_cap: Option<u64>,
    /// Units of the period that were charged under earlier plan versions.
    pub(crate) settled_units: u64,
    /// `RateLimit-Policy` on this meter's routes.
    pub(crate) policy: HeaderValue,
    pub(crate) slot: Arc<Slot>,
}

/// What the limits of all meters of a consumer follow from.
pub(crate) struct Frame {
    pub(crate) rate: RateLimit,
    pub(crate) currency: Currency,
    pub(crate) period: Period,
    /// What is left of the spend cap for usage under these terms, in minor units.
    pub(crate) cap_left_minor: Option<i64>,
    /// Meters with a price.
    pub(crate) priced: usize,
}

impl Frame {
    /// Whether the cost is summed at every admission.
    pub(crate) fn is_summed(&self) -> bool {
        self.priced > 1 && self.cap_left_minor.is_some()
    }

    pub(crate) fn limit(&self, meter: u16, terms: &MeterTerms, settled_units: u64, slot: Arc<Slot>) -> Limit {
        let quota = terms.overage.is_none().then_some(terms.included);
        let within = |left| price::units_within(terms, left, self.currency).map(|n| n.saturating_add(settled_units));
        let within_cap = self.cap_left_minor.filter(|_| self.priced == 1).and_then(within);
        let ceiling = quota.into_iter().chain(within_cap).min();
        let length_s = self.period.start.ms_until(self.period.end).max(0) / 1000;
        Limit {
            meter,
            quota,
            priced: terms.overage.is_some(),
            within_cap,
            settled_units,
            policy: headers::policy(self.rate, ceiling.map(|c| (c, length_s))),
            slot,
        }
    }
}

/// What is left of a spend cap; what went beyond it before the prices changed is not held against units that cost nothing.
pub(crate) fn cap_left(spend_cap_minor: Option<i64>, settled_minor: i64) -> Option<i64> {
    spend_cap_minor.map(|cap| cap.saturating_sub(settled_minor).max(0))
}

impl Limit {
    /// Whether `units` that lead to a total of `then` fit.
    fn check(&self, units: u64, then: u64) -> Result<(), Over> {
        if units > 0 && self.quota.is_some_and(|q| then > q) {
            return Err(Over::Quota);
        }
        if units > 0 && self.within_cap.is_some_and(|c| then > c) {
            return Err(Over::Cap);
        }
        Ok(())
    }

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
    pub(crate) fn starting_at(units: u64) -> Arc<Self> {
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

    pub(crate) fn take(&self, units: u64, limit: &Limit) -> Result<u64, Over> {
        let mut now = self.taken.load(Ordering::Relaxed);
        loop {
            let then = now.saturating_add(units);
            limit.check(units, then)?;
            match self
                .taken
                .compare_exchange_weak(now, then, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(then),
                Err(other) => now = other,
            }
        }
    }

    /// Why units would not be given just now.
    pub(crate) fn peek(&self, units: u64, limit: &Limit) -> Result<(), Over> {
        let then = self.taken().saturating_add(units);
        limit.check(units, then)
    }

    /// Another count of the same units is ahead of ours: follow it.
    pub(crate) fn catch_up(&self, units: u64) {
        let ahead = units.saturating_sub(self.recorded.load(Ordering::Relaxed));
        if ahead > 0 {
            self.recorded.fetch_add(ahead, Ordering::Relaxed);
            self.taken.fetch_add(ahead, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_unit_is_given_once() {
        let limit = Limit {
            meter: 1,
            quota: Some(1_000),
            priced: false,
            within_cap: None,
            settled_units: 0,
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
