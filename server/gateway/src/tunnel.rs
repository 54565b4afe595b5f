//! WebSocket: after the handshake bytes pass both ways until either side ends, nothing passes for too long, the key is
//! revoked or the consumer suspended, or the gateway stops.
//!
//! The handshake is a request like others: it is admitted, counted as one request when the upstream agrees, and recorded
//! before its 101 leaves. Only `Upgrade: websocket` is passed on (RFC 6455, section 4.1), and nothing behind the
//! handshake reaches the upstream before it has agreed. What it answers instead closes the client's connection.

use crate::balance::Lease;
use crate::body::Cut;
use crate::flight::Places;
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use crate::timer::Timer;
use crate::upstream::Connection;
use bytes::BytesMut;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{Method, Version};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Bytes read at once; a silent tunnel holds none.
const READ: usize = 16 << 10;

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
    let route = found.ok().filter(|r| r.websocket && parts.method != Method::CONNECT);
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

/// The upstream's end of a tunnel.
pub(crate) struct Tunnel {
    connection: Connection,
    lease: Lease,
    idle: Duration,
    cut: Option<Cut>,
    /// It is in flight as long as it is open.
    places: Places,
}

impl Tunnel {
    /// Behind an upstream's 101.
    pub(crate) fn new(connection: Connection, lease: Lease) -> Self {
        Self {
            idle: lease.upstream().idle,
            connection,
            lease,
            cut: None,
            places: Places::default(),
        }
    }

    /// Ends it when `cut` is ready, and holds these places until then.
    pub(crate) fn ends_with(&mut self, cut: Cut, places: Places) {
        self.cut = Some(cut);
        self.places = places;
    }

    /// Carries bytes both ways to the end. `client` is the client's socket, `early` what was read from it behind the
    /// handshake.
    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, client: &mut S, early: BytesMut) {
        let (mut upstream, said) = self.connection.into_parts();
        let (mut up, mut down) = (Way::new(early), Way::new(said));
        let target = self.lease.target();
        let mut timer = Timer::default();
        let mut moved = 0;
        // How it ended is nobody's to say: both sides see their connections close.
        let _: io::Result<()> = poll_fn(|cx| {
            if self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let sent = up.poll(cx, client, &mut upstream, &target.tunnel_bytes_up)?;
            let got = down.poll(cx, &mut upstream, client, &target.tunnel_bytes_down)?;
            if sent.is_ready() && got.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !timer.is_set() || moved != up.bytes + down.bytes {
                moved = up.bytes + down.bytes;
                timer.set((Instant::now() + self.idle).into());
            }
            timer.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await;
    }
}

/// One direction.
struct Way {
    buffer: BytesMut,
    bytes: u64,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

impl Way {
    fn new(buffer: BytesMut) -> Self {
        Self {
            buffer,
            bytes: 0,
            unflushed: false,
            ended: false,
            shut: false,
        }
    }

    /// Carries what there is; ready when `from` has ended and `to` was told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        counter: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.buffer.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                let _ = self.buffer.split_to(count);
                self.unflushed = true;
                let count = u64::try_from(count).unwrap_or(0);
                self.bytes += count;
                counter.fetch_add(count, Ordering::Relaxed);
            }
            if self.ended {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            self.buffer.reserve(READ);
            match poll_read_buf(Pin::new(&mut *from), cx, &mut self.buffer) {
                Poll::Ready(count) => self.ended = count? == 0,
                Poll::Pending => {
                    self.buffer = BytesMut::new();
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
