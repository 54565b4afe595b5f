//! Answers' bodies on their way through: frames are passed on as they come, never gathered. Those of requests are in
//! [`crate::upload`].

use crate::cache::Fill;
use crate::download::Download;
use crate::filter::Malformed;
use crate::ground::{Cut, Ground};
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::tunnel::Tunnel;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// An answer of unknown length that is older than this is recorded at its next bytes, not at its end: whoever has
/// read from a stream for so long has been answered.
const LONG_STREAM: Duration = Duration::from_secs(1);

/// Seconds after which there may be room again for a body that is read whole.
const NO_ROOM_RETRY_S: u64 = 1;

/// How a body ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body came too slowly")]
    TooSlow,
    #[error("neither side said anything for too long")]
    Idle,
    #[error("the time for the request as a whole is over")]
    TooLong,
    #[error("the body broke off")]
    Broken,
    #[error("there is no room to hold the body")]
    NoRoom,
    #[error("the request's own body went wrong")]
    Request,
    #[error("what it stood on is gone")]
    Cut,
    #[error("usage cannot be recorded")]
    NotRecorded,
    #[error("fields cannot be left out of it: {0}")]
    Malformed(Malformed),
}

/// The refusal of a body over the limit.
pub(crate) fn too_large() -> Refused {
    Refused::new(Refusal::BodyTooLarge, "The body is larger than this gateway takes.")
}

/// Whose fault a request's body was that went wrong.
pub(crate) fn refused(error: BodyError) -> Refused {
    match error {
        BodyError::TooLarge => too_large(),
        BodyError::TooSlow => Refused::new(Refusal::BodyTimeout, "The body stopped coming."),
        BodyError::TooLong => {
            let detail = "The body took too long. Here it is read whole before the request goes on: send it at once.";
            Refused::new(Refusal::BodyTimeout, detail)
        }
        BodyError::NoRoom => {
            let detail = "Too many bodies are on their way here that are read whole before their requests go on.";
            Refused::new(Refusal::Overloaded, detail).retry_after(NO_ROOM_RETRY_S)
        }
        _ => Refused::new(Refusal::BodyBroken, "The body broke off or was malformed."),
    }
    .closing()
}

/// The refusal of an answer's body that went wrong before any of it left.
pub(crate) fn broken_answer(error: BodyError, upstream: &Upstream) -> Refused {
    tracing::warn!(upstream = upstream.slug, %error, "an answer cannot be passed on");
    match error {
        BodyError::TooSlow | BodyError::Idle => {
            let detail = format!("{} stopped inside its answer.", upstream.slug);
            Refused::new(Refusal::UpstreamTimeout, detail)
        }
        _ => Refused::new(
            Refusal::UpstreamBroken,
            format!("In the answer of {}, {error}.", upstream.slug),
        ),
    }
}

/// What goes to the client.
pub(crate) enum Answer {
    /// All of it is here, and what there is to record is recorded.
    Whole(Option<Bytes>),
    /// It comes from the upstream.
    Stream(Box<Stream>),
    /// Behind a 101 the connection is WebSocket's. None once it was taken.
    Tunnel(Option<Box<Tunnel>>),
}

/// An upstream's body on its way to the client.
pub(crate) struct Stream {
    incoming: Download,
    open: Open,
    /// What it stands on, until somebody has to wait.
    ground: Option<Ground>,
    cut: Option<Cut>,
    length_known: bool,
    /// Where it is gathered to be kept.
    fill: Option<Box<Fill>>,
}

impl Stream {
    /// Holds the upstream's connection until the end, and then gives it back.
    pub(crate) fn new(incoming: Download, open: Open, mut fill: Option<Box<Fill>>, ground: Ground) -> Self {
        if let Some(fill) = &mut fill {
            fill.follow();
        }
        Self {
            fill,
            length_known: incoming.size_hint().exact().is_some(),
            incoming,
            open,
            ground: Some(ground),
            cut: None,
        }
    }

    fn give_back(&mut self) {
        let worker = self.open.worker();
        let most = worker.shared.limits.idle_per_upstream;
        self.incoming.give_back(&worker.pool, Instant::now(), most);
    }

    /// It came whole.
    fn filled(&mut self) {
        if let Some(fill) = self.fill.take() {
            fill.finish();
        }
    }

    fn record(&mut self) -> Result<(), BodyError> {
        self.open.write().map_err(|_| BodyError::NotRecorded)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_cut(cx) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        match self.incoming.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.open.sent(data.len());
                let last = self.incoming.is_end();
                if last {
                    self.give_back();
                }
                let long = !self.length_known && !self.open.is_written() && self.open.age() > LONG_STREAM;
                if last || long {
                    self.record()?;
                }
                if let Some(fill) = &mut self.fill {
                    fill.push(&data, self.open.worker().shared.clock.steady_ns());
                }
                if last {
                    self.filled();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(None) => {
                let trailers = self.incoming.take_trailers();
                self.give_back();
                self.record()?;
                match trailers {
                    // What is kept has no place for them.
                    Some(_) => self.fill = None,
                    None => self.filled(),
                }
                Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                if let Some(ground) = self.ground.take() {
                    self.cut = Some(ground.watch(&self.open.worker().shared));
                    if self.is_cut(cx) {
                        return Poll::Ready(Some(Err(BodyError::Cut)));
                    }
                }
                Poll::Pending
            }
        }
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready())
    }
}

impl Answer {
    /// The tunnel that begins behind it.
    pub(crate) fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        match self {
            Answer::Tunnel(tunnel) => tunnel.take(),
            Answer::Whole(_) | Answer::Stream(_) => None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Answer::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Answer::Stream(stream) => stream.poll(cx),
            Answer::Tunnel(_) => Poll::Ready(None),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Whole(bytes) => bytes.is_none(),
            Answer::Stream(stream) => stream.incoming.is_end(),
            Answer::Tunnel(_) => true,
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(0)))
            }
            Answer::Stream(stream) => stream.incoming.size_hint(),
            Answer::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
