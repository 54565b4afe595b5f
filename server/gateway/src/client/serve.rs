//! One request after the other on a client's connection.

use super::answer::{self, Asked, Sent};
use super::body::{ClientBody, Shared};
use super::head::{self, Head};
use crate::body::Answer;
use crate::http1::{Invalid, Piece, Scan};
use crate::stop::Stop;
use crate::timer::Timer;
use crate::tunnel::Tunnel;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body::Body;
use std::io::Write as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::{future::poll_fn, io};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Bytes of further requests that are read while one is being answered: enough to see whether the client is still there.
const AHEAD_MOST: usize = 16 << 10;
/// How long bytes that nobody wants are still read after the last answer, so that the client gets to read it: closing
/// with unread bytes would reset the connection.
const LINGER: Duration = Duration::from_secs(1);
/// Most such bytes.
const LINGER_BYTES: usize = 1 << 20;

/// Answers requests.
pub(crate) trait Handler {
    /// The answer to a request.
    fn handle(&self, parts: Parts, body: Option<ClientBody>) -> impl Future<Output = Response<Answer>> + Send;
    /// The answer to what is no request; the connection is closed after it.
    fn malformed(&self, why: Invalid) -> Response<Answer>;
    /// Writes what `Date` says now.
    fn date(&self) -> [u8; 29];
}

/// Bounds on what a client may do.
pub(crate) struct Limits {
    /// Largest head, in bytes.
    pub(crate) head_bytes: usize,
    /// Most header lines.
    pub(crate) headers: usize,
    /// Longest wait for a head, and longest life of an idle connection.
    pub(crate) head_timeout: Duration,
}

/// Serves a connection until either side closes it. When `stop` changes, the request that runs is the last.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
    handler: &impl Handler,
    limits: Limits,
    stop: watch::Receiver<Option<Stop>>,
) {
    // Registered once: the change wakes this task, and whoever waits looks at `stop`.
    let mut told = stop.clone();
    let mut telling = pin!(told.changed());
    poll_fn(|cx| Poll::Ready(telling.as_mut().poll(cx).is_ready())).await;
    let mut connection = Connection {
        shared: Shared::new(socket),
        scan: Scan::default(),
        headers: HeaderMap::new(),
        timer: Timer::default(),
        limits,
        stop,
    };
    // An error means that the client is gone; what there is to record of its request is recorded when that is dropped.
    if let Ok(Some(tunnel)) = connection.run(handler).await
        && let Some(io) = connection.shared.into_io()
    {
        let (mut socket, early) = io.into_parts();
        tunnel.run(&mut socket, early).await;
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "a head is what there nearly always is, and a box of it is an allocation per request"
)]
enum Next {
    Head(Head),
    Malformed(Invalid),
    Closed,
}

struct Connection<S> {
    shared: Arc<Shared<S>>,
    scan: Scan,
    /// Memory for the next request's headers.
    headers: HeaderMap,
    timer: Timer,
    limits: Limits,
    stop: watch::Receiver<Option<Stop>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<S> {
    /// One request after the other; what the connection is to become in the end, when that is a tunnel.
    async fn run(&mut self, handler: &impl Handler) -> io::Result<Option<Box<Tunnel>>> {
        loop {
            let head = match poll_fn(|cx| self.poll_head(cx)).await {
                Next::Head(head) => head,
                Next::Closed => return Ok(None),
                Next::Malformed(why) => {
                    let asked = Asked::new(&http::Method::GET, http::Version::HTTP_11, false);
                    self.answer(handler, &asked, handler.malformed(why)).await?;
                    return self.close(true).await.map(|()| None);
                }
            };
            let asked = Asked::new(
                &head.parts.method,
                head.parts.version,
                head.keeps && !self.is_stopping(),
            );
            let body = self.lend_body(&head);
            let mut answer = {
                let mut handling = pin!(handler.handle(head.parts, body));
                poll_fn(|cx| match handling.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                    Poll::Pending if self.is_gone(cx) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted)),
                    Poll::Pending => Poll::Pending,
                })
                .await?
            };
            let tunnel = answer.body_mut().take_tunnel();
            let keeps = self.answer(handler, &asked, answer).await?;
            if tunnel.is_some() {
                return Ok(tunnel);
            }
            let through = self.body_is_through();
            if !keeps || !through || self.closes_at_once() {
                return self.close(!through).await.map(|()| None);
            }
            self.shared.lock().io.rest();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.has_changed().unwrap_or(true)
    }

    /// Whether this is to close without another request. Where another process goes on serving, the client is told with
    /// the next answer and closes by itself: one that has just begun to send would find its request lost.
    fn closes_at_once(&self) -> bool {
        self.is_stopping() && !self.stop.borrow().is_some_and(|stop| stop.handed_over)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let io = &mut self.shared.lock().io;
        let most = (self.limits.head_bytes, self.limits.headers);
        loop {
            match head::read(&mut io.read, &mut self.scan, most, &mut self.headers) {
                Ok(Some(head)) => {
                    self.timer.clear();
                    return Poll::Ready(Next::Head(head));
                }
                Ok(None) => {}
                Err(why) => return Poll::Ready(Next::Malformed(why)),
            }
            match io.poll_read(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Next::Closed),
                Poll::Pending => {
                    if io.read.is_empty() && self.closes_at_once() {
                        return Poll::Ready(Next::Closed);
                    }
                    if !self.timer.is_set() {
                        self.timer.set((Instant::now() + self.limits.head_timeout).into());
                    }
                    ready!(self.timer.poll(cx));
                    return Poll::Ready(Next::Closed);
                }
            }
        }
    }

    fn lend_body(&self, head: &Head) -> Option<ClientBody> {
        if head.framing.ended() {
            return None;
        }
        let mut inner = self.shared.lock();
        inner.framing = head.framing.clone();
        inner.expects = head.expects;
        drop(inner);
        Some(ClientBody::new(&self.shared))
    }

    /// Whether the client closed while its request is being answered. While it still sends a body, the body finds out.
    fn is_gone(&self, cx: &mut Context<'_>) -> bool {
        let inner = &mut *self.shared.lock();
        if !inner.framing.ended() {
            return false;
        }
        while inner.io.read.len() < AHEAD_MOST {
            match inner.io.poll_read(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Whether nothing of the request's body is left to come. What came already is passed over, when nobody holds it.
    fn body_is_through(&self) -> bool {
        let inner = &mut *self.shared.lock();
        while !inner.framing.ended() && !inner.lent && !inner.expects {
            match inner.framing.take(&mut inner.io.read) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::End) => return true,
                Ok(Piece::More) | Err(_) => return false,
            }
        }
        inner.framing.ended()
    }

    /// Writes an answer; whether the connection stays.
    async fn answer(&mut self, handler: &impl Handler, asked: &Asked, answer: Response<Answer>) -> io::Result<bool> {
        let (parts, mut body) = answer.into_parts();
        let head = (parts.status, &parts.headers);
        let (sent, keeps) = answer::write(
            self.shared.lock().io.out(),
            asked,
            head,
            &body.size_hint(),
            &handler.date(),
        );
        self.headers = parts.headers;
        self.headers.clear();
        let mut ended = sent == Sent::Nothing || body.is_end_stream();
        poll_fn(|cx| {
            while !ended {
                ended = ready!(self.poll_part(cx, &mut body, sent))?;
            }
            self.shared.lock().io.poll_flush(cx)
        })
        .await?;
        Ok(keeps)
    }

    /// Takes the next part of an answer's body; whether it was the last.
    fn poll_part(&self, cx: &mut Context<'_>, body: &mut Answer, sent: Sent) -> Poll<io::Result<bool>> {
        if self.shared.lock().io.is_full() {
            ready!(self.shared.lock().io.poll_flush(cx))?;
        }
        let part = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(part) => part,
            Poll::Pending => {
                let _ = self.shared.lock().io.poll_flush(cx)?;
                return if self.is_gone(cx) {
                    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
                } else {
                    Poll::Pending
                };
            }
        };
        let ended = part.is_none() || body.is_end_stream();
        let io = &mut self.shared.lock().io;
        let data = match part {
            None => None,
            Some(Ok(frame)) => frame.into_data().ok(),
            Some(Err(_)) => {
                // What came before the error leaves, as far as the client takes it; then the connection is cut.
                let _ = io.poll_flush_now(cx)?;
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        };
        match data.filter(|d| !d.is_empty()) {
            Some(data) if sent == Sent::Chunked => {
                let out = io.out();
                // Writing to a vector cannot fail.
                let _ = write!(out, "{:x}\r\n", data.len());
                out.extend_from_slice(&data);
                out.extend_from_slice(b"\r\n");
            }
            Some(data) => io.put(data),
            None => {}
        }
        if ended && sent == Sent::Chunked {
            io.out().extend_from_slice(b"0\r\n\r\n");
        }
        Poll::Ready(Ok(ended))
    }

    /// Closes. `unread` bytes that may still come are taken for a while, so that the answer arrives.
    async fn close(&mut self, unread: bool) -> io::Result<()> {
        poll_fn(|cx| self.shared.lock().io.poll_shutdown(cx)).await?;
        let mut left = if unread { LINGER_BYTES } else { 0 };
        self.timer.set((Instant::now() + LINGER).into());
        poll_fn(|cx| {
            let io = &mut self.shared.lock().io;
            while left > 0 {
                io.read.clear();
                match io.poll_read(cx) {
                    Poll::Ready(Ok(count @ 1..)) => left = left.saturating_sub(count),
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll(cx),
                }
            }
            Poll::Ready(())
        })
        .await;
        Ok(())
    }
}
