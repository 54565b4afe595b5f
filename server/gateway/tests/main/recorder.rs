//! An upstream that keeps every byte, and a strict reader of HTTP/1.1 requests written from RFC 9112 alone: the judge of
//! what the gateway may forward and of what a client may have meant.

use crate::support::*;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as the strict reader sees it; the body without its framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|h| h.0 == name);
        named.map(|h| h.1.as_str()).collect()
    }
}

/// What the beginning of some bytes is.
pub(crate) enum Read {
    /// A request of so many bytes.
    Whole(Request, usize),
    /// The beginning of one.
    Part,
    /// No request that everybody reads alike.
    Broken(&'static str),
}

fn token(bytes: &[u8]) -> bool {
    let mark = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b) || b.is_ascii_alphanumeric();
    !bytes.is_empty() && bytes.iter().all(|b| mark(*b))
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// Name in lower case and value of a header line.
fn field(line: &[u8]) -> Result<(String, String), &'static str> {
    let colon = line.iter().position(|b| *b == b':').ok_or("a line without a colon")?;
    if !token(&line[..colon]) {
        return Err("a header's name");
    }
    let value = text(&line[colon + 1..]);
    Ok((
        text(&line[..colon]).to_ascii_lowercase(),
        value.trim_matches([' ', '\t']).to_owned(),
    ))
}

/// Reads one request, of HTTP/1.1 or, without chunks, HTTP/1.0.
pub(crate) fn read(bytes: &[u8]) -> Read {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Read::Part;
    };
    let mut lines = Vec::new();
    for line in bytes[..end].split(|b| *b == b'\n') {
        lines.push(line.strip_suffix(b"\r").unwrap_or(line));
    }
    let clean = |l: &[u8]| l.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f));
    let newlines = bytes[..end].iter().filter(|b| **b == b'\n').count();
    if newlines != bytes[..end].windows(2).filter(|w| w == b"\r\n").count() || !lines.iter().all(|l| clean(l)) {
        return Read::Broken("a control byte");
    }
    let parts: Vec<_> = lines[0].split(|b| *b == b' ').collect();
    if parts.len() != 3
        || !token(parts[0])
        || parts[1].is_empty()
        || ![&b"HTTP/1.1"[..], b"HTTP/1.0"].contains(&parts[2])
    {
        return Read::Broken("the request line");
    }
    let headers = match lines[1..].iter().map(|l| field(l)).collect() {
        Ok(headers) => headers,
        Err(why) => return Read::Broken(why),
    };
    let mut request = Request {
        method: text(parts[0]),
        target: text(parts[1]),
        headers,
        body: Vec::new(),
    };
    let rest = &bytes[end + 4..];
    let length = match (
        request.all("content-length")[..].split_first(),
        &request.all("transfer-encoding")[..],
    ) {
        (None, []) => Some(0),
        (Some((first, others)), []) => {
            let plain = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
            let one = others.iter().all(|o| o == first);
            let Some(length) = first.parse::<usize>().ok().filter(|_| plain && one) else {
                return Read::Broken("its length");
            };
            Some(length)
        }
        (None, [coding]) if coding.eq_ignore_ascii_case("chunked") && parts[2] == b"HTTP/1.1" => None,
        _ => return Read::Broken("its framing"),
    };
    match length {
        Some(length) if rest.len() < length => Read::Part,
        Some(length) => {
            request.body = rest[..length].to_vec();
            Read::Whole(request, end + 4 + length)
        }
        None => match chunks(rest) {
            Chunks::Whole(body, used) => {
                request.body = body;
                Read::Whole(request, end + 4 + used)
            }
            Chunks::Part => Read::Part,
            Chunks::Broken => Read::Broken("a chunk"),
        },
    }
}

enum Chunks {
    Whole(Vec<u8>, usize),
    Part,
    Broken,
}

fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|w| w == b"\r\n")?;
    Some(&bytes[..end])
}

fn chunks(bytes: &[u8]) -> Chunks {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(head) = line(&bytes[at..]) else {
            return Chunks::Part;
        };
        let digits = head.split(|b| *b == b';').next().unwrap_or_default();
        let plain = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| usize::from_str_radix(d, 16).ok());
        let Some(size) = size.filter(|_| plain && head.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)))
        else {
            return Chunks::Broken;
        };
        at += head.len() + 2;
        if size == 0 {
            break;
        }
        if bytes.len() - at < size.saturating_add(2) {
            return Chunks::Part;
        }
        body.extend_from_slice(&bytes[at..at + size]);
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return Chunks::Broken;
        }
        at += size + 2;
    }
    loop {
        let Some(trailer) = line(&bytes[at..]) else {
            return Chunks::Part;
        };
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Chunks::Whole(body, at);
        }
    }
}

/// What an upstream sends for a request.
pub(crate) type Answer = dyn Fn(&Request) -> Vec<u8> + Send + Sync;

/// Keeps the bytes of every connection, and answers each whole request.
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    whole: Arc<Mutex<Vec<Request>>>,
}

impl Recorder {
    /// Answers with the request's own target, so that a mistaken answer shows.
    pub(crate) async fn start() -> Self {
        Self::answering(|request| {
            let length = request.target.len();
            let body = if request.method == "HEAD" { "" } else { &request.target };
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
        })
        .await
    }

    pub(crate) async fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let answer: Arc<Answer> = Arc::new(answer);
        let connections = Arc::new(Mutex::new(Vec::new()));
        let whole = Arc::new(Mutex::new(Vec::new()));
        let (kept, log) = (Arc::clone(&connections), Arc::clone(&whole));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut all = kept.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let (kept, log, answer) = (Arc::clone(&kept), Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &kept, number, &log, &*answer).await });
            }
        });
        Self {
            addr,
            connections,
            whole,
        }
    }

    /// Every connection's bytes.
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().clone()
    }

    /// All whole requests in order. Panics when a connection carries anything else than whole requests and the
    /// beginning of another.
    pub(crate) fn requests(&self) -> Vec<Request> {
        for bytes in self.bytes() {
            let mut at = 0;
            while at < bytes.len() {
                match read(&bytes[at..]) {
                    Read::Whole(_, used) => {
                        let line = bytes[at..at + used].split(|b| *b == b'\r').next().unwrap_or_default();
                        assert!(line.ends_with(b" HTTP/1.1"), "{:?}", String::from_utf8_lossy(line));
                        at += used;
                    }
                    Read::Part => break,
                    Read::Broken(why) => {
                        let shown = String::from_utf8_lossy(&bytes);
                        panic!("{why}: the gateway sent what not everybody reads alike: {shown:?}")
                    }
                }
            }
        }
        self.whole.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Request {
        self.requests().pop().unwrap()
    }

    /// Whether any connection carried these bytes.
    pub(crate) fn saw(&self, needle: &[u8]) -> bool {
        let inside = |hay: &Vec<u8>| hay.windows(needle.len()).any(|w| w == needle);
        self.bytes().iter().any(inside)
    }
}

async fn serve(
    mut stream: TcpStream,
    kept: &Mutex<Vec<Vec<u8>>>,
    number: usize,
    log: &Mutex<Vec<Request>>,
    answer: &Answer,
) {
    let mut at = 0;
    loop {
        let mut chunk = [0u8; 16 << 10];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => kept.lock().unwrap()[number].extend_from_slice(&chunk[..n]),
            _ => return,
        }
        loop {
            let next = read(&kept.lock().unwrap()[number][at..]);
            let Read::Whole(request, used) = next else { break };
            at += used;
            let reply = answer(&request);
            log.lock().unwrap().push(request);
            if stream.write_all(&reply).await.is_err() {
                return;
            }
        }
    }
}

/// A gateway whose routes lead to the recorder.
pub(crate) async fn recorded() -> (World, Recorder) {
    let recorder = Recorder::start().await;
    (before(&recorder).await, recorder)
}

/// A gateway before this recorder.
pub(crate) async fn before(recorder: &Recorder) -> World {
    let world = World::new().await;
    world.plane.put_routing(routing(recorder.addr));
    world.synced().await;
    world
}

/// Replaces `{key}` by the line with the caller's key.
pub(crate) fn with_key(world: &World, bytes: &[u8]) -> Vec<u8> {
    let line = format!("X-API-Key: {}", world.key.reveal()).into_bytes();
    let mut out = Vec::with_capacity(bytes.len() + line.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(5).position(|w| w == b"{key}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&line);
        rest = &rest[at + 5..];
    }
    out.extend_from_slice(rest);
    out
}

/// Sends bytes and returns what came until the gateway closed, or was silent for a while.
pub(crate) async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    const SILENCE: Duration = Duration::from_millis(250);
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let sent = bytes.to_vec();
    // The gateway may close before it has read everything.
    let sending = tokio::spawn(async move {
        let _ = writing.write_all(&sent).await;
        writing
    });
    let mut out = Vec::new();
    let mut chunk = [0u8; 16 << 10];
    while let Ok(Ok(n)) = tokio::time::timeout(SILENCE, reading.read(&mut chunk)).await {
        if n == 0 {
            break;
        }
        out.extend_from_slice(&chunk[..n]);
    }
    sending.abort();
    out
}

/// The statuses of the answers in some bytes; bodies must not contain `HTTP/1.1 `.
pub(crate) fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let starts = text.match_indices("HTTP/1.1 ");
    starts
        .map(|(i, m)| text[i + m.len()..i + m.len() + 3].parse().unwrap())
        .collect()
}

/// A fresh client gets its own answer: nothing that another sent stands before it.
pub(crate) async fn canary(world: &World, recorder: &Recorder) {
    let reply = world.get("/v1/canary").await;
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!((reply.status, body.as_str()), (200, "/v1/canary"));
    assert!(recorder.requests().iter().any(|r| r.target == "/v1/canary"));
}
