//! Several gateways on one control plane: what one counts the others hear of, to the unit, whatever runs meanwhile.

use crate::calls::{hang, statuses};
use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use model::snapshot::KeyLimits;
use model::{Clock, Time};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Far above what is counted.
const PLENTY: u64 = 1_000_000;

/// How many of `count` calls, eight at once, are let through.
async fn passed(world: &World, path: &str, count: usize) -> usize {
    let all = statuses(world.addr, path, &world.key, count).await;
    all.iter().filter(|status| **status == 200).count()
}

/// What a gateway says is left of the quota, by a call that is given back.
async fn left(world: &World) -> u64 {
    let reply = world.get("/v1/status/500").await;
    let told = reply.header("ratelimit").unwrap().to_owned();
    let quota = told.split(", ").find_map(|part| part.strip_prefix("\"quota\";r="));
    let quota = quota.unwrap_or_else(|| panic!("{told}"));
    quota.split(';').next().unwrap().parse().unwrap()
}

/// Waits until a gateway says so.
async fn until_left(world: &World, wanted: u64) {
    let mut last = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        last = left(world).await;
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{last} left, not {wanted}");
}

/// Waits for some questions, so that what could have been heard was.
async fn some_polls() {
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

async fn two(quota: u64) -> (World, World) {
    let first = World::with(|e| e.meters = vec![meter(1, quota, None)]).await;
    let second = first.beside().await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hard_quota_is_brought_together() {
    let (first, second) = two(100).await;
    assert_eq!(passed(&first, "/v1/ok", 60).await, 60);
    until_left(&second, 40).await;
    assert_eq!(passed(&second, "/v1/ok", 80).await, 40, "the rest and no more");
    until_left(&first, 0).await;
    assert_eq!(passed(&first, "/v1/ok", 10).await, 0);
    let rows = first.plane.rows();
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_gateway_alone_asks_for_nothing() {
    let world = World::new().await;
    assert_eq!(passed(&world, "/v1/ok", 20).await, 20);
    world.shipped().await;
    some_polls().await;
    assert_eq!(world.plane.counts_asked.load(Ordering::SeqCst), 0);
    let second = world.beside().await;
    some_polls().await;
    assert_eq!(
        world.plane.counts_asked.load(Ordering::SeqCst),
        0,
        "what was told with everything is not asked for again"
    );
    assert_eq!(passed(&second, "/v1/ok", 1).await, 1);
    until(|| world.plane.counts_asked.load(Ordering::SeqCst) > 0).await;
    some_polls().await;
    assert_eq!(
        world.plane.counts_asked.load(Ordering::SeqCst),
        1,
        "each record is asked for once"
    );
}

/// Requests are recorded while counts are taken over, and entitlements change: nothing is counted twice or left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_runs_meanwhile_is_counted_once_everywhere() {
    let (first, second) = two(PLENTY).await;
    let third = first.beside().await;
    let all = [&first, &second, &third];
    let mut total = 0;
    for round in 0..3 {
        let changing = async {
            for n in 0..20u32 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let change = |e: &mut model::snapshot::Entitlement| e.rate_limit.burst = 10_000 + n;
                first.plane.edit_entitlement(first.consumer, change);
            }
        };
        let (counted, ()) = tokio::join!(passed_at_all(&all, 150), changing);
        assert_eq!(counted, 450, "round {round}");
        total += u64::try_from(counted).unwrap();
        for world in all {
            until_left(world, PLENTY - total).await;
        }
    }
    some_polls().await;
    for world in all {
        assert_eq!(left(world).await, PLENTY - total);
    }
}

/// The same at three gateways at once.
async fn passed_at_all(all: &[&World; 3], count: usize) -> usize {
    let [first, second, third] = all;
    let passed = tokio::join!(
        passed(first, "/v1/ok", count),
        passed(second, "/v1/ok", count),
        passed(third, "/v1/ok", count)
    );
    passed.0 + passed.1 + passed.2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_in_flight_keeps_its_place() {
    let (first, second) = two(10).await;
    let hanging = hang(&second, &first).await;
    assert_eq!(passed(&first, "/v1/ok", 6).await, 6);
    until_left(&second, 3).await;
    hanging.abort();
    until_left(&second, 4).await;
    assert_eq!(
        passed(&second, "/v1/ok", 10).await,
        4,
        "it was given back where it was taken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_spend_cap_is_brought_together() {
    let first = World::with(|e| {
        e.meters = vec![meter(1, 10, Some("3"))];
        e.spend_cap_minor = Some(50);
    })
    .await;
    let second = first.beside().await;
    assert_eq!(passed(&first, "/v1/ok", 20).await, 20);
    // What a call is told that is given back: of 20 units the first 10 cost nothing.
    let begun = Instant::now();
    while second.get("/v1/status/500").await.header("turnpike-budget-remaining") != Some("\"0.20\";currency=usd")
        && begun.elapsed() < Duration::from_secs(60)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(passed(&second, "/v1/ok", 20).await, 6, "26 units are within the cap");
    assert_eq!(second.get("/v1/ok").await.problem(), "spend-cap-reached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_keys_quota_is_brought_together_and_only_its_own() {
    let (first, mut second) = two(1_000).await;
    let limits = KeyLimits {
        root: None,
        quota: Some(10),
        budget_minor: None,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    };
    first
        .plane
        .edit_key(first.key.lookup().0, |k| k.limits = Some(limits.clone()));
    let other = PlainKey::generate("tp", Environment::Live, &*first.random);
    let mut record = key_record(&other, first.consumer);
    record.limits = Some(limits);
    first.plane.put_key(record);
    first.synced().await;
    second.synced().await;
    assert_eq!(passed(&first, "/v1/ok", 7).await, 7);
    until_left(&second, 993).await;
    assert_eq!(passed(&second, "/v1/ok", 20).await, 3);
    assert_eq!(second.get("/v1/ok").await.problem(), "key-quota-reached");
    second.key = other;
    assert_eq!(passed(&second, "/v1/ok", 20).await, 10);
    until_left(&first, 980).await;
    assert_eq!(passed(&first, "/v1/ok", 5).await, 0, "nothing is left of the first key");
}

/// The old key is used at one gateway, the new one at the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotated_keys_quota_is_brought_together() {
    let (first, mut second) = two(1_000).await;
    let limits = |root| KeyLimits {
        root,
        quota: Some(10),
        budget_minor: None,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    };
    first
        .plane
        .edit_key(first.key.lookup().0, |k| k.limits = Some(limits(None)));
    let root = first.plane.key_id(first.key.lookup().0);
    let next = PlainKey::generate("tp", Environment::Live, &*first.random);
    let mut record = key_record(&next, first.consumer);
    record.limits = Some(limits(Some(root)));
    first.plane.put_key(record);
    first.synced().await;
    second.synced().await;
    assert_eq!(passed(&first, "/v1/ok", 4).await, 4);
    until_left(&second, 996).await;
    second.key = next;
    assert_eq!(passed(&second, "/v1/ok", 3).await, 3);
    until_left(&first, 993).await;
    assert_eq!(passed(&first, "/v1/ok", 20).await, 3);
    assert_eq!(first.get("/v1/ok").await.problem(), "key-quota-reached");
    until_left(&second, 990).await;
    assert_eq!(second.get("/v1/ok").await.problem(), "key-quota-reached");
}

/// The clocks of two gateways say different things around the end of a period.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_period_counts_its_own() {
    let (early, late) = two(100).await;
    let end = Time::from_unix_ms(START_MS + 30 * DAY_MS);
    early.clock.advance(early.clock.now().ms_until(end) + 60_000);
    late.clock.advance(late.clock.now().ms_until(end) - 60_000);
    assert_eq!(passed(&late, "/v1/ok", 5).await, 5);
    late.shipped().await;
    some_polls().await;
    assert_eq!(left(&early).await, 100, "late usage of the period before");
    assert_eq!(passed(&early, "/v1/ok", 7).await, 7);
    early.shipped().await;
    some_polls().await;
    assert_eq!(left(&late).await, 95, "usage of a period that has not begun here");
    late.clock.advance(120_000);
    until_left(&late, 93).await;
    assert_eq!(passed(&late, "/v1/ok", 100).await, 93);
    until_left(&early, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_hears_of_what_others_counted_meanwhile() {
    let (first, mut second) = two(100).await;
    assert_eq!(passed(&second, "/v1/ok", 10).await, 10);
    until_left(&first, 90).await;
    second.stop().await;
    assert_eq!(passed(&first, "/v1/ok", 30).await, 30);
    first.shipped().await;
    second.start();
    until_left(&second, 60).await;
    assert_eq!(passed(&second, "/v1/ok", 100).await, 60);
    // One that begins with nothing knows the same.
    let third = first.beside().await;
    until_left(&third, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_told_is_told_later() {
    let (first, second) = two(100).await;
    first.plane.counts_away.store(true, Ordering::SeqCst);
    assert_eq!(passed(&first, "/v1/ok", 30).await, 30);
    first.shipped().await;
    some_polls().await;
    assert_eq!(left(&second).await, 100);
    assert!(second.gateway.as_ref().unwrap().informed(), "everything else is known");
    first.plane.counts_away.store(false, Ordering::SeqCst);
    until_left(&second, 70).await;
}
