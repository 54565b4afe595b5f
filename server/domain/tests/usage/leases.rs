//! Ledgers that ask for leases at once never get more than the limit, and all of it.

use super::{Under, batch, consumer, live, manager, record, routes};
use crate::world::World;
use domain::key_limits::{self, Limits};
use domain::snapshot::changes_since;
use domain::usage::{end_leases, lease, ship};
use domain::{Domain, DomainError, entitlements, keys};
use model::access::Environment;
use model::catalogue::MeterTerms;
use model::lease::{LeaseAnswer, LeaseAsk, LeaseItem, LeaseSubject, LeaseTold, Limiting, Rest};
use model::price::{self, Overage, OverageTier, TierModel};
use model::snapshot::{Entitlement, MeterEntitlement};
use model::{ConsumerId, Currency, KeyId};
use std::collections::HashMap;

fn meter(number: u16, included: u64, tiers: &[(Option<u64>, &str)]) -> MeterEntitlement {
    let tier = |(up_to, unit): &(Option<u64>, &str)| OverageTier {
        up_to: *up_to,
        unit_minor: unit.parse().unwrap(),
    };
    MeterEntitlement::unused(
        number,
        MeterTerms {
            meter: format!("meter-{number}"),
            included,
            overage: (!tiers.is_empty()).then(|| Overage {
                model: TierModel::Graduated,
                package_units: 1,
                tiers: tiers.iter().map(tier).collect(),
            }),
            ..MeterTerms::default()
        },
    )
}

/// A consumer on such terms, with a key.
async fn on_terms(world: &World, change: impl FnOnce(&mut Entitlement)) -> (Under, Entitlement) {
    routes(world).await;
    let ada = consumer(world, "ada").await;
    entitlements::recompile_now(&world.domain, ada).await.unwrap();
    let key = keys::create(&world.domain, &manager(ada), live("k")).await.unwrap().id;
    let mut terms = told(world, ada).await;
    change(&mut terms);
    set(world, &terms).await;
    let under = Under {
        consumer: ada,
        key,
        subscription: None,
        version: None,
        period_start: terms.period.start,
    };
    (under, terms)
}

async fn told(world: &World, consumer: ConsumerId) -> Entitlement {
    let all = changes_since(&world.domain, "nobody", 0).await.unwrap();
    let mut live = all
        .entitlements
        .into_iter()
        .filter(|e| e.environment == Environment::Live);
    live.find(|e| e.consumer == consumer).unwrap()
}

async fn set(world: &World, terms: &Entitlement) {
    sqlx::query("UPDATE entitlements SET record = $2 WHERE consumer_id = $1 AND environment = 'live'")
        .bind(terms.consumer.to_string())
        .bind(serde_json::to_value(terms).unwrap())
        .execute(world.database.pool())
        .await
        .unwrap();
}

/// A gateway as far as leases go.
struct Holder {
    domain: Domain,
    ledger: String,
    under: Under,
    turn: Option<i64>,
    seq: u64,
    /// Ceilings, and units recorded.
    held: HashMap<LeaseSubject, (u64, u64)>,
    unshipped: Vec<(u16, u32)>,
}

impl Holder {
    fn new(world: &World, ledger: &str, under: Under) -> Self {
        Self {
            domain: world.domain.clone(),
            ledger: ledger.to_owned(),
            under,
            turn: None,
            seq: 0,
            held: HashMap::new(),
            unshipped: Vec::new(),
        }
    }

    fn subject(&self, root: Option<KeyId>, meter: u16) -> LeaseSubject {
        LeaseSubject {
            consumer: self.under.consumer,
            environment: Environment::Live,
            root,
            meter,
            period_start: self.under.period_start,
        }
    }

    async fn send(&mut self, begins_after: Option<u64>, items: Vec<LeaseItem>) -> LeaseAnswer {
        let mut ask = LeaseAsk {
            ledger: self.ledger.clone(),
            turn: self.turn,
            begins_after,
            items,
        };
        if ask.turn.is_none() {
            ask.turn = Some(lease(&self.domain, &ask).await.unwrap().turn);
        }
        let answer = lease(&self.domain, &ask).await.unwrap();
        self.turn = Some(answer.turn);
        answer
    }

    async fn ask(&mut self, subject: LeaseSubject, more: u64) -> LeaseTold {
        let (holds, own) = self.held.get(&subject).copied().unwrap_or_default();
        let item = LeaseItem {
            subject,
            holds,
            own,
            more,
        };
        let told = self.send(None, vec![item]).await.told[0];
        self.held.entry(subject).or_default().0 = told.ceiling;
        told
    }

    /// Records units that the leases of these subjects let through.
    fn call(&mut self, subjects: &[LeaseSubject], units: u32) -> bool {
        let fits = |s: &LeaseSubject| {
            let (ceiling, own) = self.held.get(s).copied().unwrap_or_default();
            own + u64::from(units) <= ceiling
        };
        let passes = subjects.iter().all(fits);
        if passes {
            for s in subjects {
                self.held.entry(*s).or_default().1 += u64::from(units);
            }
            self.unshipped.push((subjects[0].meter, units));
        }
        passes
    }

    async fn ship(&mut self) {
        let now = self.domain.clock.now();
        let mut records = Vec::new();
        for (meter, units) in std::mem::take(&mut self.unshipped) {
            self.seq += 1;
            let mut r = record(self.under, self.seq, now, units);
            r.meter = meter;
            records.push(r);
        }
        ship(&self.domain, &batch(&self.ledger, records)).await.unwrap();
    }

    /// Takes what it gets until that is used up; what it took, by meter.
    async fn use_up(mut self, roots: Vec<Option<KeyId>>, meters: Vec<u16>) -> (HashMap<u16, u64>, Rest) {
        let mut taken: HashMap<u16, u64> = HashMap::new();
        let mut last = Rest::Granted;
        for round in 0..2_000 {
            let meter = meters[round % meters.len()];
            let subjects: Vec<_> = roots.iter().map(|root| self.subject(*root, meter)).collect();
            let mut rest = Rest::Granted;
            for subject in &subjects {
                rest = self.ask(*subject, 1).await.rest;
                if rest != Rest::Granted {
                    break;
                }
            }
            for _ in 0..7 {
                *taken.entry(meter).or_default() += u64::from(self.call(&subjects, 1));
            }
            self.ship().await;
            if matches!(rest, Rest::UsedUp(_)) {
                if last == rest {
                    return (taken, rest);
                }
                last = rest;
            }
            if rest == Rest::Leased {
                // What it has of other meters is wanted, too.
                for held in self.held.values_mut() {
                    held.0 = held.1;
                }
                let items = self.held.iter().map(|(subject, held)| LeaseItem {
                    subject: *subject,
                    holds: held.0,
                    own: held.1,
                    more: 0,
                });
                let items = items.collect();
                self.send(None, items).await;
            }
        }
        panic!("it is never used up");
    }
}

/// Both take what they get at once; the sums by meter.
async fn race(world: &World, under: Under, roots: &[Option<KeyId>], meters: &[u16]) -> (HashMap<u16, u64>, Rest) {
    let one = Holder::new(world, "a", under);
    let other = Holder::new(world, "b", under);
    let one = tokio::spawn(one.use_up(roots.to_vec(), meters.to_vec()));
    let other = tokio::spawn(other.use_up(roots.to_vec(), meters.to_vec()));
    let ((mut sums, rest), (more, _)) = (one.await.unwrap(), other.await.unwrap());
    assert!(more.values().sum::<u64>() > 0, "both were given some");
    for (meter, units) in more {
        *sums.entry(meter).or_default() += units;
    }
    (sums, rest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_share_a_hard_quota() {
    let world = World::new().await;
    let (under, _) = on_terms(&world, |e| e.meters = vec![meter(1, 300, &[])]).await;
    let (sums, rest) = race(&world, under, &[None], &[1]).await;
    assert_eq!((sums[&1], rest), (300, Rest::UsedUp(Limiting::Quota)));
    assert_eq!(told(&world, under.consumer).await.meters[0].used, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_share_a_cap_over_two_meters() {
    let world = World::new().await;
    let change = |e: &mut Entitlement| {
        e.meters = vec![
            meter(1, 20, &[(Some(60), "0.7"), (None, "0.333")]),
            meter(2, 10, &[(Some(50), "1.1"), (None, "0.9")]),
        ];
        e.spend_cap_minor = Some(150);
    };
    let (under, terms) = on_terms(&world, change).await;
    let (sums, rest) = race(&world, under, &[None], &[1, 2]).await;
    assert_eq!(rest, Rest::UsedUp(Limiting::Money));
    let cost = |more: u64| -> i64 {
        let of = |m: &MeterEntitlement| {
            price::cost(&m.terms, sums[&m.meter] + more, Currency::USD)
                .unwrap()
                .minor
        };
        terms.meters.iter().map(of).sum()
    };
    assert!(cost(0) <= 150 && cost(2) > 150, "{sums:?} cost {}", cost(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_share_a_keys_quota_over_two_meters() {
    let world = World::new().await;
    let (under, _) = on_terms(&world, |e| {
        e.meters = vec![meter(1, 10_000, &[]), meter(2, 10_000, &[])];
    })
    .await;
    let limits = Limits {
        quota_units: Some(200),
        budget_minor: None,
    };
    key_limits::set(&world.domain, &manager(under.consumer), under.key, limits)
        .await
        .unwrap();
    let (sums, rest) = race(&world, under, &[None, Some(under.key)], &[1, 2]).await;
    assert_eq!(rest, Rest::UsedUp(Limiting::Quota));
    assert_eq!(sums.values().sum::<u64>(), 200);
}

/// What a gateway had is nobody's until its ledger is taken in; then the rest is free.
#[tokio::test]
async fn who_died_keeps_its_lease_until_its_ledger_is_read() {
    let world = World::new().await;
    let (under, _) = on_terms(&world, |e| e.meters = vec![meter(1, 100, &[])]).await;
    let (mut dead, mut other) = (Holder::new(&world, "a", under), Holder::new(&world, "b", under));
    let calls = dead.subject(None, 1);
    assert_eq!(dead.ask(calls, 60).await.ceiling, 60);
    for _ in 0..10 {
        assert!(dead.call(&[calls], 3));
    }
    assert_eq!(other.ask(calls, 41).await.rest, Rest::Leased);
    assert_eq!(other.ask(calls, 40).await.ceiling, 40);
    // It begins anew on its folder, with records that are not shipped yet.
    let mut again = Holder::new(&world, "a", under);
    again.send(Some(10), Vec::new()).await;
    assert_eq!(
        other.ask(calls, 41).await.rest,
        Rest::Leased,
        "what it recorded is not known yet"
    );
    dead.ship().await;
    assert_eq!(other.ask(calls, 70).await.ceiling, 70, "30 of 60 were used");
    assert_eq!(again.ask(calls, 1).await.rest, Rest::Leased);

    // Another process ships what one left.
    other.held.get_mut(&calls).unwrap().1 = 5;
    other.unshipped.push((1, 5));
    other.ship().await;
    end_leases(&world.domain, "b", 1).await.unwrap();
    assert_eq!(again.ask(calls, 65).await.ceiling, 95, "all but what both used");
    let stray = other.ask_again(calls).await;
    assert!(matches!(stray, Err(DomainError::Conflict(_))), "{stray:?}");
}

impl Holder {
    async fn ask_again(&self, subject: LeaseSubject) -> Result<LeaseAnswer, DomainError> {
        let item = LeaseItem {
            subject,
            holds: 100,
            own: 5,
            more: 1,
        };
        let ask = LeaseAsk {
            ledger: self.ledger.clone(),
            turn: self.turn,
            begins_after: None,
            items: vec![item],
        };
        lease(&self.domain, &ask).await
    }
}

/// A gateway that begins anew and is asked for more at once goes on with what it held, because what it recorded of that is
/// not known.
#[tokio::test]
async fn who_begins_anew_goes_on_with_what_it_held() {
    let world = World::new().await;
    let (under, _) = on_terms(&world, |e| e.meters = vec![meter(1, 100, &[])]).await;
    let mut one = Holder::new(&world, "a", under);
    let calls = one.subject(None, 1);
    assert_eq!(one.ask(calls, 60).await.ceiling, 60);
    let mut again = Holder::new(&world, "a", under);
    let item = LeaseItem {
        subject: calls,
        holds: 0,
        own: 0,
        more: 1,
    };
    let told = again.send(Some(7), vec![item]).await.told[0];
    assert!(told.ceiling >= 60 && told.rest == Rest::Granted, "{told:?}");
    let told = again.send(None, vec![item]).await.told[0];
    assert!(
        told.ceiling >= 60,
        "an answer that did not come lowers nothing either: {told:?}"
    );
    // With everything shipped, what an earlier process had is free at once.
    let mut third = Holder::new(&world, "a", under);
    third.send(Some(0), Vec::new()).await;
    assert_eq!(Holder::new(&world, "b", under).ask(calls, 100).await.ceiling, 100);
}

#[tokio::test]
async fn who_lacks_is_told_to_those_who_have() {
    let world = World::new().await;
    let (under, _) = on_terms(&world, |e| e.meters = vec![meter(1, 10, &[])]).await;
    let (mut one, mut other) = (Holder::new(&world, "a", under), Holder::new(&world, "b", under));
    let calls = one.subject(None, 1);
    assert_eq!(one.ask(calls, 10).await.ceiling, 10);
    assert!(one.send(None, Vec::new()).await.wanted.is_empty());
    assert_eq!(other.ask(calls, 1).await.rest, Rest::Leased);
    assert_eq!(one.send(None, Vec::new()).await.wanted, [calls.owner()]);
    assert!(other.send(None, Vec::new()).await.wanted.is_empty(), "it has none");
    let ends = changes_since(&world.domain, "a", i64::MAX).await.unwrap().others;
    assert_eq!(ends.iter().map(|e| e.leases).collect::<Vec<_>>(), [Some(true)]);
    world.clock.advance_s(3);
    let told = one.send(None, Vec::new()).await.wanted;
    assert_eq!(told, [calls.owner()], "by the database's clock, whatever machines say");
    sqlx::query("UPDATE lease_wants SET wanted_at = wanted_at - interval '3 s'")
        .execute(world.database.pool())
        .await
        .unwrap();
    assert!(one.send(None, Vec::new()).await.wanted.is_empty(), "long ago");
}

/// A period that has not begun here is that of a gateway whose clock is ahead; others are not known.
#[tokio::test]
async fn the_next_period_can_be_leased_around_its_beginning() {
    let world = World::new().await;
    let (mut under, terms) = on_terms(&world, |e| e.meters = vec![meter(1, 10, &[])]).await;
    under.period_start = terms.period.end;
    let mut one = Holder::new(&world, "a", under);
    let next = one.subject(None, 1);
    assert_eq!(one.ask(next, 1).await.rest, Rest::Leased, "days before");
    let left_s = world.domain.clock.now().ms_until(terms.period.end) / 1_000;
    world.clock.advance_s(left_s - 60);
    assert_eq!(one.ask(next, 10).await.rest, Rest::Granted);
    world.clock.advance_s(120);
    assert_eq!(Holder::new(&world, "b", under).ask(next, 1).await.rest, Rest::Leased);
}
