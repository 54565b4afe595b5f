//! Bodies pass while they are made, streams are counted when they begin, and end when what they stand on goes.

use crate::support::*;
use model::Clock as _;
use model::access::Suspension;
use model::snapshot::{Entitlement, KeyRecord, LaterFeatures, Variants};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for the end of a stream that has nothing to stand on any more: several times what T93 says, for a machine
/// that stands still meanwhile.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Longest silence of a stream's upstream, in milliseconds: so long that nothing else than the test ends a stream.
pub(crate) const SILENCE_MOST_MS: u32 = 120_000;

/// Lets the world's streams be silent for longer than their end is waited for.
async fn let_be_silent(world: &World) {
    let mut told = routing(world.upstream.addr);
    for upstream in &mut told.upstreams {
        upstream.idle_timeout_ms = SILENCE_MOST_MS;
    }
    world.plane.put_routing(told);
    world.synced().await;
}

/// An open event stream, its head read and checked.
async fn open_stream(world: &World) -> TcpStream {
    let line = format!("X-API-Key: {}\r\n", world.key.reveal());
    open_at(world, "/v1/sse", &line).await
}

pub(crate) async fn open_at(world: &World, path: &str, line: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{line}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream"),
        "{head}"
    );
    stream
}

pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut out = Vec::new();
    while !String::from_utf8_lossy(&out).ends_with(end) {
        let mut byte = [0u8; 1];
        let n = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert!(n > 0, "closed after {}", String::from_utf8_lossy(&out));
        out.push(byte[0]);
    }
    String::from_utf8(out).unwrap()
}

/// Reads until the gateway closes, which it must soon; what came.
pub(crate) async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    let read = tokio::time::timeout(ENDS_WITHIN, stream.read_to_end(&mut out)).await;
    assert!(read.is_ok(), "the stream stayed open");
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_as_they_come_and_are_counted_at_once() {
    let world = World::new().await;
    let mut stream = open_stream(&world).await;
    let rows = world.shipped().await;
    assert_eq!(
        (rows.len(), rows[0].units, rows[0].status),
        (1, 1, 200),
        "counted before the first event"
    );
    for event in ["one", "two"] {
        world.upstream.tick.send(event.to_owned()).unwrap();
        let got = read_until(&mut stream, "\n\n\r\n").await;
        assert!(got.contains(&format!("data: {event}\n\n")), "{got}");
    }
    drop(stream);
    until(|| world.upstream.tick.receiver_count() == 0).await;
    assert_eq!(world.shipped().await.len(), 1, "a stream is one request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_streams() {
    let world = World::new().await;
    let_be_silent(&world).await;
    let mut stream = open_stream(&world).await;
    world.upstream.tick.send("one".to_owned()).unwrap();
    read_until(&mut stream, "\n\n\r\n").await;
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
    let rest = read_to_close(&mut stream).await;
    assert!(!rest.contains("0\r\n\r\n"), "cut off is not the same as ended: {rest}");
    until(|| world.upstream.tick.receiver_count() == 0).await;
    assert_eq!(world.get("/v1/ok").await.problem(), "key-revoked");
}

/// T93 holds to the end of the drain, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_streams_while_the_gateway_drains() {
    for hand_over in [false, true] {
        let mut world = World::new().await;
        let_be_silent(&world).await;
        let mut stream = open_stream(&world).await;
        let gateway = world.gateway.take().unwrap();
        let drain = Duration::from_secs(120);
        let ending = tokio::spawn(async move {
            match hand_over {
                true => gateway.hand_over(drain).await,
                false => gateway.shutdown(drain).await,
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!ending.is_finished(), "the stream is waited for");
        world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
        read_to_close(&mut stream).await;
        ending.await.unwrap();
        let stored = world.folder.0.join("snapshot").exists();
        assert_eq!(stored, !hand_over, "the one that took over has its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_consumer_loses_its_streams() {
    let world = World::new().await;
    let_be_silent(&world).await;
    let mut stream = open_stream(&world).await;
    world
        .plane
        .edit_entitlement(world.consumer, |e| e.suspended = Some(Suspension::Payment));
    read_to_close(&mut stream).await;
}

const HOUR_MS: i64 = 3_600_000;

/// Takes away, now or within an hour, what a stream at `/search/sse` stands on; what a request is told then.
fn take_away(world: &World, what: &str) -> &'static str {
    let soon = world.clock.now().plus_ms(HOUR_MS);
    let key = |change: &dyn Fn(&mut KeyRecord)| world.plane.edit_key(world.key.lookup().0, |k| change(k));
    let plan = |change: &dyn Fn(&mut Entitlement)| world.plane.edit_entitlement(world.consumer, |e| change(e));
    match what {
        "the end of a rotation's overlap" => key(&|k| k.expires_at = Some(soon)),
        "a scope without the route" => key(&|k| k.routes = Some(vec![1, 2])),
        "a plan without the feature" => plan(&|e| e.features.retain(|f| f != "search")),
        "a gate's feature" => plan(&|e| e.features.retain(|f| f != "bulk")),
        "a feature whose time is over" => plan(&|e| {
            e.feature_life.later.push(LaterFeatures {
                from: soon,
                features: vec!["bulk".to_owned()],
                variants: Variants::default(),
            });
        }),
        _ => plan(&|e| e.suspended = Some(Suspension::Provider)),
    }
    match what {
        "the end of a rotation's overlap" => "key-expired",
        "a scope without the route" => "insufficient-scope",
        "a suspended consumer" => "suspended",
        _ => "feature-missing",
    }
}

/// What would refuse the same request now ends the stream, whether somebody changes it or its time comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_what_it_stands_on() {
    for what in [
        "the end of a rotation's overlap",
        "a scope without the route",
        "a plan without the feature",
        "a gate's feature",
        "a feature whose time is over",
        "a suspended consumer",
    ] {
        let world = World::new().await;
        let mut told = routing(world.upstream.addr);
        told.routes[7].policy = serde_json::from_str(r#"{"gates": [{"feature": "bulk"}]}"#).unwrap();
        told.upstreams[0].idle_timeout_ms = SILENCE_MOST_MS;
        world.plane.put_routing(told);
        world.synced().await;
        let key = format!("X-API-Key: {}\r\n", world.key.reveal());
        let mut stream = open_at(&world, "/search/sse", &key).await;
        world.upstream.tick.send("one".to_owned()).unwrap();
        read_until(&mut stream, "\n\n\r\n").await;
        let refusal = take_away(&world, what);
        world.synced().await;
        world.clock.advance(HOUR_MS);
        let rest = read_to_close(&mut stream).await;
        assert!(
            !rest.contains("0\r\n\r\n"),
            "{what}: cut off is not the same as ended: {rest}"
        );
        until(|| world.upstream.tick.receiver_count() == 0).await;
        assert_eq!(world.get("/search/sse").await.problem(), refusal, "{what}");
    }
}

/// Changes that take nothing away, and limits on the number of requests, end no stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_what_does_not_concern_it() {
    let world = World::with(|e| e.meters = vec![meter(1, 1, None)]).await;
    let_be_silent(&world).await;
    let mut stream = open_stream(&world).await;
    let later = world.clock.now().plus_ms(DAY_MS);
    world.plane.edit_key(world.key.lookup().0, |k| {
        k.expires_at = Some(later);
        k.routes = Some(vec![1]);
    });
    world.plane.edit_entitlement(world.consumer, |e| e.features.clear());
    world.synced().await;
    world.clock.advance(DAY_MS / 2);
    assert_eq!(world.get("/v1/ok").await.problem(), "quota-exceeded");
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.upstream.tick.send("still".to_owned()).unwrap();
    assert!(read_until(&mut stream, "\n\n\r\n").await.contains("still"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_key_goes_on() {
    let world = World::new().await;
    let other = model::key::PlainKey::generate("tp", model::access::Environment::Live, &*world.random);
    world.plane.put_key(key_record(&other, world.consumer));
    world.synced().await;
    let mut stream = open_stream(&world).await;
    world.plane.edit_key(other.lookup().0, |k| k.revoked = true);
    world.synced().await;
    world.upstream.tick.send("still".to_owned()).unwrap();
    assert!(read_until(&mut stream, "\n\n\r\n").await.contains("still"));
}

/// Prints the time from revocation to refusal; what is asserted is only that it happens.
#[tokio::test(flavor = "multi_thread")]
async fn revocation_reaches_the_gateway_by_hint() {
    let world = World::new().await;
    let mut times = Vec::new();
    for _ in 0..20 {
        world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
        let begun = Instant::now();
        while world.get("/v1/ok").await.status == 200 {}
        times.push(begun.elapsed());
        world.plane.edit_key(world.key.lookup().0, |k| k.revoked = false);
        world.synced().await;
    }
    times.sort();
    println!("revoked to refused: median {:?}, longest {:?}", times[10], times[19]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_streams_through() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let text = format!(
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Length: 6\r\n\r\nabc",
        world.key.reveal()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(
        world.upstream.requests().is_empty(),
        "the recorder keeps whole requests"
    );
    stream.write_all(b"def").await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\nok").await;
    assert!(head.starts_with("HTTP/1.1 200 "));
    assert!(world.upstream.last().ends_with("abcdef"));
    let rows = world.shipped().await;
    assert_eq!((rows[0].request_bytes, rows[0].response_bytes), (6, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_answer_is_recorded_and_not_billed() {
    let world = World::with(|e| e.meters = vec![meter(1, 1, None)]).await;
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let text = format!(
        "GET /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    until(|| !world.upstream.requests().is_empty()).await;
    assert_eq!(world.get("/v1/ok").await.status, 429, "its unit is held while it runs");
    drop(stream);
    until(|| world.plane.rows().iter().any(|r| r.status == 499)).await;
    assert_eq!(world.get("/v1/ok").await.status, 200, "its unit is given back");
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter().map(|r| (r.status, r.units)).collect::<Vec<_>>(),
        [(429, 0), (499, 0), (200, 1)]
    );
}
