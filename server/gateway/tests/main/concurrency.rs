//! Requests in flight are bounded, by plan and by route, and a place is given back however a request ends.

use crate::support::*;
use model::access::Environment;
use model::key::PlainKey;
use model::snapshot::Routing;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends the head of a request and keeps the connection.
async fn begin(world: &World, key: &PlainKey, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let (line, rest) = request.split_once("\r\n").unwrap_or((request, ""));
    let text = format!(
        "{line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{rest}\r\n",
        key.reveal()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Opens an event stream: its head, and the connection that holds it open.
async fn open(world: &World, key: &PlainKey, path: &str) -> (Reply, TcpStream) {
    let mut stream = begin(world, key, &format!("GET {path}")).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let mut reply = Reply::parse(&head);
    if let Some(length) = reply.header("content-length") {
        reply.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut reply.body).await.unwrap();
    }
    (reply, stream)
}

async fn stream(world: &World) -> (Reply, TcpStream) {
    open(world, &world.key, "/v1/sse").await
}

async fn bounded(most: u32) -> World {
    World::with(|e| e.concurrency = Some(most)).await
}

/// Waits until as many as `most` can be in flight, and no more.
async fn all_given_back(world: &World, most: usize, after: &str) {
    let mut held: Vec<TcpStream> = Vec::new();
    for attempt in 0.. {
        let (reply, connection) = stream(world).await;
        match reply.status {
            200 => held.push(connection),
            _ if held.len() == most => return,
            _ => assert!(
                attempt < 2_000,
                "{} of {most} were given back after {after}",
                held.len()
            ),
        }
        assert!(held.len() <= most, "more were given back than taken after {after}");
        tokio::time::sleep(Duration::from_millis(if held.len() < most { 5 } else { 0 })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_count_until_they_end() {
    let world = bounded(2).await;
    let (one, first) = stream(&world).await;
    assert_eq!(one.status, 200);
    let policy = one.header("ratelimit-policy").unwrap();
    assert!(
        policy.contains("\"concurrency\";q=2;qu=\"concurrent-requests\""),
        "{policy}"
    );
    assert!(
        one.header("ratelimit").unwrap().ends_with("\"concurrency\";r=1"),
        "{one:?}"
    );
    let (two, _second) = stream(&world).await;
    assert!(
        two.header("ratelimit").unwrap().starts_with("\"concurrency\";r=0, "),
        "{two:?}"
    );
    let refused = world.get("/v1/ok").await;
    assert_eq!((refused.status, refused.problem().as_str()), (429, "too-many-at-once"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let json: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(json["violated-policies"], serde_json::json!(["concurrency"]));
    // Others are not held up, and a refusal used up nothing of the rate limit.
    drop(first);
    let mut reply = world.get("/v1/ok").await;
    for _ in 0..2_000 {
        if reply.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        reply = world.get("/v1/ok").await;
    }
    assert!(
        reply.header("ratelimit").unwrap().contains("\"rate\";r=9997;"),
        "{reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_given_back_however_a_request_ends() {
    let world = bounded(3).await;
    for path in [
        "/v1/ok",
        "/v1/empty",
        "/v1/chunked",
        "/v1/status/404",
        "/v1/status/500",
        "/v1/close",
        "/v1/half",
        "/v1/raw/garbage",
        "/v1/raw/101",
        "/down",
        "/slow/hang",
        "/export",
        "/nowhere",
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            world.key.reveal()
        );
        let got = raw(world.addr, request.as_bytes()).await;
        assert!(!got.is_empty(), "{path}");
        all_given_back(&world, 3, path).await;
    }
    for (request, after) in [
        ("GET /v1/hang", "the client left before the answer"),
        ("GET /v1/sse", "the client left its stream"),
        (
            "POST /v1/ok\r\nContent-Length: 100\r\n",
            "the client left in its upload",
        ),
        (
            "POST /v1/ok\r\nTransfer-Encoding: chunked\r\n",
            "the client left before a chunk",
        ),
    ] {
        let connection = begin(&world, &world.key, request).await;
        until(|| world.upstream.requests().len() > 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(connection);
        all_given_back(&world, 3, after).await;
    }
    let mut broken = begin(&world, &world.key, "POST /v1/ok\r\nTransfer-Encoding: chunked\r\n").await;
    broken.write_all(b"zz\r\n").await.unwrap();
    broken.read_to_end(&mut Vec::new()).await.unwrap();
    all_given_back(&world, 3, "a malformed body").await;
    let mut large = begin(&world, &world.key, "POST /v1/ok\r\nTransfer-Encoding: chunked\r\n").await;
    let _ = large
        .write_all(format!("11000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x11000)).as_bytes())
        .await;
    let _ = large.read_to_end(&mut Vec::new()).await;
    all_given_back(&world, 3, "a body too large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_gives_its_place_back() {
    let world = bounded(1).await;
    let (_, mut cut) = stream(&world).await;
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
    cut.read_to_end(&mut Vec::new()).await.unwrap();
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = false);
    world.synced().await;
    all_given_back(&world, 1, "a cut").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_limits_refuse_gives_its_place_back() {
    let world = World::with(|e| {
        e.concurrency = Some(2);
        e.meters = vec![meter(1, 4, None)];
        e.limits =
            vec![serde_json::from_str(r#"{"name": "x", "methods": ["POST"], "requests": 1, "per": "day"}"#).unwrap()];
    })
    .await;
    for (path, slug) in [("/heavy", "quota-exceeded"), ("/export", "feature-missing")] {
        for _ in 0..5 {
            assert_eq!(world.get(path).await.problem(), slug);
        }
    }
    let post = format!(
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-API-Key: {}\r\n",
        world.key.reveal()
    );
    assert_eq!(world.send(&post, "").await.status, 200);
    for _ in 0..5 {
        assert_eq!(world.send(&post, "").await.problem(), "rate-limited");
    }
    all_given_back(&world, 2, "refusals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_once_exactly_as_many_as_the_plan_says() {
    let world = std::sync::Arc::new(bounded(7).await);
    let tasks: Vec<_> = (0..60)
        .map(|_| {
            let world = std::sync::Arc::clone(&world);
            tokio::spawn(async move { stream(&world).await })
        })
        .collect();
    let mut held = Vec::new();
    for task in tasks {
        held.push(task.await.unwrap());
    }
    assert_eq!(held.iter().filter(|(r, _)| r.status == 200).count(), 7);
    assert_eq!(held.iter().filter(|(r, _)| r.status == 429).count(), 53);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_outlive_a_change_of_terms() {
    let world = bounded(2).await;
    let _held = [stream(&world).await, stream(&world).await];
    for (bound, more) in [(Some(3), 1), (Some(2), 0), (None, 2)] {
        world.plane.edit_entitlement(world.consumer, |e| {
            e.concurrency = bound;
            e.plan = "other".to_owned();
        });
        world.synced().await;
        let got = [stream(&world).await, stream(&world).await];
        assert_eq!(got.iter().filter(|(r, _)| r.status == 200).count(), more, "{bound:?}");
        drop(got);
        // What was opened above ends before the next round.
        let events = &world.upstream.tick;
        until(|| events.receiver_count() == 2).await;
    }
}

/// The usual routes, the first with a bound on its requests in flight.
fn bounded_route(world: &World, most: Option<u32>) -> Routing {
    let mut table = routing(world.upstream.addr);
    table.routes[0].policy.concurrency = most;
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_bound_counts_all_callers_together() {
    let world = World::new().await;
    world.plane.put_routing(bounded_route(&world, Some(2)));
    let other = PlainKey::generate("tp", Environment::Live, &*world.random);
    let consumer = model::ConsumerId::from_bits(2 << 80);
    world.plane.put_entitlement(entitlement(consumer));
    world.plane.put_key(key_record(&other, consumer));
    world.synced().await;
    let (one, _first) = stream(&world).await;
    let (two, second) = open(&world, &other, "/v1/sse").await;
    assert_eq!((one.status, two.status), (200, 200));
    let refused = world.get("/v1/ok").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "route-busy"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(world.get("/heavy").await.status, 200, "other routes go on");
    // A new table leaves the count alone.
    world.plane.put_routing(bounded_route(&world, Some(3)));
    world.synced().await;
    let (three, _third) = stream(&world).await;
    assert_eq!(three.status, 200);
    assert_eq!(world.get("/v1/ok").await.status, 503);
    drop(second);
    until(|| world.upstream.tick.receiver_count() == 2).await;
    let mut reply = world.get("/v1/ok").await;
    for _ in 0..2_000 {
        if reply.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        reply = world.get("/v1/ok").await;
    }
    assert_eq!(reply.status, 200);
}
