//! The body of an answer, read from its connection as it is asked for.

use super::connection::Connection;
use super::http2;
use super::pool::Pool;
use super::sending::{NotSent, Sending};
use super::silence::Silence;
use crate::balance::Lease;
use crate::body::BodyError;
use crate::http1::{Framing, Piece};
use crate::tunnel::Far;
use bytes::Bytes;
use http::HeaderMap;
use http_body::SizeHint;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::PollSender;

/// A body on its connection.
pub(super) struct Direct {
    pub(super) connection: Connection,
    framing: Framing,
    /// Whether the connection can serve another request.
    keeps: bool,
    silence: Silence,
}

impl Direct {
    /// A body that begins behind what was taken from the connection.
    pub(super) fn new(connection: Connection, framing: Framing, keeps: bool, silence: Silence) -> Self {
        Self {
            connection,
            framing,
            keeps,
            silence,
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.silence.is_too_long() {
            return Poll::Ready(Some(Err(BodyError::TooLong)));
        }
        loop {
            match self.framing.take(&mut self.connection.read) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(error) => {
                    tracing::warn!(%error, "an answer's body is malformed");
                    return Poll::Ready(Some(Err(BodyError::Broken)));
                }
            }
            match self.connection.poll_read(cx) {
                Poll::Ready(Ok(1..)) => self.silence.heard(),
                Poll::Ready(Ok(0)) if self.framing.ends_at_close() => self.framing = Framing::Length(0),
                Poll::Ready(_) => return Poll::Ready(Some(Err(BodyError::Broken))),
                Poll::Pending => {
                    let over = self.silence.poll(&mut self.connection.timer, cx);
                    return over.map(|error| Some(Err(error)));
                }
            }
        }
    }
}

/// A body that comes while the request is still being sent: a task of its own does both, so that neither waits for the
/// other, nor for the client to read.
struct Relayed {
    /// An empty piece is the end; without one the body broke off.
    pieces: mpsc::Receiver<Result<Bytes, BodyError>>,
    left: Option<u64>,
    ended: bool,
    task: JoinHandle<()>,
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relayed {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = match ready!(self.pieces.poll_recv(cx)) {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(Some(Err(BodyError::Broken))),
        };
        self.left = self.left.map(|left| left.saturating_sub(length(&piece)));
        self.ended = piece.is_empty() || self.left == Some(0);
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

async fn relay(mut body: Direct, mut sending: Sending, pieces: mpsc::Sender<Result<Bytes, BodyError>>) {
    let mut pieces = PollSender::new(pieces);
    poll_fn(move |cx| {
        let sent = sending.poll(&mut body.connection, cx);
        loop {
            if ready!(pieces.poll_reserve(cx)).is_err() {
                return Poll::Ready(());
            }
            if let Poll::Ready(Err(NotSent::Body(_))) = sent {
                let _ = pieces.send_item(Err(BodyError::Request));
                return Poll::Ready(());
            }
            let (piece, last) = match ready!(body.poll_data(cx)) {
                Some(Ok(piece)) => (Ok(piece), false),
                Some(Err(error)) => (Err(error), true),
                None => (Ok(Bytes::new()), true),
            };
            if pieces.send_item(piece).is_err() || last {
                return Poll::Ready(());
            }
        }
    })
    .await;
}

enum Source {
    Direct(Direct),
    Relayed(Relayed),
    Http2(Box<http2::AnswerBody>),
    /// The connection is WebSocket's from here on.
    Tunnel(Connection),
    /// It was read whole and its connection given back.
    Done,
}

/// The body of an answer. Dropped before its end, it closes the connection, or resets the stream.
pub(crate) struct Incoming {
    source: Source,
    lease: Lease,
}

impl Incoming {
    pub(super) fn direct(body: Direct, lease: Lease) -> Self {
        Self {
            source: Source::Direct(body),
            lease,
        }
    }

    /// A body whose request is not through yet.
    pub(super) fn relayed(body: Direct, sending: Sending, lease: Lease) -> Self {
        let (sender, pieces) = mpsc::channel(1);
        let (left, ended) = (body.framing.left(), body.framing.ended());
        let task = tokio::spawn(relay(body, sending, sender));
        Self {
            source: Source::Relayed(Relayed {
                pieces,
                left,
                ended,
                task,
            }),
            lease,
        }
    }

    pub(super) fn http2(body: http2::AnswerBody, lease: Lease) -> Self {
        Self {
            source: Source::Http2(Box::new(body)),
            lease,
        }
    }

    pub(super) fn tunnel(connection: Connection, lease: Lease) -> Self {
        Self {
            source: Source::Tunnel(connection),
            lease,
        }
    }

    /// The end of a tunnel, behind a 101.
    pub(crate) fn into_far(self) -> Option<Far> {
        match self.source {
            Source::Tunnel(connection) => Some(Far::new(connection, self.lease)),
            _ => None,
        }
    }

    /// The next part, as it comes.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let data = match &mut self.source {
            Source::Direct(body) => body.poll_data(cx),
            Source::Relayed(body) => body.poll_data(cx),
            Source::Http2(body) => body.poll_data(cx),
            Source::Tunnel(_) | Source::Done => Poll::Ready(None),
        };
        if let Poll::Ready(Some(Err(BodyError::Broken | BodyError::TooSlow))) = data {
            self.lease.failed();
        }
        data
    }

    /// What came behind the last part: only HTTP/2 upstreams have it.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.source {
            Source::Http2(body) => body.take_trailers(),
            _ => None,
        }
    }

    /// All of it, when it came together with the head; then it is through.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        let Source::Direct(body) = &mut self.source else {
            return None;
        };
        let Framing::Length(left) = body.framing else {
            return None;
        };
        if left == 0 || usize::try_from(left).is_ok_and(|left| left > body.connection.read.len()) {
            return None;
        }
        match body.framing.take(&mut body.connection.read) {
            Ok(Piece::Data(data)) => Some(data),
            _ => None,
        }
    }

    /// Whether it is through.
    pub(crate) fn is_end(&self) -> bool {
        match &self.source {
            Source::Direct(body) => body.framing.ended(),
            Source::Relayed(body) => body.ended,
            Source::Http2(body) => body.is_end(),
            Source::Tunnel(_) | Source::Done => true,
        }
    }

    /// Whether its end can be told from a connection that broke.
    pub(crate) fn ends_for_sure(&self) -> bool {
        match &self.source {
            Source::Direct(body) => !body.framing.ends_at_close(),
            Source::Http2(_) => true,
            Source::Relayed(_) | Source::Tunnel(_) | Source::Done => false,
        }
    }

    /// How much is to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let left = match &self.source {
            Source::Direct(body) => body.framing.left(),
            Source::Relayed(body) => body.left,
            Source::Http2(body) => body.left(),
            Source::Tunnel(_) | Source::Done => Some(0),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Gives the connection back to be used again, when the body is through and nothing follows it; else closes it.
    pub(crate) fn give_back(&mut self, pool: &Pool, now: Instant, most: usize) {
        if let Source::Direct(body) = std::mem::replace(&mut self.source, Source::Done)
            && body.framing.ended()
            && body.keeps
            && body.connection.read.is_empty()
        {
            pool.put(body.connection, self.lease.target(), now, most);
        }
    }
}
