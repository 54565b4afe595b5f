//! Many calls at once.

use crate::support::*;
use model::key::PlainKey;
use std::net::SocketAddr;

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
