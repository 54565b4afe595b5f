//! Answers that are kept: as RFC 9111 says, for those who share them and nobody else, and never what came in part.

mod fresh;
mod shared;
mod together;

use crate::scripted::*;
use crate::stub::*;
use crate::support::*;
use model::ConsumerId;
use model::access::{Environment, Suspension};
use model::catalogue::CacheHits;
use model::key::PlainKey;
use model::policy::RoutePolicy;
use model::snapshot::Purge;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MINUTE: &str = "Cache-Control: max-age=60\r\n";

/// What the upstream answers with at a path, beside a body that names the request: `<path> #<number>`.
type Lines = HashMap<&'static str, String>;

struct Kept {
    world: World,
    upstream: Scripted,
}

fn lines(of: &[(&'static str, &str)]) -> Lines {
    of.iter().map(|(path, lines)| (*path, (*lines).to_owned())).collect()
}

fn target(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

fn has(request: &str, line: &str) -> bool {
    request
        .to_ascii_lowercase()
        .contains(&format!("{}\r\n", line.to_ascii_lowercase()))
}

/// An upstream behind `/c/{*rest}` with a cache policy; `If-None-Match: "same"` is answered 304.
async fn kept(cache: &str, of: Lines) -> Kept {
    let number = AtomicUsize::new(0);
    let upstream = Scripted::start(move |request| {
        let n = number.fetch_add(1, Ordering::SeqCst) + 1;
        let path = target(request).split('?').next().unwrap();
        let lines = of.get(path).map_or(MINUTE, String::as_str);
        if has(request, "if-none-match: \"same\"") {
            return vec![format!("HTTP/1.1 304 Not Modified\r\nConnection: close\r\n{lines}\r\n").into_bytes()];
        }
        let body = if request.starts_with("HEAD") {
            String::new()
        } else {
            format!("{path} #{n}")
        };
        whole("200 OK", lines, &body)
    })
    .await;
    let policy = format!("{{\"cache\": {cache}}}");
    let world = upstream
        .world(&[("kept", "/c/{*rest}", policy.as_str()), ("free", "/free", "{}")])
        .await;
    Kept { world, upstream }
}

impl Kept {
    async fn ask(&self, key: &PlainKey, method: &str, path: &str, lines: &str) -> Reply {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{lines}",
            key.reveal()
        );
        self.world.send(&head, "").await
    }

    async fn get(&self, path: &str, lines: &str) -> Reply {
        self.ask(&self.world.key, "GET", path, lines).await
    }

    /// The body of an answer and what was done for it.
    async fn seen(&self, path: &str, lines: &str) -> (String, String) {
        let reply = self.get(path, lines).await;
        (text(&reply), status(&reply))
    }

    fn asked(&self) -> usize {
        self.upstream.requests().len()
    }

    /// Another consumer with a key.
    async fn consumer(&self, number: u128, change: impl FnOnce(&mut model::snapshot::Entitlement)) -> PlainKey {
        let id = ConsumerId::from_bits(number << 80);
        let mut e = entitlement(id);
        change(&mut e);
        let key = PlainKey::generate("tp", e.environment, &*self.world.random);
        self.world.plane.put_entitlement(e);
        self.world.plane.put_key(key_record(&key, id));
        self.world.synced().await;
        key
    }

    fn metric(&self, name: &str) -> usize {
        let metrics = self.world.gateway.as_ref().unwrap().metrics();
        let line = metrics.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

fn status(reply: &Reply) -> String {
    reply.header("cache-status").unwrap_or("none").to_owned()
}
