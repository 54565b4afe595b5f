//! Targets that fail get no requests for a while, and never all of them unless that is asked for.

use crate::stub::{Deed, Stub};
use crate::support::*;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const OK: Deed = Deed::Status(200);

async fn world(stubs: &[&Stub], rest: &str) -> World {
    let world = World::new().await;
    world.policy(&policy(stubs, rest)).await;
    world
}

fn policy(stubs: &[&Stub], rest: &str) -> String {
    let one = |s: &&Stub| format!(r#"{{"url": "{}"}}"#, s.url());
    format!(
        r#"{{"targets": [{}], {rest}}}"#,
        stubs.iter().map(one).collect::<Vec<_>>().join(",")
    )
}

/// How long a target is left out first, in milliseconds, where it is to be tried again.
const OPEN_MS: u32 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_left_alone_tried_and_taken_back() {
    let a = Stub::start("a", Deed::Status(503)).await;
    let breaker = |open_ms: u32, most_ms: u32| {
        let times = format!(r#""open_ms": {open_ms}, "max_open_ms": {most_ms}"#);
        format!(r#""breaker": {{"consecutive_failures": 3, {times}}}"#)
    };
    let trip = async |world: &World| {
        for _ in 0..3 {
            assert_eq!(
                world.ask().await,
                (503, "a".to_owned()),
                "its own answers are passed on"
            );
        }
        assert_eq!(world.target("ejections_total", 0), 1);
    };
    // Left alone for longer than this takes.
    let leaving = world(&[&a], &breaker(600_000, 600_000)).await;
    trip(&leaving).await;
    let reply = leaving.get("/v1/a").await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "upstream-unavailable"));
    assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(a.count(), 3);
    // It is asked again from time to time, once at a time, however many requests come.
    let world = world(&[&a], &breaker(OPEN_MS, 300)).await;
    trip(&world).await;
    let (before, begun) = (a.count(), Instant::now());
    let mut refused = 0;
    while a.count() < before + 3 || refused <= 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{refused} refused");
        refused += usize::from(world.get("/v1/a").await.header("retry-after").is_some());
    }
    let tries = u64::try_from(a.count() - before).unwrap();
    // A fifth of the time is drawn by lot.
    let time = u64::try_from(begun.elapsed().as_millis()).unwrap() / u64::from(OPEN_MS * 4 / 5);
    assert!(tries <= 1 + time, "{tries} tries, and time for {time} and one");
    assert_eq!(world.target("ejections_total", 0), 1 + tries);
    a.set(OK);
    loop {
        if world.ask().await == (200, "a".to_owned()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..10 {
        assert_eq!(world.ask().await.0, 200);
    }
    assert_eq!(world.target("circuit", 0), 0);
    let rows = world.shipped().await;
    assert!(
        rows.iter().all(|r| r.units == u32::from(r.status == 200)),
        "failures and refusals are not billed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_is_left_out_and_the_others_go_on() {
    let (a, b) = (Stub::start("a", Deed::Close).await, Stub::start("b", OK).await);
    let long = r#""breaker": {"consecutive_failures": 2, "open_ms": 600000, "max_open_ms": 600000}"#;
    let world = world(&[&a, &b], long).await;
    for _ in 0..60 {
        assert_eq!(world.ask().await, (200, "b".to_owned()));
    }
    assert_eq!(
        (a.count(), world.target("circuit", 0), world.target("circuit", 1)),
        (2, 2, 0)
    );
    b.set(Deed::Close);
    for _ in 0..10 {
        let reply = world.get("/v1/a").await;
        assert_eq!(reply.problem(), "upstream-broken", "the last one is never left out");
    }
    assert_eq!(world.target("circuit", 1), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_failures_opens_too() {
    let a = Stub::start("a", OK).await;
    let share = r#""breaker": {"consecutive_failures": 0, "failure_percent": 50, "min_requests": 10, "open_ms": 600000, "max_open_ms": 600000}"#;
    let world = world(&[&a], share).await;
    for i in 0..10 {
        a.set(if i % 2 == 0 { OK } else { Deed::Close });
        assert_ne!(world.get("/v1/a").await.status, 503);
    }
    assert_eq!(world.get("/v1/a").await.problem(), "upstream-unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_failure_is_not_the_targets() {
    let a = Stub::start("a", OK).await;
    let breaker = r#""breaker": {"consecutive_failures": 1, "open_ms": 600000, "max_open_ms": 600000}"#;
    let world = world(&[&a], breaker).await;
    let key = world.key.reveal();
    for end in ["", "\r\nzz\r\n"] {
        let text = format!(
            "POST /v1/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc{end}"
        );
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(stream);
    }
    // Nor is it theirs when a client takes its time over its request or its answer.
    world
        .policy(&policy(&[&a], &format!(r#"{breaker}, "total_timeout_ms": 150"#)))
        .await;
    let text = format!("POST /v1/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 9\r\n\r\nslow");
    let answer = raw(world.addr, text.as_bytes()).await;
    assert_eq!(Reply::parse(&answer).status, 504);
    until(|| world.target("in_flight", 0) == 0).await;
    assert_eq!(world.target("failures_total", 0), 0);
    world.policy(&policy(&[&a], breaker)).await;
    assert_eq!(world.ask().await.0, 200);
}

const CHECKS: &str = r#""health": {"path": "/healthz", "interval_ms": 100, "healthy_after": 2, "unhealthy_after": 2}"#;

#[tokio::test(flavor = "multi_thread")]
async fn checks_take_targets_out_and_bring_them_back() {
    let (a, b) = (Stub::start("a", OK).await, Stub::start("b", OK).await);
    let world = world(&[&a, &b], CHECKS).await;
    until(|| a.checks() > 1 && b.checks() > 1).await;
    a.set_well(false);
    until(|| world.target("healthy", 0) == 0).await;
    let before = a.count();
    for _ in 0..40 {
        assert_eq!(world.ask().await, (200, "b".to_owned()));
    }
    assert_eq!(a.count(), before);
    b.set_well(false);
    until(|| world.target("healthy", 1) == 0).await;
    for _ in 0..40 {
        assert_eq!(world.ask().await.0, 200, "rather one that looks ill than none");
    }
    assert!(a.count() > before);
    a.set_well(true);
    until(|| world.target("healthy", 0) == 1).await;
    for _ in 0..40 {
        assert_eq!(world.ask().await, (200, "a".to_owned()));
    }
    let rows = world.shipped().await;
    assert_eq!(rows.len(), 120, "checks are nobody's requests");
    let check = a
        .seen
        .lock()
        .unwrap()
        .iter()
        .find(|r| r.contains(" /healthz "))
        .unwrap()
        .clone();
    assert!(
        check.starts_with("GET /healthz HTTP/1.1\r\nhost: ") && !check.contains("x-consumer-id"),
        "{check}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_no_connection_or_hangs_is_ill() {
    let (a, b) = (Stub::start("a", OK).await, Stub::start("b", OK).await);
    let down = r#"{"targets": [{"url": "http://127.0.0.1:1"}, {"url": "URL"}], CHECKS}"#;
    let world = World::new().await;
    world
        .policy(&down.replace("URL", &b.url()).replace("CHECKS", CHECKS))
        .await;
    until(|| world.target("healthy", 0) == 0).await;
    // Only what is checked is looked at: without checks it is asked again.
    world.policy(&policy(&[&a, &b], r#""connect_timeout_ms": 500"#)).await;
    assert_eq!(world.ask().await.0, 200);
}
