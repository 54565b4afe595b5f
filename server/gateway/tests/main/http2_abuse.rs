//! HTTP/2 frames that no client library sends. The recorder behind the gateway speaks HTTP/1.1: what HTTP/2 can say and
//! HTTP/1.1 cannot must not get there.

use crate::process::*;
use crate::recorder::*;
use crate::support::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A string without Huffman coding.
fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 127 {
        out.push(u8::try_from(bytes.len()).unwrap());
    } else {
        out.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128 + 128).unwrap());
            rest /= 128;
        }
        out.push(u8::try_from(rest).unwrap());
    }
    out.extend_from_slice(bytes);
}

/// Literal fields that are not indexed.
fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// A connection that has said hello; what comes back is read and thrown away until it is closed.
struct Raw(TcpStream);

impl Raw {
    async fn open(addr: std::net::SocketAddr) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream
            .write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
            .await
            .unwrap();
        Self(stream)
    }

    /// Reads what comes until the gateway closes or is silent for a while.
    async fn answers(mut self) {
        let mut chunk = [0u8; 16 << 10];
        while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, self.0.read(&mut chunk)).await {}
    }

    /// Waits for these bytes in what comes.
    async fn says(mut self, wanted: &[u8]) {
        let (mut out, mut chunk) = (Vec::new(), [0u8; 16 << 10]);
        while !out.windows(wanted.len()).any(|w| w == wanted) {
            let read = tokio::time::timeout(Duration::from_secs(20), self.0.read(&mut chunk)).await;
            let Ok(Ok(n @ 1..)) = read else {
                panic!("{read:?} behind {:?}", String::from_utf8_lossy(&out))
            };
            out.extend_from_slice(&chunk[..n]);
        }
    }

    /// Sends one thing again and again, and reads meanwhile; how often until the gateway closed, or `most`.
    async fn flood(self, most: usize, mut unit: impl FnMut(usize) -> Vec<u8>) -> usize {
        let (mut reading, mut writing) = self.0.into_split();
        let reads = tokio::spawn(async move {
            let mut chunk = [0u8; 16 << 10];
            while matches!(reading.read(&mut chunk).await, Ok(1..)) {}
        });
        let mut count = 0;
        let flood = async {
            while count < most && writing.write_all(&unit(count)).await.is_ok() {
                count += 1;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), flood).await;
        reads.abort();
        assert!(ended.is_ok(), "neither taken nor refused after {count}");
        count
    }
}

fn fields<'a>(key: &'a [u8], path: &'a [u8], more: &[(&'a [u8], &'a [u8])]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut all: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"api.example"),
        (b":path", path),
        (b"x-api-key", key),
    ];
    all.extend_from_slice(more);
    all
}

type Heads = Vec<(String, Vec<u8>)>;

/// Heads whose fields cannot be said in HTTP/1.1.
fn bad_fields(secret: &[u8]) -> Heads {
    let good = |more: &[(&[u8], &[u8])]| block(&fields(secret, b"/v1/bad", more));
    let values = [
        &b"a\r\nX-Plan: forged"[..],
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"a\x7fb",
        b"a\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let names = "X-Upper,x a,x:a,x\r\na,,x-\u{e4},transfer-encoding,connection,keep-alive,proxy-connection,upgrade";
    let mut heads: Heads = values
        .iter()
        .map(|v| (format!("a value {v:?}"), good(&[(b"x-a", v)])))
        .collect();
    heads.extend(
        names
            .split(',')
            .map(|n| (format!("a name {n:?}"), good(&[(n.as_bytes(), b"chunked")]))),
    );
    heads.push(("te".to_owned(), good(&[(b"te", b"gzip")])));
    heads.push(("another host".to_owned(), good(&[(b"host", b"evil.example")])));
    heads.push((
        "two hosts".to_owned(),
        good(&[(b"host", b"api.example"), (b"host", b"api.example")]),
    ));
    heads.push(("a late pseudo-header".to_owned(), good(&[(b":path", b"/v1/smuggled")])));
    heads.push((
        "a strange pseudo-header".to_owned(),
        [block(&[(b":evil", b"1")]), good(&[])].concat(),
    ));
    heads
}

/// Heads whose request line cannot be said in HTTP/1.1.
fn bad_lines(secret: &[u8]) -> Heads {
    let line = |method: &str, authority: &str, path: &str| {
        let all: [(&[u8], &[u8]); 5] = [
            (b":method", method.as_bytes()),
            (b":scheme", b"http"),
            (b":authority", authority.as_bytes()),
            (b":path", path.as_bytes()),
            (b"x-api-key", secret),
        ];
        (format!("{method:?} {authority:?} {path:?}"), block(&all))
    };
    let paths = [
        "/v1/a b",
        "/v1/a\r\nX: y",
        "/v1/bad HTTP/1.1\r\nX-Plan: forged",
        "",
        "v1/bad",
        "*",
        "/v1/\u{e9}",
        "/v1/../bad",
        "/v1/%2e%2e/bad",
        "//bad",
    ];
    let methods = ["GET /v1/smuggled HTTP/1.1\r\n", "G ET", ""];
    let authorities = ["u:p@a", "a b", "a\r\nX: y", "a:99999", ""];
    let mut heads: Heads = paths.map(|path| line("GET", "a", path)).into();
    heads.extend(methods.map(|method| line(method, "a", "/v1/bad")));
    heads.extend(authorities.map(|authority| line("GET", authority, "/v1/bad")));
    let without = |gone: &[u8]| {
        let all = fields(secret, b"/v1/bad", &[]);
        block(&all.into_iter().filter(|f| f.0 != gone).collect::<Vec<_>>())
    };
    for gone in [":method", ":scheme", ":path", ":authority"] {
        heads.push((format!("no {gone}"), without(gone.as_bytes())));
    }
    heads
}

/// T20: heads that HTTP/1.1 cannot say are stream errors or refusals, and nothing of them is forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn what_http1_cannot_say_is_not_forwarded() {
    let (world, recorder) = recorded().await;
    let secret = world.key.reveal().as_bytes().to_vec();
    for (what, head) in [bad_fields(&secret), bad_lines(&secret)].concat() {
        let mut raw = Raw::open(world.addr).await;
        let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head);
        raw.0.write_all(&bytes).await.unwrap();
        raw.answers().await;
        assert!(recorder.requests().is_empty(), "{what}: {:?}", recorder.last());
        assert!(!recorder.saw(b"forged") && !recorder.saw(b"smuggled"), "{what}");
    }
    canary(&world, &recorder).await;
    // The same client with a good head is served: it is the heads that were refused.
    let mut raw = Raw::open(world.addr).await;
    let good = block(&fields(&secret, b"/v1/good", &[]));
    let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &good);
    raw.0.write_all(&bytes).await.unwrap();
    // The answer's body is the target.
    raw.says(b"/v1/good").await;
    assert_eq!(recorder.last().target, "/v1/good");
}

/// T20: a body that is not as long as its head says never becomes a whole request.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_not_the_bodys_is_an_error() {
    let (world, recorder) = recorded().await;
    let secret = world.key.reveal().as_bytes().to_vec();
    for (length, parts) in [
        (&b"5"[..], vec![&b"abc"[..]]),
        (b"3", vec![b"abcdef"]),
        (b"3", vec![b"abc", b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"]),
        (b"0", vec![b"x"]),
        (b"+3", vec![b"abc"]),
        (b"3, 3", vec![b"abc"]),
        (b"0x3", vec![b"abc"]),
        (b"18446744073709551616", vec![b"abc"]),
        (b"", vec![b"abc"]),
    ] {
        // A request may come late, when the next one is looked at: its path says what it may be.
        let path = if length == b"3" { &b"/v1/three"[..] } else { b"/v1/bad" };
        let mut head = fields(&secret, path, &[(b"content-length", length)]);
        head[0].1 = b"POST";
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&head));
        for (i, part) in parts.iter().enumerate() {
            bytes.extend(frame(DATA, u8::from(i + 1 == parts.len()), 1, part));
        }
        let mut raw = Raw::open(world.addr).await;
        raw.0.write_all(&bytes).await.unwrap();
        raw.answers().await;
        let came = recorder.requests();
        // What was whole by its own word before the rest came is a request; more than it said is none.
        assert!(
            came.iter()
                .all(|r| r.target != "/v1/bad" && (r.target != "/v1/three" || r.body.len() == 3)),
            "{length:?}: {came:?}"
        );
        assert!(!recorder.saw(b"smuggled"), "{length:?}");
        canary(&world, &recorder).await;
    }
}

type Unit = Box<dyn FnMut(usize) -> Vec<u8> + Send>;

fn odd(n: usize) -> u32 {
    u32::try_from(2 * n + 1).unwrap()
}

/// Floods of frames that begin requests: what they are, how often, and each time what.
fn floods_of_requests(get: &[u8], post: &[u8]) -> Vec<(&'static str, usize, Unit)> {
    let (head, body) = (get.to_vec(), post.to_vec());
    // One entry of the table, and then as many names of it as fit: one byte each for four thousand.
    let mut bomb = get.to_vec();
    bomb.push(0x40);
    text(&mut bomb, b"x");
    text(&mut bomb, &[b'a'; 4000]);
    bomb.resize(bomb.len() + 12_000, 0xbe);
    let reset = move |n| {
        let begin = frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &head);
        [begin, frame(RST_STREAM, 0, odd(n), &8u32.to_be_bytes())].concat()
    };
    let open = body.clone();
    let provoke = move |n| {
        let begin = frame(HEADERS, END_HEADERS, odd(n), &body);
        [begin, frame(WINDOW_UPDATE, 0, odd(n), &[0; 4])].concat()
    };
    vec![
        ("rapid reset", 20_000, Box::new(reset)),
        ("made you reset", 20_000, Box::new(provoke)),
        (
            "table bomb",
            2_000,
            Box::new(move |n| frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &bomb)),
        ),
        (
            "streams",
            5_000,
            Box::new(move |n| frame(HEADERS, END_HEADERS, odd(n), &open)),
        ),
    ]
}

/// Floods of frames inside one request, or none.
fn floods_of_frames(get: &[u8], post: &[u8]) -> Vec<(&'static str, usize, Unit)> {
    let more = block(&[(b"x-a", &[b'y'; 1000])]);
    let after = |first: Vec<u8>, then: Vec<u8>| -> Unit {
        Box::new(move |n| if n == 0 { first.clone() } else { then.clone() })
    };
    let begun = frame(HEADERS, END_STREAM, 1, get);
    vec![
        (
            "continuation",
            20_000,
            after(begun.clone(), frame(CONTINUATION, 0, 1, &more)),
        ),
        (
            "empty continuation",
            50_000,
            after(begun, frame(CONTINUATION, 0, 1, &[])),
        ),
        (
            "settings",
            50_000,
            Box::new(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ),
        ("pings", 50_000, Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        (
            "window updates",
            50_000,
            Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ),
        (
            "empty data",
            50_000,
            after(frame(HEADERS, END_HEADERS, 1, post), frame(DATA, 0, 1, &[])),
        ),
    ]
}

/// T21: floods of frames. The gateway closes or takes them; it holds little, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_hold_little() {
    const GROWN_MOST_KIB: u64 = 50 << 10;
    let (folder, upstream) = (Folder::new(), Recorder::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "", "").await;
    assert_eq!(process.get("/v1/ok").await.status, 200);
    let before = process.memory_kib();
    let secret = key().reveal().as_bytes().to_vec();
    let mut post = fields(&secret, b"/v1/ok", &[]);
    post[0].1 = b"POST";
    let (get, post) = (block(&fields(&secret, b"/v1/ok", &[])), block(&post));
    for (what, most, unit) in floods_of_requests(&get, &post)
        .into_iter()
        .chain(floods_of_frames(&get, &post))
    {
        let count = Raw::open(process.addr).await.flood(most, unit).await;
        let after = process.memory_kib();
        println!("{what}: {count} taken, {} KiB", after.saturating_sub(before));
        assert!(
            after < before + GROWN_MOST_KIB,
            "{what}: {before} KiB became {after} KiB"
        );
        for _ in 0..5 {
            assert_eq!(process.get("/v1/ok").await.status, 200, "{what}");
        }
    }
}

/// T21: a client whose window is shut gets no answers gathered for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_shut_window_holds_no_answers() {
    const ANSWER: usize = 2 << 20;
    let large = large_answer("", ANSWER);
    let recorder = Recorder::answering(move |request| {
        if request.target.ends_with("/ok") {
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
        }
        large.clone()
    })
    .await;
    let folder = Folder::new();
    let process = Process::start(&folder.0, recorder.addr, 0, "", "").await;
    assert_eq!(process.get("/v1/ok").await.status, 200);
    let before = process.memory_kib();
    let secret = key().reveal().as_bytes().to_vec();
    let mut shut = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::open(process.addr).await;
        // The first window of every stream is 0 bytes.
        raw.0
            .write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
            .await
            .unwrap();
        for n in 0..90u32 {
            let head = block(&fields(&secret, b"/v1/large", &[]));
            raw.0
                .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &head))
                .await
                .unwrap();
        }
        shut.push(raw);
    }
    until(|| recorder.count() >= 300).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = process.memory_kib();
    println!(
        "360 answers of 2 MiB behind shut windows: {} KiB",
        after.saturating_sub(before)
    );
    assert!(after < before + (160 << 10), "{before} KiB became {after} KiB");
    assert_eq!(process.get("/v1/ok").await.status, 200);
}
