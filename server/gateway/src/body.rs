//! Bodies on their way through: frames are passed on as they come, never gathered.

use crate::forward::Lease;
use crate::record::Open;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// An answer of unknown length that is older than this is recorded at its next bytes, not at its end: whoever has
/// read from a stream for so long has been answered.
const LONG_STREAM: Duration = Duration::from_secs(1);

/// How a body ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body came too slowly")]
    TooSlow,
    #[error("the body broke off")]
    Broken,
    #[error("the key was revoked, or its consumer suspended")]
    Cut,
    #[error("usage cannot be recorded")]
    NotRecorded,
}

/// How far a request's body has come; shared by the body and by whoever waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    ended: AtomicBool,
    fault: AtomicU8,
}

impl Progress {
    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
    /// Whether all of it was passed on.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
    /// Why it ended early, when that was the client's doing.
    pub(crate) fn fault(&self) -> Option<BodyError> {
        match self.fault.load(Ordering::Relaxed) {
            1 => Some(BodyError::TooLarge),
            2 => Some(BodyError::TooSlow),
            3 => Some(BodyError::Broken),
            _ => None,
        }
    }
    fn fail(&self, error: BodyError) -> BodyError {
        let number = match error {
            BodyError::TooLarge => 1,
            BodyError::TooSlow => 2,
            _ => 3,
        };
        self.fault.store(number, Ordering::Relaxed);
        error
    }
}

/// A request's body, bounded in size and in silence. Trailers are dropped.
pub(crate) struct Upload {
    incoming: Option<(Incoming, Arc<Progress>)>,
    most: u64,
    silence: Silence,
}

impl Upload {
    /// No body.
    pub(crate) fn none() -> Self {
        Self {
            incoming: None,
            most: 0,
            silence: Silence::new(Duration::MAX),
        }
    }
    /// A body of at most `most` bytes, never silent for longer than `idle`.
    pub(crate) fn new(incoming: Incoming, progress: Arc<Progress>, most: u64, idle: Duration) -> Self {
        Self {
            incoming: Some((incoming, progress)),
            most,
            silence: Silence::new(idle),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some((incoming, progress)) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        loop {
            match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.silence.broken();
                    let Ok(data) = frame.into_data() else { continue };
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    if progress
                        .bytes
                        .fetch_add(length, Ordering::Relaxed)
                        .saturating_add(length)
                        > this.most
                    {
                        return Poll::Ready(Some(Err(progress.fail(BodyError::TooLarge))));
                    }
                    if incoming.is_end_stream() {
                        progress.ended.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(progress.fail(BodyError::Broken)))),
                Poll::Ready(None) => {
                    progress.ended.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    ready!(this.silence.poll(cx));
                    return Poll::Ready(Some(Err(progress.fail(BodyError::TooSlow))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(|(i, _)| i.is_end_stream())
    }
    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |(i, _)| i.size_hint())
    }
}

/// A bound on silence; costs nothing until something has to be waited for.
struct Silence {
    most: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    heard: bool,
}

impl Silence {
    fn new(most: Duration) -> Self {
        Self {
            most,
            sleep: None,
            heard: false,
        }
    }
    fn broken(&mut self) {
        self.heard = true;
    }
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let most = self.most;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(most)));
        if std::mem::take(&mut self.heard) {
            sleep.as_mut().reset(Instant::now() + most);
        }
        sleep.as_mut().poll(cx)
    }
}

type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What goes to the client.
pub(crate) enum Answer {
    /// All of it is here, and what there is to record is recorded.
    Whole(Option<Bytes>),
    /// It comes from the upstream.
    Stream(Box<Stream>),
}

/// An upstream's body on its way to the client.
pub(crate) struct Stream {
    incoming: Incoming,
    open: Box<Open>,
    lease: Option<Lease>,
    silence: Silence,
    cut: Option<Cut>,
    length_known: bool,
}

impl Stream {
    /// Holds the upstream's connection until the end, and then gives it back.
    pub(crate) fn new(incoming: Incoming, open: Box<Open>, lease: Lease, idle: Duration) -> Self {
        Self {
            length_known: incoming.size_hint().exact().is_some(),
            incoming,
            open,
            lease: Some(lease),
            silence: Silence::new(idle),
            cut: None,
        }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn record(&mut self) -> Result<(), BodyError> {
        self.open.write().map_err(|_| BodyError::NotRecorded)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.broken();
                    let Ok(data) = frame.into_data() else { continue };
                    self.open.sent(data.len());
                    let last = self.incoming.is_end_stream();
                    if last {
                        self.give_back();
                    }
                    let long = !self.length_known && !self.open.is_written() && self.open.age() > LONG_STREAM;
                    if last || long {
                        self.record()?;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(None) => {
                    self.give_back();
                    self.record()?;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(BodyError::Broken))),
                Poll::Pending => {
                    if self.cut.is_none() {
                        self.cut = Some(self.watch());
                        continue;
                    }
                    if let Some(cut) = &mut self.cut
                        && cut.as_mut().poll(cx).is_ready()
                    {
                        return Poll::Ready(Some(Err(BodyError::Cut)));
                    }
                    ready!(self.silence.poll(cx));
                    return Poll::Ready(Some(Err(BodyError::TooSlow)));
                }
            }
        }
    }

    /// Ends when the key of this request is revoked or its consumer suspended.
    fn watch(&self) -> Cut {
        let tables = Arc::clone(&self.open.worker().shared.tables);
        let lookup = self.open.lookup;
        let mut changes = tables.watch_cuts();
        Box::pin(async move {
            while !tables.is_cut(lookup) {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Answer::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Answer::Stream(stream) => stream.poll(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Whole(bytes) => bytes.is_none(),
            Answer::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(0)))
            }
            Answer::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}
