//! Overrides: what one consumer has in place of what its plan says, from an instant on, until another or without end.
//!
//! An override replaces the units of a meter's quota, the numbers of a rate limit, or whether the consumer has a feature;
//! never a price or an allowance. A quota's override decides what is refused and when people are told; what is used is
//! charged by the plan as ever, and what the plan has no price for costs nothing.
//!
//! Everything here is a pure function of the overrides and an instant, so that gateways, pages and tests agree, and one
//! ends in its moment wherever nobody can be asked.

use crate::access::QuotaKind;
use crate::catalogue::{MeterTerms, RateLimit};
use crate::money::grouped;
use crate::policy::{COUNT_MOST, RateRule};
use crate::quota::Quota;
use crate::{OverrideId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The name of a plan's overall rate limit.
pub const OVERALL: &str = "rate";
/// Highest quota, in units: beyond it a number is a typing mistake.
const UNITS_MOST: u64 = 1_000_000_000_000_000;

/// An override as gateways are told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Its id.
    pub id: OverrideId,
    /// What it changes.
    pub change: Change,
    /// Its first instant.
    pub starts_at: Time,
    /// The first instant without it; none means until it is taken back.
    pub ends_at: Option<Time>,
}

/// What is changed, and to what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Change {
    /// How much of a meter may be used in a period.
    Quota {
        /// Slug of the meter.
        meter: String,
        /// Units; 0 to 1,000,000,000,000,000.
        units: u64,
        /// What happens past them; none means what happens past the plan's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<QuotaKind>,
    },
    /// The numbers of a rate limit; what it holds for, its window and how it counts stay.
    Limit {
        /// Its name in the plan; [`OVERALL`] for the overall one.
        name: String,
        /// Requests in each window (a second for the overall one), on average; 1 to 1,000,000,000.
        count: u32,
        /// Requests let through at once; none means as the plan says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        burst: Option<u32>,
    },
    /// Whether it has a feature, whatever plan, rollout and grants say.
    Feature {
        /// Slug of the feature.
        feature: String,
        /// Has it, or has it not.
        on: bool,
    },
}

/// A number out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct OutOfBounds {
    /// `amount` or `burst`.
    pub field: &'static str,
    /// What to do about it.
    pub problem: String,
}

impl Override {
    /// Whether it holds at an instant.
    pub fn holds_at(&self, at: Time) -> bool {
        self.starts_at <= at && !self.has_ended_by(at)
    }

    /// Whether it holds no more.
    pub fn has_ended_by(&self, at: Time) -> bool {
        self.ends_at.is_some_and(|end| end <= at)
    }

    /// Whether there is an instant at which both hold, and they change the same.
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins_before_end = |one: &Self, two: &Self| two.ends_at.is_none_or(|end| one.starts_at < end);
        self.change.target() == other.change.target()
            && begins_before_end(self, other)
            && begins_before_end(other, self)
    }

    /// `until 2026-12-24T00:00:00Z`, or `without an end`.
    pub fn until(&self) -> String {
        self.ends_at
            .map_or("without an end".to_owned(), |end| format!("until {end}"))
    }
}

impl Change {
    /// What kind of thing is changed, and which: two overrides of the same target are never in force at once.
    pub fn target(&self) -> (&'static str, &str) {
        match self {
            Self::Quota { meter, .. } => ("quota", meter),
            Self::Limit { name, .. } => ("limit", name),
            Self::Feature { feature, .. } => ("feature", feature),
        }
    }

    /// `quota calls=5000`, as the command line takes it.
    pub fn words(&self) -> String {
        let (what, which) = self.target();
        match self {
            Self::Quota { units, kind, .. } => {
                let kind = kind.map_or(String::new(), |kind| format!(" {kind}"));
                format!("{what} {which}={units}{kind}")
            }
            Self::Limit { count, burst, .. } => {
                let burst = burst.map_or(String::new(), |burst| format!(" burst {burst}"));
                format!("{what} {which}={count}{burst}")
            }
            Self::Feature { on, .. } => format!("{what} {which}={}", if *on { "on" } else { "off" }),
        }
    }

    /// Checks the bounds of its numbers.
    ///
    /// # Errors
    /// The first number that is out of them.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let out = |field, problem| Err(OutOfBounds { field, problem });
        let counts = 1..=COUNT_MOST;
        let most = grouped(COUNT_MOST.into());
        match self {
            Self::Quota { units, .. } if *units > UNITS_MOST => out(
                "amount",
                format!("Give a number of units from 0 to {}.", grouped(UNITS_MOST)),
            ),
            Self::Limit { count, .. } if !counts.contains(count) => {
                out("amount", format!("Give a number of requests from 1 to {most}."))
            }
            Self::Limit { burst: Some(burst), .. } if !counts.contains(burst) => {
                out("burst", format!("Give a number of requests at once from 1 to {most}."))
            }
            _ => Ok(()),
        }
    }
}

/// Those that hold at an instant.
pub fn in_force(all: &[Override], at: Time) -> impl Iterator<Item = &Override> {
    all.iter().filter(move |o| o.holds_at(at))
}

/// The instants after one at which something begins or ends.
pub fn changes_after(all: &[Override], at: Time) -> BTreeSet<Time> {
    let moments = all.iter().flat_map(|o| [Some(o.starts_at), o.ends_at]).flatten();
    moments.filter(|moment| at < *moment).collect()
}

/// The quota of a meter under overrides that are in force, and the one that it comes from.
pub fn quota<'a>(terms: &MeterTerms, in_force: impl Iterator<Item = &'a Override>) -> (Quota, Option<&'a Override>) {
    let mut found = (Quota::of(terms), None);
    for o in in_force {
        if let Change::Quota { meter, units, kind } = &o.change
            && *meter == terms.meter
        {
            let kind = kind.unwrap_or(Quota::of(terms).kind);
            found = (Quota { units: *units, kind }, Some(o));
        }
    }
    found
}

/// The overall rate limit under overrides that are in force.
pub fn rate_limit<'a>(plan: RateLimit, in_force: impl Iterator<Item = &'a Override>) -> RateLimit {
    in_force.fold(plan, |limit, o| match &o.change {
        Change::Limit { name, count, burst } if name == OVERALL => RateLimit {
            per_second: *count,
            burst: burst.unwrap_or(plan.burst),
        },
        _ => limit,
    })
}

/// A named rate limit of a plan under overrides that are in force.
pub fn limit<'a>(plan: &RateRule, in_force: impl Iterator<Item = &'a Override>) -> RateRule {
    in_force.fold(plan.clone(), |rule, o| match &o.change {
        Change::Limit { name, count, burst } if *name == plan.name => RateRule {
            requests: *count,
            burst: burst.or(plan.burst),
            ..rule
        },
        _ => rule,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{Overage, TierModel};
    use proptest::prelude::*;

    fn at(s: i64) -> Time {
        Time::from_unix_s(s)
    }

    fn of(change: Change, starts: i64, ends: Option<i64>) -> Override {
        Override {
            id: OverrideId::from_bits(1),
            change,
            starts_at: at(starts),
            ends_at: ends.map(at),
        }
    }

    fn calls(units: u64, kind: Option<QuotaKind>) -> Change {
        Change::Quota {
            meter: "calls".to_owned(),
            units,
            kind,
        }
    }

    fn named(name: &str, count: u32, burst: Option<u32>) -> Change {
        Change::Limit {
            name: name.to_owned(),
            count,
            burst,
        }
    }

    proptest! {
        /// It holds from its start up to its end and not a moment longer, and whoever looks at the changes alone misses
        /// nothing.
        #[test]
        fn it_holds_between_its_moments(starts in 0i64..50, length in proptest::option::of(1i64..50), now in 0i64..120) {
            let all = [of(calls(1, None), starts, length.map(|n| starts + n))];
            let holds = in_force(&all, at(now)).count() == 1;
            prop_assert_eq!(holds, starts <= now && length.is_none_or(|n| now < starts + n));
            let next = changes_after(&all, at(now)).first().copied();
            for later in now..next.map_or(now + 120, Time::unix_s) {
                prop_assert_eq!(in_force(&all, at(later)).count() == 1, holds);
            }
        }

        #[test]
        fn two_overlap_when_both_hold_at_some_moment(
            a in 0i64..20, b in 0i64..20, x in proptest::option::of(1i64..10), y in proptest::option::of(1i64..10),
        ) {
            let one = of(calls(1, None), a, x.map(|n| a + n));
            let two = of(calls(2, None), b, y.map(|n| b + n));
            let both = (0..100).any(|s| one.holds_at(at(s)) && two.holds_at(at(s)));
            prop_assert_eq!((one.overlaps(&two), two.overlaps(&one)), (both, both));
            let other = of(named("calls", 1, None), b, None);
            prop_assert!(!one.overlaps(&other), "another target");
        }
    }

    #[test]
    fn a_quota_is_the_plans_in_kind_unless_it_says_otherwise() {
        let hard = MeterTerms {
            meter: "calls".to_owned(),
            included: 10,
            ..MeterTerms::default()
        };
        let soft = MeterTerms {
            overage: Some(Overage {
                model: TierModel::Graduated,
                package_units: 1,
                tiers: Vec::new(),
            }),
            ..hard.clone()
        };
        let ceiling = |terms: &MeterTerms, change| quota(terms, [of(change, 0, None)].iter()).0.ceiling();
        assert_eq!(ceiling(&hard, calls(20, None)), Some(20));
        assert_eq!(ceiling(&hard, calls(20, Some(QuotaKind::Soft))), None);
        assert_eq!(ceiling(&soft, calls(20, None)), None);
        assert_eq!(ceiling(&soft, calls(20, Some(QuotaKind::Hard))), Some(20));
        assert_eq!(ceiling(&hard, named("calls", 20, None)), Some(10), "another target");
        assert_eq!(quota(&soft, [of(calls(7, None), 0, None)].iter()).0.units, 7);
    }

    #[test]
    fn a_limit_keeps_what_is_not_said() {
        let plan = RateLimit {
            per_second: 5,
            burst: 10,
        };
        let rate = |burst| rate_limit(plan, [of(named(OVERALL, 50, burst), 0, None)].iter());
        assert_eq!(
            (rate(None).per_second, rate(None).burst, rate(Some(7)).burst),
            (50, 10, 7)
        );
        let rule: RateRule = toml::from_str("name = \"a\"\nrequests = 5\nper = \"day\"\nby = [\"key\"]").unwrap();
        let changed = |name, burst| limit(&rule, [of(named(name, 50, burst), 0, None)].iter());
        assert_eq!(changed("b", None), rule);
        let wider = RateRule {
            requests: 50,
            ..rule.clone()
        };
        assert_eq!((changed("a", None).burst(), changed("a", None)), (50, wider));
        assert_eq!(changed("a", Some(7)).burst(), 7);
    }

    #[test]
    fn numbers_have_bounds() {
        let field = |change: Change| change.check().err().map(|e| e.field);
        assert_eq!(field(calls(0, None)), None);
        assert_eq!(field(calls(UNITS_MOST + 1, None)), Some("amount"));
        assert_eq!(field(named("a", 0, None)), Some("amount"));
        assert_eq!(field(named("a", COUNT_MOST, Some(1))), None);
        assert_eq!(field(named("a", COUNT_MOST + 1, None)), Some("amount"));
        assert_eq!(field(named("a", 1, Some(0))), Some("burst"));
        assert_eq!(field(named("a", 1, Some(COUNT_MOST + 1))), Some("burst"));
    }
}
