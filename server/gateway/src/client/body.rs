//! A request's body, read from the client's connection as it is asked for.

use super::io::Io;
use crate::http1::{Framing, Piece};
use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};

/// The body broke off, or is malformed.
#[derive(Debug)]
pub(crate) struct Broken;

/// A connection that its own task and the body of the request on it share. Only one of them reads at a time: the task
/// leaves reading to the body until that is through or dropped.
pub(super) struct Shared<S>(Mutex<Inner<S>>);

pub(super) struct Inner<S> {
    pub(super) io: Io<S>,
    /// What is left of the running request's body.
    pub(super) framing: Framing,
    /// `100 Continue` is waited for.
    pub(super) expects: bool,
    /// Whether somebody holds the body.
    pub(super) lent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shared<S> {
    pub(super) fn new(socket: S) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            io: Io::new(socket),
            framing: Framing::Length(0),
            expects: false,
            lent: false,
        })))
    }

    /// The connection, when nobody else holds it.
    pub(super) fn into_io(self: Arc<Self>) -> Option<Io<S>> {
        let inner = Arc::into_inner(self)?.0.into_inner();
        Some(inner.unwrap_or_else(PoisonError::into_inner).io)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

trait Source: Send + Sync {
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>>;
    fn left(&self) -> Option<u64>;
    fn ended(&self) -> bool;
    fn give_back(&self);
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Source for Shared<S> {
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let inner = &mut *self.lock();
        if std::mem::take(&mut inner.expects) {
            inner.io.out().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if inner.io.has_output() && ready!(inner.io.poll_flush(cx)).is_err() {
            return Poll::Ready(Some(Err(Broken)));
        }
        loop {
            match inner.framing.take(&mut inner.io.read) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(_) => return Poll::Ready(Some(Err(Broken))),
            }
            if !matches!(ready!(inner.io.poll_read(cx)), Ok(1..)) {
                return Poll::Ready(Some(Err(Broken)));
            }
        }
    }
    fn left(&self) -> Option<u64> {
        self.lock().framing.left()
    }
    fn ended(&self) -> bool {
        self.lock().framing.ended()
    }
    fn give_back(&self) {
        self.lock().lent = false;
    }
}

/// The body of a request that has one.
pub(crate) struct ClientBody(Kind);

enum Kind {
    Http1(Arc<dyn Source>),
    Http2(Incoming),
}

impl ClientBody {
    pub(super) fn new<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(connection: &Arc<Shared<S>>) -> Self {
        connection.lock().lent = true;
        Self(Kind::Http1(Arc::clone(connection) as Arc<dyn Source>))
    }
    /// The body of a request over HTTP/2, if it has one.
    pub(crate) fn from_http2(body: Incoming) -> Option<Self> {
        (!body.is_end_stream()).then_some(Self(Kind::Http2(body)))
    }
    /// The next part, as it comes. Trailers are dropped.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let body = match &mut self.0 {
            Kind::Http1(source) => return source.poll_data(cx),
            Kind::Http2(body) => body,
        };
        loop {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(Broken))),
                None => return Poll::Ready(None),
            }
        }
    }
    /// Bytes still to come, when that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.0 {
            Kind::Http1(source) => source.left(),
            Kind::Http2(body) => body.size_hint().exact(),
        }
    }
    /// Whether it is through.
    pub(crate) fn ended(&self) -> bool {
        match &self.0 {
            Kind::Http1(source) => source.ended(),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let Kind::Http1(source) = &self.0 {
            source.give_back();
        }
    }
}
