//! One request on a connection of HTTP/1.1, up to the head of its answer. The rest of the answer is an
//! [`super::Incoming`].

use super::connection::Connection;
use super::head::{self, AnswerHead};
use super::sending::{NotSent, Sending};
use crate::body::{self, BodyError};
use crate::http1::{Invalid, Scan, Turn};
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use http::{HeaderMap, StatusCode};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Most interim answers (1xx) that are passed over.
const INTERIM_MOST: usize = 16;

/// Why there is no answer.
pub(super) enum Failure {
    /// The client's own body went wrong.
    Upload(BodyError),
    /// The connection ended, and not a byte of an answer came.
    ClosedSilent(io::Error),
    /// The connection ended inside a head.
    Closed(io::Error),
    Invalid(Invalid),
    /// Nothing came in time.
    Silent,
    /// The time for the request as a whole is over.
    TooLong,
}

impl Failure {
    /// What it is called.
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::Upload(error) => body::refused(*error).refusal(),
            Self::ClosedSilent(_) | Self::Closed(_) | Self::Invalid(_) => Refusal::UpstreamBroken,
            Self::Silent | Self::TooLong => Refusal::UpstreamTimeout,
        }
    }
}

/// Whose fault it was: a body of the client that went wrong, or the upstream.
pub(super) fn refused(upstream: &Upstream, failure: Failure) -> Refused {
    let broken = |error: &dyn std::fmt::Display| {
        tracing::warn!(upstream = upstream.slug, %error, "no valid answer");
        let detail = format!("{} broke off, or its answer is not valid HTTP.", upstream.slug);
        Refused::new(Refusal::UpstreamBroken, detail)
    };
    match failure {
        Failure::Upload(error) => body::refused(error),
        Failure::ClosedSilent(error) | Failure::Closed(error) => broken(&error),
        Failure::Invalid(error) => broken(&error),
        Failure::Silent => {
            let detail = format!("{} sent nothing within {:?}.", upstream.slug, upstream.first_byte);
            Refused::new(Refusal::UpstreamTimeout, detail)
        }
        Failure::TooLong => {
            let detail = format!(
                "{} did not answer within {:?}.",
                upstream.slug,
                upstream.total.unwrap_or_default()
            );
            Refused::new(Refusal::UpstreamTimeout, detail)
        }
    }
}

/// A request in progress.
pub(super) struct Exchange {
    pub(super) connection: Connection,
    pub(super) sending: Sending,
    pub(super) headers: HeaderMap,
    pub(super) head_request: bool,
    scan: Scan,
    interim: usize,
    first_byte: Duration,
    /// When the wait for the answer began, where that is known without asking the clock.
    pub(super) begun: Option<Instant>,
    /// When all of it must be through.
    deadline: Option<Instant>,
    /// Bytes sent when the wait began anew.
    progress: u64,
}

impl Exchange {
    pub(super) fn new(
        connection: Connection,
        begun: Option<Instant>,
        first_byte: Duration,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            deadline,
            connection,
            begun,
            sending: Sending::new(None, false),
            headers: HeaderMap::new(),
            head_request: false,
            scan: Scan::default(),
            interim: 0,
            first_byte,
            progress: 0,
        }
    }

    /// Begins anew on another connection.
    pub(super) fn replace(&mut self, mut connection: Connection) {
        connection.write = std::mem::take(&mut self.connection.write);
        self.connection = connection;
        self.sending.cut = false;
        self.scan = Scan::default();
        self.interim = 0;
        self.begun = None;
        self.progress = 0;
    }

    /// Sends and reads what there is to send and to read.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Failure>> {
        if let Poll::Ready(Err(error)) = self.sending.poll(&mut self.connection, cx) {
            return Poll::Ready(Err(match error {
                NotSent::Body(error) => Failure::Upload(error),
                NotSent::Anything(error) => Failure::ClosedSilent(error),
            }));
        }
        if self.connection.turn == Turn::Waiting {
            return Poll::Pending;
        }
        // Before the request there is nothing that could be its answer.
        while self.connection.written > 0 {
            match self.connection.poll_read(cx) {
                Poll::Ready(Ok(1..)) => {
                    if let Some(head) = self.read_head().map_err(Failure::Invalid)? {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.closed(io::ErrorKind::UnexpectedEof.into()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.closed(error))),
                Poll::Pending => break,
            }
        }
        ready!(self.wait(cx));
        let over = self.deadline.is_some_and(|d| Instant::now() >= d);
        Poll::Ready(Err(if over { Failure::TooLong } else { Failure::Silent }))
    }

    /// The head, when it is whole; interim answers are passed over.
    fn read_head(&mut self) -> Result<Option<AnswerHead>, Invalid> {
        loop {
            let read = &mut self.connection.read;
            let Some(mut head) = head::read(read, &mut self.scan, self.head_request, &mut self.headers)? else {
                return Ok(None);
            };
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(head));
            }
            self.interim += 1;
            if self.interim > INTERIM_MOST {
                return Err(Invalid("too many interim answers"));
            }
            head.headers.clear();
            self.headers = head.headers;
        }
    }

    fn closed(&self, error: io::Error) -> Failure {
        if self.connection.read.is_empty() && self.interim == 0 {
            Failure::ClosedSilent(error)
        } else {
            Failure::Closed(error)
        }
    }

    /// Ready when the upstream was silent for too long. The wait begins anew while the request makes progress, and
    /// stands still while it is the client's body that is waited for.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = &mut *self.connection;
        let timer = &mut connection.timer;
        if self.sending.waits_for_client(connection.sent == connection.write.len()) {
            timer.clear();
            if let Some(deadline) = self.deadline {
                timer.set(deadline.into());
            }
            // The wait for the answer begins once the client is through.
            self.progress = u64::MAX;
            return timer.poll(cx);
        }
        if !timer.is_set() || self.progress != connection.written {
            let begun = self.begun.take().unwrap_or_else(Instant::now);
            let at = begun + self.first_byte;
            timer.set(self.deadline.map_or(at, |d| d.min(at)).into());
            self.progress = connection.written;
        }
        timer.poll(cx)
    }
}
