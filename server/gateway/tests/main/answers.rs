//! Answers that upstreams frame well, oddly and falsely, in whatever pieces they come.

use crate::recorder::accept;
use crate::support::*;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What to write for a request, piece by piece, and whether to close then.
type Script = (Vec<Vec<u8>>, bool);

/// An upstream that answers each request with the next script.
struct Scripted {
    addr: SocketAddr,
    scripts: Arc<Mutex<VecDeque<Script>>>,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scripted = Self {
            addr: listener.local_addr().unwrap(),
            scripts: Arc::default(),
            connections: Arc::default(),
        };
        let (scripts, connections) = (Arc::clone(&scripted.scripts), Arc::clone(&scripted.connections));
        tokio::spawn(async move {
            loop {
                let stream = accept(&listener).await;
                connections.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                tokio::spawn(follow(stream, Arc::clone(&scripts)));
            }
        });
        scripted
    }
}

async fn follow(mut stream: TcpStream, scripts: Arc<Mutex<VecDeque<Script>>>) {
    let mut seen = Vec::new();
    loop {
        while !seen.ends_with(b"\r\n\r\n") {
            let mut chunk = [0u8; 4096];
            match stream.read(&mut chunk).await {
                Ok(n @ 1..) => seen.extend_from_slice(&chunk[..n]),
                _ => return,
            }
        }
        seen.clear();
        let Some((pieces, closes)) = scripts.lock().unwrap().pop_front() else {
            return;
        };
        for piece in pieces {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if closes {
            return;
        }
    }
}

/// A world whose routes lead to a scripted upstream.
async fn world() -> (World, Scripted) {
    let (world, scripted) = (World::new().await, Scripted::start().await);
    world.plane.put_routing(routing(scripted.addr));
    world.synced().await;
    (world, scripted)
}

/// The body, and whether it came to its end.
fn body(reply: &Reply) -> (Vec<u8>, bool) {
    if let Some(length) = reply.header("content-length") {
        let whole = reply.body.len() == length.parse::<usize>().unwrap();
        return (reply.body.clone(), whole);
    }
    if reply.header("transfer-encoding").is_none() {
        return (reply.body.clone(), true);
    }
    let (mut rest, mut out) = (&reply.body[..], Vec::new());
    loop {
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else {
            return (out, false);
        };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (out, rest == b"\r\n");
        }
        out.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

/// Cuts at places that a seed chooses.
fn pieces(bytes: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let (random, mut rest, mut out) = (Seeded(AtomicU64::new(seed)), bytes, Vec::new());
    while !rest.is_empty() {
        let mut byte = [0u8; 1];
        model::Random::fill(&random, &mut byte);
        let (now, later) = rest.split_at((1 + usize::from(byte[0] % 40)).min(rest.len()));
        out.push(now.to_vec());
        rest = later;
    }
    out
}

/// In one piece, byte by byte, and cut by three seeds.
fn ways(text: &str) -> Vec<(String, Vec<Vec<u8>>)> {
    let bytes = text.as_bytes();
    let mut ways = vec![
        ("whole".to_owned(), vec![bytes.to_vec()]),
        ("bytes".to_owned(), bytes.iter().map(|b| vec![*b]).collect()),
    ];
    ways.extend((1..4).map(|seed| (format!("seed {seed}"), pieces(bytes, seed))));
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn good_answers_read_the_same_in_any_pieces() {
    let (world, upstream) = world().await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    for (text, closes, status, wanted) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, ""),
        (
            "HTTP/1.1 404 \r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nno",
            false,
            404,
            "no",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n02\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
            false,
            200,
            "abcde",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
            200,
            "",
        ),
        (
            &format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            false,
            200,
            "ok",
        ),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", false, 204, ""),
        ("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", false, 304, ""),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", true, 200, "to the end"),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end",
            true,
            200,
            "to the end",
        ),
    ] {
        for (way, pieces) in ways(text) {
            upstream.scripts.lock().unwrap().push_back((pieces, closes));
            let reply = world.get("/v1/ok").await;
            let got = (reply.status, body(&reply));
            assert_eq!(got, (status, (wanted.as_bytes().to_vec(), true)), "{text:?}, {way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn false_heads_are_refused_in_any_pieces_and_their_connections_closed() {
    let (world, upstream) = world().await;
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: 1\r\n".repeat(200));
    let long = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "y".repeat(70_000));
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(40);
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        &many,
        &long,
        &flood,
    ] {
        for (way, pieces) in ways(text)
            .into_iter()
            .filter(|(way, _)| text.len() < 10_000 || way == "whole")
        {
            let before = upstream.connections.load(Ordering::SeqCst);
            let good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
            upstream
                .scripts
                .lock()
                .unwrap()
                .extend([(pieces, false), (vec![good], true)]);
            let reply = world.get("/v1/ok").await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (502, "upstream-broken"),
                "{text:?}, {way}"
            );
            assert_eq!(
                world.get("/v1/ok").await.body,
                b"ok",
                "the next answer is its own: {text:?}"
            );
            let opened = upstream.connections.load(Ordering::SeqCst) - before;
            assert_eq!(
                opened, 2,
                "a connection with such an answer is not used again: {text:?}, {way}"
            );
        }
    }
    assert!(
        world
            .shipped()
            .await
            .iter()
            .all(|r| (r.units == 0) == (r.status == 502))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn false_bodies_never_look_whole() {
    let (world, upstream) = world().await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (text, wanted) in [
        (format!("{chunked}3\r\nabc\r\n0x1\r\nd\r\n0\r\n\r\n"), "abc"),
        (format!("{chunked}3\r\nabcd\r\n0\r\n\r\n"), "abc"),
        (format!("{chunked}3\r\nabc\r\n-1\r\n\r\n"), "abc"),
        (format!("{chunked}3\r\nabc\r\n0\r\nno colon\r\n\r\n"), "abc"),
        (format!("{chunked}3\r\nabc\r\n"), "abc"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_owned(), "abc"),
    ] {
        for (way, pieces) in ways(&text) {
            upstream.scripts.lock().unwrap().push_back((pieces, true));
            let reply = world.get("/v1/ok").await;
            let (got, whole) = body(&reply);
            assert!(
                !whole && wanted.as_bytes().starts_with(&got),
                "{text:?}, {way}: {reply:?}"
            );
        }
    }
}

/// Bytes behind an answer belong to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_answer_is_nobodys() {
    let (world, upstream) = world().await;
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    for (way, pieces) in ways(stray) {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext".to_vec();
        upstream
            .scripts
            .lock()
            .unwrap()
            .extend([(pieces, false), (vec![good], true)]);
        assert_eq!(world.get("/v1/ok").await.body, b"ok", "{way}");
        assert_eq!(world.get("/v1/ok").await.body, b"next", "{way}");
    }
}

/// An answer that comes before the request's body is through is passed on, the body goes on meanwhile, and the
/// connection is not used again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_come_before_the_body_is_through() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.plane.put_routing(routing(listener.local_addr().unwrap()));
    world.synced().await;
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        let mut chunk = [0u8; 4096];
        let n = stream.read(&mut chunk).await.unwrap();
        heard.send(chunk[..n].to_vec()).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nearly")
            .await
            .unwrap();
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            heard.send(chunk[..n].to_vec()).unwrap();
            if chunk[..n].ends_with(b"late") {
                stream.write_all(b"end").await.unwrap();
            }
        }
    });
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let head = format!(
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Length: 8\r\n\r\nsoon",
        world.key.reveal()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    while !out.ends_with(b"early") {
        let mut byte = [0u8; 1];
        assert_eq!(
            stream.read(&mut byte).await.unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&out)
        );
        out.push(byte[0]);
    }
    assert!(hears.recv().await.unwrap().ends_with(b"\r\n\r\nsoon"));
    stream.write_all(b"late").await.unwrap();
    let mut rest = [0u8; 3];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!((&rest, hears.recv().await.unwrap().as_slice()), (b"end", &b"late"[..]));
    let rows = world.shipped().await;
    assert_eq!((rows.len(), rows[0].response_bytes), (1, 8));
}
