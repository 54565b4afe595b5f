//! A request's body on its way to the upstream, in a task of its own: neither it nor the answer waits for the other.

use crate::body::BodyError;
use crate::upload::{self, Upload};
use bytes::Bytes;
use h2::{Reason, SendStream};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Bytes of room asked for at once.
const ROOM: usize = 64 << 10;

/// How far it has come.
#[derive(Default)]
struct Progress {
    sent: AtomicU64,
    /// Whether it is the client that is waited for.
    waits: AtomicBool,
}

/// The body of a request under way; dropped, it stops.
pub(super) struct Pump {
    body: Arc<upload::Progress>,
    progress: Arc<Progress>,
    /// Told what goes wrong; none once it is known that nothing will.
    failed: Option<oneshot::Receiver<BodyError>>,
    task: JoinHandle<()>,
    seen: u64,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pump {
    /// Begins to send.
    pub(super) fn start(upload: Upload, stream: SendStream<Bytes>) -> Self {
        let (body, progress) = (Arc::clone(upload.progress()), Arc::new(Progress::default()));
        let (sender, failed) = oneshot::channel();
        let task = tokio::spawn(run(upload, stream, Arc::clone(&progress), sender));
        Self {
            body,
            progress,
            failed: Some(failed),
            task,
            seen: 0,
        }
    }

    /// Ready with what went wrong with the client's body; pending for ever when nothing does.
    pub(super) async fn failure(&mut self) -> BodyError {
        if let Some(failed) = &mut self.failed {
            if let Ok(error) = failed.await {
                return error;
            }
            // It was sent to its end, and the sender went with the task.
            self.failed = None;
        }
        std::future::pending().await
    }

    /// What went wrong with the client's body, when something did.
    pub(super) fn failed(&mut self) -> bool {
        self.failed.as_mut().is_some_and(|failed| failed.try_recv().is_ok())
    }

    /// How far the body has come.
    pub(super) fn body(&self) -> &Arc<upload::Progress> {
        &self.body
    }

    /// Whether it was not the upstream that was waited for since this was asked last.
    pub(super) fn moved(&mut self) -> bool {
        let sent = self.progress.sent.load(Ordering::Relaxed);
        let moved = sent != std::mem::replace(&mut self.seen, sent);
        moved || self.progress.waits.load(Ordering::Relaxed)
    }
}

async fn run(
    mut upload: Upload,
    mut stream: SendStream<Bytes>,
    progress: Arc<Progress>,
    failed: oneshot::Sender<BodyError>,
) {
    loop {
        progress.waits.store(true, Ordering::Relaxed);
        let data = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => upload.poll_data(cx).map(Some),
        });
        let data = data.await;
        progress.waits.store(false, Ordering::Relaxed);
        match data {
            // The upstream wants no more.
            None => return,
            Some(None) => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            Some(Some(Err(error))) => {
                stream.send_reset(Reason::CANCEL);
                let _ = failed.send(error);
                return;
            }
            // An end that comes alone.
            Some(Some(Ok(data))) if data.is_empty() && upload.is_end() => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            Some(Some(Ok(data))) => {
                let last = upload.is_end();
                if !send(&mut stream, data, last, &progress).await || last {
                    return;
                }
            }
        }
    }
}

/// Sends a piece as the window allows; whether the upstream took it.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool, progress: &Progress) -> bool {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(ROOM));
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return false;
        };
        let piece = data.split_to(room.min(data.len()));
        let sent = u64::try_from(piece.len()).unwrap_or(0);
        if stream.send_data(piece, last && data.is_empty()).is_err() {
            return false;
        }
        progress.sent.fetch_add(sent, Ordering::Relaxed);
    }
    true
}
