//! Requests are spread over targets, tried elsewhere when that is safe, and billed once.

use crate::stub::{Deed, Stub};
use crate::support::*;
use model::ConsumerId;
use model::access::Environment;
use model::key::PlainKey;
use std::sync::atomic::Ordering;

async fn two(a: Deed, b: Deed) -> (World, Stub, Stub) {
    let (a, b) = (Stub::start("a", a).await, Stub::start("b", b).await);
    (World::new().await, a, b)
}

fn targets(stubs: &[&Stub]) -> String {
    let one = |s: &&Stub| format!(r#"{{"url": "{}"}}"#, s.url());
    format!("[{}]", stubs.iter().map(one).collect::<Vec<_>>().join(","))
}

const OK: Deed = Deed::Status(200);

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_spread_by_weight() {
    let (world, a, b) = two(OK, OK).await;
    let policy = format!(
        r#"{{"targets": [{{"url": "{}"}}, {{"url": "{}", "weight": 3}}]}}"#,
        a.url(),
        b.url()
    );
    world.policy(&policy).await;
    for _ in 0..400 {
        assert_eq!(world.ask().await.0, 200);
    }
    println!("the gateway's seed is that of support::Seeded(7)");
    assert_eq!(a.count() + b.count(), 400);
    assert!(
        (60..=140).contains(&a.count()),
        "{} of 400 at a quarter of the weight",
        a.count()
    );
    let request = b.seen.lock().unwrap()[0].clone();
    let name = format!("host: {}\r\n", world.upstream.addr);
    assert!(
        request.contains(&name),
        "Host is the service's name, not the target's: {request}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_open_requests_gets_no_more_than_the_others() {
    let (world, a, b) = two(Deed::Hang, OK).await;
    world.policy(&format!(r#"{{"targets": {}}}"#, targets(&[&a, &b]))).await;
    let world = std::sync::Arc::new(world);
    while a.count() == 0 {
        let asking = std::sync::Arc::clone(&world);
        tokio::spawn(async move { asking.ask().await });
        tokio::task::yield_now().await;
        until(|| a.count() + b.count() > 0).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    until(|| world.target("in_flight", 1) == 0).await;
    let stuck = a.count();
    for _ in 0..60 {
        assert_eq!(world.ask().await, (200, "b".to_owned()));
    }
    assert_eq!(a.count(), stuck, "it has open requests, the other has none");
    assert!(world.target("in_flight", 0) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_no_connection_costs_the_caller_nothing() {
    let (world, a, _) = two(OK, OK).await;
    let breaker = r#""breaker": {"open_ms": 600000, "max_open_ms": 600000}"#;
    let policy = format!(
        r#"{{"targets": [{{"url": "http://127.0.0.1:1"}}, {{"url": "{}"}}], {breaker}}}"#,
        a.url()
    );
    world.policy(&policy).await;
    for _ in 0..20 {
        assert_eq!(world.ask().await, (200, "a".to_owned()));
        assert_eq!(
            world.post().await,
            (200, "a".to_owned()),
            "no byte was sent, so any request may go elsewhere"
        );
    }
    let rows = world.shipped().await;
    assert!(
        rows.len() == 40 && rows.iter().all(|r| (r.status, r.units) == (200, 1)),
        "billed once"
    );
    assert!(world.target("failures_total", 0) >= 5 && world.target("retries_total", 1) >= 5);
    assert_eq!(
        world.target("ejections_total", 0),
        1,
        "after five failures in a row it is left out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_before_the_first_byte_is_repeated_only_when_that_is_safe() {
    let (world, a, b) = two(Deed::Close, OK).await;
    let never = r#""breaker": {"consecutive_failures": 0}"#;
    world
        .policy(&format!(r#"{{"targets": {}, {never}}}"#, targets(&[&a, &b])))
        .await;
    for _ in 0..30 {
        assert_eq!(world.ask().await, (200, "b".to_owned()));
    }
    assert!(a.count() > 0);
    let (mut broken, before) = (0, a.count());
    for _ in 0..30 {
        broken += usize::from(world.post().await.0 == 502);
    }
    assert_eq!(broken, a.count() - before, "the upstream may have done it already");
    assert!(broken > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_began_is_never_repeated() {
    let (world, a, b) = two(Deed::Cut("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), OK).await;
    world.policy(&format!(r#"{{"targets": {}}}"#, targets(&[&a, &b]))).await;
    for _ in 0..20 {
        let (status, body) = world.ask().await;
        assert!(status == 200 && (body == "b" || "half".starts_with(&body)), "{body}");
    }
    a.set(Deed::Cut("HTTP/1.1 200 OK\r\nContent-Le"));
    let (before_a, before_b) = (a.count(), b.count());
    let mut broken = 0;
    for _ in 0..20 {
        broken += usize::from(world.ask().await.0 == 502);
    }
    assert!(
        broken > 0 && broken == a.count() - before_a,
        "half a head is an answer that began"
    );
    assert_eq!(b.count() - before_b, 20 - broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_tried_elsewhere_only_when_they_are_listed() {
    let (world, a, b) = two(Deed::Status(503), OK).await;
    let never = r#""breaker": {"consecutive_failures": 0}"#;
    world
        .policy(&format!(r#"{{"targets": {}, {never}}}"#, targets(&[&a, &b])))
        .await;
    let mut seen = [0, 0];
    for _ in 0..40 {
        seen[usize::from(world.ask().await == (503, "a".to_owned()))] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    let retries = r#""retries": {"attempts": 2, "statuses": [503], "budget_percent": 100}"#;
    world
        .policy(&format!(r#"{{"targets": {}, {never}, {retries}}}"#, targets(&[&a, &b])))
        .await;
    for _ in 0..40 {
        assert_eq!(world.ask().await, (200, "b".to_owned()));
    }
    b.set(Deed::Status(503));
    assert_eq!(world.ask().await.0, 503, "the last answer is the one that is passed on");
    assert_eq!(world.target("in_flight", 0) + world.target("in_flight", 1), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_stay_inside_their_budget() {
    let (world, a, b) = two(Deed::Close, Deed::Close).await;
    let rest = r#""breaker": {"consecutive_failures": 0}, "retries": {"attempts": 5, "budget_min_per_second": 0}"#;
    world
        .policy(&format!(r#"{{"targets": {}, {rest}}}"#, targets(&[&a, &b])))
        .await;
    for _ in 0..100 {
        assert_eq!(world.ask().await.0, 502);
    }
    let tries = a.count() + b.count();
    assert!((101..=110).contains(&tries), "{tries} tries for 100 requests at 10 %");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_as_a_whole_has_its_time() {
    let (world, a, _) = two(Deed::Hang, OK).await;
    let total = |ms: u32| format!(r#"{{"targets": {}, "total_timeout_ms": {ms}}}"#, targets(&[&a]));
    world.policy(&total(100)).await;
    let reply = world.get("/v1/a").await;
    assert_eq!((reply.status, reply.problem().as_str()), (504, "upstream-timeout"));
    a.set(Deed::Drip);
    world.policy(&total(1_000)).await;
    // Where this machine stands still for all of that time there is no head to be passed on: then once more.
    for _ in 0..20 {
        let (status, body) = world.ask().await;
        assert!(body.len() < 1_000_000, "it never ends by itself");
        if status == 200 {
            return;
        }
        assert_eq!(status, 504, "{body}");
    }
    panic!("no answer that began was passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_name_the_upstream_and_no_address() {
    let (world, a, b) = two(Deed::Close, Deed::Bytes("nonsense\r\n\r\n")).await;
    for policy in [
        r#"{"targets": [{"url": "http://127.0.0.1:1"}]}"#.to_owned(),
        format!(r#"{{"targets": {}}}"#, targets(&[&a])),
        format!(r#"{{"targets": {}}}"#, targets(&[&b])),
    ] {
        world.policy(&policy).await;
        let (status, body) = world.ask().await;
        assert_eq!(status, 502);
        assert!(
            body.contains("main") && !body.contains("127.0.0.1") && !body.contains(&a.addr.port().to_string()),
            "{body}"
        );
    }
    assert!(
        world.shipped().await.iter().all(|r| r.units == 0 && r.refusal > 0),
        "a target's failure is not billed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_consumers_and_who_asks_for_it() {
    let (world, a, c) = two(OK, OK).await;
    let canary = |percent: u8| {
        let (usual, trial) = (targets(&[&a]), targets(&[&c]));
        let rule = format!(r#""percent": {percent}, "header": "x-canary", "value": "1""#);
        format!(r#"{{"targets": {usual}, "canary": {{"targets": {trial}, {rule}}}}}"#)
    };
    world.policy(&canary(0)).await;
    for (line, name) in [("", "a"), ("X-Canary: 1\r\n", "b"), ("X-Canary: 2\r\n", "a")] {
        assert_eq!(asked(&world, &world.key, line).await, name, "{line}");
    }
    let mut keys = Vec::new();
    for i in 0..60u128 {
        let consumer = ConsumerId::from_bits((2 << 80) + i * 7919);
        let key = PlainKey::generate("tp", Environment::Live, &*world.random);
        world.plane.put_entitlement(entitlement(consumer));
        world.plane.put_key(key_record(&key, consumer));
        keys.push(key);
    }
    let mut before: Vec<String> = Vec::new();
    for percent in [20, 50, 100] {
        world.policy(&canary(percent)).await;
        let mut now = Vec::new();
        for key in &keys {
            now.push(asked(&world, key, "").await);
            assert_eq!(asked(&world, key, "").await, now[now.len() - 1], "always the same");
        }
        let count = now.iter().filter(|n| *n == "b").count();
        assert!(
            percent == 100 && count == 60 || percent < 100 && count > 2 && count < 50,
            "{count} at {percent} %"
        );
        assert!(
            before.iter().zip(&now).all(|(b, n)| b == "a" || n == "b"),
            "who was in it stays in it"
        );
        before = now;
    }
    c.set(Deed::Close);
    for _ in 0..20 {
        assert_eq!(
            world.ask().await,
            (200, "a".to_owned()),
            "while it fails the others answer"
        );
    }
}

async fn asked(world: &World, key: &PlainKey, line: &str) -> String {
    let head = format!("GET /v1/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{line}", key.reveal());
    String::from_utf8(world.send(&head, "").await.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_routing_table_keeps_connections_and_what_is_known() {
    let (mut world, a, b) = two(OK, Deed::Close).await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.threads = 1;
    world.start_with(config);
    let breaker = r#""breaker": {"consecutive_failures": 1, "open_ms": 600000, "max_open_ms": 600000}"#;
    world
        .policy(&format!(r#"{{"targets": {}, {breaker}}}"#, targets(&[&a, &b])))
        .await;
    while b.count() == 0 {
        assert_eq!(world.ask().await, (200, "a".to_owned()));
    }
    assert_eq!(world.target("circuit", 1), 2);
    let other = r#""connect_timeout_ms": 700"#;
    world
        .policy(&format!(r#"{{"targets": {}, {breaker}, {other}}}"#, targets(&[&a, &b])))
        .await;
    for _ in 0..20 {
        assert_eq!(world.ask().await, (200, "a".to_owned()));
    }
    assert_eq!((world.target("circuit", 1), b.count()), (2, 1), "still left out");
    assert_eq!(a.connections.load(Ordering::SeqCst), 1, "the pool is still the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_targets_too() {
    let (world, a, _) = two(OK, OK).await;
    world
        .policy(&format!(
            r#"{{"targets": [{{"url": "http://localhost:{}"}}]}}"#,
            a.addr.port()
        ))
        .await;
    for _ in 0..3 {
        assert_eq!(world.ask().await, (200, "a".to_owned()));
    }
}
