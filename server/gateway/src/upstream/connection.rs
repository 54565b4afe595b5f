//! A connection to an upstream: the socket and what was read from it and is to be written to it.

use crate::balance::Target;
use crate::http1::Turn;
use crate::timer::Timer;
use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

/// Bytes wanted by a read at first; most answers fit.
const READ_FIRST: usize = 8 << 10;
/// Bytes wanted by a read at most: a body that fills reads gets larger ones.
const READ_MOST: usize = 64 << 10;

/// The socket, with TLS on it or without.
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    /// Connects to a target before `until`; also to which of its addresses.
    pub(super) async fn connect(target: &Target, until: Instant) -> io::Result<(Self, SocketAddr)> {
        let (stream, peer) = target.addresses.connect(until).await?;
        stream.set_nodelay(true)?;
        let io = match &target.identity.tls {
            None => Self::Plain(stream),
            Some(tls) => Self::Tls(Box::new(timeout_at(until, tls.connect(stream)).await??)),
        };
        Ok((io, peer))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// A connection, in a box: it goes from hand to hand several times in a request.
pub(crate) struct Connection(Box<State>);

impl Deref for Connection {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

/// A connection with its buffers, which stay with it from request to request.
pub(crate) struct State {
    pub(super) io: Io,
    /// Where it leads.
    pub(super) peer: SocketAddr,
    /// Read and not taken yet.
    pub(super) read: BytesMut,
    /// What is being sent: kept whole until the next part of the request takes its place, so that it can be sent again.
    pub(super) write: Vec<u8>,
    /// How much of `write` is sent.
    pub(super) sent: usize,
    pub(super) turn: Turn,
    /// Bytes sent of the whole request.
    pub(super) written: u64,
    /// Bounds the wait for the upstream.
    pub(super) timer: Timer,
    read_size: usize,
}

impl Connection {
    /// Connects to a target before `until`.
    pub(crate) async fn open(target: &Target, until: Instant) -> io::Result<Self> {
        let (io, peer) = Io::connect(target, until).await?;
        Ok(Self(Box::new(State {
            io,
            peer,
            read: BytesMut::new(),
            write: Vec::new(),
            sent: 0,
            turn: Turn::default(),
            written: 0,
            timer: Timer::default(),
            read_size: READ_FIRST,
        })))
    }

    /// The socket, and what was read from it and not taken.
    pub(crate) fn into_parts(self) -> (Io, BytesMut) {
        (self.0.io, self.0.read)
    }
}

impl State {
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

    /// Writes until nothing is left to send, when others that are ready have had their turn.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sent < self.write.len() {
            ready!(self.turn.poll_take(cx));
        }
        while self.sent < self.write.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.write[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.written = self.written.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        self.turn.end();
        // TLS may hold what the socket did not take; a plain socket holds nothing.
        Pin::new(&mut self.io).poll_flush(cx)
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
        self.turn.end();
        self.timer.clear();
        if self.read_size > READ_FIRST {
            self.read_size = READ_FIRST;
            self.read = BytesMut::new();
            self.write = Vec::new();
        }
    }
}
