//! Calls whose two sides talk as long as they like: what ends them is the silence of both, and an ordinary body that comes
//! slowly is still cut.

use crate::http2_upstream::Server;
use crate::streams::ENDS_WITHIN;
use crate::support::*;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use model::policy::Protocol;
use model::snapshot::Routing;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest silence of an ordinary body here. It may come at a kilobyte a second beyond that.
const PATIENCE: Duration = Duration::from_millis(400);
/// Largest ordinary body here, in bytes.
const USUAL_MOST: u64 = 1_000;
/// Longest silence of both sides where that is to end a call. Elsewhere there is none that a test could come to.
const IDLE: Duration = Duration::from_millis(1_500);
const NEVER_IDLE_MS: u32 = 600_000;
/// Longest silence of both sides where one side alone is to keep a call, longer than a machine stands still.
const LONG_IDLE: Duration = Duration::from_secs(6);
/// Times that a call is begun anew because this machine stood still for longer than the call may be silent.
const ATTEMPTS: usize = 20;
/// A message, and the pause behind it: 800 bytes a second.
const MESSAGE: &[u8] = &[b'm'; 40];
const PAUSE: Duration = Duration::from_millis(50);
/// Messages of a call: five times the patience, and more bytes than an ordinary body may have.
const MESSAGES: usize = 40;

const GRPC: &str = "application/grpc";
const JSON: &str = "application/json";

/// A gateway with little patience before an upstream of HTTP/2.
async fn world(server: &Server, change: impl FnOnce(&mut Routing)) -> World {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.body_idle = PATIENCE;
    config.limits.body_bytes = USUAL_MOST;
    world.start_with(config);
    let mut told = routing(world.upstream.addr);
    let upstream = &mut told.upstreams[0];
    upstream.url = format!("http://{}", server.addr);
    upstream.policy.protocol = Protocol::Http2;
    upstream.idle_timeout_ms = NEVER_IDLE_MS;
    change(&mut told);
    world.plane.put_routing(told);
    world.synced().await;
    world
}

/// A connection of HTTP/2 to the gateway.
pub(crate) async fn connect(addr: std::net::SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

/// For a world whose calls may be silent for so long.
fn idle(longest: Duration) -> impl FnOnce(&mut Routing) {
    move |told| told.upstreams[0].idle_timeout_ms = u32::try_from(longest.as_millis()).unwrap()
}

/// Begins a call whose body goes on.
async fn call(world: &World, path: &str, kind: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::post(format!("http://api.example{path}"))
        .header("x-api-key", world.key.reveal())
        .header("content-type", kind)
        .body(())
        .unwrap();
    connect(world.addr).await.send_request(request, false).unwrap()
}

async fn next(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let Some(data) = body.data().await.transpose()? else {
        panic!("the call came to its end")
    };
    let _ = body.flow_control().release_capacity(data.len());
    Ok(data)
}

/// Whether nothing follows.
pub(crate) async fn is_end(body: &mut RecvStream) -> bool {
    while let Some(data) = body.data().await {
        if data.is_ok_and(|d| d.is_empty()) {
            continue;
        }
        return false;
    }
    true
}

/// Sends messages with pauses, until all are sent or the gateway wants no more; whether all were.
async fn trickle(stream: &mut SendStream<Bytes>, pause: Duration) -> bool {
    for _ in 0..MESSAGES {
        if stream.send_data(Bytes::from_static(MESSAGE), false).is_err() {
            return false;
        }
        tokio::time::sleep(pause).await;
    }
    stream.send_data(Bytes::new(), true).is_ok()
}

/// The answer to a body that comes slowly, has no end and never gets too large: what is said of it is said before its end.
async fn answer_to_drip(answer: ResponseFuture, mut up: SendStream<Bytes>) -> Response<RecvStream> {
    let dripping = async {
        while up.send_data(Bytes::from_static(b"m"), false).is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
        // It is refused: what is left is its answer.
        std::future::pending::<()>().await;
    };
    let answered = async {
        tokio::select! {
            answer = answer => answer,
            () = dripping => unreachable!(),
        }
    };
    let Ok(answer) = tokio::time::timeout(Duration::from_secs(20), answered).await else {
        panic!("a slow body is taken without an end");
    };
    answer.unwrap()
}

/// A call with its first message, whose answer has begun. An ordinary body has little time until then: where this machine
/// stood still for as long, the call is begun anew.
async fn echo(world: &World, kind: &str) -> (SendStream<Bytes>, RecvStream) {
    for _ in 0..ATTEMPTS {
        let begun = Instant::now();
        let (answer, mut up) = call(world, "/v1/echo", kind).await;
        // Who is refused at once cannot send it.
        let _ = up.send_data(Bytes::from_static(MESSAGE), false);
        let answer = answer.await.unwrap();
        if answer.status() == 200 {
            return (up, answer.into_body());
        }
        assert!(answer.status() == 408 && begun.elapsed() >= PATIENCE, "{answer:?}");
    }
    panic!("this machine stands still all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_may_alternate_for_longer_than_a_body_has_time() {
    let server = Server::start(None).await;
    let world = world(&server, |_| {}).await;
    for kind in [GRPC, JSON] {
        let begun = Instant::now();
        let (mut up, mut down) = echo(&world, kind).await;
        assert_eq!(next(&mut down).await.unwrap(), MESSAGE, "{kind}");
        for number in 1..MESSAGES {
            tokio::time::sleep(PAUSE).await;
            up.send_data(Bytes::from_static(MESSAGE), false).unwrap();
            let back = next(&mut down).await;
            assert_eq!(
                back.unwrap_or_else(|e| panic!("{kind}, message {number}: {e}")),
                MESSAGE
            );
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert!(is_end(&mut down).await, "{kind}: the end is passed on");
        assert!(begun.elapsed() > PATIENCE * 4, "the test took no time");
    }
    let rows = world.shipped().await;
    let bytes = (MESSAGES * MESSAGE.len()) as u64;
    let whole: Vec<u32> = rows.iter().filter(|r| r.status == 200).map(|r| r.units).collect();
    assert!(bytes > USUAL_MOST && whole == [1, 1], "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_sends_and_who_only_listens_keep_a_call() {
    let server = Server::start(None).await;
    let world = world(&server, idle(LONG_IDLE)).await;
    let longer = LONG_IDLE + Duration::from_secs(1);
    let sends = async {
        // The upstream has answered and says nothing for longer than it may alone.
        let (answer, mut up) = call(&world, "/v1/listens", GRPC).await;
        let mut down = answer.await.unwrap().into_body();
        assert!(trickle(&mut up, longer / u32::try_from(MESSAGES).unwrap()).await);
        assert_eq!(next(&mut down).await.unwrap(), (MESSAGES * MESSAGE.len()).to_string());
    };
    let listens = async {
        // The client has said nothing since its first message, and its body is not at its end.
        let (answer, mut up) = call(&world, "/v1/ticks", GRPC).await;
        up.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        let mut down = answer.await.unwrap().into_body();
        let begun = Instant::now();
        while begun.elapsed() < longer {
            assert_eq!(next(&mut down).await.unwrap(), "tick");
        }
    };
    tokio::join!(sends, listens);
}

/// A call with two silences, each shorter than what is allowed, and together longer; and the moment before its last
/// message. It is begun anew where this machine stood still and made one of them longer.
async fn silent_twice(world: &World) -> (Instant, SendStream<Bytes>, RecvStream) {
    'anew: for _ in 0..ATTEMPTS {
        let mut last = Instant::now();
        let (answer, mut up) = call(world, "/v1/echo", GRPC).await;
        let mut down = answer.await.unwrap().into_body();
        for _ in 0..2 {
            tokio::time::sleep(IDLE * 2 / 3).await;
            let sent = Instant::now();
            let message = Bytes::from_static(MESSAGE);
            let lives = up.send_data(message, false).is_ok();
            if !lives || !matches!(down.data().await, Some(Ok(back)) if back == MESSAGE) {
                assert!(last.elapsed() >= IDLE * 9 / 10, "ended after {:?}", last.elapsed());
                continue 'anew;
            }
            last = sent;
        }
        return (last, up, down);
    }
    panic!("this machine stands still all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_both_sides_ends_a_call_and_is_not_the_targets_failure() {
    let server = Server::start(None).await;
    let world = world(&server, idle(IDLE)).await;
    let (begun, _up, mut down) = silent_twice(&world).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), down.data()).await;
    assert!(ended.expect("the call stayed open").unwrap().is_err());
    assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
    until(|| world.target("in_flight", 0) == 0).await;
    assert_eq!(world.target("failures_total", 0), 0, "the client was as silent");

    // Before the answer, too.
    let begun = Instant::now();
    let (answer, mut up) = call(&world, "/v1/count", GRPC).await;
    up.send_data(Bytes::from_static(MESSAGE), false).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
    let answer = answer.expect("the call stayed open").unwrap();
    assert_eq!(answer.headers().get("grpc-status").unwrap(), "4", "deadline exceeded");
    assert!(begun.elapsed() >= IDLE);
    assert_eq!(world.target("failures_total", 0), 0);
}

/// Before and after the answer begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_calls() {
    let server = Server::start(None).await;
    for path in ["/v1/count", "/v1/echo"] {
        let world = world(&server, |_| {}).await;
        let (answer, mut up) = call(&world, path, GRPC).await;
        up.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        if path == "/v1/count" {
            until(|| world.target("in_flight", 0) == 1).await;
            world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
            let answer = tokio::time::timeout(ENDS_WITHIN, answer).await;
            let answer = answer.expect("the call stayed open").unwrap();
            assert_eq!(answer.headers().get("grpc-status").unwrap(), "16", "unauthenticated");
        } else {
            let mut down = answer.await.unwrap().into_body();
            assert_eq!(next(&mut down).await.unwrap(), MESSAGE);
            world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
            let ended = tokio::time::timeout(ENDS_WITHIN, down.data()).await;
            assert!(ended.expect("the call stayed open").unwrap().is_err());
        }
        until(|| world.target("in_flight", 0) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_a_request_as_a_whole_holds_for_busy_calls() {
    let server = Server::start(None).await;
    let total = Duration::from_millis(1_200);
    let world = world(&server, |told| told.upstreams[0].policy.total_timeout_ms = Some(1_200)).await;
    let begun = Instant::now();
    let (answer, mut up) = call(&world, "/v1/echo", GRPC).await;
    let answer = answer.await.unwrap();
    // On a machine that stood still it may be over before the answer begins.
    let mut open = !answer.headers().contains_key("grpc-status");
    let mut down = answer.into_body();
    while open {
        assert!(begun.elapsed() < Duration::from_secs(30), "the call stayed open");
        open = up.send_data(Bytes::from_static(MESSAGE), false).is_ok() && next(&mut down).await.is_ok();
        tokio::time::sleep(PAUSE).await;
    }
    assert!(begun.elapsed() >= total);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_before_its_answer_may_trickle_where_it_is_a_stream_and_nowhere_else() {
    let server = Server::start(None).await;
    let count = (MESSAGES * MESSAGE.len()).to_string();
    for (kind, streams, passes) in [(GRPC, false, true), (JSON, true, true), (JSON, false, false)] {
        let world = world(&server, |told| told.routes[0].policy.streams = streams).await;
        let (answer, mut up) = call(&world, "/v1/count", kind).await;
        let what = format!("{kind}, streams = {streams}");
        if passes {
            let (sent, answer) = tokio::join!(trickle(&mut up, PAUSE), answer);
            let mut answer = answer.unwrap();
            assert!(sent && answer.status() == 200, "{what}: {answer:?}");
            assert_eq!(next(answer.body_mut()).await.unwrap(), count, "{what}");
        } else {
            assert_eq!(answer_to_drip(answer, up).await.status(), 408, "{what}");
        }
    }
}

/// The content type of gRPC is no way around the bounds where gRPC cannot be spoken.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_to_an_upstream_of_http1_is_cut_whatever_it_says_of_itself() {
    let server = Server::start(None).await;
    let world = world(&server, |_| {}).await;
    world.plane.put_routing(routing(world.upstream.addr));
    world.synced().await;
    for kind in [GRPC, JSON] {
        let (answer, up) = call(&world, "/v1/ok", kind).await;
        let answer = answer_to_drip(answer, up).await;
        let refused = answer.status() == 408 || answer.headers().get("grpc-status").is_some_and(|s| s == "4");
        assert!(refused, "{kind}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_how_large_its_streams_may_be() {
    let server = Server::start(None).await;
    let most = u64::try_from(MESSAGE.len() * 2).unwrap();
    let world = world(&server, |told| told.routes[0].policy.max_request_bytes = Some(most)).await;
    let (answer, mut up) = call(&world, "/v1/echo", GRPC).await;
    let mut down = answer.await.unwrap().into_body();
    for _ in 0..2 {
        up.send_data(Bytes::from_static(MESSAGE), false).unwrap();
        assert_eq!(next(&mut down).await.unwrap(), MESSAGE);
    }
    up.send_data(Bytes::from_static(MESSAGE), false).unwrap();
    let broken = next(&mut down).await.unwrap_err();
    assert_ne!(broken.reason(), Some(Reason::NO_ERROR));
}

/// Over HTTP/1.1 to both sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_may_trickle_on_a_route_with_streams() {
    let server = Server::start(None).await;
    for streams in [true, false] {
        let world = world(&server, |_| {}).await;
        let mut told = routing(world.upstream.addr);
        told.routes[0].policy.streams = streams;
        world.plane.put_routing(told);
        world.synced().await;
        let key = world.key.reveal();
        let head = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (mut read, mut write) = TcpStream::connect(world.addr).await.unwrap().into_split();
        write.write_all(head.as_bytes()).await.unwrap();
        // Where it is not to come to its end it has none, and never gets too large.
        let (chunks, chunk) = if streams {
            (MESSAGES, [b"28\r\n", MESSAGE, b"\r\n"].concat())
        } else {
            (usize::MAX, b"1\r\nm\r\n".to_vec())
        };
        let sending = tokio::spawn(async move {
            for _ in 0..chunks {
                if write.write_all(&chunk).await.is_err() {
                    return write;
                }
                tokio::time::sleep(PAUSE).await;
            }
            let _ = write.write_all(b"0\r\n\r\n").await;
            // Closing would say that the client is gone.
            write
        });
        let mut out = vec![0; 4096];
        let count = tokio::time::timeout(Duration::from_secs(20), read.read(&mut out)).await;
        let reply = Reply::parse(&out[..count.expect("no answer").unwrap()]);
        assert_eq!(reply.status, if streams { 200 } else { 408 }, "streams = {streams}");
        if streams {
            let sent = tokio::time::timeout(Duration::from_secs(20), sending).await;
            let _open = sent.expect("an answer before the end is a refusal").unwrap();
            let came = world.upstream.last();
            let body = came.split_once("\r\n\r\n").unwrap().1;
            assert_eq!(body.matches('m').count(), MESSAGES * MESSAGE.len(), "all of it went on");
        } else {
            sending.abort();
        }
    }
}
