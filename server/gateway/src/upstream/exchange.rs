//! One request to an upstream, up to the head of its answer. The rest of the answer is an [`Incoming`].

use super::answer::{Direct, Incoming};
use super::connection::Connection;
use super::head::{self, AnswerHead, BodyLength, RequestHead};
use super::sending::{NotSent, Sending};
use crate::body::{self, BodyError, Upload};
use crate::http1::{Invalid, Scan};
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::server::Worker;
use http::{HeaderMap, Method, StatusCode};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Most interim answers (1xx) that are passed over.
const INTERIM_MOST: usize = 16;

/// Why there is no answer.
enum Failure {
    /// The client's own body went wrong.
    Upload(BodyError),
    /// The connection ended, and not a byte of an answer came.
    ClosedSilent(io::Error),
    /// The connection ended inside a head.
    Closed(io::Error),
    Invalid(Invalid),
    /// Nothing came in time.
    Silent,
}

/// A connection taken for one request, which is then sent on it and answered.
pub(crate) struct Call {
    exchange: Exchange,
    pooled: bool,
    repeatable: bool,
}

impl Call {
    /// Takes a pooled connection, or makes one. `started` is when the request began.
    pub(crate) async fn open(worker: &Worker, upstream: &Arc<Upstream>, started: Instant) -> Result<Self, Refused> {
        let (connection, begun) = match worker.pool.take(upstream, started) {
            Some(connection) => (connection, Some(started)),
            None => (
                Connection::open(upstream, worker.shared.limits.connect_timeout).await?,
                None,
            ),
        };
        Ok(Self {
            exchange: Exchange::new(connection, begun, upstream.first_byte),
            pooled: begun.is_some(),
            repeatable: false,
        })
    }

    /// Makes the request ready to be sent. To be called once.
    pub(crate) fn send(&mut self, head: &RequestHead<'_>, upload: Option<Upload>) {
        head.write(&mut self.exchange.connection.write);
        self.repeatable = upload.is_none() && head.method.is_idempotent();
        self.exchange.head_request = *head.method == Method::HEAD;
        if upload.is_some() {
            self.exchange.begun = None;
        }
        self.exchange.sending = Sending::new(upload, head.length == BodyLength::Chunked);
    }

    /// Sends the request and waits for the head of its answer, which is put into `headers`. A pooled connection that
    /// turns out to be closed before a byte of an answer came is replaced by a new one, once, when nothing of the
    /// request was sent or it can be sent again safely.
    pub(crate) async fn answer(
        mut self,
        worker: &Worker,
        upstream: &Upstream,
        mut headers: HeaderMap,
    ) -> Result<(StatusCode, HeaderMap, Incoming), Refused> {
        headers.clear();
        self.exchange.headers = headers;
        let answer = loop {
            match poll_fn(|cx| self.exchange.poll(cx)).await {
                Ok(answer) => break answer,
                Err(Failure::ClosedSilent(_)) if self.may_replace() => {
                    self.pooled = false;
                    let connection = Connection::open(upstream, worker.shared.limits.connect_timeout).await?;
                    self.exchange.replace(connection);
                }
                Err(failure) => return Err(refused(upstream, failure)),
            }
        };
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            let detail = format!("{} switched protocols unasked.", upstream.slug);
            return Err(Refused::new(Refusal::UpstreamBroken, detail));
        }
        let Exchange {
            connection, sending, ..
        } = self.exchange;
        let direct = Direct::new(connection, answer.framing, answer.keeps && !sending.cut, upstream.idle);
        let incoming = if sending.is_through(&direct.connection) {
            Incoming::direct(direct)
        } else {
            Incoming::relayed(direct, sending)
        };
        Ok((answer.status, answer.headers, incoming))
    }

    fn may_replace(&self) -> bool {
        self.pooled && (self.repeatable || self.exchange.connection.written == 0)
    }
}

/// Whose fault it was: a body of the client that went wrong, or the upstream.
fn refused(upstream: &Upstream, failure: Failure) -> Refused {
    let broken = |error: &dyn std::fmt::Display| {
        tracing::warn!(upstream = upstream.slug, %error, "no valid answer");
        let detail = format!("{} broke off, or its answer is not valid HTTP.", upstream.slug);
        Refused::new(Refusal::UpstreamBroken, detail)
    };
    match failure {
        Failure::Upload(BodyError::TooLarge) => body::too_large().closing(),
        Failure::Upload(BodyError::TooSlow) => Refused::new(Refusal::BodyTimeout, "The body stopped coming.").closing(),
        Failure::Upload(_) => Refused::new(Refusal::BodyBroken, "The body broke off or was malformed.").closing(),
        Failure::ClosedSilent(error) | Failure::Closed(error) => broken(&error),
        Failure::Invalid(error) => broken(&error),
        Failure::Silent => {
            let detail = format!("{} sent nothing within {:?}.", upstream.slug, upstream.first_byte);
            Refused::new(Refusal::UpstreamTimeout, detail)
        }
    }
}

/// A request in progress.
struct Exchange {
    connection: Connection,
    sending: Sending,
    headers: HeaderMap,
    head_request: bool,
    scan: Scan,
    interim: usize,
    first_byte: Duration,
    /// When the wait for the answer began, where that is known without asking the clock.
    begun: Option<Instant>,
    /// Bytes sent when the wait began anew.
    progress: u64,
}

impl Exchange {
    fn new(connection: Connection, begun: Option<Instant>, first_byte: Duration) -> Self {
        Self {
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
    fn replace(&mut self, mut connection: Connection) {
        connection.write = std::mem::take(&mut self.connection.write);
        self.connection = connection;
        self.sending.cut = false;
        self.begun = None;
        self.progress = 0;
    }

    /// Sends and reads what there is to send and to read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Failure>> {
        if let Poll::Ready(Err(error)) = self.sending.poll(&mut self.connection, cx) {
            return Poll::Ready(Err(match error {
                NotSent::Body(error) => Failure::Upload(error),
                NotSent::Anything(error) => Failure::ClosedSilent(error),
            }));
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
        Poll::Ready(Err(Failure::Silent))
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
        let timer = &mut self.connection.timer;
        if self
            .sending
            .waits_for_client(self.connection.sent == self.connection.write.len())
        {
            timer.clear();
            return Poll::Pending;
        }
        if !timer.is_set() || self.progress != self.connection.written {
            let begun = self.begun.take().unwrap_or_else(Instant::now);
            timer.set((begun + self.first_byte).into());
            self.progress = self.connection.written;
        }
        timer.poll(cx)
    }
}
