//! The socket of a client with its buffers.

use crate::http1::Turn;
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Bytes wanted by a read at first: most requests fit, and an idle connection holds no more.
const READ_FIRST: usize = 4 << 10;
/// Room for a read at least; with less, more is made.
const ROOM_LEAST: usize = 1 << 10;
/// Bytes wanted by a read at most: a body that fills reads gets larger ones.
const READ_MOST: usize = 64 << 10;
/// A part of a body up to this size is copied behind what is to be written before it, so that both leave at once.
const COPIED_MOST: usize = 16 << 10;
/// A buffer larger than this is not kept from request to request.
const KEPT_MOST: usize = 32 << 10;

/// A connection with what was read and not taken yet, and what is to be written.
pub(super) struct Io<S> {
    socket: S,
    pub(super) read: BytesMut,
    read_size: usize,
    write: Vec<u8>,
    written: usize,
    turn: Turn,
    /// A large part of a body, to be written behind `write`.
    large: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            read: BytesMut::new(),
            read_size: READ_FIRST,
            write: Vec::new(),
            written: 0,
            turn: Turn::default(),
            large: Bytes::new(),
        }
    }

    /// Reads what there is, behind what was read before; 0 at the end of the stream.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.read.capacity() - self.read.len();
        if room < ROOM_LEAST.max(self.read_size / 4) {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        let count = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.read))?;
        if count == room {
            self.read_size = (self.read_size * 2).min(READ_MOST);
        }
        Poll::Ready(Ok(count))
    }

    /// Where a head is written to.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.write
    }

    /// Whether something is still to be written.
    pub(super) fn has_output(&self) -> bool {
        self.written < self.write.len() || !self.large.is_empty()
    }

    /// Puts part of a body behind what is to be written. To be called when nothing large waits.
    pub(super) fn put(&mut self, data: Bytes) {
        if data.len() <= COPIED_MOST {
            self.write.extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Whether another part of a body should wait until what is there is written.
    pub(super) fn is_full(&self) -> bool {
        !self.large.is_empty() || self.write.len() - self.written > COPIED_MOST
    }

    /// Writes everything, when others that are ready have had their turn.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_output() {
            ready!(self.turn.poll_take(cx));
        }
        self.poll_flush_now(cx)
    }

    /// Writes everything, before others have their turn.
    pub(super) fn poll_flush_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.write.len() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.write[self.written..]))?;
            self.written += nonzero(count)?;
        }
        self.write.clear();
        self.written = 0;
        while !self.large.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.large))?;
            self.large.advance(nonzero(count)?);
        }
        self.turn.end();
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Tells the client that nothing more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// The socket, and what was read from it and not taken.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.socket, self.read)
    }

    /// Gives large buffers back between two requests.
    pub(super) fn rest(&mut self) {
        if self.write.capacity() > KEPT_MOST {
            self.write = Vec::new();
        }
        if self.read_size > READ_FIRST && self.read.is_empty() {
            self.read = BytesMut::new();
            self.read_size = READ_FIRST;
        }
    }
}

fn nonzero(count: usize) -> io::Result<usize> {
    if count == 0 {
        Err(io::ErrorKind::WriteZero.into())
    } else {
        Ok(count)
    }
}
