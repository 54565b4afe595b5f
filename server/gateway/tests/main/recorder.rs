//! An upstream that keeps every byte and reads it strictly.

pub(crate) use crate::strict::{Read, Request, read};
use crate::support::*;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Pause before the next connection is taken, where one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The next connection of an upstream. While the tests beside this one hold every descriptor that the process may have, it
/// is waited for.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
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
            loop {
                let stream = accept(&listener).await;
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

    /// How many whole requests there are so far.
    pub(crate) fn count(&self) -> usize {
        self.whole.lock().unwrap().len()
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

/// A silence of the gateway after which nothing more is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(250);
/// Longest wait for the first byte of an answer that is sure to come, on a machine with other things to do.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Sends bytes and returns what came until the gateway closed, or was silent for a while.
pub(crate) async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    talk(addr, bytes, SILENCE).await
}

/// The same where an answer is sure to come: its first byte may take its time.
pub(crate) async fn answered(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    talk(addr, bytes, ANSWERED_WITHIN).await
}

async fn talk(addr: SocketAddr, bytes: &[u8], first_within: Duration) -> Vec<u8> {
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
    let mut within = first_within;
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(within, reading.read(&mut chunk)).await {
        out.extend_from_slice(&chunk[..n]);
        within = SILENCE;
    }
    sending.abort();
    out
}

/// An answer with these header lines and a body of so many bytes. It is made once and copied: to fill it anew for each
/// request would take a test build long enough to starve the tests beside it.
pub(crate) fn large_answer(lines: &str, length: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {length}\r\n\r\n");
    [head.into_bytes(), vec![b'z'; length]].concat()
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
