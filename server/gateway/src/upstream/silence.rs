//! How long an answer may be silent.

use crate::body::BodyError;
use crate::timer::Timer;
use crate::upload::Progress;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Bounds the silence inside an answer. While the request's body still comes it is the silence of both sides together: a
/// client that sends a file, or talks to an upstream that listens, is waited for by all.
pub(super) struct Silence {
    /// The longest.
    idle: Duration,
    /// When all of the answer must be through.
    deadline: Option<Instant>,
    /// The request's body, while it still comes.
    upload: Option<Arc<Progress>>,
    /// Whether something came since the limit was set.
    heard: bool,
}

impl Silence {
    /// For an answer whose head is here. `upload` is the request's body, if it is not through.
    pub(super) fn new(idle: Duration, deadline: Option<Instant>, upload: Option<&Arc<Progress>>) -> Self {
        if let Some(upload) = upload {
            upload.answer_begins();
        }
        Self {
            idle,
            deadline,
            upload: upload.map(Arc::clone),
            heard: true,
        }
    }

    /// Something of the answer came.
    pub(super) fn heard(&mut self) {
        self.heard = true;
    }

    /// Whether the time for the answer as a whole is over.
    pub(super) fn is_too_long(&self) -> bool {
        self.deadline.is_some_and(|d| Instant::now() >= d)
    }

    /// Nothing came; ready with what that means once it lasted too long. Whoever takes too long as a whole may have been
    /// read too slowly by the client.
    pub(super) fn poll(&mut self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<BodyError> {
        if std::mem::take(&mut self.heard) {
            self.begin(timer, Instant::now());
        }
        loop {
            ready!(timer.poll(cx));
            if self.is_too_long() {
                return Poll::Ready(BodyError::TooLong);
            }
            let Some(upload) = &self.upload else {
                return Poll::Ready(BodyError::TooSlow);
            };
            let (moved, over) = (upload.moved_at(), upload.is_over());
            if moved + self.idle > Instant::now() {
                self.begin(timer, moved);
            } else {
                return Poll::Ready(if over { BodyError::TooSlow } else { BodyError::Idle });
            }
        }
    }

    fn begin(&self, timer: &mut Timer, at: Instant) {
        let at = at + self.idle;
        timer.set(self.deadline.map_or(at, |d| d.min(at)).into());
    }
}
