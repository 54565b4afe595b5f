//! What a gateway is told in many parts: nothing is served before it can be judged, and no part is asked for twice.

use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most keys and entitlements in a part.
const PART: usize = 20;

fn set(counter: &AtomicUsize, n: usize) {
    counter.store(n, Ordering::SeqCst);
}

fn answers(world: &World) -> usize {
    world.plane.answers.load(Ordering::SeqCst)
}

async fn ask(world: &World, key: &PlainKey) -> Reply {
    let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
    world.send(&head, "").await
}

/// Most questions for news since then: one every half second, and what is on its way.
fn polls(since: Instant) -> usize {
    usize::try_from(since.elapsed().as_millis()).unwrap() / 500 + 2
}

fn new_keys(world: &World, count: usize) -> Vec<PlainKey> {
    let key = || PlainKey::generate("tp", Environment::Live, &*world.random);
    let keys: Vec<PlainKey> = (0..count).map(|_| key()).collect();
    for key in &keys {
        world.plane.put_key(key_record(key, world.consumer));
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_knows_nothing_serves_once_it_knows_everything() {
    let mut world = World::new().await;
    let keys = new_keys(&world, 300);
    world.stop().await;
    for name in ["snapshot", "snapshot.previous"] {
        let _ = std::fs::remove_file(world.folder.0.join(name));
    }
    set(&world.plane.answers, 0);
    set(&world.plane.most, PART);
    set(&world.plane.away_after, 7);
    world.start();
    until(|| answers(&world) == 7).await;
    until(|| world.gateway.as_ref().unwrap().snapshot_version() > 100).await;
    assert!(!world.gateway.as_ref().unwrap().ready(), "the routes are held back");
    let early = ask(&world, &keys[0]).await;
    assert_eq!(early.status, 503);
    // Without routes it knows no portal to link to.
    assert!(String::from_utf8_lossy(&early.body).contains("/problems/not-ready"));
    assert!(
        !world.folder.0.join("snapshot").exists(),
        "a half snapshot is not stored"
    );
    let begun = Instant::now();
    set(&world.plane.away_after, 0);
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    let most = 302usize.div_ceil(PART) + polls(begun);
    assert!(answers(&world) <= most, "{} of {most}", answers(&world));
    for key in keys.iter().step_by(7).chain([&world.key]) {
        assert_eq!(ask(&world, key).await.status, 200);
    }
}

/// What asks whether it is ready sends calls at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_ready_knows_every_key() {
    let mut world = World::new().await;
    let keys = new_keys(&world, 3_000);
    world.stop().await;
    world.folder = Folder::new();
    world.start();
    while !world.gateway.as_ref().unwrap().ready() {
        tokio::task::yield_now().await;
    }
    for key in keys.iter().step_by(300) {
        assert_eq!(ask(&world, key).await.status, 200);
    }
}

/// A gateway that was away for long hears of a key before it hears what the key may do.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_judged_before_its_account_is_told() {
    let world = World::new().await;
    world.plane.away.store(true, Ordering::SeqCst);
    let newcomer = model::ConsumerId::from_bits(2 << 80);
    let key = PlainKey::generate("tp", Environment::Live, &*world.random);
    world.plane.put_key(key_record(&key, newcomer));
    let told = world.plane.version();
    new_keys(&world, 3);
    world.plane.put_entitlement(entitlement(newcomer));
    set(&world.plane.most, 1);
    set(&world.plane.away_after, answers(&world) + 1);
    world.plane.away.store(false, Ordering::SeqCst);
    until(|| world.gateway.as_ref().unwrap().snapshot_version() == told).await;
    assert!(!world.gateway.as_ref().unwrap().informed());
    let early = ask(&world, &key).await;
    assert_eq!((early.status, early.problem().as_str()), (503, "keys-unavailable"));
    assert!(early.header("retry-after").is_some());
    assert_eq!(world.get("/v1/ok").await.status, 200, "who is known goes on");
    set(&world.plane.away_after, 0);
    world.synced().await;
    assert_eq!(ask(&world, &key).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_told_again_in_parts() {
    let world = World::with(|e| e.meters = vec![meter(1, 10, None)]).await;
    new_keys(&world, 100);
    world.synced().await;
    set(&world.plane.most, PART);
    // The consumer's entitlement is in the first part, this key in the last.
    let late = new_keys(&world, 1).pop().unwrap();
    world.synced().await;
    world.plane.count_elsewhere(world.consumer, 8);
    let before = answers(&world);
    set(&world.plane.away_after, before + 4);
    world.gateway.as_ref().unwrap().ask_all_anew();
    until(|| answers(&world) == before + 4).await;
    assert_eq!(
        ask(&world, &late).await.status,
        200,
        "what is known stays in force meanwhile"
    );
    set(&world.plane.away_after, 0);
    until(|| answers(&world) >= before + 12).await;
    assert_eq!(ask(&world, &late).await.status, 200);
    assert_eq!(ask(&world, &late).await.problem(), "quota-exceeded");
    // It is asked for once, and then news alone are asked for.
    let (after, begun) = (answers(&world), Instant::now());
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let now = answers(&world);
    assert!(now <= after + polls(begun), "{after}, then {now}");
}

/// A control plane that needs longer for an answer than a gateway waits at first. Only with `TURNPIKE_LONG_TESTS`.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_control_plane_gets_through() {
    if std::env::var_os("TURNPIKE_LONG_TESTS").is_none() {
        return;
    }
    let mut world = World::new().await;
    world.stop().await;
    for name in ["snapshot", "snapshot.previous"] {
        let _ = std::fs::remove_file(world.folder.0.join(name));
    }
    world.plane.slow_ms.store(7_000, Ordering::SeqCst);
    world.start();
    tokio::time::sleep(Duration::from_secs(10)).await;
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
}
