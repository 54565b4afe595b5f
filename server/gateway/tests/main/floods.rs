//! Very many different requests over a few connections: guessed keys (T25), and everything that a client can make up (T95).

use crate::clients::with_config;
use crate::recorder::Recorder;
use crate::support::*;
use model::access::Environment;
use model::catalogue::RateLimit;
use model::key::PlainKey;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 4;
/// Requests sent at once on one of them.
const AT_ONCE: usize = 64;

/// An answer: its status, and its body without the request's id.
type Seen = (u16, Vec<u8>);

/// How many answers there were of each status, and the different bodies among them.
type Told = BTreeMap<u16, (usize, HashSet<Vec<u8>>)>;

/// Takes an answer with a length from the beginning of what was read; none while it is not whole.
fn take(read: &mut Vec<u8>) -> Option<Seen> {
    let end = memchr::memmem::find(read, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&read[..end]).unwrap();
    let value = |name: &str| {
        let from = head.find(name)? + name.len();
        head[from..].split("\r\n").next()
    };
    let status = head[9..12].parse().unwrap();
    let length: usize = value("content-length: ").unwrap().parse().unwrap();
    let id = value("x-request-id: ").unwrap().to_owned();
    let mut body = read.get(end..end + length)?.to_vec();
    if let Some(at) = memchr::memmem::find(&body, id.as_bytes()) {
        body.drain(at..at + id.len());
    }
    read.drain(..end + length);
    Some((status, body))
}

/// Sends so many requests, each with its number, over a few connections that are kept.
async fn flood(addr: SocketAddr, count: usize, request: impl Fn(usize) -> String, seen: impl Fn(usize, Seen)) {
    let one = async |connection: usize| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let numbers: Vec<usize> = (connection..count).step_by(CONNECTIONS).collect();
        let (mut read, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        for some in numbers.chunks(AT_ONCE) {
            let text: String = some.iter().map(|n| request(*n)).collect();
            stream.write_all(text.as_bytes()).await.unwrap();
            for number in some {
                let answer = loop {
                    if let Some(answer) = take(&mut read) {
                        break answer;
                    }
                    let n = stream.read(&mut chunk).await.unwrap();
                    assert!(n > 0, "closed before the answer to {}", request(*number));
                    read.extend_from_slice(&chunk[..n]);
                };
                seen(*number, answer);
            }
        }
    };
    tokio::join!(one(0), one(1), one(2), one(3));
}

fn is_long() -> bool {
    std::env::var_os("TURNPIKE_LONG_TESTS").is_some()
}

/// T25: a hundred thousand random keys with a right checksum, each from an address of its own, are all told the same, and
/// neither the control plane nor the upstream hears of any. From one address sixty of them are, and the rest must wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_guessed_keys_learn_nothing_and_reach_nobody() {
    const GUESSES: usize = 100_000;
    let world = with_config(|config, _| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        // Whoever asks the control plane from now on asks for a key.
        config.limits.poll_interval = Duration::from_secs(3_600);
        config.limits.counts_interval = Duration::from_secs(3_600);
    })
    .await;
    let random = Seeded(AtomicU64::new(4_711));
    let asked = || {
        let counts = world.plane.counts_asked.load(Ordering::SeqCst);
        (world.plane.answers.load(Ordering::SeqCst), counts)
    };
    // It may have heard a last hint.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = asked();
    let guess = |n: usize, own_address: bool| {
        let key = PlainKey::generate("tp", Environment::Live, &random);
        let [_, a, b, c] = u32::try_from(n).unwrap().to_be_bytes();
        let (key, own) = (key.reveal(), format!("11.{a}.{b}.{c}"));
        let from = if own_address { &own } else { "12.0.0.1" };
        format!("GET /v1/{n} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nX-Forwarded-For: {from}\r\n\r\n")
    };
    let told: Mutex<Told> = Mutex::default();
    let note = |_: usize, (status, body): Seen| {
        let mut told = told.lock().unwrap();
        let of_status = told.entry(status).or_default();
        of_status.0 += 1;
        of_status.1.insert(body);
    };
    let counts = || {
        let told = std::mem::take(&mut *told.lock().unwrap());
        let count = |(status, (count, bodies)): (u16, (usize, HashSet<_>))| (status, count, bodies.len());
        told.into_iter().map(count).collect::<Vec<_>>()
    };
    flood(world.addr, GUESSES, |n| guess(n, true), note).await;
    assert_eq!(counts(), [(401, GUESSES, 1)], "status, answers, different bodies");
    flood(world.addr, GUESSES / 50, |n| guess(n, false), note).await;
    assert_eq!(counts(), [(401, 60, 1), (429, GUESSES / 50 - 60, 1)]);
    assert_eq!(asked(), before, "no key is asked for");
    assert!(world.upstream.requests().is_empty() && world.shipped().await.is_empty());
}

/// T95: whatever paths, keys, methods, hosts and statuses there are, the series stay few. A million with
/// `TURNPIKE_LONG_TESTS=1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_different_requests_make_few_series() {
    let count = if is_long() { 1_000_000 } else { 20_000 };
    let recorder = Recorder::answering(|request| {
        let path = request.target.split('?').next().unwrap();
        let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        let status = 200 + number / 10 % 400;
        // These two have no body and no length.
        let status = if [204, 205, 304].contains(&status) { 299 } else { status };
        format!("HTTP/1.1 {status} Text {number}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
    })
    .await;
    let world = World::with(|e| {
        e.rate_limit = RateLimit {
            per_second: 1_000_000,
            burst: 1_000_000,
        };
        e.limits = Vec::new();
        e.meters[0] = meter(1, u64::MAX / 2, None);
    })
    .await;
    world.plane.put_routing(routing(recorder.addr));
    world.synced().await;
    let key = world.key.reveal();
    let request = |n: usize| {
        let (method, path, key) = match n % 10 {
            0 => ("GET".to_owned(), format!("/v1/{n}"), key.to_owned()),
            1..4 => (format!("M{n}"), format!("/v1/{n}"), key.to_owned()),
            4..7 => ("GET".to_owned(), format!("/{n}"), key.to_owned()),
            _ => ("GET".to_owned(), format!("/v1/{n}"), format!("tp_live_{n}")),
        };
        format!(
            "{method} {path}?q={n} HTTP/1.1\r\nHost: h{n}.example\r\nUser-Agent: u{n}\r\nX-API-Key: {key}\r\nX-{n}: {n}\r\n\r\n"
        )
    };
    let statuses: Mutex<BTreeMap<u16, usize>> = Mutex::default();
    flood(world.addr, count, request, |_, (status, _)| {
        *statuses.lock().unwrap().entry(status).or_default() += 1;
    })
    .await;
    let statuses = statuses.into_inner().unwrap();
    assert!(
        statuses.len() > 390 && statuses.values().sum::<usize>() == count,
        "{statuses:?}"
    );
    let text = world.gateway.as_ref().unwrap().metrics();
    let series = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).count();
    println!(
        "{count} requests, {} statuses: {series} series, {} bytes",
        statuses.len(),
        text.len()
    );
    assert!(series < 10_000, "{series}");
    for made_up in [
        format!("h{}", count - 1),
        format!("M{}", count - 9),
        format!("u{}", count - 1),
    ] {
        assert!(!text.contains(&made_up), "{made_up} is in a label");
    }
}
