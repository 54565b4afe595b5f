//! WebSocket: the handshake is a request, and what follows it belongs to the two sides alone.

use crate::streams::ENDS_WITHIN;
use crate::support::*;
use model::Clock as _;
use model::access::Suspension;
use model::snapshot::KeyRecord;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An upstream that takes handshakes as the path says, and sends back what it gets.
struct Server {
    addr: std::net::SocketAddr,
    /// Heads of requests.
    heads: Arc<Mutex<Vec<String>>>,
    /// What came behind them.
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Connections that ended.
    ended: Arc<AtomicUsize>,
}

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Own: 1\r\n\r\n";

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            heads: Arc::default(),
            bytes: Arc::default(),
            ended: Arc::default(),
        };
        let (heads, bytes, ended) = (
            Arc::clone(&server.heads),
            Arc::clone(&server.bytes),
            Arc::clone(&server.ended),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heads, bytes, ended) = (Arc::clone(&heads), Arc::clone(&bytes), Arc::clone(&ended));
                tokio::spawn(async move {
                    take(stream, &heads, &bytes).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

async fn take(mut stream: TcpStream, heads: &Mutex<Vec<String>>, bytes: &Mutex<Vec<u8>>) {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(n @ 1..) => read.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    };
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    bytes.lock().unwrap().extend_from_slice(&read[end..]);
    let path = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    let answer = match path.rsplit('/').next().unwrap() {
        "greets" => format!("{AGREED}hello"),
        "waits" => {
            // Nothing may come before it agrees.
            let mut early = [0; 64];
            let came = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut early)).await;
            assert!(came.is_err(), "{:?} bytes before the 101", came.unwrap());
            AGREED.to_owned()
        }
        "foreign" => AGREED.replace("WebSocket\r", "foo\r"),
        "silent" => AGREED.replace("Upgrade: WebSocket\r\n", ""),
        "ok" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_owned(),
        "forbidden" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".to_owned(),
        "required" => {
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .to_owned()
        }
        _ => AGREED.to_owned(),
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut chunk = vec![0; 16 << 10];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        bytes.lock().unwrap().extend_from_slice(&chunk[..n]);
        if !answer.starts_with(AGREED) {
            continue;
        }
        if chunk[..n].ends_with(b"bye") || stream.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}

async fn world(server: &Server, idle_timeout_ms: u32) -> World {
    let world = World::new().await;
    let mut told = routing(world.upstream.addr);
    told.upstreams[0].idle_timeout_ms = idle_timeout_ms;
    told.upstreams[0].url = format!("http://{}", server.addr);
    told.routes[0].policy.websocket = true;
    world.plane.put_routing(told);
    world.synced().await;
    world
}

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Sends a handshake and what else is told; the head of the answer, what came behind it, and the connection.
async fn shake(world: &World, path: &str, behind: &[u8]) -> (Reply, TcpStream) {
    let key = world.key.reveal();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{HANDSHAKE}\r\n");
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    stream.write_all(&[head.as_bytes(), behind].concat()).await.unwrap();
    let mut out = Vec::new();
    while !out.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        let n = stream.read(&mut chunk).await.unwrap();
        assert!(n > 0, "closed: {:?}", String::from_utf8_lossy(&out));
        out.extend_from_slice(&chunk[..n]);
    }
    (Reply::parse(&out), stream)
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await;
    // A connection that is cut may be reset.
    assert!(read.is_ok(), "the connection stayed open");
    out
}

/// Reads to the end that comes when the tunnel has nothing to stand on.
async fn ends_soon(stream: &mut TcpStream) {
    let ended = tokio::time::timeout(ENDS_WITHIN, read_to_end(stream)).await;
    assert!(ended.is_ok(), "the tunnel stayed open");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_and_the_handshake_is_one_request() {
    let server = Server::start().await;
    let world = world(&server, 10_000).await;
    let (reply, mut stream) = shake(&world, "/v1/greets", b"").await;
    assert_eq!(reply.status, 101);
    for (name, value) in [("upgrade", "websocket"), ("connection", "upgrade"), ("x-own", "1")] {
        assert_eq!(reply.header(name), Some(value));
    }
    assert_eq!(
        reply.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert!(reply.header("x-request-id").is_some() && reply.header("content-length").is_none());
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter().map(|r| (r.status, r.units)).collect::<Vec<_>>(),
        [(101, 1)],
        "while it is open"
    );

    let mut got = reply.body;
    while got.len() < 5 {
        let mut chunk = [0; 5];
        let n = stream.read(&mut chunk).await.unwrap();
        got.extend_from_slice(&chunk[..n]);
    }
    assert_eq!(got, b"hello", "what the upstream says first is not lost");
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let (mut reading, mut writing) = stream.split();
    let mut back = vec![0; sent.len()];
    let (written, read) = tokio::join!(writing.write_all(&sent), reading.read_exact(&mut back));
    written.unwrap();
    read.unwrap();
    assert!(back == sent, "byte for byte");
    stream.write_all(b"bye").await.unwrap();
    assert!(read_to_end(&mut stream).await.is_empty(), "the upstream ended it");
    drop(stream);
    until(|| world.target("in_flight", 0) == 0).await;
    assert_eq!(world.target("tunnel_bytes_up_total", 0), 1_000_003);
    assert_eq!(world.target("tunnel_bytes_down_total", 0), 1_000_005);
    assert_eq!(world.shipped().await.len(), 1);

    let head = server.heads.lock().unwrap()[0].to_ascii_lowercase();
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "x-plan: pro",
    ] {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {head}");
    }
    assert_eq!(head.matches("\r\nconnection:").count(), 1);
    assert!(head.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n") && !head.contains("x-api-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whole_handshakes_on_routes_that_take_them_reach_the_upstream() {
    let server = Server::start().await;
    let world = world(&server, 10_000).await;
    let key = format!("X-API-Key: {}\r\n", world.key.reveal());
    let plain = HANDSHAKE.to_owned();
    for (start, lines, slug) in [
        ("GET /heavy HTTP/1.1", plain.clone(), "upgrade-unsupported"),
        ("GET /nothing HTTP/1.1", plain.clone(), "upgrade-unsupported"),
        ("CONNECT /v1/a HTTP/1.1", plain.clone(), ""),
        ("POST /v1/a HTTP/1.1", plain.clone(), "bad-request"),
        ("GET /v1/a HTTP/1.0", plain.clone(), "bad-request"),
        ("GET /v1/a HTTP/1.1", plain.replace("websocket", "h2c"), "bad-request"),
        (
            "GET /v1/a HTTP/1.1",
            plain.replace("websocket", "websocket, h2c"),
            "bad-request",
        ),
        ("GET /v1/a HTTP/1.1", format!("{plain}Upgrade: h2c\r\n"), "bad-request"),
        ("GET /v1/a HTTP/1.1", plain.replace(", Upgrade", ""), "bad-request"),
        ("GET /v1/a HTTP/1.1", plain.replace("13", "12"), "bad-request"),
        (
            "GET /v1/a HTTP/1.1",
            plain.replace("Sec-WebSocket-Key", "X-Key"),
            "bad-request",
        ),
        (
            "GET /v1/a HTTP/1.1",
            format!("{plain}Content-Length: 4\r\n"),
            "bad-request",
        ),
    ] {
        let text = format!("{start}\r\nHost: a\r\n{key}{lines}\r\nGET /v1/second HTTP/1.1\r\nHost: a\r\n{key}\r\n");
        let answer = raw(world.addr, text.as_bytes()).await;
        let all = String::from_utf8_lossy(&answer);
        assert_eq!(all.matches("\r\nx-request-id: ").count(), 1, "{start} {lines}: {all}");
        if !slug.is_empty() {
            assert_eq!(Reply::parse(&answer).problem(), slug, "{start} {lines}");
        }
    }
    assert!(server.heads.lock().unwrap().is_empty());
    let missing = format!("GET /v1/a HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}");
    assert_eq!(
        world.send(&missing.replace("keep-alive, ", ""), "").await.problem(),
        "key-missing"
    );
}

/// CVE-2026-2833: what follows a handshake is no request and no tunnel until the upstream has agreed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_handshake_is_smuggled() {
    let server = Server::start().await;
    let world = world(&server, 10_000).await;
    let key = world.key.reveal();
    let second = format!("GET /v1/second HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n");
    for (path, status) in [
        ("/v1/ok", 200),
        ("/v1/forbidden", 403),
        ("/v1/required", 426),
        ("/v1/foreign", 502),
        ("/v1/silent", 502),
    ] {
        let (reply, mut stream) = shake(&world, path, second.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.header("connection")),
            (status, Some("close")),
            "{path}"
        );
        let rest = read_to_end(&mut stream).await;
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{path}");
    }
    assert!(server.bytes().is_empty() && server.heads.lock().unwrap().len() == 5);
    let rows = world.shipped().await;
    let units: Vec<_> = rows.iter().map(|r| (r.status, r.units)).collect();
    assert_eq!(units, [(200, 1), (403, 0), (426, 0), (502, 0), (502, 0)]);

    let (reply, _stream) = shake(&world, "/v1/waits", b"early").await;
    assert_eq!(reply.status, 101);
    until(|| server.bytes() == b"early").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_what_it_stands_on() {
    let server = Server::start().await;
    for what in ["revoked", "expired", "out of scope", "suspended"] {
        let world = world(&server, 600_000).await;
        let before = server.ended.load(Ordering::SeqCst);
        let (reply, mut stream) = shake(&world, "/v1/greets", b"").await;
        assert_eq!(reply.status, 101);
        let soon = world.clock.now().plus_ms(1_000);
        let edit = |change: fn(&mut KeyRecord)| world.plane.edit_key(world.key.lookup().0, change);
        match what {
            "revoked" => edit(|k| k.revoked = true),
            "expired" => world
                .plane
                .edit_key(world.key.lookup().0, |k| k.expires_at = Some(soon)),
            "out of scope" => edit(|k| k.routes = Some(vec![2])),
            _ => world
                .plane
                .edit_entitlement(world.consumer, |e| e.suspended = Some(Suspension::Provider)),
        }
        world.clock.advance(1_000);
        ends_soon(&mut stream).await;
        until(|| server.ended.load(Ordering::SeqCst) == before + 1).await;
        until(|| world.target("in_flight", 0) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_tunnel_and_bytes_keep_it() {
    let server = Server::start().await;
    let world = world(&server, 400).await;
    let (_, mut stream) = shake(&world, "/v1/a", b"").await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(
            stream.read(&mut [0; 1]).await.unwrap(),
            1,
            "it lives on beyond the limit on silence"
        );
    }
    read_to_end(&mut stream).await;
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_upstreams_side() {
    let server = Server::start().await;
    let world = world(&server, 600_000).await;
    let (_, stream) = shake(&world, "/v1/a", b"").await;
    drop(stream);
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
    until(|| world.target("in_flight", 0) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_lets_tunnels_go_on_for_the_drain_time_and_no_longer() {
    let server = Server::start().await;
    let mut world = world(&server, 600_000).await;
    let (_, mut stream) = shake(&world, "/v1/a", b"").await;
    let gateway = world.gateway.take().unwrap();
    let stopping = tokio::spawn(gateway.shutdown(Duration::from_millis(500)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still");
    read_to_end(&mut stream).await;
    stopping.await.unwrap();
    assert_eq!(world.plane.rows().len(), 1, "and its record is shipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_tunnel_is_in_flight() {
    let server = Server::start().await;
    let world = world(&server, 10_000).await;
    for (plan, upstream, refused) in [(Some(1), None, 429), (None, Some(1), 503)] {
        world.plane.edit_entitlement(world.consumer, |e| e.concurrency = plan);
        let mut told = routing(world.upstream.addr);
        told.upstreams[0].url = format!("http://{}", server.addr);
        told.upstreams[0].policy.max_in_flight = upstream;
        told.upstreams[0].policy.max_wait_ms = upstream.map(|_| 0);
        told.routes[0].policy.websocket = true;
        world.plane.put_routing(told);
        world.synced().await;
        let (first, open) = shake(&world, "/v1/echo", b"").await;
        assert_eq!(first.status, 101);
        let (second, _) = shake(&world, "/v1/echo", b"").await;
        assert_eq!(second.status, refused, "while the first is open");
        drop(open);
        for attempt in 0.. {
            let (third, _) = shake(&world, "/v1/echo", b"").await;
            if third.status == 101 {
                break;
            }
            assert!(attempt < 2_000, "the place was not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(|| world.target("in_flight", 0) == 0).await;
    }
}
