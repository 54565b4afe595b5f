//! A request with its attempts.

use super::answer::{Direct, Incoming};
use super::attempts::Attempts;
use super::connection::Connection;
use super::exchange::{self, Exchange, Failure};
use super::head::{AnswerHead, BodyLength, RequestHead};
use super::http2::{Http2Call, Http2Head};
use super::sending::Sending;
use super::silence::Silence;
use crate::methods;
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::seen::Entry;
use crate::trace::Left;
use crate::upload::Upload;
use crate::worker::Worker;
use http::{HeaderMap, Method, StatusCode};
use model::policy::Protocol;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

/// A connection taken for one request, which is then sent on it and answered.
pub(crate) struct Call {
    attempts: Attempts,
    way: Way,
}

/// What the request is sent over.
#[expect(
    clippy::large_enum_variant,
    reason = "a box for the usual way would cost every request an allocation"
)]
enum Way {
    Http1(Http1Call),
    Http2(Box<Http2Call>),
}

/// The head of an answer, as it came over the request's way.
pub(crate) struct Head(Kind);

enum Kind {
    Http1(AnswerHead),
    Http2(Box<Http2Head>),
}

/// The head and the body of an answer.
pub(crate) type Answered = (StatusCode, HeaderMap, Incoming);

impl Call {
    /// Chooses a target and takes a pooled connection to it, or makes one. `started` is when the request began.
    pub(crate) async fn open(
        worker: &Worker,
        upstream: &Arc<Upstream>,
        started: Instant,
        canary: bool,
        seen: Option<&Arc<Entry>>,
    ) -> Result<Self, Refused> {
        let mut attempts = Attempts::begin(upstream, canary, started, seen)?;
        if upstream.protocol == Protocol::Http2 {
            let call = Box::pin(Http2Call::open(worker, &mut attempts)).await?;
            let way = Way::Http2(Box::new(call));
            return Ok(Self { attempts, way });
        }
        let (connection, begun) = match worker.pool.take(attempts.lease.target(), started) {
            Some(connection) => (connection, Some(started)),
            // What is rare is in a box: the future of every request would have room for it, and be copied with it.
            None => {
                let connecting = Box::pin(attempts.connection(&worker.pool, &worker.shared.limits));
                (connecting.await?.0, None)
            }
        };
        let way = Way::Http1(Http1Call {
            exchange: Exchange::new(connection, begun, upstream.first_byte, attempts.deadline),
            // A connection that a retry found in the pool counts as new: it is not replaced for nothing.
            pooled: begun.is_some(),
            repeatable: false,
            websocket: false,
        });
        Ok(Self { attempts, way })
    }

    /// Makes the request ready to be sent. To be called once.
    pub(crate) fn send(&mut self, head: &RequestHead<'_>, upload: Option<Upload>) {
        match &mut self.way {
            Way::Http1(call) => call.send(head, upload),
            Way::Http2(call) => call.send(head, upload, self.attempts.lease.target().identity.tls.is_some()),
        }
    }

    /// Sends the request and waits for the head of its answer. `headers` are put to use for it.
    ///
    /// A request that failed goes to another target when nothing of it was sent, or it can be sent again safely.
    pub(crate) async fn answer(&mut self, worker: &Worker, headers: HeaderMap) -> Result<Head, Refused> {
        match &mut self.way {
            Way::Http1(call) => {
                let head = call.answer(&mut self.attempts, worker, headers).await?;
                Ok(Head(Kind::Http1(head)))
            }
            Way::Http2(call) => {
                let head = Box::pin(call.answer(&mut self.attempts, worker)).await?;
                Ok(Head(Kind::Http2(Box::new(head))))
            }
        }
    }

    /// The answer that has this head.
    pub(crate) fn answered(self, head: Head) -> Result<Answered, Refused> {
        match (self.way, head.0) {
            (Way::Http1(call), Kind::Http1(head)) => call.answered(self.attempts, head),
            (Way::Http2(_), Kind::Http2(head)) => Ok(head.answered(self.attempts)),
            _ => Err(Refused::new(
                Refusal::UpstreamBroken,
                "The answer is another request's.",
            )),
        }
    }
}

struct Http1Call {
    exchange: Exchange,
    pooled: bool,
    repeatable: bool,
    /// Whether it is a WebSocket handshake.
    websocket: bool,
}

impl Http1Call {
    fn send(&mut self, head: &RequestHead<'_>, upload: Option<Upload>) {
        self.websocket = head.websocket;
        head.write(&mut self.exchange.connection.write);
        self.repeatable = upload.is_none() && methods::is_idempotent(head.method);
        self.exchange.head_request = *head.method == Method::HEAD;
        if upload.is_some() {
            self.exchange.begun = None;
        }
        self.exchange.sending = Sending::new(upload, head.length == BodyLength::Chunked);
    }

    /// A pooled connection that turns out to be closed before a byte of an answer came is replaced by a new one, once,
    /// without taking an attempt: upstreams close idle connections at any time.
    async fn answer(
        &mut self,
        attempts: &mut Attempts,
        worker: &Worker,
        mut headers: HeaderMap,
    ) -> Result<AnswerHead, Refused> {
        headers.clear();
        self.exchange.headers = headers;
        let limits = &worker.shared.limits;
        loop {
            let failure = match poll_fn(|cx| self.exchange.poll(cx)).await {
                Ok(answer) => {
                    attempts.answered(answer.status.as_u16());
                    if !(self.repeatable && attempts.retries(answer.status.as_u16()) && attempts.next()) {
                        return Ok(answer);
                    }
                    self.exchange.headers = answer.headers;
                    self.exchange.headers.clear();
                    self.pooled = false;
                    let (connection, _) = Box::pin(attempts.connection(&worker.pool, limits)).await?;
                    self.send_again(attempts, connection);
                    continue;
                }
                Err(failure) => failure,
            };
            let silent = matches!(failure, Failure::ClosedSilent(_));
            let again = silent && (self.repeatable || self.exchange.connection.written == 0);
            if again && std::mem::take(&mut self.pooled) {
                match Box::pin(attempts.connect(limits)).await {
                    Ok(connection) => {
                        self.send_again(attempts, connection);
                        continue;
                    }
                    Err(_) if attempts.next() => {}
                    Err(refused) => return Err(refused),
                }
            } else {
                let waited_for_client = !self.exchange.sending.is_through(&self.exchange.connection);
                let clients = match failure {
                    Failure::Upload(_) => true,
                    Failure::TooLong => waited_for_client,
                    _ => false,
                };
                attempts.left(|| Left::Failed(failure.refusal()));
                if !clients {
                    attempts.lease.failed();
                }
                if !(again && attempts.next()) {
                    return Err(exchange::refused(attempts.lease.upstream(), failure));
                }
            }
            let (connection, _) = Box::pin(attempts.connection(&worker.pool, limits)).await?;
            self.send_again(attempts, connection);
        }
    }

    fn send_again(&mut self, attempts: &Attempts, connection: Connection) {
        self.exchange.replace(connection);
        attempts.retell(&mut self.exchange.connection.write);
    }

    fn answered(self, mut attempts: Attempts, answer: AnswerHead) -> Result<Answered, Refused> {
        let upstream = Arc::clone(attempts.lease.upstream());
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            if self.websocket && answer.websocket {
                let incoming = Incoming::tunnel(self.exchange.connection, attempts.lease);
                return Ok((answer.status, answer.headers, incoming));
            }
            attempts.lease.failed();
            let detail = format!("{} switched protocols unasked.", upstream.slug);
            return Err(Refused::new(Refusal::UpstreamBroken, detail));
        }
        let Exchange {
            connection, sending, ..
        } = self.exchange;
        let keeps = answer.keeps && !sending.cut;
        let silence = Silence::new(upstream.idle, attempts.deadline, sending.progress());
        let direct = Direct::new(connection, answer.framing, keeps, silence);
        let incoming = if sending.is_through(&direct.connection) {
            Incoming::direct(direct, attempts.lease)
        } else {
            Incoming::relayed(direct, sending, attempts.lease)
        };
        Ok((answer.status, answer.headers, incoming))
    }
}
