//! Many calls at once, and one that does not end.

use crate::support::*;
use model::key::PlainKey;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Calls under way at the same time.
const AT_ONCE: usize = 8;

/// The statuses of so many calls.
pub(crate) async fn statuses(addr: SocketAddr, path: &str, key: &PlainKey, count: usize) -> Vec<u16> {
    let text = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
        key.reveal()
    );
    let caller = |n: usize| {
        let (text, calls) = (text.clone(), count / AT_ONCE + usize::from(n < count % AT_ONCE));
        tokio::spawn(async move {
            let mut told = Vec::new();
            for _ in 0..calls {
                told.push(Reply::parse(&raw(addr, text.as_bytes()).await).status);
            }
            told
        })
    };
    let callers: Vec<_> = (0..AT_ONCE).map(caller).collect();
    let mut all = Vec::with_capacity(count);
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all
}

/// A call through `at` that its upstream, `first`'s, never answers: it ends when it is aborted. Returns when it is there.
pub(crate) async fn hang(at: &World, first: &World) -> JoinHandle<()> {
    let mut table = routing(first.upstream.addr);
    table.upstreams[0].first_byte_timeout_ms = 600_000;
    first.plane.put_routing(table);
    at.synced().await;
    let (addr, key) = (at.addr, at.key.reveal().to_owned());
    let hanging = tokio::spawn(async move {
        let text = format!("GET /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
    });
    until(|| first.upstream.requests().iter().any(|r| r.contains("/v1/hang"))).await;
    hanging
}
