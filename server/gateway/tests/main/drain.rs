//! A gateway that ends, or is followed by another: what is open has the drain time, and clients are told to go on elsewhere.

use crate::duplex::{connect, is_end};
use crate::metrics::metrics;
use crate::streams::{open_at, read_until};
use crate::support::*;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Another gateway takes over; the end of the one before.
async fn replace(world: &mut World, number: usize, drain: Duration) -> JoinHandle<()> {
    let old = world.gateway.take().unwrap();
    let mut config = config(&world.folder.0.join(format!("next-{number}")));
    config.take_over = Some(old.sockets().unwrap().into_iter().map(Arc::new).collect());
    world.start_with(config);
    world.synced().await;
    let new = world.gateway.as_ref().unwrap();
    until(|| new.ready()).await;
    new.open();
    tokio::spawn(async move { old.hand_over(drain).await })
}

fn get(path: &str, key: &str) -> Request<()> {
    let request = Request::get(format!("http://api.example{path}")).header("x-api-key", key);
    request.body(()).unwrap()
}

fn ask(send: &mut SendRequest<Bytes>, path: &str, key: &str) -> ResponseFuture {
    send.send_request(get(path, key), true).unwrap().0
}

async fn next(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = body.data().await?;
    if let Ok(data) = &data {
        let _ = body.flow_control().release_capacity(data.len());
    }
    Some(data)
}

/// Why a connection takes no more requests: the other side has said that it goes away, and that nothing is wrong.
fn is_goaway(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// Waits until the gateway has said that it goes away.
async fn told_to_go(send: &SendRequest<Bytes>) {
    for _ in 0..12_000 {
        if let Err(error) = send.clone().ready().await {
            assert!(is_goaway(&error), "{error:?}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no GOAWAY came");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_told_to_go_and_what_is_in_flight_comes_to_its_end() {
    for hand_over in [false, true] {
        let mut world = World::new().await;
        let key = world.key.reveal().to_owned();
        let stream = tokio::net::TcpStream::connect(world.addr).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let events = ask(&mut send, "/v1/sse", &key);
        let mut events = events.await.unwrap().into_body();
        let upload = Request::post("http://api.example/v1/ok").header("x-api-key", &key);
        let (answer, mut upload) = send.send_request(upload.body(()).unwrap(), false).unwrap();
        upload.send_data(Bytes::from_static(b"first"), false).unwrap();
        until(|| metrics(&world).sum("in_flight", &[]) == 2.0).await;

        let begun = Instant::now();
        let drain = Duration::from_secs(60);
        let ending = if hand_over {
            replace(&mut world, 1, drain).await
        } else {
            let gateway = world.gateway.take().unwrap();
            tokio::spawn(async move { gateway.shutdown(drain).await })
        };
        told_to_go(&send).await;
        assert!(!ending.is_finished(), "what is open is waited for");
        world.upstream.tick.send("still".to_owned()).unwrap();
        assert_eq!(next(&mut events).await.unwrap().unwrap(), "data: still\n\n");
        upload.send_data(Bytes::from_static(b"second"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        assert!(world.upstream.last().contains("second"));
        world.upstream.tick.send("end".to_owned()).unwrap();
        assert!(is_end(&mut events).await, "its end is passed on");
        let closed = tokio::time::timeout(Duration::from_secs(20), connection).await;
        closed.expect("the connection stayed open").unwrap().unwrap();
        ending.await.unwrap();
        assert!(begun.elapsed() < drain, "nothing was left to wait for");
        let rows = world.plane.rows();
        assert_eq!(
            rows.iter().map(|r| (r.status, r.units)).collect::<Vec<_>>(),
            [(200, 1); 2]
        );
        if hand_over {
            let mut send = connect(world.addr).await;
            assert_eq!(
                ask(&mut send, "/v1/ok", &key).await.unwrap().status(),
                200,
                "its successor"
            );
        }
    }
}

#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// Connections that a client was told to leave.
    left: AtomicU64,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Asks over HTTP/2, some requests at a time, as long as a connection takes them; nothing is tried again.
async fn client(addr: SocketAddr, key: String, seen: Arc<Seen>, keeps: bool) {
    const AT_ONCE: usize = 4;
    while !seen.stop.load(Ordering::SeqCst) {
        let mut send = match connect_or(addr).await {
            Ok(send) => send,
            Err(error) => return seen.failed.lock().unwrap().push(format!("no connection: {error}")),
        };
        loop {
            match send.clone().ready().await {
                Ok(ready) => send = ready,
                Err(error) if is_goaway(&error) => {
                    seen.left.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Err(error) => return seen.failed.lock().unwrap().push(format!("not ready: {error}")),
            }
            let asked: Vec<_> = (0..AT_ONCE)
                .map(|_| send.send_request(get("/v1/ok", &key), true))
                .collect();
            let mut told_to_go = false;
            for asked in asked {
                let answer = match asked {
                    Err(error) => Err(error),
                    Ok((answer, _)) => whole(answer).await,
                };
                // It came between: the request was not sent, or is beyond the last that the gateway took, which says so
                // and did nothing with it (RFC 9113, 6.8). Clients send it again.
                if answer.as_ref().is_err_and(is_goaway) {
                    told_to_go = true;
                    continue;
                }
                match answer {
                    Ok((200, body)) if body == "ok" => drop(seen.answered.fetch_add(1, Ordering::SeqCst)),
                    other => return seen.failed.lock().unwrap().push(format!("{other:?}")),
                }
            }
            if told_to_go {
                seen.left.fetch_add(1, Ordering::SeqCst);
            }
            if told_to_go || !keeps || seen.stop.load(Ordering::SeqCst) {
                break;
            }
        }
    }
}

async fn connect_or(addr: SocketAddr) -> Result<SendRequest<Bytes>, h2::Error> {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(send)
}

async fn whole(answer: ResponseFuture) -> Result<(u16, String), h2::Error> {
    let (parts, mut body) = answer.await?.into_parts();
    let mut out = Vec::new();
    while let Some(data) = next(&mut body).await {
        out.extend_from_slice(&data?);
    }
    Ok((parts.status.as_u16(), String::from_utf8_lossy(&out).into_owned()))
}

/// One gateway after another under load, as in a rolling restart: no request fails and each is counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http2_loses_no_request_to_restarts() {
    const RESTARTS: usize = 6;
    const ANSWERS: u64 = 300;
    let mut world = World::with(|e| {
        e.rate_limit.per_second = 1_000_000;
        e.rate_limit.burst = 1_000_000;
    })
    .await;
    let seen = Arc::new(Seen::default());
    let clients: Vec<_> = (0..8)
        .map(|n| {
            tokio::spawn(client(
                world.addr,
                world.key.reveal().to_owned(),
                Arc::clone(&seen),
                n < 5,
            ))
        })
        .collect();
    for number in 0..=RESTARTS {
        let wanted = seen.answered.load(Ordering::SeqCst) + ANSWERS;
        until(|| seen.answered.load(Ordering::SeqCst) >= wanted || !seen.failed.lock().unwrap().is_empty()).await;
        if number < RESTARTS {
            replace(&mut world, number, Duration::from_secs(20))
                .await
                .await
                .unwrap();
        }
    }
    seen.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let failed = seen.failed.lock().unwrap().clone();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
    let (answered, left) = (seen.answered.load(Ordering::SeqCst), seen.left.load(Ordering::SeqCst));
    assert!(left >= RESTARTS as u64, "{left} connections were told to go");
    world.stop().await;
    let rows = world.plane.rows();
    assert!(rows.iter().all(|r| (r.status, r.units) == (200, 1)));
    assert_eq!(rows.len() as u64, answered);
    println!("{RESTARTS} restarts: {answered} answered and counted once, 0 failed, {left} connections told to go");
}

/// What came of a stream.
struct Came {
    text: String,
    /// It was ended, not cut off.
    whole: bool,
    at: Instant,
}

/// Opens an event stream over HTTP/1.1 and reads it to its end.
async fn over_http1(world: &World, path: &str) -> JoinHandle<Came> {
    let line = format!("X-API-Key: {}\r\n", world.key.reveal());
    let mut stream = open_at(world, path, &line).await;
    tokio::spawn(async move {
        let (mut text, mut chunk) = (String::new(), [0; 1024]);
        let is_whole = |text: &str| text.ends_with("\r\n0\r\n\r\n");
        // A connection that is cut may be reset; one whose stream ended may stay.
        while !is_whole(&text)
            && let Ok(count @ 1..) = stream.read(&mut chunk).await
        {
            text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
        let whole = is_whole(&text);
        let at = Instant::now();
        Came { text, whole, at }
    })
}

/// The same over HTTP/2.
async fn over_http2(answer: ResponseFuture) -> JoinHandle<Came> {
    let mut body = answer.await.unwrap().into_body();
    tokio::spawn(async move {
        let mut text = String::new();
        let whole = loop {
            match next(&mut body).await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(data)) => text.push_str(std::str::from_utf8(&data).unwrap()),
            }
        };
        let at = Instant::now();
        Came { text, whole, at }
    })
}

/// Streams of each test here.
fn streams_in_all() -> usize {
    match std::env::var_os("TURNPIKE_LONG_TESTS") {
        Some(_) => 500,
        None => 100,
    }
}

/// Opens so many streams, a fifth of them over HTTP/2.
async fn open_streams(world: &World, path: &str, count: usize) -> Vec<JoinHandle<Came>> {
    /// Streams on one connection of HTTP/2.
    const SHARING: usize = 25;
    let mut opened = Vec::new();
    let shared = count / 5;
    for _ in shared..count {
        opened.push(over_http1(world, path).await);
    }
    for first in (0..shared).step_by(SHARING) {
        let mut send = connect(world.addr).await;
        for _ in first..shared.min(first + SHARING) {
            opened.push(over_http2(ask(&mut send, path, world.key.reveal())).await);
        }
    }
    opened
}

impl Came {
    /// Whether both events came.
    fn has_both(&self) -> bool {
        self.text.contains("data: one\n\n") && self.text.contains("data: two\n\n")
    }
}

/// A world with more than the upstream of all worlds: streams at this one end when the test says so, those at the other do
/// not.
async fn beside_another() -> (World, Upstream) {
    let (world, other) = (World::new().await, Upstream::start().await);
    let mut told = routing(world.upstream.addr);
    told.upstreams[2].url = format!("http://{}", other.addr);
    for upstream in &mut told.upstreams {
        (upstream.first_byte_timeout_ms, upstream.idle_timeout_ms) = (60_000, 120_000);
    }
    world.plane.put_routing(told);
    world.synced().await;
    (world, other)
}

/// A stream that the gateway which took over has, and how many were opened until it had one: the one before it may take
/// some for a moment.
async fn open_at_successor(world: &World) -> (TcpStream, usize) {
    let has = |count: f64| metrics(world).sum("in_flight", &[]) == count;
    let line = format!("X-API-Key: {}\r\n", world.key.reveal());
    for opened in 1..1_000 {
        until(|| has(0.0)).await;
        let stream = open_at(world, "/slow/sse", &line).await;
        if has(1.0) {
            return (stream, opened);
        }
    }
    panic!("the one before goes on accepting");
}

/// F17: streams that end within the drain time are whole, and none is ended while there is some left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn open_streams_have_the_drain_time() {
    /// Streams that have more of the drain time before them, a fifth of them over HTTP/2.
    const OTHERS: usize = 5;
    let count = streams_in_all();
    let (mut world, other) = beside_another().await;
    let in_time = open_streams(&world, "/v1/sse", count).await;
    let late = open_streams(&world, "/slow/sse", OTHERS).await;
    let both = [Arc::clone(&world.upstream.tick), Arc::clone(&other.tick)];
    let say = |event: &str| {
        for tick in &both {
            tick.send(event.to_owned()).unwrap();
        }
    };
    until(|| (both[0].receiver_count(), both[1].receiver_count()) == (count, OTHERS)).await;
    say("one");

    // Far longer than anything here takes: what ends, ends by itself.
    let ending = replace(&mut world, 1, Duration::from_secs(120)).await;
    say("two");
    for _ in 0..20 {
        assert_eq!(world.get("/v1/ok").await.status, 200, "others are served by the next");
    }
    both[0].send("end".to_owned()).unwrap();
    for stream in in_time {
        let came = stream.await.unwrap();
        assert!(came.whole && came.has_both(), "{:?}", came.text);
    }
    assert!(!ending.is_finished(), "the others have their time");
    // One that begins at the successor is not concerned.
    let (mut young, opened) = open_at_successor(&world).await;
    until(|| both[1].receiver_count() == OTHERS + 1).await;
    assert!(late.iter().all(|stream| !stream.is_finished()), "each has its time");
    both[1].send("three".to_owned()).unwrap();
    assert!(read_until(&mut young, "\n\n\r\n").await.contains("three"));
    both[1].send("end".to_owned()).unwrap();
    for stream in late {
        let came = stream.await.unwrap();
        let whole = came.whole && came.has_both() && came.text.contains("data: three\n\n");
        assert!(whole, "{:?}", came.text);
    }
    ending.await.unwrap();
    let rows = world.shipped().await;
    assert_eq!(rows.len(), count + OTHERS + 20 + opened, "each is one request");
    assert!(rows.iter().all(|r| (r.status, r.units) == (200, 1)));
}

/// F17: streams that do not end within the drain time are ended at its end, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_drain_time_ends_open_streams() {
    const DRAIN: Duration = Duration::from_secs(2);
    let count = streams_in_all();
    let (mut world, other) = beside_another().await;
    let late = open_streams(&world, "/slow/sse", count).await;
    until(|| other.tick.receiver_count() == count).await;

    let begun = Instant::now();
    let ending = replace(&mut world, 1, DRAIN).await;
    let (mut young, opened) = open_at_successor(&world).await;
    for stream in late {
        let came = tokio::time::timeout(Duration::from_secs(60), stream)
            .await
            .expect("open for ever")
            .unwrap();
        assert!(!came.whole, "{:?}", came.text);
        assert!(
            came.at >= begun + DRAIN,
            "{:?} before its time",
            begun + DRAIN - came.at
        );
    }
    ending.await.unwrap();
    println!(
        "{count} streams: the last was ended {:?} after the drain time began",
        begun.elapsed()
    );
    // One that began at the successor is not concerned.
    until(|| other.tick.receiver_count() == 1).await;
    other.tick.send("three".to_owned()).unwrap();
    assert!(read_until(&mut young, "\n\n\r\n").await.contains("three"));
    let rows = world.shipped().await;
    assert_eq!(rows.len(), count + opened, "each is one request");
    assert!(rows.iter().all(|r| (r.status, r.units) == (200, 1)));
}
