//! One direction of a tunnel: bytes that were read, looked at, and are to be written.

use super::end::End;
use super::flood::Flood;
use super::frames::{Frames, Rules, Side};
use bytes::BytesMut;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Bytes read at once; a silent tunnel holds none.
const READ: usize = 16 << 10;

/// One direction.
pub(super) struct Way {
    side: Side,
    frames: Frames,
    flood: Flood,
    buffer: BytesMut,
    /// So many bytes of the buffer may go on; behind them is the beginning of a frame's head.
    passed: usize,
    /// Whether there is something in the buffer that was not looked at.
    unseen: bool,
    /// Bytes carried.
    pub(super) bytes: u64,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

impl Way {
    /// With what came already.
    pub(super) fn new(rules: Rules, buffer: BytesMut) -> Self {
        Self {
            side: rules.side,
            frames: Frames::new(rules),
            flood: Flood::default(),
            unseen: !buffer.is_empty(),
            buffer,
            passed: 0,
            bytes: 0,
            unflushed: false,
            ended: false,
            shut: false,
        }
    }

    /// Looks at what was read.
    fn look(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.unseen) {
            return Ok(());
        }
        let passed = self.frames.pass(&self.buffer[self.passed..]);
        self.passed += passed.bytes;
        if let Some(violation) = passed.violation {
            return Err(End::Broken(self.side, violation));
        }
        if self.side == Side::Client && self.flood.is_over(passed.idle, Instant::now()) {
            return Err(End::Flood);
        }
        Ok(())
    }

    /// Carries what there is; ready when `from` has ended and `to` was told.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        counter: &AtomicU64,
    ) -> Poll<Result<(), End>> {
        loop {
            self.look()?;
            let before = self.bytes;
            let written = self.poll_write(cx, to);
            counter.fetch_add(self.bytes - before, Ordering::Relaxed);
            ready!(written)?;
            if self.ended {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            self.buffer.reserve(READ);
            match poll_read_buf(Pin::new(&mut *from), cx, &mut self.buffer) {
                Poll::Ready(count) => {
                    self.ended = count? == 0;
                    self.unseen = !self.ended;
                }
                Poll::Pending => {
                    // What is left is shorter than a head.
                    self.buffer = BytesMut::from(&self.buffer[..]);
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what may go on.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while self.passed > 0 {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[..self.passed]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = self.buffer.split_to(count);
            self.passed -= count;
            self.unflushed = true;
            self.bytes += u64::try_from(count).unwrap_or(0);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a close frame went this way: no message comes behind it.
    pub(super) fn is_closed(&self) -> bool {
        self.frames.is_closed() && self.passed == 0
    }

    /// What is left to be written to the side that this leads to, with a close frame behind it; none where that side can
    /// take none, because it was told of the end already or is inside a frame.
    pub(super) fn last_words(mut self, close: &[u8]) -> Option<BytesMut> {
        if self.shut || !self.frames.may_be_closed() {
            return None;
        }
        self.buffer.truncate(self.passed);
        self.buffer.extend_from_slice(close);
        Some(self.buffer)
    }
}
