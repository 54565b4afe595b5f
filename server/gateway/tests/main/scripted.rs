//! An upstream that answers as a test says, piece by piece, and keeps what it was asked.

use crate::recorder::accept;
use crate::support::{World, routing};
use model::policy::RoutePolicy;
use model::snapshot::{RouteRecord, Routing, UpstreamRecord};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Pieces of an answer; the connection is closed behind the last one.
pub(crate) type Pieces = Vec<Vec<u8>>;
type Script = dyn Fn(&str) -> Pieces + Send + Sync;

pub(crate) struct Scripted {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// `script` is given each request and gives the pieces of its answer.
    pub(crate) async fn start(script: impl Fn(&str) -> Pieces + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, script): (_, Arc<Script>) = (Arc::clone(&seen), Arc::new(script));
        tokio::spawn(async move {
            loop {
                let stream = accept(&listener).await;
                tokio::spawn(answer(stream, Arc::clone(&kept), Arc::clone(&script)));
            }
        });
        Self { addr, seen }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
    /// The last request.
    pub(crate) fn last(&self) -> String {
        self.requests().pop().unwrap()
    }

    /// A world with more routes to this upstream: slug, path and policy.
    pub(crate) async fn world(&self, routes: &[(&str, &str, &str)]) -> World {
        self.world_with(routes, |_| {}).await
    }

    /// The same, with a change to what is told of this upstream.
    pub(crate) async fn world_with(
        &self,
        routes: &[(&str, &str, &str)],
        change: impl FnOnce(&mut UpstreamRecord),
    ) -> World {
        let last = |told: &mut Routing| change(told.upstreams.last_mut().unwrap());
        self.world_told(routes, last).await
    }

    /// The same, with a change to all that is told.
    pub(crate) async fn world_told(&self, routes: &[(&str, &str, &str)], change: impl FnOnce(&mut Routing)) -> World {
        let world = World::new().await;
        let mut told = routing(world.upstream.addr);
        let mut upstream = told.upstreams[0].clone();
        (upstream.number, upstream.url) = (50, format!("http://{}", self.addr));
        told.upstreams.push(upstream);
        for (number, (slug, path, policy)) in (100..).zip(routes) {
            told.routes.push(RouteRecord {
                number,
                upstream: 50,
                slug: (*slug).to_owned(),
                path: (*path).to_owned(),
                policy: serde_json::from_str::<RoutePolicy>(policy).unwrap(),
                ..told.routes[0].clone()
            });
        }
        change(&mut told);
        world.plane.put_routing(told);
        world.synced().await;
        world
    }
}

async fn answer(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>, script: Arc<Script>) {
    let mut request = Vec::new();
    let mut chunk = [0u8; 8192];
    while !is_whole(&request) {
        match stream.read(&mut chunk).await {
            Ok(n @ 1..) => request.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    seen.lock().unwrap().push(text.clone());
    for piece in script(&text) {
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return request.ends_with(b"0\r\n\r\n");
    }
    let length = head
        .split("content-length: ")
        .nth(1)
        .map(|l| l.split("\r\n").next().unwrap().parse::<usize>());
    request.len() >= end + 4 + length.map_or(0, Result::unwrap)
}

/// A whole answer with these header lines and this body.
pub(crate) fn whole(status: &str, lines: &str, body: &str) -> Pieces {
    vec![
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{lines}\r\n{body}",
            body.len()
        )
        .into_bytes(),
    ]
}
