//! Each gateway is told what the others counted, all of it, and nothing where there is no other.

use super::{Under, batch, consumer, live, manager, record, routes};
use crate::world::World;
use domain::key_limits::{self, Limits};
use domain::snapshot::changes_since;
use domain::usage::{counts, ship};
use domain::{Domain, DomainError, entitlements, keys};
use model::snapshot::{COUNTED_MOST, Counts, LedgerEnd, LedgerPart, OTHERS_TOLD_FOR_S};
use model::{ConsumerId, Time};
use std::collections::HashMap;
use std::time::Duration;

/// A consumer with a key that has a limit, in its running period.
async fn limited(world: &World, name: &str) -> Under {
    let who = consumer(world, name).await;
    entitlements::recompile_now(&world.domain, who).await.unwrap();
    let key = keys::create(&world.domain, &manager(who), live("k")).await.unwrap().id;
    let limits = Limits {
        quota_units: Some(1_000),
        budget_minor: None,
    };
    key_limits::set(&world.domain, &manager(who), key, limits)
        .await
        .unwrap();
    let all = changes_since(&world.domain, "nobody", 0).await.unwrap();
    let found = all.keys.iter().find(|k| k.id == key).unwrap();
    Under {
        consumer: who,
        key,
        subscription: None,
        version: None,
        period_start: found.limits.as_ref().unwrap().period_start,
    }
}

async fn send(world: &World, ledger: &str, under: Under, range: std::ops::RangeInclusive<u64>) {
    let now = world.domain.clock.now();
    let records = range.map(|seq| record(under, seq, now, 1)).collect();
    ship(&world.domain, &batch(ledger, records)).await.unwrap();
}

fn end(ledger: &str, shipped_through: u64) -> LedgerEnd {
    LedgerEnd {
        ledger: ledger.to_owned(),
        shipped_through,
        leases: None,
    }
}

fn part(ledger: &str, after: u64, through: u64) -> LedgerPart {
    LedgerPart {
        ledger: ledger.to_owned(),
        after,
        through,
    }
}

/// The ledgers of others that a gateway is told of, which has everything but this.
async fn others(domain: &Domain, ledger: &str) -> Vec<LedgerEnd> {
    let mut others = changes_since(domain, ledger, i64::MAX).await.unwrap().others;
    for end in &mut others {
        assert!(end.leases != Some(true), "none of them asks for leases");
        end.leases = None;
    }
    others
}

fn meters(counts: &Counts) -> Vec<(ConsumerId, Time, u64)> {
    let mut all: Vec<_> = counts
        .meters
        .iter()
        .map(|m| (m.consumer, m.period_start, m.used))
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn a_gateway_is_told_what_all_counted_and_how_much_of_it_is_its_own() {
    let world = World::new().await;
    routes(&world).await;
    let (ada, bob) = (limited(&world, "ada").await, limited(&world, "bob").await);
    send(&world, "a", ada, 1..=10).await;
    let alone = others(&world.domain, "a").await;
    assert!(alone.is_empty(), "one gateway alone is told of nobody");
    let versions = changes_since(&world.domain, "a", 0).await.unwrap().version;
    send(&world, "b", ada, 1..=3).await;
    send(&world, "b", bob, 4..=5).await;
    assert_eq!(others(&world.domain, "a").await, [end("b", 5)]);
    assert_eq!(others(&world.domain, "b").await, [end("a", 10)]);
    let told = counts(&world.domain, "a", &[part("b", 0, 3)]).await.unwrap();
    assert_eq!(
        meters(&told),
        [(ada.consumer, ada.period_start, 13)],
        "only whose were asked for"
    );
    assert_eq!(told.shipped_through, 10);
    assert_eq!(told.keys.len(), 1);
    assert_eq!(
        (told.keys[0].root, told.keys[0].meter, told.keys[0].used),
        (ada.key, 1, 13)
    );
    let told = counts(&world.domain, "a", &[part("b", 3, 5)]).await.unwrap();
    assert_eq!(meters(&told), [(bob.consumer, bob.period_start, 2)]);
    let told = counts(&world.domain, "b", &[part("a", 0, 10)]).await.unwrap();
    assert_eq!((meters(&told)[0].2, told.shipped_through), (13, 5));
    assert_eq!(
        changes_since(&world.domain, "a", 0).await.unwrap().version,
        versions,
        "usage changes no version"
    );
    key_limits::set(&world.domain, &manager(ada.consumer), ada.key, Limits::default())
        .await
        .unwrap();
    let told = counts(&world.domain, "a", &[part("b", 0, 3)]).await.unwrap();
    assert!(told.keys.is_empty(), "nothing counts for a key without limits");
}

#[tokio::test]
async fn periods_that_are_over_are_not_told_and_later_ones_are() {
    let world = World::new().await;
    routes(&world).await;
    let ada = limited(&world, "ada").await;
    let before = Under {
        period_start: ada.period_start.plus_s(-86_400),
        ..ada
    };
    let after = Under {
        period_start: ada.period_start.plus_s(40 * 86_400),
        ..ada
    };
    send(&world, "b", before, 1..=4).await;
    let told = counts(&world.domain, "a", &[part("b", 0, 4)]).await.unwrap();
    assert!(told.meters.is_empty() && told.keys.is_empty(), "{told:?}");
    send(&world, "b", after, 5..=6).await;
    send(&world, "b", ada, 7..=7).await;
    let told = counts(&world.domain, "a", &[part("b", 4, 7)]).await.unwrap();
    let wanted = [
        (ada.consumer, ada.period_start, 1),
        (ada.consumer, after.period_start, 2),
    ];
    assert_eq!(meters(&told), wanted);
    assert_eq!(told.keys.len(), 2);
}

/// One that begins early and commits late is behind nothing: each ledger has numbers of its own.
#[tokio::test]
async fn a_batch_that_commits_late_is_told_when_it_does() {
    let world = World::new().await;
    routes(&world).await;
    let (ada, bob) = (limited(&world, "ada").await, limited(&world, "bob").await);
    send(&world, "b", ada, 1..=1).await;
    // What the batch must write is held, so that it has begun and drawn its time, and stays open.
    let mut held = world.domain.pool.begin().await.unwrap();
    let sql = "SELECT units FROM usage_periods WHERE consumer_id = $1 FOR UPDATE";
    sqlx::query(sql).bind(ada.consumer).execute(&mut *held).await.unwrap();
    let (domain, now) = (world.domain.clone(), world.domain.clock.now());
    let late = tokio::spawn(async move {
        let records = (2..=9).map(|seq| record(ada, seq, now, 1)).collect();
        ship(&domain, &batch("b", records)).await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!late.is_finished());
    world.clock.advance_s(60);
    send(&world, "c", bob, 1..=2).await;
    assert_eq!(others(&world.domain, "a").await, [end("b", 1), end("c", 2)]);
    held.rollback().await.unwrap();
    late.await.unwrap();
    assert_eq!(others(&world.domain, "a").await, [end("b", 9), end("c", 2)]);
    let told = counts(&world.domain, "a", &[part("b", 1, 9)]).await.unwrap();
    assert_eq!(meters(&told), [(ada.consumer, ada.period_start, 9)]);
}

/// A gateway that asks all the time ends with the sums, however many ship at once.
#[tokio::test]
async fn who_follows_the_ledgers_misses_nothing() {
    let world = World::new().await;
    routes(&world).await;
    let all = [limited(&world, "ada").await, limited(&world, "bob").await];
    let now = world.domain.clock.now();
    let mut shippers = Vec::new();
    for n in 0..4u64 {
        let domain = world.domain.clone();
        shippers.push(tokio::spawn(async move {
            for first in (1..=90).step_by(3) {
                let of = |seq: u64| all[usize::try_from((seq + n) % 2).unwrap()];
                let records = (first..first + 3).map(|seq| record(of(seq), seq, now, 1)).collect();
                ship(&domain, &batch(&format!("ledger-{n}"), records)).await.unwrap();
            }
        }));
    }
    let mut heard: HashMap<String, u64> = HashMap::new();
    let mut used: HashMap<ConsumerId, u64> = HashMap::new();
    loop {
        let done = shippers.iter().all(tokio::task::JoinHandle::is_finished);
        let parts: Vec<LedgerPart> = others(&world.domain, "a")
            .await
            .into_iter()
            .map(|e| part(&e.ledger, heard.get(&e.ledger).copied().unwrap_or(0), e.shipped_through))
            .filter(|p| p.through > p.after)
            .collect();
        let told = counts(&world.domain, "a", &parts).await.unwrap();
        for m in told.meters {
            let last = used.insert(m.consumer, m.used);
            assert!(last.is_none_or(|n| n <= m.used), "counts go back");
        }
        heard.extend(parts.into_iter().map(|p| (p.ledger, p.through)));
        if done {
            break;
        }
    }
    assert_eq!(used.values().copied().collect::<Vec<_>>(), [180, 180]);
}

#[tokio::test]
async fn old_ledgers_are_told_with_everything_alone_and_questions_are_bounded() {
    let world = World::new().await;
    routes(&world).await;
    let ada = limited(&world, "ada").await;
    send(&world, "b", ada, 1..=2).await;
    world.clock.advance_s(OTHERS_TOLD_FOR_S);
    assert_eq!(others(&world.domain, "a").await, [end("b", 2)]);
    world.clock.advance_s(1);
    assert!(others(&world.domain, "a").await.is_empty());
    assert_eq!(
        changes_since(&world.domain, "a", 0).await.unwrap().others,
        [end("b", 2)]
    );
    let long = [part("b", 0, COUNTED_MOST), part("c", 0, 1)];
    let refused = counts(&world.domain, "a", &long).await;
    assert!(matches!(refused, Err(DomainError::Invalid { .. })), "{refused:?}");
    let most = counts(&world.domain, "a", &long[..1]).await.unwrap();
    assert_eq!(meters(&most), [(ada.consumer, ada.period_start, 2)]);
}
