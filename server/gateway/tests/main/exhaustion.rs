//! Clients that cost: slow ones, silent ones, huge ones. Whatever they do, what they hold has a bound, it is given back,
//! and others are served meanwhile.

use crate::process::*;
use crate::recorder::*;
use crate::support::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for what the allocator keeps and what a debug build adds, in KiB.
const SLACK_KIB: u64 = 48 << 10;

/// Serves others while an attack goes on: all must be answered.
async fn others_are_served(process: &Process) {
    for _ in 0..20 {
        assert_eq!(process.get("/v1/ok").await.status, 200);
    }
}

/// The same where a head has little time. Who took as long for theirs, on a machine that stood still meanwhile, asks again.
async fn quick_ones_are_served(process: &Process, head_timeout: Duration) {
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
        key().reveal()
    );
    let mut served = 0;
    while served < 20 {
        let begun = Instant::now();
        let out = raw(process.addr, text.as_bytes()).await;
        if statuses(&out) == [200] {
            served += 1;
        } else {
            let took = begun.elapsed();
            assert!(
                took >= head_timeout,
                "{:?} after {took:?}",
                String::from_utf8_lossy(&out)
            );
        }
    }
}

async fn connect(process: &Process, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(TcpStream::connect(process.addr).await.unwrap());
    }
    streams
}

/// Reads until the gateway closes.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the connection stayed open");
}

/// T91: heads that never come to their end, whether they come slowly or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_holds_a_connection_for_a_bounded_time() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "head_timeout_ms=700", "").await;
    let others = || quick_ones_are_served(&process, Duration::from_millis(700));
    others().await;
    let before = process.descriptors();
    let mut slow = connect(&process, 300).await;
    let dripping = async {
        'drip: loop {
            for (i, stream) in slow.iter_mut().enumerate() {
                // A third stays silent, the others send a byte of a head now and then.
                if i % 3 > 0 && stream.write_all(if i % 3 == 1 { b"X" } else { b"G" }).await.is_err() {
                    break 'drip;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let both = async { tokio::join!(dripping, others()) };
    assert!(
        tokio::time::timeout(Duration::from_secs(60), both).await.is_ok(),
        "a byte now and then is enough"
    );
    for stream in &mut slow {
        closed(stream).await;
    }
    drop(slow);
    until(|| process.descriptors() <= before + 8).await;
    others().await;
}

/// T91: bodies that stop, and bodies that never stop and never get anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_given_up() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "body_idle_ms=600", "").await;
    let before = process.descriptors();
    let head = format!(
        "POST /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nContent-Length: 100000\r\n\r\n",
        key().reveal()
    );
    let mut slow = connect(&process, 60).await;
    for stream in &mut slow {
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    // Half send a byte often enough to break every silence.
    let dripping = async {
        let mut open = true;
        while open {
            open = false;
            for stream in slow.iter_mut().skip(30) {
                open |= stream.write_all(b"x").await.is_ok();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let both = async { tokio::join!(dripping, others_are_served(&process)) };
    assert!(
        tokio::time::timeout(Duration::from_secs(30), both).await.is_ok(),
        "a byte now and then is enough"
    );
    for stream in &mut slow[..30] {
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out).await;
        let reply = Reply::parse(&out);
        assert_eq!(reply.status, 408, "{reply:?}");
    }
    drop(slow);
    until(|| process.descriptors() <= before + 8).await;
    assert!(upstream.requests().iter().all(|r| !r.starts_with("POST")));
    others_are_served(&process).await;
}

/// T91, T90: answers that nobody reads are not gathered, whatever they say of themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_no_answer() {
    const ANSWER: usize = 8 << 20;
    let large = large_answer("Content-Encoding: gzip\r\n", ANSWER);
    let recorder = Recorder::answering(move |request| {
        if request.target.ends_with("/ok") {
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
        }
        large.clone()
    })
    .await;
    let folder = Folder::new();
    let process = Process::start(&folder.0, recorder.addr, 0, "write_stall_ms=1500", "").await;
    others_are_served(&process).await;
    let (before, descriptors) = (process.memory_kib(), process.descriptors());
    let mut deaf = connect(&process, 40).await;
    for stream in &mut deaf {
        let text = format!(
            "GET /v1/large HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
            key().reveal()
        );
        // And many more behind it.
        stream.write_all(text.repeat(50).as_bytes()).await.unwrap();
    }
    others_are_served(&process).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = process.memory_kib();
    println!(
        "40 deaf clients of 50 answers of 8 MiB each: {} KiB",
        after.saturating_sub(before)
    );
    assert!(after < before + SLACK_KIB, "{before} KiB became {after} KiB");
    // The kernel finds out that nobody reads; then everything is given back.
    until(|| process.descriptors() <= descriptors + 16).await;
    drop(deaf);
}

/// T91: more connections than there is room for are turned away, and those that were there stay.
#[tokio::test(flavor = "multi_thread")]
async fn connections_have_a_bound() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(
        &folder.0,
        upstream.addr,
        0,
        "connections_per_thread=50 head_timeout_ms=20000",
        "",
    )
    .await;
    let before = process.descriptors();
    let mut first = TcpStream::connect(process.addr).await.unwrap();
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        key().reveal()
    );
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        while !out.ends_with(b"ok") {
            let mut chunk = [0u8; 4096];
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "closed");
            out.extend_from_slice(&chunk[..n]);
        }
    };
    ask(&mut first).await;
    let crowd = connect(&process, 400).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        process.descriptors() < before + 2 * 50 + 20,
        "{}",
        process.descriptors()
    );
    ask(&mut first).await;
    drop(crowd);
    until(|| process.descriptors() < before + 20).await;
    others_are_served(&process).await;
}

/// Most descriptors that this process, and what it starts, may have.
fn descriptors_most() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    let soft = line.split_whitespace().nth(3).unwrap();
    soft.parse().unwrap_or(usize::MAX)
}

/// T91: connections that only exist cost little, and others are served meanwhile: 20,000 with `TURNPIKE_LONG_TESTS=1`.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cost_little() {
    let long = std::env::var_os("TURNPIKE_LONG_TESTS").is_some();
    // Each end takes a descriptor of its process (`ulimit -n`), and the tests beside this one need some.
    let most = descriptors_most();
    let few = 1_500.min(most / 3);
    let count = if long {
        most.saturating_sub(2_000).clamp(few, 20_000)
    } else {
        few
    };
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "head_timeout_ms=120000", "").await;
    others_are_served(&process).await;
    let before = process.memory_kib();
    let mut idle = connect(&process, count).await;
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        key().reveal()
    );
    for stream in &mut idle {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut out = [0u8; 4096];
        assert!(stream.read(&mut out).await.unwrap() > 0);
    }
    others_are_served(&process).await;
    let each = process.memory_kib().saturating_sub(before) * 1024 / u64::try_from(count).unwrap();
    println!("{count} idle connections that each asked once: {each} bytes each");
    assert!(each < 24 << 10, "{each} bytes a connection");
}

/// T92: what is too large is refused before it is held.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_huge_is_refused_and_not_held() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "body_bytes=200000", "").await;
    others_are_served(&process).await;
    let before = process.memory_kib();
    let line = format!("X-API-Key: {}", key().reveal());
    let head = |rest: String| format!("{rest}Host: a\r\n{line}\r\nConnection: close\r\n");
    let lines = |count: usize| (0..count).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    for (what, text, wanted) in [
        (
            "97 lines",
            head(format!("GET /v1/ok HTTP/1.1\r\n{}", lines(97))) + "\r\n",
            vec![200],
        ),
        (
            "101 lines",
            head(format!("GET /v1/ok HTTP/1.1\r\n{}", lines(101))) + "\r\n",
            vec![400, 431],
        ),
        (
            "a line of 40 KiB",
            head(format!("GET /v1/ok HTTP/1.1\r\nX-A: {}\r\n", "y".repeat(40 << 10))) + "\r\n",
            vec![400, 431],
        ),
        (
            "a target of 8,000",
            head(format!("GET /v1/{}/ok HTTP/1.1\r\n", "y".repeat(7990))) + "\r\n",
            vec![200],
        ),
        (
            "a target of 40 KiB",
            head(format!("GET /v1/{} HTTP/1.1\r\n", "y".repeat(40 << 10))) + "\r\n",
            vec![400, 414, 431],
        ),
        (
            "a body of 1 GiB",
            head("POST /v1/ok HTTP/1.1\r\n".to_owned()) + "Content-Length: 1073741824\r\n\r\n",
            vec![413],
        ),
    ] {
        let out = raw(process.addr, text.as_bytes()).await;
        assert!(
            wanted.contains(&Reply::parse(&out).status),
            "{what}: {}",
            String::from_utf8_lossy(&out)
        );
    }
    let after = process.memory_kib();
    assert!(after < before + SLACK_KIB, "{before} KiB became {after} KiB");
    others_are_served(&process).await;
}

/// T92: what has no end is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn floods_are_cut_off() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "body_bytes=200000", "").await;
    others_are_served(&process).await;
    let before = process.memory_kib();
    let line = format!("X-API-Key: {}", key().reveal());
    let chunked = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\n{line}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (what, start, unit) in [
        ("lines", "GET /v1/ok HTTP/1.1\r\n".to_owned(), "X-A: 1\r\n".to_owned()),
        ("one line", "GET /v1/ok HTTP/1.1\r\nX-A: ".to_owned(), "y".repeat(1000)),
        ("a target", "GET /v1/".to_owned(), "y".repeat(1000)),
        ("chunks", chunked.clone(), format!("1000\r\n{}\r\n", "x".repeat(4096))),
        ("small chunks", chunked.clone(), "1\r\nx\r\n".repeat(1000)),
        ("trailers", format!("{chunked}0\r\n"), "X-T: 1\r\n".repeat(100)),
        ("one trailer", format!("{chunked}0\r\nX-T: "), "y".repeat(1000)),
        ("an extension", format!("{chunked}1;e="), "e".repeat(1000)),
        ("empty lines", String::new(), "\r\n".repeat(500)),
    ] {
        let mut stream = TcpStream::connect(process.addr).await.unwrap();
        let _ = stream.write_all(start.as_bytes()).await;
        let mut sent = 0usize;
        let flood = async {
            while stream.write_all(unit.as_bytes()).await.is_ok() {
                sent += unit.len();
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), flood).await;
        assert!(ended.is_ok(), "{what} are taken without an end: {sent} bytes so far");
        println!("{what}: closed after {sent} bytes");
    }
    let after = process.memory_kib();
    assert!(after < before + SLACK_KIB, "{before} KiB became {after} KiB");
    others_are_served(&process).await;
}

/// T90: nothing is unpacked on the way, in either direction.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_pass_as_they_are() {
    // What this says it unpacks to does not matter: it is never looked into.
    const PACKED: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xed\xc1\x01\x0d\x00\x00\x00\xc2\xa0\xf7Om\x0e7\xa0";
    for coding in ["gzip", "br", "zstd", "deflate", "gzip, gzip, gzip", "unknown"] {
        let recorder = Recorder::answering(move |request| {
            let mut out = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                request.body.len()
            )
            .into_bytes();
            out.extend_from_slice(&request.body);
            out
        })
        .await;
        let world = before(&recorder).await;
        let mut bytes = format!("POST /v1/ok HTTP/1.1\r\nHost: a\r\n{{key}}\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", PACKED.len()).into_bytes();
        bytes.extend_from_slice(PACKED);
        let out = raw(world.addr, &with_key(&world, &bytes)).await;
        assert!(out.starts_with(b"HTTP/1.1 200 ") && out.ends_with(PACKED), "{coding}");
        let seen = recorder.last();
        assert_eq!(
            (seen.body.as_slice(), seen.all("content-encoding")),
            (PACKED, vec![coding])
        );
    }
}

/// T93: an event stream that says nothing is not held for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_ends() {
    let world = World::new().await;
    let mut routing = routing(world.upstream.addr);
    routing.upstreams[0].idle_timeout_ms = 300;
    world.plane.put_routing(routing);
    world.synced().await;
    let text = format!(
        "GET /v1/sse HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    let out = String::from_utf8_lossy(&raw(world.addr, text.as_bytes()).await).into_owned();
    assert!(
        out.starts_with("HTTP/1.1 200 ") && !out.ends_with("0\r\n\r\n"),
        "cut off is not the same as ended: {out}"
    );
    until(|| world.upstream.tick.receiver_count() == 0).await;
    assert_eq!(world.shipped().await.iter().map(|r| r.units).sum::<u32>(), 1);
}

/// T95: nothing that a client chooses makes a series.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_do_not_grow_with_what_clients_send() {
    let (world, recorder) = recorded().await;
    let series = || {
        let text = world.gateway.as_ref().unwrap().metrics();
        let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        lines
            .map(|l| l.rsplit_once(' ').unwrap().0.to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let ask = async |n: usize| {
        let method = ["GET", "POST", "PURGE", "X", "M-SEARCH"][n % 5];
        let target = [
            format!("/v1/{n}"),
            format!("/{n}"),
            format!("/v1/%{n}"),
            format!("/search/{n}?q={n}"),
        ][n % 4]
            .clone();
        let key = if n.is_multiple_of(3) {
            format!("X-API-Key: tp_live_{n}")
        } else {
            "{key}".to_owned()
        };
        let text = format!(
            "{method} {target} HTTP/1.1\r\nHost: h{n}.example\r\nUser-Agent: u{n}\r\n{key}\r\nX-{n}: {n}\r\nConnection: close\r\n\r\n"
        );
        raw(world.addr, &with_key(&world, text.as_bytes())).await
    };
    // Long enough for every reason to come up, too many wrong keys among them.
    for n in 0..1_200 {
        ask(n).await;
    }
    let before = series();
    for n in 1_200..1_800 {
        ask(n).await;
    }
    let after = series();
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(after.len() < 10_000, "{}", after.len());
    canary(&world, &recorder).await;
}
