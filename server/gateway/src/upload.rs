//! Requests' bodies on their way through, and what they may do.
//!
//! An ordinary body is there to come to its end: it has a largest size, a longest silence and a slowest pace. That of a
//! *stream* (gRPC, a route with `streams`, and every request whose answer has begun) may never end, so of those only the
//! size that its route says is left, and silence: until the answer begins its own, and from then on that of both sides
//! together, which the answer's reader bounds (`upstream::silence`).

use crate::body::BodyError;
use crate::client::ClientBody;
use crate::config::Limits;
use crate::memory::Taken;
use crate::timer::Timer;
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Bytes handed on at once of a body that was read whole.
const PIECE_BYTES: usize = 64 << 10;

/// How far a request's body has come; shared by the body, its answer and the request's record.
#[derive(Debug)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    /// The answer has begun.
    answered: AtomicBool,
    /// No more of it is passed on.
    over: AtomicBool,
    /// When the request began.
    begun: Instant,
    /// When bytes last came, in milliseconds since then. Kept once the answer has begun.
    moved_ms: AtomicU64,
}

impl Progress {
    fn new(begun: Instant) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            over: AtomicBool::new(false),
            begun,
            moved_ms: AtomicU64::new(0),
        }
    }

    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The answer has begun: from now on silence and pace of the body alone are nobody's concern.
    pub(crate) fn answer_begins(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// When bytes last came since the answer began.
    pub(crate) fn moved_at(&self) -> Instant {
        self.begun + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }

    /// Whether no more of it is passed on.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// More has come; how much it is with that.
    fn add(&self, bytes: usize) -> u64 {
        if self.is_answered() {
            let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.moved_ms.store(ms, Ordering::Relaxed);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)
    }
}

/// What a request's body may do beyond what the gateway lets every body do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most bytes, where its route says so.
    pub(crate) most: Option<u64>,
    /// Longest silence before the answer, of a body that is a stream from its beginning.
    pub(crate) stream_idle: Option<Duration>,
}

impl Bounds {
    /// Most bytes of a body whose answer has not begun; none for any number.
    pub(crate) fn most(&self, limits: &Limits) -> Option<u64> {
        let usual = self.stream_idle.is_none().then_some(limits.body_bytes);
        self.most.or(usual)
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

/// A request's body, bounded as the module says. Trailers are dropped.
pub(crate) struct Upload {
    source: Source,
    progress: Arc<Progress>,
    bounds: Bounds,
    /// Most bytes, where the bounds say nothing.
    usual_most: u64,
    /// Longest silence of an ordinary body.
    idle: Duration,
    /// Slowest pace of an ordinary body, in bytes a second.
    slowest: u64,
    /// Bounds silence and slowness; set when something has to be waited for.
    timer: Timer,
    /// When the wait that is under way began.
    since: Option<Instant>,
    /// How long the client was waited for, all in all.
    waited: Duration,
}

impl Upload {
    /// A body as it comes from the client. An ordinary one is never silent for longer than [`Limits::body_idle`] nor slower
    /// than [`Limits::body_bytes_per_second`] beyond that. `begun` is when the request began.
    pub(crate) fn new(incoming: ClientBody, bounds: Bounds, begun: Instant, limits: &Limits) -> Self {
        Self {
            source: Source::Client(incoming),
            progress: Arc::new(Progress::new(begun)),
            bounds,
            usual_most: limits.body_bytes,
            idle: limits.body_idle,
            slowest: limits.body_bytes_per_second.max(1),
            timer: Timer::default(),
            since: None,
            waited: Duration::ZERO,
        }
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Whether it is a stream from its beginning.
    pub(crate) fn is_stream(&self) -> bool {
        self.bounds.stream_idle.is_some()
    }

    /// The longest that the next bytes may take: what came of an ordinary body has earned time, what was waited for has
    /// used it.
    fn patience(&self) -> Duration {
        if let Some(idle) = self.bounds.stream_idle {
            return idle;
        }
        let earned = Duration::from_secs(self.progress.bytes() / self.slowest);
        let left = self.idle.saturating_add(earned).saturating_sub(self.waited);
        left.min(self.idle)
    }

    /// Whether it may be no larger than this.
    fn fits(&self, bytes: u64) -> bool {
        let streams = self.is_stream() || self.progress.is_answered();
        let most = self.bounds.most.or((!streams).then_some(self.usual_most));
        most.is_none_or(|most| bytes <= most)
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
        let most = self.bounds.most.unwrap_or(self.usual_most).min(most);
        self.bounds.most = Some(most);
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
        if !self.fits(known) {
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
                let bytes = self.progress.add(data.len());
                if !self.fits(bytes) {
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Broken))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_patience(cx).map(|error| Some(Err(error))),
        }
    }

    /// Ready when the client was waited for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if self.since.is_none() && !self.progress.is_answered() {
            let now = Instant::now();
            self.since = Some(now);
            self.timer.set((now + self.patience()).into());
        }
        ready!(self.timer.poll(cx));
        if self.progress.is_answered() {
            self.timer.clear();
            return Poll::Pending;
        }
        Poll::Ready(BodyError::TooSlow)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.over.store(true, Ordering::Relaxed);
    }
}
