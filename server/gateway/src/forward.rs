//! Phase four: to the upstream and back, over connections that each worker thread keeps for itself.

use crate::body::{BodyError, Progress, Upload};
use crate::config::Limits;
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::server::Worker;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An idle connection older than this is not used again: upstreams commonly close theirs after 60 s or more.
const IDLE_LIFE: Duration = Duration::from_secs(30);
/// Largest head of an upstream's answer, in bytes.
const ANSWER_HEAD_BYTES: usize = 64 << 10;

struct Idle {
    sender: SendRequest<Upload>,
    upstream: Arc<Upstream>,
    since: Instant,
}

/// Idle connections of one worker thread.
#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<u16, Vec<Idle>>>);

impl Pool {
    fn take(&self, upstream: &Arc<Upstream>) -> Option<SendRequest<Upload>> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = pool.get_mut(&upstream.number)?;
        while let Some(found) = idle.pop() {
            let same = Arc::ptr_eq(&found.upstream, upstream)
                || (found.upstream.host == upstream.host && found.upstream.port == upstream.port);
            if same && !found.sender.is_closed() && found.since.elapsed() < IDLE_LIFE {
                return Some(found.sender);
            }
        }
        None
    }

    fn put(&self, idle: Idle, most: usize) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pool.entry(idle.upstream.number).or_default();
        if kept.len() < most {
            kept.push(idle);
        }
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn expire(&self) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in pool.values_mut() {
            kept.retain(|i| !i.sender.is_closed() && i.since.elapsed() < IDLE_LIFE);
        }
    }
}

/// An upstream connection in use. Dropped, it is closed; given back, it serves the next request.
pub(crate) struct Lease {
    sender: SendRequest<Upload>,
    upstream: Arc<Upstream>,
    worker: Arc<Worker>,
    upload: Option<Arc<Progress>>,
}

impl Lease {
    /// Back to the pool, when both messages are through: a connection that still carries a request's body is closed.
    pub(crate) fn give_back(self) {
        if self.upload.is_some_and(|u| !u.ended()) {
            return;
        }
        let idle = Idle {
            sender: self.sender,
            upstream: self.upstream,
            since: Instant::now(),
        };
        self.worker.pool.put(idle, self.worker.shared.limits.idle_per_upstream);
    }
}

/// A request that can be sent a second time.
struct Spare(Method, Uri, HeaderMap);

impl Spare {
    fn of(request: &Request<Upload>, upload: Option<&Arc<Progress>>) -> Option<Self> {
        let repeatable = upload.is_none() && request.method().is_idempotent();
        repeatable.then(|| {
            Self(
                request.method().clone(),
                request.uri().clone(),
                request.headers().clone(),
            )
        })
    }
    fn request(self) -> Request<Upload> {
        let mut request = Request::new(Upload::none());
        *request.method_mut() = self.0;
        *request.uri_mut() = self.1;
        *request.headers_mut() = self.2;
        request
    }
}

/// Sends a request and waits for the head of its answer. A pooled connection that turns out to be closed before a byte
/// of an answer came is replaced by a new one, once, when the request was not sent or can be sent again safely.
pub(crate) async fn forward(
    worker: &Arc<Worker>,
    upstream: &Arc<Upstream>,
    request: Request<Upload>,
    upload: Option<Arc<Progress>>,
) -> Result<(Response<Incoming>, Lease), Refused> {
    let lease = |sender| Lease {
        sender,
        upstream: Arc::clone(upstream),
        worker: Arc::clone(worker),
        upload: upload.clone(),
    };
    let mut request = request;
    if let Some(mut sender) = worker.pool.take(upstream)
        && (sender.is_ready() || becomes_ready(&mut sender, &worker.shared.limits).await)
    {
        let spare = Spare::of(&request, upload.as_ref());
        let mut sent = std::pin::pin!(sender.try_send_request(request));
        match wait(sent.as_mut(), upstream, upload.as_deref()).await? {
            Ok(answer) => return Ok((checked(answer, upstream)?, lease(sender))),
            Err(mut error) => match (error.take_message(), spare) {
                (Some(unsent), _) => request = unsent,
                (None, Some(spare)) if closed_early(error.error()) => request = spare.request(),
                _ => return Err(broken(upstream, upload.as_deref(), error.error())),
            },
        }
    }
    let mut sender = connect(upstream, &worker.shared.limits).await?;
    let mut sent = std::pin::pin!(sender.try_send_request(request));
    match wait(sent.as_mut(), upstream, upload.as_deref()).await? {
        Ok(answer) => Ok((checked(answer, upstream)?, lease(sender))),
        Err(error) => Err(broken(upstream, upload.as_deref(), error.error())),
    }
}

/// A connection given back a moment ago may still have to notice that its last answer is through.
async fn becomes_ready(sender: &mut SendRequest<Upload>, limits: &Limits) -> bool {
    timeout(limits.connect_timeout, sender.ready())
        .await
        .is_ok_and(|r| r.is_ok())
}

/// Waits for the head. While the request's body still makes progress the wait begins anew.
async fn wait<F: Future + Unpin>(
    mut sent: F,
    upstream: &Upstream,
    upload: Option<&Progress>,
) -> Result<F::Output, Refused> {
    let mut before = 0;
    loop {
        match timeout(upstream.first_byte, &mut sent).await {
            Ok(done) => return Ok(done),
            Err(_) => {
                let bytes = upload.map_or(0, Progress::bytes);
                if upload.is_some_and(Progress::ended) || bytes == before {
                    let detail = format!("{} sent nothing within {:?}.", upstream.slug, upstream.first_byte);
                    return Err(Refused::new(Refusal::UpstreamTimeout, detail));
                }
                before = bytes;
            }
        }
    }
}

fn closed_early(error: &hyper::Error) -> bool {
    let reset = std::error::Error::source(error)
        .and_then(|s| s.downcast_ref::<std::io::Error>())
        .is_some_and(|e| {
            matches!(
                e.kind(),
                std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::UnexpectedEof
            )
        });
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || reset
}

/// Whose fault it was: a body of the client that went wrong, or the upstream.
fn broken(upstream: &Upstream, upload: Option<&Progress>, error: &hyper::Error) -> Refused {
    match upload.and_then(Progress::fault) {
        Some(BodyError::TooLarge) => too_large().closing(),
        Some(BodyError::TooSlow) => Refused::new(Refusal::BodyTimeout, "The body stopped coming.").closing(),
        Some(_) => Refused::new(Refusal::BodyBroken, "The body broke off or was malformed.").closing(),
        None => {
            tracing::warn!(upstream = upstream.slug, %error, "no valid answer");
            let detail = format!("{} broke off, or its answer is not valid HTTP.", upstream.slug);
            Refused::new(Refusal::UpstreamBroken, detail)
        }
    }
}

/// The refusal of a body over the limit.
pub(crate) fn too_large() -> Refused {
    Refused::new(Refusal::BodyTooLarge, "The body is larger than this gateway takes.")
}

/// An answer that switches protocols unasked is no answer.
fn checked(answer: Response<Incoming>, upstream: &Upstream) -> Result<Response<Incoming>, Refused> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS || answer.status().is_informational() {
        let detail = format!("{} switched protocols unasked.", upstream.slug);
        return Err(Refused::new(Refusal::UpstreamBroken, detail));
    }
    Ok(answer)
}

async fn connect(upstream: &Upstream, limits: &Limits) -> Result<SendRequest<Upload>, Refused> {
    let unreachable = |error: std::io::Error| {
        tracing::warn!(upstream = upstream.slug, %error, "cannot connect");
        Refused::new(
            Refusal::UpstreamUnreachable,
            format!("{} accepts no connection.", upstream.slug),
        )
    };
    let connected = timeout(
        upstream.connect.unwrap_or(limits.connect_timeout),
        TcpStream::connect((&*upstream.host, upstream.port)),
    )
    .await;
    let stream = match connected {
        Ok(stream) => stream.map_err(unreachable)?,
        Err(_) => return Err(unreachable(std::io::ErrorKind::TimedOut.into())),
    };
    stream.set_nodelay(true).map_err(unreachable)?;
    let shaken = http1::Builder::new()
        .writev(false)
        .max_header_size(ANSWER_HEAD_BYTES)
        .handshake::<_, Upload>(TokioIo::new(stream))
        .await;
    let (sender, connection) = shaken.map_err(|e| unreachable(std::io::Error::other(e)))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(sender)
}
