//! The ceiling of a meter, in units: a hard quota, or what a spend cap leaves room for.
//!
//! A spend cap is money and holds for the whole period, prices hold from one plan version to the next. What the period
//! cost before the version in force is told as settled, in money and in units; the rest of the cap is for the units since,
//! at the prices in force. That is how the invoices are made.

use crate::headers;
use crate::leases::Held;
use http::HeaderValue;
use model::catalogue::{MeterTerms, RateLimit};
use model::quota::{Quota, QuotaGrace};
use model::{Currency, Period, Time, price};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The ceiling and the counter of a meter.
#[derive(Clone)]
pub(crate) struct Limit {
    pub(crate) meter: u16,
    /// Hard quota, in units.
    pub(crate) quota: Option<u64>,
    /// What is let through beyond the quota.
    pub(crate) grace: Option<QuotaGrace>,
    /// Whether units beyond the allowance cost something.
    pub(crate) priced: bool,
    /// Units that fit under the spend cap, where this is the only priced meter.
    pub(crate) within_cap: Option<u64>,
    /// Units of the period that were charged under earlier plan versions.
    pub(crate) settled_units: u64,
    /// Where limits are leased, it is: a quota or a cap ends it.
    pub(crate) leased: bool,
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

/// A meter: its number, its terms, and what may be used of it, which an override can make another than the terms say.
pub(crate) type Metered<'a> = (u16, &'a MeterTerms, Quota);

impl Frame {
    /// Whether the cost is summed at every admission.
    pub(crate) fn is_summed(&self) -> bool {
        self.priced > 1 && self.cap_left_minor.is_some()
    }

    /// The ceiling of a meter with these terms and this quota.
    pub(crate) fn limit(&self, (meter, terms, quota): Metered<'_>, settled_units: u64, slot: Arc<Slot>) -> Limit {
        let quota = quota.ceiling();
        let within = |left| price::units_within(terms, left, self.currency).map(|n| n.saturating_add(settled_units));
        let within_cap = self.cap_left_minor.filter(|_| self.priced == 1).and_then(within);
        let ceiling = quota.into_iter().chain(within_cap).min();
        let length_s = self.period.start.ms_until(self.period.end).max(0) / 1000;
        Limit {
            meter,
            quota,
            grace: terms.grace,
            priced: terms.overage.is_some(),
            within_cap,
            settled_units,
            leased: quota.is_some() || (self.cap_left_minor.is_some() && terms.overage.is_some()),
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
    /// Whether a total of `then` is beyond the hard quota, by the grace or more.
    fn is_past_quota(&self, then: u64) -> bool {
        self.quota.is_some_and(|q| then > q)
    }

    /// What is left of the grace after a count of `taken`, where that is in it: units, and its end.
    pub(crate) fn grace_left(&self, taken: u64, period: Period, now: Time) -> Option<(Option<u64>, Time)> {
        let (grace, quota) = self.grace.filter(|_| self.is_past_quota(taken)).zip(self.quota)?;
        let units = grace.last_unit(quota).map(|last| last.saturating_sub(taken));
        let end = grace.end(self.slot.used_up_at().unwrap_or(now));
        Some((units, end.map_or(period.end, |end| end.min(period.end))))
    }

    /// Units were recorded for a request of `at`: remembers when a quota with a grace was used up. What is only in flight
    /// begins no grace, because it may be given back.
    pub(crate) fn note_recorded(&self, at: Time) {
        if self.grace.is_some() && self.quota.is_some_and(|q| self.slot.recorded() >= q) {
            let _ = self
                .slot
                .used_up_ms
                .compare_exchange(0, at.unix_ms(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Units that `used` lacked to a quota which is used up by now, where nobody knows since when.
    pub(crate) fn lacked_to_grace(&self, used: u64) -> Option<u64> {
        let is_open = self.grace.is_some() && self.slot.used_up_at().is_none();
        let quota = self.quota.filter(|q| is_open && self.slot.recorded() >= *q)?;
        quota.checked_sub(used).filter(|lacked| *lacked > 0)
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
    /// When a quota with a grace was used up, in milliseconds since 1970; 0 when it is not.
    used_up_ms: AtomicI64,
    /// What it has of a lease, once one was asked for.
    held: OnceLock<Box<Held>>,
}

/// Why units were not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Quota,
    Cap,
    /// No more of it is leased to this gateway.
    Lease,
}

impl Slot {
    pub(crate) fn starting_at(units: u64) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU64::new(units),
            recorded: AtomicU64::new(units),
            used_up_ms: AtomicI64::new(0),
            held: OnceLock::new(),
        })
    }
    /// What it has of a lease.
    pub(crate) fn held(&self) -> &Held {
        self.held.get_or_init(Box::default)
    }
    /// The same, where something was asked for.
    pub(crate) fn held_so_far(&self) -> Option<&Held> {
        self.held.get().map(|held| &**held)
    }
    /// Units recorded and in flight, for who sets a bound to them.
    pub(crate) fn taken_units(&self) -> &AtomicU64 {
        &self.taken
    }
    /// Whether units are in flight.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.taken() > self.recorded()
    }
    /// Units recorded and in flight.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
    /// Units recorded.
    fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }
    /// Takes units, whatever the limits.
    pub(crate) fn reserve(&self, units: u64) {
        self.taken.fetch_add(units, Ordering::Relaxed);
    }
    /// Gives units back.
    pub(crate) fn release(&self, units: u64) {
        self.taken.fetch_sub(units, Ordering::Relaxed);
    }

    /// When a quota with a grace was used up.
    pub(crate) fn used_up_at(&self) -> Option<Time> {
        let ms = self.used_up_ms.load(Ordering::Relaxed);
        (ms != 0).then(|| Time::from_unix_ms(ms))
    }

    /// Takes over when a quota with a grace was used up, if that was earlier than what is known.
    pub(crate) fn used_up(&self, since: Time) {
        let earlier = |ms: i64| (ms == 0 || since.unix_ms() < ms).then(|| since.unix_ms());
        let _ = self
            .used_up_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, earlier);
    }

    /// Takes over when the quota was used up: what is told, if that was earlier, and nothing while units are left.
    pub(crate) fn follow_grace(&self, limit: &Limit, told: Option<Time>) {
        if let Some(told) = told {
            self.used_up(told);
        } else if limit.quota.is_none_or(|q| self.recorded() < q) {
            self.used_up_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether `units` that lead to a total of `then` fit.
    fn check(&self, limit: &Limit, units: u64, then: u64, now: Time) -> Result<(), Over> {
        if units > 0 && limit.is_past_quota(then) && !self.has_grace(limit, then, now) {
            return Err(Over::Quota);
        }
        if units > 0 && limit.within_cap.is_some_and(|c| then > c) {
            return Err(Over::Cap);
        }
        Ok(())
    }

    fn has_grace(&self, limit: &Limit, then: u64, now: Time) -> bool {
        limit.grace.zip(limit.quota).is_some_and(|(grace, quota)| {
            let since = self.used_up_at().unwrap_or(now);
            grace.last_unit(quota).is_none_or(|last| then <= last) && grace.end(since).is_none_or(|end| now < end)
        })
    }

    /// Gives units; the new total.
    pub(crate) fn take(&self, units: u64, limit: &Limit, at: Time) -> Result<u64, Over> {
        let mut now = self.taken.load(Ordering::Relaxed);
        loop {
            let then = now.saturating_add(units);
            self.check(limit, units, then, at)?;
            match self
                .taken
                .compare_exchange_weak(now, then, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(then),
                Err(other) => now = other,
            }
        }
    }

    /// Gives units that are leased, as [`Slot::take`] does; `limit` is that of an account. What is given back of the lease in
    /// this moment is not given here, too: who lowers the edge looks at the count, and we at the edge, each after its own.
    pub(crate) fn take_leased(&self, units: u64, limit: Option<&Limit>, at: Time) -> Result<u64, Over> {
        let (held, now_ms) = (self.held(), at.unix_ms());
        let mut now = self.taken.load(Ordering::SeqCst);
        loop {
            let then = now.saturating_add(units);
            if let Some(limit) = limit {
                self.check(limit, units, then, at)?;
            }
            if units > 0 && !held.covers(then, now_ms) {
                return Err(Over::Lease);
            }
            match self
                .taken
                .compare_exchange_weak(now, then, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) if units > 0 && !held.covers(then, now_ms) => {
                    self.release(units);
                    return Err(Over::Lease);
                }
                Ok(_) => return Ok(then),
                Err(other) => now = other,
            }
        }
    }

    /// Why units would not be given just now.
    pub(crate) fn peek(&self, units: u64, limit: &Limit, at: Time) -> Result<(), Over> {
        let then = self.taken().saturating_add(units);
        self.check(limit, units, then, at)
    }

    /// Another count of the same units is ahead of ours: follow it.
    pub(crate) fn catch_up(&self, units: u64) {
        self.raise(units.saturating_sub(self.recorded()));
    }

    /// Others counted so many units more than we knew. Those in flight here stay taken beside them.
    pub(crate) fn raise(&self, units: u64) {
        if let Some(held) = self.held.get().filter(|_| units > 0) {
            held.raise(units, [&self.taken, &self.recorded]);
        } else if units > 0 {
            self.taken.fetch_add(units, Ordering::Relaxed);
            self.recorded.fetch_add(units, Ordering::Relaxed);
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
            grace: None,
            priced: false,
            within_cap: None,
            settled_units: 0,
            leased: true,
            policy: HeaderValue::from_static(""),
            slot: Slot::starting_at(900),
        };
        let given: usize = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    s.spawn(|| {
                        (0..200)
                            .filter(|_| limit.slot.take(1, &limit, Time::from_unix_s(1)).is_ok())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(given, 100);
    }
}
