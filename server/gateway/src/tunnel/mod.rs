//! WebSocket: after the handshake frames pass both ways until either side ends, nothing passes for too long, a frame comes
//! that may not pass (`frames`, `flood`), no time more is given to what is counted by it (`seconds`), what it stands on goes
//! (`ground`), or the gateway stops. `end` says what the sides are told.
//!
//! The handshake is a request like others: it is admitted, counted as one request when the upstream agrees, and recorded
//! before its 101 leaves. Only `Upgrade: websocket` is passed on (RFC 6455, section 4.1), and nothing behind the
//! handshake reaches the upstream before it has agreed. What it answers instead closes the client's connection.

mod end;
mod flood;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod seconds;
mod way;

use crate::balance::Lease;
use crate::flight::Places;
use crate::ground::Cut;
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use crate::timer::Timer;
use crate::upstream::Connection;
use crate::worker::Worker;
use bytes::BytesMut;
use end::{End, Farewell};
use frames::{Rules, Side};
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use model::Random as _;
use model::policy::WebSocketPolicy;
pub(crate) use seconds::Seconds;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use way::Way;

/// Whether a request asks for another protocol.
pub(crate) fn is_asked_for(parts: &Parts) -> bool {
    parts.headers.contains_key(header::UPGRADE) || parts.method == Method::CONNECT
}

/// The route of a request, where that takes what the request asks for beyond an answer.
pub(crate) fn choose(found: Result<Arc<Route>, Refused>, parts: &Parts, has_body: bool) -> Result<Arc<Route>, Refused> {
    if !is_asked_for(parts) {
        return found;
    }
    let unsupported = || {
        let detail = "This path takes no WebSocket, and nothing takes other upgrades.";
        Refused::new(Refusal::UpgradeUnsupported, detail).closing()
    };
    let route = found
        .ok()
        .filter(|r| r.websocket.is_some() && parts.method != Method::CONNECT);
    let route = route.ok_or_else(unsupported)?;
    check(parts, has_body)?;
    Ok(route)
}

/// Refuses what is no handshake of RFC 6455, section 4.2.1.
fn check(parts: &Parts, has_body: bool) -> Result<(), Refused> {
    let token = |name: HeaderName, wanted: &str| {
        let values = parts.headers.get_all(name).iter();
        let mut tokens = values.flat_map(|v| v.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii));
        tokens.any(|t| t.eq_ignore_ascii_case(wanted.as_bytes()))
    };
    let only = |name: &HeaderName, wanted: Option<&[u8]>| {
        let mut values = parts.headers.get_all(name).iter();
        let first = values.next().map(|v| v.as_bytes());
        let fits = first.is_some_and(|f| wanted.is_none_or(|w| f.eq_ignore_ascii_case(w)));
        fits && values.next().is_none()
    };
    let plain = parts.method == Method::GET && parts.version == Version::HTTP_11 && !has_body;
    let websocket = only(&header::UPGRADE, Some(b"websocket")) && token(header::CONNECTION, "upgrade");
    let keyed = only(&header::SEC_WEBSOCKET_KEY, None) && only(&header::SEC_WEBSOCKET_VERSION, Some(b"13"));
    if plain && websocket && keyed {
        return Ok(());
    }
    let detail = "This is no WebSocket handshake: GET over HTTP/1.1 without a body, Upgrade: websocket, Connection: \
        Upgrade, one Sec-WebSocket-Key, Sec-WebSocket-Version: 13.";
    Err(Refused::new(Refusal::BadRequest, detail).closing())
}

/// Whether an upstream's 101 agrees on permessage-deflate (RFC 7692), which gives one reserved bit a meaning.
pub(crate) fn agrees_on_deflate(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    let mut all = said.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    all.any(|extension| {
        let name = extension.split(|b| *b == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"permessage-deflate")
    })
}

/// The upstream's end of a tunnel.
pub(crate) struct Far {
    connection: Connection,
    lease: Lease,
}

impl Far {
    /// Behind an upstream's 101.
    pub(crate) fn new(connection: Connection, lease: Lease) -> Self {
        Self { connection, lease }
    }
}

/// A tunnel, from the handshake on.
pub(crate) struct Tunnel {
    pub(crate) far: Far,
    pub(crate) worker: Arc<Worker>,
    /// What may pass.
    pub(crate) policy: WebSocketPolicy,
    /// Whether messages may be compressed.
    pub(crate) compressed: bool,
    /// It ends when this is ready.
    pub(crate) cut: Cut,
    /// Its time, where that is counted.
    pub(crate) seconds: Option<Seconds>,
    /// It is in flight as long as it is open.
    pub(crate) places: Places,
}

impl Tunnel {
    fn rules(&self, side: Side) -> Rules {
        Rules {
            side,
            frame_bytes: self.policy.frame_bytes().into(),
            message_bytes: self.policy.max_message_bytes.into(),
            compressed: self.compressed,
        }
    }

    /// Carries frames both ways to the end. `client` is the client's socket, `early` what was read from it behind the
    /// handshake.
    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(self, client: &mut S, early: BytesMut) {
        let rules = [Side::Client, Side::Upstream].map(|side| self.rules(side));
        let Self {
            far: Far { connection, lease },
            worker,
            mut cut,
            mut seconds,
            places,
            ..
        } = self;
        let (mut upstream, said) = connection.into_parts();
        let (mut up, mut down) = (Way::new(rules[0], early), Way::new(rules[1], said));
        let (target, idle) = (lease.target(), lease.upstream().idle);
        let mut timer = Timer::default();
        let mut moved = 0;
        let end = poll_fn(|cx| {
            if let Poll::Ready(refused) = cut.as_mut().poll(cx) {
                return Poll::Ready(End::Refused(refused));
            }
            if let Some(seconds) = &mut seconds
                && let Poll::Ready(refused) = seconds.poll(cx, [up.bytes, down.bytes])
            {
                return Poll::Ready(End::Refused(refused));
            }
            let sent = up.poll(cx, client, &mut upstream, &target.tunnel_bytes_up);
            let got = down.poll(cx, &mut upstream, client, &target.tunnel_bytes_down);
            match (sent, got) {
                (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Over),
                _ => {}
            }
            if up.is_closed() && down.is_closed() {
                // For both it is over, whenever their connections end.
                seconds
                    .take()
                    .into_iter()
                    .for_each(|seconds| seconds.end([up.bytes, down.bytes]));
            }
            if !timer.is_set() || moved != up.bytes + down.bytes {
                moved = up.bytes + down.bytes;
                timer.set((Instant::now() + idle).into());
            }
            timer.poll(cx).map(|()| End::Silent)
        })
        .await;
        // What is left to be counted is recorded, and its place is free.
        if let Some(seconds) = seconds {
            seconds.end([up.bytes, down.bytes]);
        }
        drop(places);
        let Some(farewell) = Farewell::of(&end) else { return };
        let mut mask = [0; 4];
        worker.random.fill(&mut mask);
        let to_client = down.last_words(&farewell.to_client());
        let to_upstream = up.last_words(&farewell.to_upstream(mask));
        tokio::join!(end::part(client, to_client), end::part(&mut upstream, to_upstream));
    }
}
