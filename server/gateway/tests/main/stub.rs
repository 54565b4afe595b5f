//! Upstream targets that do as they are told, and change their mind when a test says so.

use crate::recorder::accept;
use crate::support::*;
use model::policy::UpstreamPolicy;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a stub does with a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Deed {
    /// Answers with this status and its name.
    Status(u16),
    /// Reads the request and closes.
    Close,
    /// Reads the request and says nothing more.
    Hang,
    /// Sends these bytes, and then nothing.
    Bytes(&'static str),
    /// Sends these bytes and closes.
    Cut(&'static str),
    /// Sends a head, and then a byte every few milliseconds, for ever.
    Drip,
}

/// One target.
#[derive(Clone)]
pub(crate) struct Stub {
    pub(crate) addr: SocketAddr,
    pub(crate) name: &'static str,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    deed: Arc<Mutex<Deed>>,
    well: Arc<AtomicBool>,
}

impl Stub {
    pub(crate) async fn start(name: &'static str, deed: Deed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            addr: listener.local_addr().unwrap(),
            name,
            seen: Arc::default(),
            connections: Arc::default(),
            deed: Arc::new(Mutex::new(deed)),
            well: Arc::new(AtomicBool::new(true)),
        };
        let serving = stub.clone();
        tokio::spawn(async move {
            loop {
                let stream = accept(&listener).await;
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let stub = serving.clone();
                tokio::spawn(async move { stub.serve(stream).await });
            }
        });
        stub
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
    pub(crate) fn set(&self, deed: Deed) {
        *self.deed.lock().unwrap() = deed;
    }
    /// What `/healthz` answers.
    pub(crate) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
    }
    /// Requests that were no health checks.
    pub(crate) fn count(&self) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|r| !r.contains(" /healthz "))
            .count()
    }
    pub(crate) fn checks(&self) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|r| r.contains(" /healthz "))
            .count()
    }

    /// Serves a connection, whatever it runs over.
    pub(crate) async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::new();
        loop {
            let Some(request) = read_whole(&mut stream, &mut buffer).await else {
                return;
            };
            let check = request.contains(" /healthz ");
            self.seen.lock().unwrap().push(request);
            let deed = self.deed.lock().unwrap().clone();
            let deed = match (check, self.well.load(Ordering::SeqCst)) {
                (true, true) => Deed::Status(200),
                (true, false) => Deed::Status(500),
                (false, _) => deed,
            };
            let sent = match deed {
                Deed::Status(status) => {
                    let (name, length) = (self.name, self.name.len());
                    let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{name}");
                    stream.write_all(text.as_bytes()).await
                }
                Deed::Close => return,
                Deed::Hang => std::future::pending().await,
                Deed::Bytes(bytes) => {
                    let _ = stream.write_all(bytes.as_bytes()).await;
                    std::future::pending().await
                }
                Deed::Cut(bytes) => {
                    let _ = stream.write_all(bytes.as_bytes()).await;
                    return;
                }
                Deed::Drip => {
                    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                    let mut sent = stream.write_all(head).await;
                    while sent.is_ok() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        sent = stream.write_all(b"x").await;
                    }
                    sent
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

async fn read_whole(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end + 4]).to_ascii_lowercase();
            let said = head.split("content-length: ").nth(1);
            let length = said.map_or(0, |l| l.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            if buffer.len() >= end + 4 + length {
                let request: Vec<u8> = buffer.drain(..end + 4 + length).collect();
                return Some(String::from_utf8_lossy(&request).into_owned());
            }
        }
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(&chunk[..n]);
    }
}

impl World {
    /// The upstream of `/v1/...` is called as this says, from now on.
    pub(crate) async fn policy(&self, toml: &str) {
        self.told(toml).await;
        self.synced().await;
    }

    /// The same, without waiting: the gateway may not take it.
    pub(crate) async fn told(&self, text: &str) {
        let policy: UpstreamPolicy = serde_json::from_str(text).unwrap();
        policy.check().unwrap();
        let mut routing = routing(self.upstream.addr);
        routing.upstreams[0].policy = policy;
        self.plane.put_routing(routing);
    }

    /// Status and body of a GET.
    pub(crate) async fn ask(&self) -> (u16, String) {
        let reply = self.get("/v1/a").await;
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    }

    /// Status and body of a POST with a body.
    pub(crate) async fn post(&self) -> (u16, String) {
        let key = self.key.reveal();
        let head = format!("POST /v1/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 4\r\n");
        let reply = self.send(&head, "body").await;
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    }

    /// A value of the metrics, by the name of a target's metric and its place.
    pub(crate) fn target(&self, name: &str, place: usize) -> u64 {
        let text = self.gateway.as_ref().unwrap().metrics();
        let start = format!("turnpike_gateway_target_{name}{{upstream=\"main\",target=\"{place}\"");
        let line = text.lines().find(|l| l.starts_with(&start)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}
