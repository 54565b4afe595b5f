//! The body of an answer, read from its connection as it is asked for.

use super::connection::Connection;
use super::pool::Pool;
use super::sending::Sending;
use crate::body::BodyError;
use crate::http1::{Framing, Piece};
use crate::route::Upstream;
use bytes::Bytes;
use http_body::SizeHint;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::PollSender;

/// A body on its connection.
pub(super) struct Direct {
    pub(super) connection: Connection,
    framing: Framing,
    /// Whether the connection can serve another request.
    keeps: bool,
    /// Longest silence.
    idle: Duration,
    /// Whether something came since the limit on silence was set.
    heard: bool,
}

impl Direct {
    /// A body that begins behind what was taken from the connection.
    pub(super) fn new(connection: Connection, framing: Framing, keeps: bool, idle: Duration) -> Self {
        Self {
            connection,
            framing,
            keeps,
            idle,
            heard: true,
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
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
                Poll::Ready(Ok(1..)) => self.heard = true,
                Poll::Ready(Ok(0)) if self.framing.ends_at_close() => self.framing = Framing::Length(0),
                Poll::Ready(_) => return Poll::Ready(Some(Err(BodyError::Broken))),
                Poll::Pending => {
                    if std::mem::take(&mut self.heard) {
                        self.connection.timer.set((Instant::now() + self.idle).into());
                    }
                    ready!(self.connection.timer.poll(cx));
                    return Poll::Ready(Some(Err(BodyError::TooSlow)));
                }
            }
        }
    }
}

/// A body that comes while the request is still being sent: a task of its own does both, so that neither waits for the
/// other, nor for the client to read.
struct Relayed {
    /// An empty piece is the end; without one the body broke off.
    pieces: mpsc::Receiver<Bytes>,
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
        let Some(piece) = ready!(self.pieces.poll_recv(cx)) else {
            return Poll::Ready(Some(Err(BodyError::Broken)));
        };
        self.left = self.left.map(|left| left.saturating_sub(length(&piece)));
        self.ended = piece.is_empty() || self.left == Some(0);
        Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

async fn relay(mut body: Direct, mut sending: Sending, pieces: mpsc::Sender<Bytes>) {
    let mut pieces = PollSender::new(pieces);
    poll_fn(move |cx| {
        if let Poll::Ready(Err(_)) = sending.poll(&mut body.connection, cx) {
            return Poll::Ready(());
        }
        loop {
            if ready!(pieces.poll_reserve(cx)).is_err() {
                return Poll::Ready(());
            }
            let (piece, last) = match ready!(body.poll_data(cx)) {
                Some(Ok(piece)) => (piece, false),
                Some(Err(_)) => return Poll::Ready(()),
                None => (Bytes::new(), true),
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
    /// It was read whole and its connection given back.
    Done,
}

/// The body of an answer. Dropped before its end, it closes the connection.
pub(crate) struct Incoming(Source);

impl Incoming {
    pub(super) fn direct(body: Direct) -> Self {
        Self(Source::Direct(body))
    }

    /// A body whose request is not through yet.
    pub(super) fn relayed(body: Direct, sending: Sending) -> Self {
        let (sender, pieces) = mpsc::channel(1);
        let (left, ended) = (body.framing.left(), body.framing.ended());
        let task = tokio::spawn(relay(body, sending, sender));
        Self(Source::Relayed(Relayed {
            pieces,
            left,
            ended,
            task,
        }))
    }

    /// The next part, as it comes.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.0 {
            Source::Direct(body) => body.poll_data(cx),
            Source::Relayed(body) => body.poll_data(cx),
            Source::Done => Poll::Ready(None),
        }
    }

    /// All of it, when it came together with the head; then it is through.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        let Source::Direct(body) = &mut self.0 else { return None };
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
        match &self.0 {
            Source::Direct(body) => body.framing.ended(),
            Source::Relayed(body) => body.ended,
            Source::Done => true,
        }
    }

    /// How much is to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let left = match &self.0 {
            Source::Direct(body) => body.framing.left(),
            Source::Relayed(body) => body.left,
            Source::Done => Some(0),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Gives the connection back to be used again, when the body is through and nothing follows it; else closes it.
    pub(crate) fn give_back(&mut self, pool: &Pool, upstream: &Arc<Upstream>, now: Instant, most: usize) {
        if let Source::Direct(body) = std::mem::replace(&mut self.0, Source::Done)
            && body.framing.ended()
            && body.keeps
            && body.connection.read.is_empty()
        {
            pool.put(body.connection, upstream, now, most);
        }
    }
}
