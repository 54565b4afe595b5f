use super::*;
use crate::access::Environment;
use crate::catalogue::{CacheHits, MeterTerms, RateLimit};
use crate::price::{Overage, OverageTier, TierModel};
use crate::quota::QuotaGrace;
use crate::snapshot::{FeatureLife, KeyUse};
use crate::{Currency, Period};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// How tiers are read, and each one's last unit and price.
type Prices<'a> = Option<(TierModel, &'a [(Option<u64>, &'a str)])>;

const LEDGERS: usize = 4;
const NAMES: [&str; LEDGERS] = ["a", "b", "c", "d"];

fn at(s: i64) -> Time {
    Time::from_unix_s(s)
}

fn meter(number: u16, included: u64, model: Prices<'_>) -> MeterEntitlement {
    let overage = model.map(|(model, tiers)| Overage {
        model,
        package_units: 1,
        tiers: tiers
            .iter()
            .map(|(up_to, unit)| OverageTier {
                up_to: *up_to,
                unit_minor: unit.parse().unwrap(),
            })
            .collect(),
    });
    MeterEntitlement::unused(
        number,
        MeterTerms {
            meter: format!("meter-{number}"),
            included,
            overage,
            ..MeterTerms::default()
        },
    )
}

fn entitlement(meters: Vec<MeterEntitlement>, spend_cap_minor: Option<i64>) -> Entitlement {
    Entitlement {
        consumer: ConsumerId::from_bits(1),
        environment: Environment::Live,
        external_id: None,
        subscription: None,
        plan_version: None,
        plan: "pro".to_owned(),
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
        period: Period {
            start: at(0),
            end: at(1_000),
        },
        meters,
        currency: Currency::USD,
        spend_cap_minor,
        settled_minor: 0,
        overrides: Vec::new(),
    }
}

fn subject(root: Option<u128>, meter: u16) -> LeaseSubject {
    LeaseSubject {
        consumer: ConsumerId::from_bits(1),
        environment: Environment::Live,
        root: root.map(KeyId::from_bits),
        meter,
        period_start: at(0),
    }
}

/// A gateway's side of a lease.
#[derive(Clone, Copy, Default)]
struct Holding {
    ceiling: u64,
    own: u64,
}

/// Gateways and books, with every call's units also counted for a key.
struct World {
    terms: Entitlement,
    key: Option<KeyLimits>,
    rows: BTreeMap<(usize, LeaseSubject), Lease>,
    gateways: [BTreeMap<LeaseSubject, Holding>; LEDGERS],
    dead: [bool; LEDGERS],
}

impl World {
    fn new(terms: Entitlement, key: Option<KeyLimits>) -> Self {
        Self {
            terms,
            key,
            rows: BTreeMap::new(),
            gateways: Default::default(),
            dead: [false; LEDGERS],
        }
    }

    /// Asks; `heard` is whether the answer comes through.
    fn ask(&mut self, n: usize, subject: LeaseSubject, more: u64, heard: bool) -> Option<Rest> {
        let holding = self.gateways[n].get(&subject).copied().unwrap_or_default();
        let row = self.rows.entry((n, subject)).or_default();
        row.ceiling = holding.ceiling;
        let lease = *row;
        let leases: Vec<LeaseRow> = self
            .rows
            .iter()
            .map(|((n, subject), lease)| LeaseRow {
                ledger: NAMES[*n].to_owned(),
                subject: *subject,
                lease: *lease,
            })
            .collect();
        let books = Books {
            entitlement: &self.terms,
            key: self.key.as_ref().filter(|_| subject.root.is_some()),
            leases: &leases,
            now: at(10),
        };
        let item = LeaseItem {
            subject,
            holds: holding.ceiling,
            own: holding.own,
            more,
        };
        let decision = books.decide(NAMES[n], &item, lease);
        self.rows.entry((n, subject)).or_default().ceiling = decision.ceiling;
        heard.then(|| {
            self.gateways[n].entry(subject).or_default().ceiling = decision.ceiling;
            decision.rest
        })
    }

    fn subjects(&self, meter: u16) -> Vec<LeaseSubject> {
        let of_key = self.key.as_ref().map(|_| subject(Some(9), meter));
        std::iter::once(subject(None, meter)).chain(of_key).collect()
    }

    /// A call, where the leases in hand let it through.
    fn call(&mut self, n: usize, meter: u16, units: u64) -> bool {
        let subjects = self.subjects(meter);
        let holds = |s: &LeaseSubject| {
            let holding = self.gateways[n].get(s).copied().unwrap_or_default();
            holding.own + units <= holding.ceiling
        };
        let passes = !self.dead[n] && subjects.iter().all(holds);
        for s in subjects.iter().filter(|_| passes) {
            self.gateways[n].entry(*s).or_default().own += units;
        }
        passes
    }

    /// The ledger is taken in.
    fn ship(&mut self, n: usize) {
        for (subject, holding) in &self.gateways[n] {
            let row = self.rows.entry((n, *subject)).or_default();
            let more = holding.own - row.used;
            row.used = holding.own;
            if subject.root.is_none() {
                let of_it = self.terms.meters.iter_mut().find(|m| m.meter == subject.meter);
                of_it.unwrap().used += more;
            } else if let Some(key) = &mut self.key {
                match key.used.iter_mut().find(|u| u.meter == subject.meter) {
                    Some(used) => used.units += more,
                    None => key.used.push(KeyUse {
                        meter: subject.meter,
                        units: more,
                    }),
                }
            }
        }
    }

    fn give_back(&mut self, n: usize, meter: u16) {
        for s in self.subjects(meter) {
            if let Some(holding) = self.gateways[n].get_mut(&s) {
                holding.ceiling = holding.own;
                self.ask(n, s, 0, true);
            }
        }
    }

    /// A gateway begins anew on its folder, or another process ships what it left.
    fn revive(&mut self, n: usize) {
        self.ship(n);
        for holding in self.gateways[n].values_mut() {
            holding.ceiling = holding.own;
        }
        // Those of answers that never came, too.
        for ((_, _), lease) in self.rows.iter_mut().filter(|((of, _), _)| *of == n) {
            lease.ceiling = lease.used;
        }
        self.dead[n] = false;
    }

    fn passed(&self, subject: LeaseSubject) -> u64 {
        self.gateways
            .iter()
            .filter_map(|g| g.get(&subject))
            .map(|h| h.own)
            .sum()
    }

    fn cost(&self) -> i64 {
        let cost = |m: &MeterEntitlement| {
            price::cost(&m.terms, self.passed(subject(None, m.meter)), Currency::USD)
                .unwrap()
                .minor
        };
        self.terms.meters.iter().map(cost).sum()
    }

    fn check(&self) {
        for m in &self.terms.meters {
            if let (Some(quota), None) = (self.terms.quota_at(m, at(10)).0.ceiling(), m.terms.grace) {
                assert!(
                    self.passed(subject(None, m.meter)) <= quota,
                    "quota of meter {}",
                    m.meter
                );
            }
        }
        if let Some(cap) = self.terms.spend_cap_minor {
            assert!(self.cost() <= cap, "{} beyond a cap of {cap}", self.cost());
        }
        if let Some(quota) = self.key.as_ref().and_then(|k| k.quota) {
            let of_key: u64 = self
                .terms
                .meters
                .iter()
                .map(|m| self.passed(subject(Some(9), m.meter)))
                .sum();
            assert!(of_key <= quota, "{of_key} beyond a key's quota of {quota}");
        }
        if let Some(budget) = self.key.as_ref().and_then(|k| k.budget_minor) {
            assert!(
                self.cost() <= budget,
                "{} beyond a key's budget of {budget}",
                self.cost()
            );
        }
    }

    /// Everybody is back, everything shipped and given back; then one gateway takes what it gets.
    fn use_up(&mut self, meter: u16) -> Rest {
        for n in 0..LEDGERS {
            self.revive(n);
        }
        loop {
            for s in self.subjects(meter) {
                let rest = self.ask(0, s, 1, true).unwrap();
                if rest != Rest::Granted {
                    return rest;
                }
            }
            while self.call(0, meter, 1) {}
            self.ship(0);
            self.check();
        }
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Ask(usize, u16, u64, bool),
    Call(usize, u16, u64),
    Ship(usize),
    GiveBack(usize, u16),
    Die(usize),
    Revive(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = (0u8..20, 0..LEDGERS, 1u16..3, 1u64..6, proptest::bool::weighted(0.8)).prop_map(
        |(kind, n, meter, units, heard)| match kind {
            0..6 => Deed::Ask(n, meter, units, heard),
            6..14 => Deed::Call(n, meter, units),
            14..16 => Deed::Ship(n),
            16..18 => Deed::GiveBack(n, meter),
            18 => Deed::Die(n),
            _ => Deed::Revive(n),
        },
    );
    proptest::collection::vec(deed, 0..250)
}

fn run(world: &mut World, deeds: Vec<Deed>) {
    for deed in deeds {
        match deed {
            Deed::Ask(n, meter, more, heard) if !world.dead[n] => {
                for s in world.subjects(meter) {
                    world.ask(n, s, more, heard);
                }
            }
            Deed::Call(n, meter, units) => {
                for _ in 0..8 {
                    world.call(n, meter, units);
                }
            }
            Deed::Ship(n) if !world.dead[n] => world.ship(n),
            Deed::GiveBack(n, meter) if !world.dead[n] => world.give_back(n, meter),
            Deed::Die(n) => world.dead[n] = true,
            Deed::Revive(n) => world.revive(n),
            _ => {}
        }
        world.check();
    }
}

const GRADUATED: Prices<'_> = Some((TierModel::Graduated, &[(Some(60), "0.7"), (None, "0.333")]));
const VOLUME: Prices<'_> = Some((TierModel::Volume, &[(Some(40), "1.5"), (None, "0.9")]));

fn limits(quota: Option<u64>, budget_minor: Option<i64>) -> KeyLimits {
    KeyLimits {
        root: None,
        quota,
        budget_minor,
        period_start: at(0),
        used: Vec::new(),
    }
}

proptest! {
    #[test]
    fn a_quota_is_never_passed_and_can_be_used_up(deeds in deeds(), quota in 0u64..200) {
        let mut world = World::new(entitlement(vec![meter(1, quota, None), meter(2, 50, None)], None), None);
        run(&mut world, deeds);
        prop_assert_eq!(world.use_up(1), Rest::UsedUp(Limiting::Quota));
        prop_assert_eq!(world.passed(subject(None, 1)), quota);
    }

    #[test]
    fn a_cap_over_two_meters_is_never_passed_and_can_be_used_up(
        deeds in deeds(), cap in 0i64..120, graduated: bool,
    ) {
        let second = meter(2, 10, if graduated { GRADUATED } else { VOLUME });
        let mut world = World::new(entitlement(vec![meter(1, 5, GRADUATED), second], Some(cap)), None);
        run(&mut world, deeds);
        for meter in [1, 2] {
            prop_assert_eq!(world.use_up(meter), Rest::UsedUp(Limiting::Money));
        }
        if graduated {
            for m in &world.terms.meters {
                let next = price::cost(&m.terms, m.used + 1, Currency::USD).unwrap().minor;
                let now = price::cost(&m.terms, m.used, Currency::USD).unwrap().minor;
                prop_assert!(next > now && world.cost() + next - now > cap, "another unit would have fit");
            }
        }
    }

    #[test]
    fn a_keys_quota_over_two_meters_is_never_passed(deeds in deeds(), quota in 0u64..200) {
        let terms = entitlement(vec![meter(1, 10_000, None), meter(2, 10_000, None)], None);
        let mut world = World::new(terms, Some(limits(Some(quota), None)));
        run(&mut world, deeds);
        prop_assert_eq!(world.use_up(1), Rest::UsedUp(Limiting::Quota));
        let of_key = world.passed(subject(Some(9), 1)) + world.passed(subject(Some(9), 2));
        prop_assert_eq!(of_key, quota);
    }

    /// A key that is the only one to be used: its part is the whole bill.
    #[test]
    fn a_keys_budget_is_never_passed(deeds in deeds(), budget in 0i64..120, graduated: bool) {
        let second = meter(2, 10, if graduated { GRADUATED } else { VOLUME });
        let terms = entitlement(vec![meter(1, 5, GRADUATED), second], None);
        let mut world = World::new(terms, Some(limits(None, Some(budget))));
        run(&mut world, deeds);
        prop_assert_eq!(world.use_up(1), Rest::UsedUp(Limiting::Money));
        let next = price::cost(&world.terms.meters[0].terms, world.terms.meters[0].used + 1, Currency::USD).unwrap();
        let now = price::cost(&world.terms.meters[0].terms, world.terms.meters[0].used, Currency::USD).unwrap();
        prop_assert!(!graduated || world.cost() + next.minor - now.minor > budget, "another unit would have fit");
    }

    #[test]
    fn the_dearest_number_is_dearer_than_all_before(units in 0u64..200, included in 0u64..60, graduated: bool) {
        let of = meter(1, included, if graduated { GRADUATED } else { VOLUME });
        let dearest = price::dearest(&of.terms, units, Currency::USD).unwrap();
        let all = (0..=units).map(|n| price::cost(&of.terms, n, Currency::USD).unwrap().minor);
        prop_assert_eq!(all.max(), Some(dearest.minor));
    }
}

#[test]
fn parts_leave_something_for_others() {
    assert_eq!(part(1_000, 1, 1), 500);
    assert_eq!(part(1_000, 1, 4), 125);
    assert_eq!(part(1_000, 900, 4), 900);
    assert_eq!(part(10, 1, 1), 8);
    assert_eq!(part(10, 1, 2), 5);
    assert_eq!(part(1, 1, 9), 1);
}

#[test]
fn what_others_have_is_no_end_and_what_they_used_is() {
    let mut world = World::new(entitlement(vec![meter(1, 10, None)], None), None);
    let calls = subject(None, 1);
    assert_eq!(world.ask(0, calls, 10, true), Some(Rest::Granted));
    assert_eq!(world.ask(1, calls, 1, true), Some(Rest::Leased));
    for _ in 0..10 {
        assert!(world.call(0, 1, 1));
    }
    assert_eq!(
        world.ask(1, calls, 1, true),
        Some(Rest::Leased),
        "nobody heard of it yet"
    );
    world.ship(0);
    assert_eq!(world.ask(1, calls, 1, true), Some(Rest::UsedUp(Limiting::Quota)));
}

#[test]
fn a_lost_answer_costs_nothing_for_long() {
    let mut world = World::new(entitlement(vec![meter(1, 10, None)], None), None);
    let calls = subject(None, 1);
    assert_eq!(world.ask(0, calls, 10, false), None);
    assert_eq!(world.ask(1, calls, 1, true), Some(Rest::Leased));
    assert_eq!(world.ask(0, calls, 10, true), Some(Rest::Granted));
    assert!(world.call(0, 1, 10));
}

#[test]
fn a_lowered_limit_is_found_at_the_next_question() {
    let mut world = World::new(entitlement(vec![meter(1, 100, None)], None), None);
    let calls = subject(None, 1);
    assert_eq!(world.ask(0, calls, 60, true), Some(Rest::Granted));
    world.terms.meters[0].terms.included = 20;
    assert_eq!(world.ask(1, calls, 1, true), Some(Rest::Leased));
    assert!(world.call(0, 1, 20));
    assert_eq!(world.ask(0, calls, 1, true), Some(Rest::UsedUp(Limiting::Quota)));
    world.give_back(0, 1);
    world.ship(0);
    assert_eq!(world.ask(1, calls, 1, true), Some(Rest::UsedUp(Limiting::Quota)));
}

/// Leases are read before what is used, so what is taken in between the two counts twice for a moment: nobody may get a right
/// to that.
#[test]
fn what_counts_twice_for_a_moment_is_given_to_nobody() {
    for used in 60..260 {
        let mut terms = entitlement(vec![meter(1, 20, GRADUATED), meter(2, 10, GRADUATED)], None);
        let cost = |m: &MeterEntitlement, units| price::cost(&m.terms, units, Currency::USD).unwrap().minor;
        (terms.meters[0].used, terms.meters[1].used) = (used, 96);
        let cap = cost(&terms.meters[0], used) + cost(&terms.meters[1], 96);
        terms.spend_cap_minor = Some(cap);
        // Ten of those that are used are still open here.
        let row = LeaseRow {
            ledger: "b".to_owned(),
            subject: subject(None, 1),
            lease: Lease { ceiling: 10, used: 0 },
        };
        let books = Books {
            entitlement: &terms,
            key: None,
            leases: &[row],
            now: at(10),
        };
        let item = LeaseItem {
            subject: subject(None, 1),
            holds: 0,
            own: 0,
            more: 1,
        };
        let given = books.decide("a", &item, Lease::default()).ceiling;
        let then = cost(&terms.meters[0], used + given) + cost(&terms.meters[1], 96);
        assert!(then <= cap, "{given} given at {used}: {then} beyond {cap}");
    }
}

#[test]
fn a_grace_in_hours_bounds_the_ceiling_in_time() {
    let grace = QuotaGrace {
        percent: None,
        hours: Some(2),
    };
    let mut terms = entitlement(vec![meter(1, 100, None)], None);
    terms.meters[0].terms.grace = Some(grace);
    let ask = |terms: &Entitlement, more: u64, now: Time| {
        let books = Books {
            entitlement: terms,
            key: None,
            leases: &[],
            now,
        };
        let item = LeaseItem {
            subject: subject(None, 1),
            holds: 0,
            own: 0,
            more,
        };
        books.decide("a", &item, Lease::default())
    };
    let open = ask(&terms, 101, at(10));
    assert_eq!((open.rest, open.until), (Rest::Granted, Some(at(10 + 7_200))));
    terms.meters[0].used = 100;
    terms.meters[0].used_up_at = Some(at(5));
    assert_eq!(ask(&terms, 1, at(10)).until, Some(at(5 + 7_200)));
    assert_eq!(ask(&terms, 1, at(5 + 7_200)).rest, Rest::UsedUp(Limiting::Quota));
}
