//! Bodies on their way through: frames are passed on as they come, never gathered.

use crate::cache::Fill;
use crate::client::ClientBody;
use crate::config::Limits;
use crate::download::Download;
use crate::filter::Malformed;
use crate::memory::Taken;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::timer::Timer;
use crate::tunnel::Tunnel;
use crate::upstream::BodyLength;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// An answer of unknown length that is older than this is recorded at its next bytes, not at its end: whoever has
/// read from a stream for so long has been answered.
const LONG_STREAM: Duration = Duration::from_secs(1);

/// Bytes handed on at once of a body that was read whole.
const PIECE_BYTES: usize = 64 << 10;
/// Seconds after which there may be room again for a body that is read whole.
const NO_ROOM_RETRY_S: u64 = 1;

/// How a body ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body came too slowly")]
    TooSlow,
    #[error("the time for the request as a whole is over")]
    TooLong,
    #[error("the body broke off")]
    Broken,
    #[error("there is no room to hold the body")]
    NoRoom,
    #[error("the request's own body went wrong")]
    Request,
    #[error("the key was revoked, or its consumer suspended")]
    Cut,
    #[error("usage cannot be recorded")]
    NotRecorded,
    #[error("fields cannot be left out of it: {0}")]
    Malformed(Malformed),
}

/// The refusal of a body over the limit.
fn too_large() -> Refused {
    Refused::new(Refusal::BodyTooLarge, "The body is larger than this gateway takes.")
}

/// Refuses a body that is said to be longer than `most` bytes; one whose length is not said is counted as it comes.
pub(crate) fn check_length(length: BodyLength, most: u64) -> Result<(), Refused> {
    match length {
        BodyLength::Exact(bytes) if bytes > most => Err(too_large().closing()),
        _ => Ok(()),
    }
}

/// How far a request's body has come; shared by the body and by the request's record.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU64);

impl Progress {
    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
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
        BodyError::TooSlow => {
            let detail = format!("{} stopped inside its answer.", upstream.slug);
            Refused::new(Refusal::UpstreamTimeout, detail)
        }
        _ => Refused::new(
            Refusal::UpstreamBroken,
            format!("In the answer of {}, {error}.", upstream.slug),
        ),
    }
}

/// Where a request's body comes from.
enum Source {
    Client(ClientBody),
    /// It was read whole. The room is given back when all of it went on.
    Read {
        left: Bytes,
        _room: Taken,
    },
}

/// A request's body, bounded in size and in silence. Trailers are dropped.
pub(crate) struct Upload {
    source: Source,
    progress: Arc<Progress>,
    most: u64,
    idle: Duration,
    /// Slowest pace, in bytes a second.
    slowest: u64,
    /// Bounds silence and slowness; set when something has to be waited for.
    timer: Timer,
    /// When the wait that is under way began.
    since: Option<Instant>,
    /// How long the client was waited for, all in all.
    waited: Duration,
}

impl Upload {
    /// A body of at most `most` bytes, never silent for longer than [`Limits::body_idle`] nor slower than
    /// [`Limits::body_bytes_per_second`] beyond that.
    pub(crate) fn new(incoming: ClientBody, progress: Arc<Progress>, most: u64, limits: &Limits) -> Self {
        Self {
            source: Source::Client(incoming),
            progress,
            most,
            idle: limits.body_idle,
            slowest: limits.body_bytes_per_second.max(1),
            timer: Timer::default(),
            since: None,
            waited: Duration::ZERO,
        }
    }

    /// The longest that the next bytes may take: what came so far has earned time, what was waited for has used it.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.progress.bytes() / self.slowest);
        let left = self.idle.saturating_add(earned).saturating_sub(self.waited);
        left.min(self.idle)
    }

    fn heard(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
            self.timer.clear();
        }
    }

    /// Whether all of it was passed on.
    pub(crate) fn is_end(&self) -> bool {
        match &self.source {
            Source::Client(incoming) => incoming.ended(),
            Source::Read { left, .. } => left.is_empty(),
        }
    }

    /// Reads all of it, at most `most` bytes and within this time; then it comes from memory, in the room taken for it.
    pub(crate) async fn read(&mut self, most: u64, room: Taken, within: Duration) -> Result<Bytes, BodyError> {
        if let Source::Read { left, .. } = &self.source {
            return Ok(left.clone());
        }
        self.most = self.most.min(most);
        let read = tokio::time::timeout(within, self.read_all(room)).await;
        let (bytes, room) = read.map_err(|_| BodyError::TooLong)??;
        self.source = Source::Read {
            left: bytes.clone(),
            _room: room,
        };
        Ok(bytes)
    }

    async fn read_all(&mut self, mut room: Taken) -> Result<(Bytes, Taken), BodyError> {
        // A body that says its length has its room from the beginning, so that none is given up half-way for another.
        let known = self.left().unwrap_or(0);
        if known > self.most {
            return Err(BodyError::TooLarge);
        }
        let known = usize::try_from(known).map_err(|_| BodyError::TooLarge)?;
        let fits = |room: &mut Taken, bytes| room.grow(bytes).then_some(()).ok_or(BodyError::NoRoom);
        fits(&mut room, known)?;
        let mut whole = BytesMut::new();
        let mut first = Bytes::new();
        while let Some(data) = poll_fn(|cx| self.poll_data(cx)).await {
            let data = data?;
            fits(&mut room, whole.len() + first.len() + data.len())?;
            if first.is_empty() && whole.is_empty() {
                first = data;
                continue;
            }
            if whole.is_empty() {
                whole.reserve(known);
            }
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
            // It grows ahead of what comes.
            fits(&mut room, whole.capacity())?;
        }
        let bytes = if whole.is_empty() { first } else { whole.freeze() };
        Ok((bytes, room))
    }

    /// Bytes still to come, when that is known.
    fn left(&self) -> Option<u64> {
        match &self.source {
            Source::Client(incoming) => incoming.left(),
            Source::Read { left, .. } => u64::try_from(left.len()).ok(),
        }
    }

    /// The next part, as it comes.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let incoming = match &mut self.source {
            Source::Client(incoming) => incoming,
            Source::Read { left, .. } => {
                let piece = left.split_to(left.len().min(PIECE_BYTES));
                return Poll::Ready((!piece.is_empty()).then_some(Ok(piece)));
            }
        };
        match incoming.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.heard();
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                let before = self.progress.0.fetch_add(length, Ordering::Relaxed);
                if before.saturating_add(length) > self.most {
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Broken))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if self.since.is_none() {
                    let now = Instant::now();
                    self.since = Some(now);
                    self.timer.set((now + self.patience()).into());
                }
                ready!(self.timer.poll(cx));
                Poll::Ready(Some(Err(BodyError::TooSlow)))
            }
        }
    }
}

/// Ready when a request must end.
pub(crate) type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

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
    cut: Option<Cut>,
    length_known: bool,
    /// Where it is gathered to be kept.
    fill: Option<Box<Fill>>,
}

impl Stream {
    /// Holds the upstream's connection until the end, and then gives it back.
    pub(crate) fn new(incoming: Download, open: Open, mut fill: Option<Box<Fill>>) -> Self {
        if let Some(fill) = &mut fill {
            fill.follow();
        }
        Self {
            fill,
            length_known: incoming.size_hint().exact().is_some(),
            incoming,
            open,
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
                if self.cut.is_none() {
                    self.cut = Some(watch(&self.open));
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

/// Ready when the key of this request is revoked or its consumer suspended.
pub(crate) fn watch(open: &Open) -> Cut {
    let tables = Arc::clone(&open.worker().shared.tables);
    let hold = open.hold.clone();
    let mut changes = tables.watch_cuts();
    Box::pin(async move {
        while !tables.is_cut(&hold) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    })
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
