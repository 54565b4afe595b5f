//! A connection to an upstream: the socket and what was read from it and is to be written to it.

use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::timer::Timer;
use bytes::BytesMut;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

/// Bytes wanted by a read at first; most answers fit.
const READ_FIRST: usize = 8 << 10;
/// Bytes wanted by a read at most: a body that fills reads gets larger ones.
const READ_MOST: usize = 64 << 10;

/// A connection with its buffers, which stay with it from request to request.
pub(super) struct Connection {
    io: TcpStream,
    /// Read and not taken yet.
    pub(super) read: BytesMut,
    /// What is being sent: kept whole until the next part of the request takes its place, so that it can be sent again.
    pub(super) write: Vec<u8>,
    /// How much of `write` is sent.
    pub(super) sent: usize,
    /// Bytes sent of the whole request.
    pub(super) written: u64,
    /// Bounds the wait for the upstream.
    pub(super) timer: Timer,
    read_size: usize,
}

impl Connection {
    /// Connects, within the upstream's time limit.
    pub(super) async fn open(upstream: &Upstream, most: Duration) -> Result<Self, Refused> {
        let unreachable = |error: io::Error| {
            tracing::warn!(upstream = upstream.slug, %error, "cannot connect");
            let detail = format!("{} accepts no connection.", upstream.slug);
            Refused::new(Refusal::UpstreamUnreachable, detail)
        };
        let connecting = TcpStream::connect((&*upstream.host, upstream.port));
        let io = match timeout(upstream.connect.unwrap_or(most), connecting).await {
            Ok(io) => io.map_err(unreachable)?,
            Err(_) => return Err(unreachable(io::ErrorKind::TimedOut.into())),
        };
        io.set_nodelay(true).map_err(unreachable)?;
        Ok(Self {
            io,
            read: BytesMut::new(),
            write: Vec::new(),
            sent: 0,
            written: 0,
            timer: Timer::default(),
            read_size: READ_FIRST,
        })
    }

    /// Reads what there is, behind what was read before; 0 at the end of the stream.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.read.capacity() - self.read.len();
        if room < self.read_size / 2 {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))?;
        if count == room {
            self.read_size = (self.read_size * 2).min(READ_MOST);
        }
        Poll::Ready(Ok(count))
    }

    /// Writes until nothing is left to send.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.write.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.write[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.written = self.written.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it is open and silent, as it must be between two requests. Asks no system call while nothing happened.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.read.is_empty() && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Makes room in `write` when all of it is sent.
    pub(super) fn forget_sent(&mut self) {
        if self.sent > 0 && self.sent == self.write.len() {
            self.write.clear();
            self.sent = 0;
        }
    }

    /// Prepares for a wait between two requests.
    pub(super) fn rest(&mut self) {
        self.write.clear();
        (self.sent, self.written) = (0, 0);
        self.timer.clear();
        if self.read_size > READ_FIRST {
            self.read_size = READ_FIRST;
            self.read = BytesMut::new();
            self.write = Vec::new();
        }
    }
}
