//! WebSocket: the handshake is a request, and what follows it belongs to the two sides alone.

use crate::clients::{certificate, tls, with_config};
use crate::frames::{client_frame, client_payloads, read_frame, server_frame};
use crate::recorder::accept;
use crate::streams::ENDS_WITHIN;
use crate::support::*;
use crate::tls::Authority;
use model::Clock as _;
use model::access::Suspension;
use model::policy::WebSocketPolicy;
use model::snapshot::KeyRecord;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An upstream that takes handshakes as the path says, and sends back the frames that it gets. It closes when one is a close
/// frame or ends in `bye`.
pub(crate) struct Server {
    pub(crate) addr: std::net::SocketAddr,
    /// Heads of requests.
    heads: Arc<Mutex<Vec<String>>>,
    /// What came behind them.
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Connections that ended.
    pub(crate) ended: Arc<AtomicUsize>,
}

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Own: 1\r\n\r\n";

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    async fn with(tls: Option<TlsAcceptor>) -> Self {
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
            loop {
                let stream = accept(&listener).await;
                let (heads, bytes, ended) = (Arc::clone(&heads), Arc::clone(&bytes), Arc::clone(&ended));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => take(stream, &heads, &bytes).await,
                        Some(tls) => take(tls.accept(stream).await.unwrap(), &heads, &bytes).await,
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

async fn take(mut stream: impl AsyncRead + AsyncWrite + Unpin, heads: &Mutex<Vec<String>>, bytes: &Mutex<Vec<u8>>) {
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
        "deflate" => AGREED.replace("X-Own", "Sec-WebSocket-Extensions: Permessage-Deflate; a=1\r\nX-Own"),
        _ => AGREED.to_owned(),
    };
    let mut said = answer.clone().into_bytes();
    let last = path.rsplit('/').next().unwrap();
    if last == "greets" {
        said.extend(server_frame(0x81, b"hello"));
    }
    if let Some(hex) = last.strip_prefix("raw-") {
        let digits = hex.as_bytes().chunks(2);
        said.extend(digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()));
    }
    stream.write_all(&said).await.unwrap();
    let (mut chunk, mut held) = (vec![0; 16 << 10], read[end..].to_vec());
    loop {
        if answer.starts_with("HTTP/1.1 101") {
            for (first, payload) in client_payloads(&mut held) {
                if payload.ends_with(b"bye") || stream.write_all(&server_frame(first, &payload)).await.is_err() {
                    return;
                }
                if first == 0x88 {
                    return;
                }
            }
        }
        let Ok(n @ 1..) = stream.read(&mut chunk).await else {
            return;
        };
        bytes.lock().unwrap().extend_from_slice(&chunk[..n]);
        held.extend_from_slice(&chunk[..n]);
    }
}

async fn world(server: &Server, idle_timeout_ms: u32) -> World {
    let world = World::new().await;
    route_to(&world, server, idle_timeout_ms, WebSocketPolicy::default()).await;
    world
}

pub(crate) async fn route_to(world: &World, server: &Server, idle_timeout_ms: u32, policy: WebSocketPolicy) {
    let mut told = routing(world.upstream.addr);
    told.upstreams[0].idle_timeout_ms = idle_timeout_ms;
    told.upstreams[0].url = format!("http://{}", server.addr);
    told.routes[0].policy.websocket = Some(policy);
    world.plane.put_routing(told);
    world.synced().await;
}

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Sends a handshake and what else is told; the head of the answer, what came behind it, and the connection.
pub(crate) async fn shake(world: &World, path: &str, behind: &[u8]) -> (Reply, TcpStream) {
    let key = world.key.reveal();
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{HANDSHAKE}\r\n");
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    stream.write_all(&[head.as_bytes(), behind].concat()).await.unwrap();
    (read_head(&mut stream).await, stream)
}

/// Reads an answer, and nothing of what is behind a 101: that is frames.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Reply {
    let mut out = Vec::new();
    while !out.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        assert!(byte.is_ok(), "closed: {:?}", String::from_utf8_lossy(&out));
        out.extend(byte);
    }
    let mut reply = Reply::parse(&out);
    let length = reply.header("content-length").map_or(0, |l| l.parse().unwrap());
    reply.body.resize(length, 0);
    stream.read_exact(&mut reply.body).await.unwrap();
    reply
}

pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await;
    // A connection that is cut may be reset.
    assert!(read.is_ok(), "the connection stayed open");
    out
}

/// Reads frames until a close frame, behind which nothing comes; its code and its reason.
pub(crate) async fn closed_with(stream: &mut TcpStream) -> (u16, String) {
    while let Some((first, payload)) = read_frame(stream).await {
        if first == 0x88 {
            assert!(read_to_end(stream).await.is_empty(), "nothing behind it");
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
        }
    }
    panic!("the connection ended without a word");
}

/// Sends bytes as a message of ten frames.
async fn write_parts(stream: &mut (impl AsyncWrite + Unpin), sent: &[u8]) -> std::io::Result<()> {
    for (number, part) in sent.chunks(sent.len() / 10).enumerate() {
        let first = [2, 0, 0x80][usize::from(number > 0) + usize::from(number == 9)];
        stream.write_all(&client_frame(first, part)).await?;
    }
    stream.flush().await
}

/// What comes back of it.
async fn read_parts(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut back = Vec::new();
    for _ in 0..10 {
        back.extend(read_frame(stream).await.unwrap().1);
    }
    back
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

    let said = read_frame(&mut stream).await;
    assert_eq!(
        said,
        Some((0x81, b"hello".to_vec())),
        "what the upstream says first is not lost"
    );
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let (mut reading, mut writing) = stream.split();
    let (written, back) = tokio::join!(write_parts(&mut writing, &sent), read_parts(&mut reading));
    written.unwrap();
    assert!(back == sent, "byte for byte");
    stream.write_all(&client_frame(0x81, b"bye")).await.unwrap();
    assert!(read_to_end(&mut stream).await.is_empty(), "the upstream ended it");
    drop(stream);
    until(|| world.target("in_flight", 0) == 0).await;
    assert_eq!(
        world.target("tunnel_bytes_up_total", 0),
        1_000_140 + 9,
        "ten heads and a frame"
    );
    assert_eq!(world.target("tunnel_bytes_down_total", 0), 1_000_100 + 7);
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

    let early = client_frame(0x81, b"early");
    let (reply, _stream) = shake(&world, "/v1/waits", &early).await;
    assert_eq!(reply.status, 101);
    until(|| server.bytes() == early).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_what_it_stands_on() {
    let server = Server::start().await;
    for what in ["revoked", "expired", "out of scope", "suspended"] {
        let world = world(&server, 600_000).await;
        let before = server.ended.load(Ordering::SeqCst);
        let (reply, mut stream) = shake(&world, "/v1/a", b"").await;
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
        let ended = tokio::time::timeout(ENDS_WITHIN, closed_with(&mut stream)).await;
        let (code, reason) = ended.expect("the tunnel stayed open");
        let slug = match what {
            "revoked" => "key-revoked",
            "expired" => "key-expired",
            "out of scope" => "insufficient-scope",
            _ => "suspended",
        };
        assert!(code == 1008 && reason.starts_with(slug), "{what}: {code} {reason}");
        until(|| server.ended.load(Ordering::SeqCst) == before + 1).await;
        until(|| world.target("in_flight", 0) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_tunnel_and_bytes_keep_it() {
    const IDLE_MS: u32 = 1_000;
    let server = Server::start().await;
    let world = world(&server, IDLE_MS).await;
    for attempt in 1..=ATTEMPTS {
        let begun = Instant::now();
        let (_, mut stream) = shake(&world, "/v1/a", b"").await;
        // It lives on beyond the limit on silence.
        let time = Duration::from_millis(u64::from(IDLE_MS * 3 / 2));
        if let Err(silence) = echo_for(&mut stream, begun, time).await {
            assert!(silence.as_millis() >= u128::from(IDLE_MS * 9 / 10), "{silence:?}");
            continue;
        }
        assert_eq!(closed_with(&mut stream).await.0, 1001);
        until(|| server.ended.load(Ordering::SeqCst) == attempt).await;
        return;
    }
    panic!("this machine stands still all the time");
}

/// Times that a tunnel is opened anew because this machine stood still for longer than the tunnel lives by itself.
const ATTEMPTS: usize = 20;

/// Sends frames on a tunnel and takes them back, until so long after it was begun. Where it ends before that: the longest
/// that it can have been silent.
async fn echo_for(stream: &mut TcpStream, begun: Instant, time: Duration) -> Result<(), Duration> {
    let mut last = begun;
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let sent = Instant::now();
        let written = stream.write_all(&client_frame(0x81, b"x")).await;
        if written.is_err() || read_frame(stream).await != Some((0x81, b"x".to_vec())) {
            return Err(last.elapsed());
        }
        last = sent;
    }
    Ok(())
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
    const DRAIN: Duration = Duration::from_millis(500);
    let server = Server::start().await;
    let mut went_on = false;
    for _ in 0..ATTEMPTS {
        let mut world = world(&server, 600_000).await;
        let (_, mut stream) = shake(&world, "/v1/a", b"").await;
        let gateway = world.gateway.take().unwrap();
        let begun = Instant::now();
        let stopping = tokio::spawn(gateway.shutdown(DRAIN));
        tokio::time::sleep(DRAIN / 10).await;
        let written = stream.write_all(&client_frame(0x81, b"still")).await;
        went_on = written.is_ok() && read_frame(&mut stream).await == Some((0x81, b"still".to_vec()));
        read_to_end(&mut stream).await;
        assert!(begun.elapsed() >= DRAIN, "ended after {:?}", begun.elapsed());
        stopping.await.unwrap();
        assert_eq!(world.plane.rows().len(), 1, "and its record is shipped");
        // Where this machine stood still for the drain time there was nothing left of it: then once more.
        if went_on {
            break;
        }
    }
    assert!(went_on);
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
        told.routes[0].policy.websocket = Some(WebSocketPolicy::default());
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

/// A page elsewhere could open a WebSocket with what its reader logged in with (RFC 6455, 10.2).
#[tokio::test(flavor = "multi_thread")]
async fn pages_open_tunnels_only_where_they_may_call() {
    const OWN: &str = "http://api.example:8080";
    let server = Server::start().await;
    let world = world(&server, 10_000).await;
    let cors = r#""cors": {"origins": ["https://app.example.com", "https://*.example.org"]}"#;
    let everybody = r#""cors": {"origins": ["*"]}"#;
    let basic = r#""auth": {"accept": ["key", "basic"]}"#;
    for (policy, origins, may) in [
        (cors, &["https://app.example.com"][..], true),
        (cors, &["https://a.example.org"], true),
        (cors, &[OWN], true),
        (cors, &[], true),
        (cors, &["https://evil.example"], false),
        (cors, &["https://app.example.com.evil.example"], false),
        (cors, &["http://app.example.com"], false),
        (cors, &["https://api.example:8080"], false),
        (cors, &["null"], false),
        (cors, &[""], false),
        (cors, &["https://app.example.com", "https://evil.example"], false),
        (everybody, &["https://evil.example"], true),
        (basic, &["https://evil.example"], false),
        (basic, &[OWN], true),
        (basic, &[], true),
        (r#""websocket": true"#, &["https://evil.example"], true),
    ] {
        let mut told = routing(world.upstream.addr);
        told.upstreams[0].url = format!("http://{}", server.addr);
        told.routes[0].policy = serde_json::from_str(&format!("{{{policy}}}")).unwrap();
        told.routes[0].policy.websocket = Some(WebSocketPolicy::default());
        world.plane.put_routing(told);
        world.synced().await;
        let before = server.heads.lock().unwrap().len();
        let lines: String = origins.iter().map(|o| format!("Origin: {o}\r\n")).collect();
        let key = world.key.reveal();
        let head =
            format!("GET /v1/a HTTP/1.1\r\nHost: api.example:8080\r\nX-API-Key: {key}\r\n{lines}{HANDSHAKE}\r\n");
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let reply = read_head(&mut stream).await;
        let what = format!("{policy} {origins:?}: {reply:?}");
        assert_eq!(reply.status, if may { 101 } else { 403 }, "{what}");
        if !may {
            assert_eq!(reply.problem(), "origin-refused", "{what}");
            assert_eq!(reply.header("connection"), Some("close"), "{what}");
        }
        assert_eq!(server.heads.lock().unwrap().len() - before, usize::from(may), "{what}");
    }
    let rows = world.shipped().await;
    assert!(
        rows.iter().all(|r| r.status == 101),
        "who is refused for its page is not looked at: {rows:?}"
    );
}

/// TLS on both sides: bytes pass, and the end of either side is the end of the other.
#[tokio::test(flavor = "multi_thread")]
async fn tunnels_pass_through_tls() {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(Arc::new(authority.server("orders.internal", &["http/1.1"], None)));
    let server = Server::with(Some(acceptor)).await;
    let mut root = None;
    let world = with_config(|config, world| {
        let (files, certificate) = certificate(world, "one.example");
        config.tls = Some(files);
        root = Some(certificate);
    })
    .await;
    let mut told = routing(world.upstream.addr);
    told.upstreams[0].url = format!("https://{}", server.addr);
    let (file, name) = (authority.file(&world, "ca.pem"), "orders.internal");
    let policy = format!(r#"{{"tls": {{"ca_file": "{file}", "server_name": "{name}"}}, "connect_timeout_ms": 10000}}"#);
    told.upstreams[0].policy = serde_json::from_str(&policy).unwrap();
    told.routes[0].policy =
        serde_json::from_str(r#"{"websocket": true, "cors": {"origins": ["https://app.example.com"]}}"#).unwrap();
    world.plane.put_routing(told);
    world.synced().await;
    let root = root.unwrap();
    let key = world.key.reveal();
    // Its own origin is one of TLS.
    for (origin, status) in [("https://one.example", 101), ("http://one.example", 403)] {
        let mut stream = tls(&world, &root, "one.example", b"http/1.1").await.unwrap();
        let head = format!("GET /v1/a HTTP/1.1\r\nHost: one.example\r\nX-API-Key: {key}\r\nOrigin: {origin}\r\n");
        stream
            .write_all(format!("{head}{HANDSHAKE}\r\n").as_bytes())
            .await
            .unwrap();
        let reply = read_head(&mut stream).await;
        assert_eq!(reply.status, status, "{origin}: {reply:?}");
        if status != 101 {
            continue;
        }
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let (mut reading, mut writing) = tokio::io::split(stream);
        let both = async { tokio::join!(write_parts(&mut writing, &sent), read_parts(&mut reading)) };
        let (written, back) = tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .expect("stuck");
        written.unwrap();
        assert!(back == sent, "byte for byte");
        writing.write_all(&client_frame(0x81, b"bye")).await.unwrap();
        writing.flush().await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), reading.read(&mut [0; 1])).await;
        assert!(
            !matches!(ended.expect("the tunnel stayed open"), Ok(1..)),
            "the upstream ended it"
        );
        until(|| server.ended.load(Ordering::SeqCst) == 1).await;
    }
}
