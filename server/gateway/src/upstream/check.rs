//! One health check: a request of the gateway's own, on a connection of its own.

use super::connection::{Connection, Io};
use super::exchange::Exchange;
use super::head::{BodyLength, RequestHead};
use super::http2::shake_hands;
use crate::balance::Target;
use crate::edits::Edits;
use crate::route::Upstream;
use http::{HeaderMap, Method};
use model::policy::{Health, Protocol};
use std::future::poll_fn;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Asks a target; the status it answers with.
///
/// # Errors
/// When it does not answer in time, or not in HTTP.
pub(crate) async fn check(upstream: &Upstream, target: &Target, health: &Health) -> io::Result<u16> {
    let wait = Duration::from_millis(u64::from(health.timeout_ms));
    let until = Instant::now() + wait;
    let (method, client, edits) = (Method::GET, HeaderMap::new(), Edits::default());
    let own: [(&'static str, &[u8]); 2] = [
        ("host", upstream.host_header.as_bytes()),
        ("user-agent", b"turnpike-health"),
    ];
    let head = RequestHead {
        method: &method,
        target: &health.path,
        client: &client,
        own: &own,
        edits: &edits,
        length: BodyLength::Absent,
        websocket: false,
    };
    let asked = async {
        match upstream.protocol {
            Protocol::Http1 => http1(target, &head, until, wait).await,
            Protocol::Http2 => http2(target, &head, until).await,
        }
    };
    timeout_at(until, asked).await?
}

async fn http1(target: &Target, head: &RequestHead<'_>, until: Instant, wait: Duration) -> io::Result<u16> {
    let mut connection = Connection::open(target, until).await?;
    head.write(&mut connection.write);
    let mut exchange = Exchange::new(connection, None, wait, None);
    let answer = poll_fn(|cx| exchange.poll(cx)).await;
    answer
        .map(|a| a.status.as_u16())
        .map_err(|_| io::Error::other("no valid answer"))
}

async fn http2(target: &Target, head: &RequestHead<'_>, until: Instant) -> io::Result<u16> {
    let (io, _) = Io::connect(target, until).await?;
    let (send, connection) = shake_hands(io).await.map_err(io::Error::other)?;
    let request = head
        .http2(target.identity.tls.is_some())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let asked = async {
        let (answer, _) = send.ready().await?.send_request(request, true)?;
        answer.await.map(|a| a.status().as_u16())
    };
    tokio::select! {
        status = asked => status.map_err(io::Error::other),
        _ = connection => Err(io::ErrorKind::ConnectionReset.into()),
    }
}
