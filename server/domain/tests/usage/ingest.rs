//! Exactly once, whatever is sent again, left out or sent by several at once.

use super::{Under, batch, consumer, live, manager, record, routes};
use crate::world::World;
use domain::usage::{ship, shipped_through};
use domain::{DomainError, keys};
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, SubscriptionId, Time};
use testkit::SeededRandom;

async fn under(world: &World, name: &str) -> Under {
    let consumer = consumer(world, name).await;
    let key = keys::create(&world.domain, &manager(consumer), live("k"))
        .await
        .unwrap()
        .id;
    Under {
        consumer,
        key,
        subscription: None,
        version: None,
        period_start: world.domain.clock.now().plus_s(-86_400),
    }
}

fn records(world: &World, under: Under, range: std::ops::RangeInclusive<u64>) -> Vec<UsageRecord> {
    let now = world.domain.clock.now();
    range.map(|seq| record(under, seq, now, 1)).collect()
}

/// Requests in the three places that must agree: rows, hours, periods.
async fn counts(world: &World) -> [i64; 3] {
    [
        world.count("SELECT count(*) FROM requests").await,
        world
            .count("SELECT coalesce(sum(requests), 0)::bigint FROM usage_hours")
            .await,
        world
            .count("SELECT coalesce(sum(units), 0)::bigint FROM usage_periods")
            .await,
    ]
}

#[tokio::test]
async fn what_is_sent_again_counts_once_and_what_is_missing_is_asked_for() {
    let world = World::new().await;
    let under = under(&world, "ada").await;
    let send = async |range| ship(&world.domain, &batch("a", records(&world, under, range))).await;
    assert_eq!(shipped_through(&world.domain, "a").await.unwrap(), 0);
    send(1..=10).await.unwrap();
    send(1..=10).await.unwrap();
    send(5..=15).await.unwrap();
    assert_eq!(counts(&world).await, [15; 3]);
    assert!(
        matches!(send(17..=20).await, Err(DomainError::Conflict(_))),
        "16 is missing"
    );
    let mut holed = records(&world, under, 16..=20);
    holed.remove(2);
    assert!(ship(&world.domain, &batch("a", holed)).await.is_err(), "18 is missing");
    assert_eq!(counts(&world).await, [15; 3], "a refused batch leaves nothing behind");
    assert_eq!(shipped_through(&world.domain, "a").await.unwrap(), 15);
    send(16..=16).await.unwrap();
    assert_eq!(counts(&world).await, [16; 3]);
}

#[tokio::test]
async fn many_ships_at_once_lose_and_double_nothing() {
    let world = World::new().await;
    let (ada, bob) = (under(&world, "ada").await, under(&world, "bob").await);
    let mut tasks = Vec::new();
    for n in 0..24u64 {
        // Six senders of each of four ledgers, which all touch the rows of both consumers, in opposite orders.
        let (domain, ledger) = (world.domain.clone(), format!("ledger-{}", n % 4));
        let (first, second) = if n % 2 == 0 { (ada, bob) } else { (bob, ada) };
        let now = world.domain.clock.now();
        tasks.push(tokio::spawn(async move {
            for end in [40u64, 80, 120] {
                let start = shipped_through(&domain, &ledger).await.unwrap() + 1;
                let all = (start..=end).map(|s| record(if s % 2 == 0 { first } else { second }, s, now, 1));
                ship(&domain, &batch(&ledger, all.collect())).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(counts(&world).await, [480; 3]);
}

#[tokio::test]
async fn any_order_of_losses_and_repeats_ends_in_the_same_sums() {
    let world = World::new().await;
    let (under, random) = (under(&world, "ada").await, SeededRandom::new(11));
    let all: Vec<UsageRecord> = (1..=400u64)
        .map(|seq| {
            let at = world
                .domain
                .clock
                .now()
                .plus_s(i64::try_from(random.below(7_200)).unwrap());
            record(under, seq, at, u32::try_from(random.below(5)).unwrap())
        })
        .collect();
    let mut acknowledged = 0usize;
    while acknowledged < all.len() {
        // The sender may have forgotten some acknowledgements, or be ahead of itself.
        let from = (acknowledged + usize::try_from(random.below(3)).unwrap())
            .saturating_sub(usize::try_from(random.below(60)).unwrap());
        let to = (from + 1 + usize::try_from(random.below(70)).unwrap()).min(all.len());
        let outcome = ship(&world.domain, &batch("a", all[from.min(to)..to].to_vec())).await;
        let through = usize::try_from(shipped_through(&world.domain, "a").await.unwrap()).unwrap();
        assert!(through >= acknowledged, "the cursor goes back");
        assert_eq!(
            outcome.is_err(),
            from > acknowledged && to > from,
            "refused when, and only when, there is a gap"
        );
        acknowledged = through;
    }
    let units: i64 = all.iter().map(|r| i64::from(r.units)).sum();
    assert_eq!(counts(&world).await, [400, 400, units]);
}

#[tokio::test]
async fn usage_of_nobody_does_not_hold_up_the_rest() {
    let world = World::new().await;
    let known = under(&world, "ada").await;
    let nobody = Under {
        consumer: ConsumerId::from_bits(1),
        ..known
    };
    let lost_key = Under {
        key: KeyId::from_bits(1),
        subscription: Some(SubscriptionId::from_bits(1)),
        ..known
    };
    let now = world.domain.clock.now();
    let all = vec![
        record(known, 1, now, 1),
        record(nobody, 2, now, 1),
        record(lost_key, 3, now, 1),
    ];
    ship(&world.domain, &batch("a", all)).await.unwrap();
    assert_eq!(shipped_through(&world.domain, "a").await.unwrap(), 3);
    assert_eq!(counts(&world).await, [2; 3]);
    assert_eq!(world.count("SELECT count(*) FROM unbilled_units").await, 0);
}

#[tokio::test]
async fn refusals_and_failures_are_kept_apart_and_cost_nothing() {
    let world = World::new().await;
    routes(&world).await;
    let under = under(&world, "ada").await;
    let now = world.domain.clock.now();
    let mut all: Vec<UsageRecord> = (1..=4).map(|seq| record(under, seq, now, 0)).collect();
    (all[1].status, all[1].refusal) = (429, 14);
    all[2].status = 500;
    (all[3].status, all[3].refusal) = (502, 19);
    ship(&world.domain, &batch("a", all)).await.unwrap();
    let row: (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT sum(requests)::bigint, sum(refused)::bigint, sum(errors)::bigint, sum(units)::bigint FROM usage_hours",
    )
    .fetch_one(world.database.pool())
    .await
    .unwrap();
    assert_eq!(row, (4, 1, 2, 0));
    assert_eq!(world.count("SELECT count(*) FROM usage_periods").await, 0);
}

#[tokio::test]
async fn the_last_use_is_written_once_a_minute() {
    let world = World::new().await;
    let under = under(&world, "ada").await;
    let start = world.domain.clock.now();
    let last = async || -> Option<Time> {
        sqlx::query_scalar("SELECT last_used_at FROM keys")
            .fetch_one(world.database.pool())
            .await
            .unwrap()
    };
    let version = world.count("SELECT version FROM keys").await;
    for (seq, after, seen) in [(1, 0, 0), (2, 59, 0), (3, 60, 60), (4, 30, 60), (5, 200, 200)] {
        ship(
            &world.domain,
            &batch("a", vec![record(under, seq, start.plus_s(after), 1)]),
        )
        .await
        .unwrap();
        assert_eq!(last().await, Some(start.plus_s(seen)), "after record {seq}");
    }
    assert_eq!(
        world.count("SELECT version FROM keys").await,
        version,
        "no gateway needs to hear of it"
    );
}

#[tokio::test]
async fn test_calls_count_apart() {
    let world = World::new().await;
    routes(&world).await;
    let under = under(&world, "ada").await;
    let now = world.domain.clock.now();
    let mut all = records(&world, under, 1..=5);
    all.iter_mut().skip(2).for_each(|r| r.environment = Environment::Test);
    ship(&world.domain, &batch("a", all)).await.unwrap();
    let viewer = domain::Provider::console().viewer(under.consumer);
    let range = model::Period {
        start: now.plus_s(-3_600),
        end: now.plus_s(3_600),
    };
    for (environment, calls) in [(Environment::Live, 2), (Environment::Test, 3)] {
        let group = domain::usage::GroupBy::Key;
        let daily = domain::usage::by_day(&world.domain, &viewer, environment, range, group)
            .await
            .unwrap();
        assert_eq!(daily.requests, calls);
        let filter = domain::usage::LogFilter {
            environment: Some(environment),
            ..Default::default()
        };
        let log = domain::usage::requests(&world.domain, &viewer, &filter).await.unwrap();
        assert_eq!(u64::try_from(log.len()).unwrap(), calls);
    }
}

/// A WebSocket that is counted by its time is one request, however many records there are of it.
#[tokio::test]
async fn parts_of_a_request_count_units_and_are_no_requests() {
    let world = World::new().await;
    routes(&world).await;
    let under = under(&world, "ada").await;
    let now = world.domain.clock.now();
    let part = |seq, of: u64, units| {
        let mut part = record(under, seq, now.plus_s(i64::try_from(seq).unwrap()), units);
        part.request = model::RequestId::from_bits(of.into());
        part.continues = seq != of;
        part.status = 101;
        part
    };
    // Two sockets, and a request that is none.
    let mut all = vec![
        part(1, 1, 1),
        part(2, 2, 1),
        part(3, 1, 3),
        part(4, 2, 3),
        part(5, 1, 2),
    ];
    all.push(record(under, 6, now.plus_s(6), 1));
    ship(&world.domain, &batch("a", all)).await.unwrap();
    let sums: (i64, i64) = sqlx::query_as("SELECT sum(requests)::bigint, sum(units)::bigint FROM usage_hours")
        .fetch_one(&world.domain.pool)
        .await
        .unwrap();
    assert_eq!(sums, (3, 11));
    assert_eq!(world.count("SELECT sum(units)::bigint FROM usage_periods").await, 11);
    let viewer = domain::Provider::console().viewer(under.consumer);
    let all = domain::usage::LogFilter::default();
    let lines = domain::usage::requests(&world.domain, &viewer, &all).await.unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|l| (l.status, l.units, l.duration_us, l.response_bytes))
        .collect();
    assert_eq!(told, [(200, 1, 1_500, 20), (101, 4, 3_000, 40), (101, 6, 4_500, 60)]);
}
