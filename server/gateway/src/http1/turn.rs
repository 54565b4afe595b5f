//! Letting other connections read before one writes.

use std::task::{Context, Poll};

/// A connection's turn to write. It lets the tasks that are ready by now go first, once a message: so what arrived
/// together is read together and then written together. A peer on the same machine that sleeps is woken by the first
/// write and still awake at the others; woken anew by each, it costs more than the writing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing is to be written, or it has just become so.
    #[default]
    Free,
    /// The others go first; the task is woken already.
    Waiting,
    /// It may write until the message's end.
    Taken,
}

impl Turn {
    /// Ready from the second call on. The task is woken for that at once.
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>) -> Poll<()> {
        if *self == Self::Free {
            *self = Self::Waiting;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *self = Self::Taken;
        Poll::Ready(())
    }

    /// The message is written: the next one waits its turn again.
    pub(crate) fn end(&mut self) {
        *self = Self::Free;
    }
}
