//! What the owner of a key lets it use: held exactly, given back, and remembered over a restart.

use crate::support::*;
use model::Time;
use model::access::Environment;
use model::key::PlainKey;
use model::snapshot::{KeyLimits, KeyRecord, KeyUse};

fn limits(quota: Option<u64>, budget_minor: Option<i64>) -> KeyLimits {
    KeyLimits {
        root: None,
        quota,
        budget_minor,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    }
}

/// Limits the key of the world, as its owner would.
async fn limit(world: &World, limits: Option<KeyLimits>) {
    world.plane.edit_key(world.key.lookup().0, |k| k.limits = limits);
    world.synced().await;
}

/// A second key of the same consumer, without limits.
async fn other_key(world: &World) -> PlainKey {
    put_key(world, None).await
}

/// The key that takes over from the world's, with the limits of both.
async fn rotated(world: &World, limits: KeyLimits) -> PlainKey {
    let root = Some(key_record(&world.key, world.consumer).id);
    put_key(world, Some(KeyLimits { root, ..limits })).await
}

async fn put_key(world: &World, limits: Option<KeyLimits>) -> PlainKey {
    let key = PlainKey::generate("tp", Environment::Live, &*world.random);
    let record = key_record(&key, world.consumer);
    world.plane.put_key(KeyRecord { limits, ..record });
    world.synced().await;
    key
}

async fn quote(world: &World, key: &PlainKey, path: &str) -> serde_json::Value {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nTurnpike-Quote: ?1\r\n",
        key.reveal()
    );
    serde_json::from_slice(&world.send(&head, "").await.body).unwrap()
}

async fn with_key(world: &World, key: &PlainKey, path: &str) -> Reply {
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
    world.send(&head, "").await
}

fn link(reply: &Reply) -> String {
    let json: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    json["link"].as_str().unwrap().to_owned()
}

/// How many of `count` calls at once are let through.
async fn at_once(world: &World, path: &str, count: usize) -> usize {
    at_once_with(world, &[&world.key], path, count).await
}

/// As [`at_once`], with these keys in turn.
async fn at_once_with(world: &World, keys: &[&PlainKey], path: &str, count: usize) -> usize {
    let call = |key: &&PlainKey| {
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            key.reveal()
        );
        let addr = world.addr;
        tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await).status })
    };
    let calls: Vec<_> = keys.iter().cycle().take(count).map(call).collect();
    let mut passed = 0;
    for call in calls {
        passed += usize::from(call.await.unwrap() == 200);
    }
    passed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_keys_quota_holds_for_it_alone_and_over_a_restart() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 1_000, None), meter(2, 1_000, None)]).await;
    limit(&world, Some(limits(Some(10), None))).await;
    let other = other_key(&world).await;
    assert_eq!(
        world.get("/v1/status/500").await.status,
        500,
        "what does not count is given back"
    );
    assert_eq!(world.get("/down").await.status, 502);
    assert_eq!(world.get("/other").await.status, 200, "units of all meters count");
    assert_eq!(at_once(&world, "/v1/ok", 40).await, 9);
    let refused = world.get("/v1/ok").await;
    assert_eq!(
        (refused.status, refused.problem()),
        (429, "key-quota-reached".to_owned())
    );
    let id = key_record(&world.key, world.consumer).id;
    assert_eq!(link(&refused), format!("{PORTAL}/keys/{id}/limits"));
    assert!(String::from_utf8_lossy(&refused.body).contains("10 units"));
    assert_eq!(with_key(&world, &other, "/v1/ok").await.status, 200);
    // A restart without the control plane: the copy on disk and the ledger know.
    world.shipped().await;
    world.stop().await;
    world.plane.away.store(true, std::sync::atomic::Ordering::SeqCst);
    world.start();
    assert_eq!(world.get("/v1/ok").await.problem(), "key-quota-reached");
    world.plane.away.store(false, std::sync::atomic::Ordering::SeqCst);
    limit(&world, Some(limits(Some(12), None))).await;
    assert_eq!(at_once(&world, "/v1/ok", 5).await, 2, "more quota, the same count");
    // What another gateway counted is told, and holds.
    let mut more = limits(Some(20), None);
    more.used = vec![KeyUse { meter: 1, units: 19 }];
    limit(&world, Some(more)).await;
    world.shipped().await;
    assert!(at_once(&world, "/v1/ok", 5).await <= 1);
    limit(&world, None).await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    limit(&world, Some(limits(Some(1), None))).await;
    world.clock.advance(30 * DAY_MS);
    assert_eq!(at_once(&world, "/v1/ok", 5).await, 1, "a new period");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_budget_is_its_part_of_the_charges() {
    let world = World::with(|e| {
        e.meters = vec![meter(1, 0, Some("2"))];
        e.spend_cap_minor = Some(1_000);
    })
    .await;
    limit(&world, Some(limits(None, Some(5)))).await;
    let other = other_key(&world).await;
    let left = |reply: &Reply| reply.header("turnpike-budget-remaining").unwrap().to_owned();
    let first = world.get("/v1/ok").await;
    assert_eq!((first.status, left(&first).as_str()), (200, "\"0.03\";currency=usd"));
    let apart = with_key(&world, &other, "/v1/ok").await;
    assert_eq!(
        (apart.status, left(&apart).as_str()),
        (200, "\"9.96\";currency=usd"),
        "the cap's"
    );
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let refused = world.get("/v1/ok").await;
    assert_eq!(
        (refused.status, refused.problem()),
        (402, "key-budget-reached".to_owned())
    );
    assert!(link(&refused).ends_with("/limits"));
    let beyond = quote(&world, &world.key, "/v1/ok").await;
    assert_eq!(beyond["would_be_refused"]["status"], 402);
    assert_eq!(with_key(&world, &other, "/v1/ok").await.status, 200);
    let units: u32 = world.shipped().await.iter().map(|r| r.units).sum();
    assert_eq!(units, 4, "what the key's limit refused was given back to the account");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_quota_holds_for_meters_that_the_plan_does_not_mention() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 1_000, None)]).await;
    limit(&world, Some(limits(Some(4), None))).await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    assert_eq!(at_once(&world, "/other", 10).await, 3, "of the meter 2");
    assert_eq!(world.get("/other").await.problem(), "key-quota-reached");
    assert_eq!(
        world.get("/v1/ok").await.problem(),
        "key-quota-reached",
        "one quota for all"
    );
    assert_eq!(
        quote(&world, &world.key, "/other").await["would_be_refused"]["status"],
        429
    );
    world.stop().await;
    world.start();
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    assert_eq!(
        world.get("/other").await.problem(),
        "key-quota-reached",
        "nor forgotten"
    );
    limit(&world, Some(limits(Some(5), None))).await;
    assert_eq!(at_once(&world, "/other", 5).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_says_the_smaller_of_the_keys_budget_and_the_cap() {
    let world = World::with(|e| {
        e.meters = vec![meter(1, 0, Some("2"))];
        e.spend_cap_minor = Some(10);
    })
    .await;
    let other = other_key(&world).await;
    let left = async |key: &PlainKey| quote(&world, key, "/v1/ok").await["budget_remaining"].clone();
    assert_eq!(left(&world.key).await, "0.10", "without limits the cap");
    limit(&world, Some(limits(None, Some(5)))).await;
    assert_eq!(left(&world.key).await, "0.05", "what is left before the call");
    assert_eq!(left(&other).await, "0.10");
    let answer = world.get("/v1/ok").await;
    assert_eq!(
        answer.header("turnpike-budget-remaining"),
        Some("\"0.03\";currency=usd")
    );
    assert_eq!(left(&world.key).await, "0.03", "as the answer said");
    for _ in 0..3 {
        assert_eq!(with_key(&world, &other, "/v1/ok").await.status, 200);
    }
    assert_eq!(left(&world.key).await, "0.02", "the cap leaves less");
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.spend_cap_minor = None);
    world.synced().await;
    assert_eq!(left(&world.key).await, "0.03", "without a cap the key's");
    assert_eq!(left(&other).await, serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_renews_no_quota() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 1_000, None)]).await;
    limit(&world, Some(limits(Some(20), None))).await;
    assert_eq!(at_once(&world, "/v1/ok", 4).await, 4);
    let next = rotated(&world, limits(Some(20), None)).await;
    let both = [&world.key, &next];
    assert_eq!(at_once_with(&world, &both, "/v1/ok", 60).await, 16, "while both work");
    for key in both {
        assert_eq!(with_key(&world, key, "/v1/ok").await.problem(), "key-quota-reached");
    }
    let other = other_key(&world).await;
    assert_eq!(
        with_key(&world, &other, "/v1/ok").await.status,
        200,
        "it is of no chain of theirs"
    );
    // A third one, after the first was revoked; what another gateway let both use is told of all.
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
    let mut more = limits(Some(30), None);
    more.used = vec![KeyUse { meter: 1, units: 5 }];
    world.shipped().await;
    let third = rotated(&world, more).await;
    assert_eq!(at_once_with(&world, &[&third], "/v1/ok", 20).await, 5);
    // A restart without the control plane: the copy on disk knows the chain.
    world.stop().await;
    world.plane.away.store(true, std::sync::atomic::Ordering::SeqCst);
    world.start();
    for key in [&next, &third] {
        assert_eq!(with_key(&world, key, "/v1/ok").await.problem(), "key-quota-reached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_renews_no_budget() {
    let world = World::with(|e| e.meters = vec![meter(1, 0, Some("2"))]).await;
    limit(&world, Some(limits(None, Some(7)))).await;
    let left = |reply: &Reply| reply.header("turnpike-budget-remaining").unwrap().to_owned();
    assert_eq!(left(&world.get("/v1/ok").await), "\"0.05\";currency=usd");
    let next = rotated(&world, limits(None, Some(7))).await;
    assert_eq!(left(&with_key(&world, &next, "/v1/ok").await), "\"0.03\";currency=usd");
    assert_eq!(left(&world.get("/v1/ok").await), "\"0.01\";currency=usd");
    for key in [&world.key, &next] {
        let refused = with_key(&world, key, "/v1/ok").await;
        assert_eq!(
            (refused.status, refused.problem()),
            (402, "key-budget-reached".to_owned())
        );
    }
    let units: u32 = world.shipped().await.iter().map(|r| r.units).sum();
    assert_eq!(units, 3);
}
