//! A request's body on its way to the upstream.

use super::connection::Connection;
use crate::body::BodyError;
use crate::upload::{Progress, Upload};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Bytes of a body that may wait to be sent before more is taken from the client.
const WAITING_MOST: usize = 64 << 10;

/// Why a request cannot be sent.
pub(super) enum NotSent {
    /// The client's body went wrong.
    Body(BodyError),
    /// The connection takes nothing, and nothing was sent on it.
    Anything(io::Error),
}

/// What is still to be sent of a request: the connection's buffer and, behind it, the body.
pub(super) struct Sending {
    upload: Option<Upload>,
    chunked: bool,
    /// The head waits for the first bytes of the body, so that both leave in one piece and nothing of a request whose
    /// body is malformed from its beginning reaches the upstream.
    held: bool,
    /// The upstream took no more of the request; its answer may still come.
    pub(super) cut: bool,
}

impl Sending {
    /// The head lies in the connection's buffer.
    pub(super) fn new(upload: Option<Upload>, chunked: bool) -> Self {
        Self {
            held: upload.is_some(),
            upload,
            chunked,
            cut: false,
        }
    }

    /// Whether there is nothing left to send.
    pub(super) fn is_through(&self, connection: &Connection) -> bool {
        self.cut || (self.upload.is_none() && connection.sent == connection.write.len())
    }

    /// How far the body has come, unless it is through.
    pub(super) fn progress(&self) -> Option<&Arc<Progress>> {
        self.upload.as_ref().map(Upload::progress)
    }

    /// Whether it is the client's turn: everything there is was sent (`flushed`), or waits for the body's beginning.
    pub(super) fn waits_for_client(&self, flushed: bool) -> bool {
        self.upload.is_some() && (self.held || flushed)
    }

    /// Sends what there is to send. Ready when all of it is sent, or the upstream takes no more.
    pub(super) fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), NotSent>> {
        loop {
            if self.cut {
                return Poll::Ready(Ok(()));
            }
            let more = self.take(connection, cx).map_err(NotSent::Body)?;
            if self.held {
                return Poll::Pending;
            }
            match ready!(connection.poll_write(cx)) {
                Ok(()) => {}
                Err(error) if connection.written == 0 => return Poll::Ready(Err(NotSent::Anything(error))),
                Err(_) => {
                    self.cut = true;
                    self.upload = None;
                }
            }
            if self.upload.is_none() {
                return Poll::Ready(Ok(()));
            }
            ready!(more);
        }
    }

    /// Takes what there is of the body into the connection's buffer. Pending when there is no more for the moment.
    fn take(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        while let Some(upload) = &mut self.upload {
            if connection.write.len() - connection.sent >= WAITING_MOST {
                break;
            }
            let Poll::Ready(data) = upload.poll_data(cx) else {
                return Ok(Poll::Pending);
            };
            let data = data.transpose()?;
            let ended = data.is_none() || upload.is_end();
            self.held = false;
            connection.forget_sent();
            if let Some(data) = data.filter(|d| !d.is_empty()) {
                self.put(&mut connection.write, &data);
            }
            if ended {
                if self.chunked {
                    connection.write.extend_from_slice(b"0\r\n\r\n");
                }
                self.upload = None;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn put(&self, buffer: &mut Vec<u8>, data: &[u8]) {
        if self.chunked {
            // Writing to a vector cannot fail.
            let _ = write!(buffer, "{:x}\r\n", data.len());
        }
        buffer.extend_from_slice(data);
        if self.chunked {
            buffer.extend_from_slice(b"\r\n");
        }
    }
}
