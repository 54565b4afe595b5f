//! Leases: parts of hard limits that single ledgers may use up without asking, so that several gateways never let more
//! through than one would.
//!
//! A lease is a *ceiling*: a number of units of a meter in a period, counted in one ledger, that this ledger may reach.
//! What a meter may come to is the units that are taken in, and of every ledger what its ceiling is beyond those of its own
//! ([`Lease::open`]). A ceiling is raised only where this total stays within the limit, and is never lowered but by the
//! gateway that holds it: so nobody need know what a gateway does that is not heard, or is dead.
//!
//! Units are leased, not money. Under a spend cap the dearest numbers of units that the ceilings of all meters let happen
//! must fit together, by the prices that invoices are made with. Where a price falls with more units (volume tiers), that is
//! what it comes to just before it falls: a total beyond it that would cost less is not reached under leases. The budget of
//! a key is a part of the account's bill, which also follows from what other keys use: its ceilings fit together by what all
//! keys have used so far, and the part can grow by what others use later, as with one gateway.

use crate::access::Environment;
use crate::key_part;
use crate::price;
use crate::snapshot::{Entitlement, KeyLimits, MeterEntitlement};
use crate::{ConsumerId, KeyId, Time};

/// Most subjects in one question: some tens of milliseconds for the database.
pub const LEASES_MOST: usize = 200;
/// A lease is at least this long, in units, where an equal part of what is free is not shorter: towards the end of a quota
/// each unit would be asked for alone.
const LITTLE: u64 = 8;
/// Units granted at once of what has no limit any more: a gateway that asks has not heard of it yet.
const UNLIMITED_MORE: u64 = 1_000;
/// Highest total of units in a period where a grace has no last unit.
const UNITS_MOST: u64 = 1_000_000_000_000_000;

/// What is leased: units of a meter in a period, of an account or of a chain of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseSubject {
    /// Whose.
    pub consumer: ConsumerId,
    /// Live or test.
    pub environment: Environment,
    /// The first key of the chain whose own limits these are; none for those of the account.
    pub root: Option<KeyId>,
    /// Number of the meter.
    pub meter: u16,
    /// The period's first instant.
    pub period_start: Time,
}

/// Whose: what is wanted of one meter may be leased in another.
pub type LeaseOwner = (ConsumerId, Environment, Option<KeyId>, Time);

impl LeaseSubject {
    /// Whose, and in which period.
    pub fn owner(&self) -> LeaseOwner {
        (self.consumer, self.environment, self.root, self.period_start)
    }
}

/// What a gateway wants to know and to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// The asking gateway's ledger.
    pub ledger: String,
    /// The turn that the last answer gave. A question with another one is refused, so that one that comes late changes
    /// nothing any more. None asks for the turn alone.
    pub turn: Option<i64>,
    /// Whatever was leased before, nothing is used of it beyond this record. Said by a gateway that begins, until it is
    /// answered; it holds nothing then but what these very questions gave.
    pub begins_after: Option<u64>,
    /// At most [`LEASES_MOST`].
    pub items: Vec<LeaseItem>,
}

/// One subject of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseItem {
    /// What is leased.
    pub subject: LeaseSubject,
    /// The ceiling that the gateway has: beyond it, it uses nothing. Lower than before, the rest is given back.
    pub holds: u64,
    /// Units recorded or in flight at the gateway, as far as it knows: of those that its ceiling is for.
    pub own: u64,
    /// How many more it needs; 0 gives back and asks for nothing.
    pub more: u64,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The turn of the next question.
    pub turn: i64,
    /// The last sequence number of the ledger that is in [`LeaseTold::used`].
    pub shipped_through: u64,
    /// Of each item, in the same order; none where the turn alone was asked for.
    pub told: Vec<LeaseTold>,
    /// Who lacks units: what is not needed of theirs is to be given back.
    pub wanted: Vec<LeaseOwner>,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTold {
    /// What is leased.
    pub subject: LeaseSubject,
    /// The ceiling from now on.
    pub ceiling: u64,
    /// Units of the ledger that count towards it, as far as shipped.
    pub used: u64,
    /// The first instant at which the ceiling does not hold any more: the end of a grace.
    pub until: Option<Time>,
    /// Whether what is needed is there.
    pub rest: Rest,
}

/// Whether what is needed is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It is.
    Granted,
    /// It is leased to others, or to other meters, or not known yet to be used: to be asked for again.
    Leased,
    /// It is used up, whatever is given back.
    UsedUp(Limiting),
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limiting {
    /// The hard quota, or the quota of the key.
    Quota,
    /// The spend cap, or the budget of the key.
    Money,
}

/// A ledger's lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease {
    /// Units of the ledger that may be reached.
    pub ceiling: u64,
    /// Those of them that are taken in.
    pub used: u64,
}

impl Lease {
    /// Units that the ledger may still bring, or has brought unheard.
    pub fn open(self) -> u64 {
        self.ceiling.saturating_sub(self.used)
    }
}

/// A lease in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Who has it.
    pub ledger: String,
    /// What it is for.
    pub subject: LeaseSubject,
    /// The lease.
    pub lease: Lease,
}

/// What a grant follows from: all that is known of an account in a period.
#[derive(Debug, Clone, Copy)]
pub struct Books<'a> {
    /// Terms, and what is used as far as shipped. Read after `leases`, or at the same instant.
    pub entitlement: &'a Entitlement,
    /// Limits of the chain of keys that is asked for, and its use.
    pub key: Option<&'a KeyLimits>,
    /// Every lease of the account in the period, of all ledgers: those of the account itself and of that chain.
    pub leases: &'a [LeaseRow],
    /// Business time.
    pub now: Time,
}

/// What is decided of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The ceiling from now on.
    pub ceiling: u64,
    /// As [`LeaseTold::until`].
    pub until: Option<Time>,
    /// Whether what is needed is there.
    pub rest: Rest,
}

/// How far a total may go.
#[derive(Debug, Clone, Copy)]
struct Most {
    /// None: as far as it likes.
    units: Option<u64>,
    by: Limiting,
}

impl Most {
    fn admits(self, total: u64) -> bool {
        self.units.is_none_or(|most| total <= most)
    }

    fn and(self, other: Self) -> Self {
        match (self.units, other.units) {
            (Some(a), Some(b)) if b < a => other,
            (None, Some(_)) => other,
            _ => self,
        }
    }
}

/// Which leases count beside what is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opens {
    All,
    /// As if all were given back.
    None,
}

impl Books<'_> {
    /// Decides on an item of a ledger that has `lease` of it (which stands in the books so).
    pub fn decide(&self, ledger: &str, item: &LeaseItem, lease: Lease) -> Decision {
        let subject = &item.subject;
        let target = item.own.max(lease.used).saturating_add(item.more);
        let needed = target.saturating_sub(lease.used);
        let total = self.total(subject, Opens::All);
        let most = self.most(subject, Opens::All, target);
        let kept = |rest| Decision {
            ceiling: lease.ceiling,
            until: self.until(subject, total),
            rest,
        };
        if item.more == 0 {
            return kept(Rest::Granted);
        }
        if !most.admits(total.saturating_sub(lease.open()).saturating_add(needed)) {
            let used = self.total(subject, Opens::None);
            let at_last = self.most(subject, Opens::None, target);
            return kept(if at_last.admits(used.saturating_add(needed)) {
                Rest::Leased
            } else {
                Rest::UsedUp(at_last.by)
            });
        }
        let base = lease.ceiling.max(lease.used);
        let lacking = target.saturating_sub(base);
        let size = match most.units {
            None => lacking.saturating_add(UNLIMITED_MORE),
            Some(most) => part(most.saturating_sub(total), lacking, self.askers(ledger, subject)),
        };
        Decision {
            ceiling: base.saturating_add(size),
            until: self.until(subject, total.saturating_add(size)),
            rest: Rest::Granted,
        }
    }

    fn meter(&self, meter: u16) -> Option<&MeterEntitlement> {
        self.entitlement.meters.iter().find(|m| m.meter == meter)
    }

    /// Units used, and leased.
    fn total(&self, subject: &LeaseSubject, opens: Opens) -> u64 {
        let used = match (subject.root, self.key) {
            (None, _) => self.meter(subject.meter).map_or(0, |m| m.used),
            (Some(_), None) => 0,
            (Some(_), Some(key)) => key
                .used
                .iter()
                .filter(|u| u.meter == subject.meter)
                .map(|u| u.units)
                .sum(),
        };
        let of_it = self.leases.iter().filter(|row| row.subject == *subject);
        let open = of_it.map(|row| row.lease.open()).fold(0, u64::saturating_add);
        match opens {
            Opens::All => used.saturating_add(open),
            Opens::None => used,
        }
    }

    /// Ledgers that hold leases of the same owner, the asking one among them.
    fn askers(&self, ledger: &str, subject: &LeaseSubject) -> u64 {
        let others = self.leases.iter().filter(|row| row.ledger != ledger);
        let holding = others.filter(|row| row.subject.owner() == subject.owner() && row.lease.open() > 0);
        let mut names: Vec<&str> = holding.map(|row| row.ledger.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        u64::try_from(names.len()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// How far the total of a subject may go, all others being what they are. `up_to` is the highest that is of interest
    /// where the limit is a key's budget.
    fn most(&self, subject: &LeaseSubject, opens: Opens, up_to: u64) -> Most {
        match subject.root {
            None => self.most_of_account(subject, opens),
            Some(_) => self.most_of_key(subject, opens, up_to),
        }
    }

    fn most_of_account(&self, subject: &LeaseSubject, opens: Opens) -> Most {
        let quota = Most {
            units: self.meter(subject.meter).and_then(|m| self.quota(m).0),
            by: Limiting::Quota,
        };
        quota.and(Most {
            units: self.within_cap(subject, opens),
            by: Limiting::Money,
        })
    }

    /// The last unit of a hard quota with its grace, and the end of the grace.
    fn quota(&self, meter: &MeterEntitlement) -> (Option<u64>, Option<Time>) {
        let Some(quota) = self.entitlement.quota_at(meter, self.now).0.ceiling() else {
            return (None, None);
        };
        let Some(grace) = meter.terms.grace else {
            return (Some(quota), None);
        };
        let end = grace.end(meter.used_up_at.unwrap_or(self.now));
        if end.is_some_and(|end| end <= self.now) {
            return (Some(quota), None);
        }
        (Some(grace.last_unit(quota).unwrap_or(UNITS_MOST.max(quota))), end)
    }

    /// When a ceiling ends that lets the total go so far: with the grace, where it goes beyond the quota.
    fn until(&self, subject: &LeaseSubject, total: u64) -> Option<Time> {
        let meter = self.meter(subject.meter).filter(|_| subject.root.is_none())?;
        let quota = self.entitlement.quota_at(meter, self.now).0.ceiling()?;
        self.quota(meter).1.filter(|_| total > quota)
    }

    /// The highest total of a meter's units at which the spend cap holds whatever the other meters come to. Units that
    /// cost nothing more than what is used of it already fit always. Only what is used: for a moment a total may say more
    /// than there is, and that must not become a right to it.
    fn within_cap(&self, subject: &LeaseSubject, opens: Opens) -> Option<u64> {
        let e = self.entitlement;
        let left = e.spend_cap_minor?.saturating_sub(e.settled_minor).max(0);
        let asked = self.meter(subject.meter)?;
        let cost = |m: &MeterEntitlement, opens| {
            let of_it = LeaseSubject {
                meter: m.meter,
                ..*subject
            };
            let since = self.total(&of_it, opens).saturating_sub(m.settled_units);
            // What does not fit a number of money is beyond every cap.
            price::dearest(&m.terms, since, e.currency).map_or(i64::MAX, |money| money.minor)
        };
        let others = e.meters.iter().filter(|m| m.meter != asked.meter);
        let others = others.map(|m| cost(m, opens)).fold(0, i64::saturating_add);
        let budget = left.saturating_sub(others).max(cost(asked, Opens::None));
        let within = price::units_within(&asked.terms, budget, e.currency)?;
        Some(within.saturating_add(asked.settled_units))
    }

    fn most_of_key(&self, subject: &LeaseSubject, opens: Opens, up_to: u64) -> Most {
        let none = Most {
            units: None,
            by: Limiting::Quota,
        };
        let Some(key) = self.key else { return none };
        let of_meter = |meter| LeaseSubject { meter, ..*subject };
        let others: Vec<(u16, u64)> = self
            .meters_of_key(key, subject)
            .into_iter()
            .map(|meter| (meter, self.total(&of_meter(meter), opens)))
            .collect();
        let sum = others.iter().map(|(_, units)| *units).fold(0, u64::saturating_add);
        let quota = Most {
            units: key.quota.map(|quota| quota.saturating_sub(sum)),
            by: Limiting::Quota,
        };
        quota.and(Most {
            units: key.budget_minor.map(|budget| {
                let own = self.total(subject, opens);
                let highest = own.saturating_add(up_to).saturating_mul(4).min(UNITS_MOST);
                let fits = |units: u64| self.part_of_key(subject, units, &others) <= budget;
                last_that_fits(self.total(subject, Opens::None), highest, fits)
            }),
            by: Limiting::Money,
        })
    }

    /// The other meters that a chain of keys has used or leased.
    fn meters_of_key(&self, key: &KeyLimits, subject: &LeaseSubject) -> Vec<u16> {
        let leased = self.leases.iter().map(|row| row.subject);
        let leased = leased.filter(|s| s.owner() == subject.owner()).map(|s| s.meter);
        let mut meters: Vec<u16> = key.used.iter().map(|u| u.meter).chain(leased).collect();
        meters.retain(|meter| *meter != subject.meter);
        meters.sort_unstable();
        meters.dedup();
        meters
    }

    /// The key's part of the bill, in minor units: with `units` of the meter that is asked for and these units of others.
    fn part_of_key(&self, subject: &LeaseSubject, units: u64, others: &[(u16, u64)]) -> i64 {
        let e = self.entitlement;
        let mut sum = 0i64;
        let (mut own, mut all) = (0u64, 0u64);
        for (meter, units) in others.iter().copied().chain([(subject.meter, units)]) {
            own = own.saturating_add(units);
            let found = self.meter(meter);
            all = all.saturating_add(found.map_or(0, |m| m.used).max(units));
            if let Some(m) = found.filter(|m| m.terms.overage.is_some()) {
                sum = sum.saturating_add(self.part_of_meter(m, units));
            }
        }
        let others_all = e.meters.iter().filter(|m| m.meter != subject.meter);
        let others_all = others_all.filter(|m| others.iter().all(|(meter, _)| *meter != m.meter));
        all = others_all.map(|m| m.used).fold(all, u64::saturating_add);
        sum.saturating_add(key_part::part(e.settled_minor, own, all).unwrap_or(i64::MAX))
    }

    /// What so many units of a key come to of a meter's cost, by the units of all keys so far.
    fn part_of_meter(&self, m: &MeterEntitlement, own: u64) -> i64 {
        let all = m.used.max(own);
        let since = all.saturating_sub(m.settled_units);
        let cost = price::dearest(&m.terms, since, self.entitlement.currency).ok();
        cost.and_then(|cost| key_part::part(cost.minor, own, all))
            .unwrap_or(i64::MAX)
    }
}

/// How much of what is free one of so many who ask is given: half of an equal part, at least what is lacking and a little.
fn part(free: u64, lacking: u64, askers: u64) -> u64 {
    let equal = free / askers.max(1);
    (equal / 2).max(equal.min(LITTLE)).max(lacking).min(free)
}

/// The last number from `from` to `to` that fits, where every one before one that fits does; `from` where none does.
fn last_that_fits(from: u64, to: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests;
