//! One request over HTTP/2, up to the head of its answer.

use super::super::answer::Incoming;
use super::super::attempts::Attempts;
use super::super::call::Answered;
use super::super::exchange::{Failure, refused};
use super::super::head::RequestHead;
use super::super::silence::Silence;
use super::links::Place;
use super::pump::Pump;
use super::{AnswerBody, Links};
use crate::config::Limits;
use crate::headers;
use crate::methods;
use crate::refusal::{Refusal, Refused};
use crate::seen::TRACEPARENT;
use crate::trace::Left;
use crate::upload::Upload;
use crate::worker::Worker;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::{sleep_until, timeout_at};

/// A request and its place on a connection.
pub(crate) struct Http2Call {
    place: Option<Place>,
    request: Option<Request<()>>,
    upload: Option<Upload>,
}

/// The head of an answer, with what brings the rest of it.
pub(in crate::upstream) struct Http2Head {
    response: Response<RecvStream>,
    pump: Option<Pump>,
    place: Place,
    head_request: bool,
}

/// What became of a request that has no answer.
enum Outcome {
    /// The upstream says that it did nothing with it.
    Unprocessed(h2::Error),
    /// Nothing of an answer came.
    Broken(h2::Error),
    Failed(Failure),
}

fn outcome(error: h2::Error) -> Outcome {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        Outcome::Unprocessed(error)
    } else {
        Outcome::Broken(error)
    }
}

/// A place at the target, or at the next ones.
async fn find(links: &Links, attempts: &mut Attempts, limits: &Limits) -> Result<Place, Refused> {
    loop {
        let until = attempts.connect_until(limits);
        match links.place(attempts.lease.target(), until).await {
            Ok(place) => return Ok(place),
            Err(error) => {
                let refused = attempts.unreachable(&error);
                if !attempts.next() {
                    return Err(refused);
                }
            }
        }
    }
}

impl Http2Call {
    /// Takes a place on a connection.
    pub(crate) async fn open(worker: &Worker, attempts: &mut Attempts) -> Result<Self, Refused> {
        let place = find(&worker.pool.links, attempts, &worker.shared.limits).await?;
        Ok(Self {
            place: Some(place),
            request: None,
            upload: None,
        })
    }

    /// Makes the request ready to be sent.
    pub(crate) fn send(&mut self, head: &RequestHead<'_>, upload: Option<Upload>, tls: bool) {
        self.request = head.http2(tls);
        self.upload = upload;
    }

    /// Sends the request and waits for the head of its answer.
    pub(crate) async fn answer(&mut self, attempts: &mut Attempts, worker: &Worker) -> Result<Http2Head, Refused> {
        let Some(mut request) = self.request.take() else {
            return Err(Refused::new(Refusal::BadRequest, "The request has no form in HTTP/2."));
        };
        let whole = self.upload.is_none();
        let repeatable = whole && methods::is_idempotent(request.method());
        let (mut place, mut replaced) = (self.place.take(), false);
        loop {
            let held = match place.take() {
                Some(place) => place,
                None => find(&worker.pool.links, attempts, &worker.shared.limits).await?,
            };
            retell(attempts, &mut request);
            let failure = match once(&held, &request, &mut self.upload, attempts).await {
                Ok((response, pump)) => {
                    let status = response.status().as_u16();
                    attempts.answered(status);
                    if repeatable && attempts.retries(status) && attempts.next() {
                        continue;
                    }
                    return Ok(Http2Head {
                        response,
                        pump,
                        place: held,
                        head_request: request.method() == Method::HEAD,
                    });
                }
                Err(Outcome::Unprocessed(_)) if whole && !std::mem::replace(&mut replaced, true) => continue,
                Err(Outcome::Unprocessed(error)) if whole && attempts.next() => {
                    tracing::debug!(%error, "not processed");
                    continue;
                }
                Err(Outcome::Unprocessed(error)) => Failure::ClosedSilent(io::Error::other(error)),
                Err(Outcome::Broken(error)) => {
                    attempts.lease.failed();
                    if repeatable && attempts.next() {
                        continue;
                    }
                    Failure::ClosedSilent(io::Error::other(error))
                }
                Err(Outcome::Failed(failure)) => {
                    // A request with a body may have taken its time at the client.
                    if matches!(failure, Failure::Silent) || (whole && matches!(failure, Failure::TooLong)) {
                        held.give_up();
                        attempts.lease.failed();
                    }
                    failure
                }
            };
            attempts.left(|| Left::Failed(failure.refusal()));
            return Err(refused(attempts.lease.upstream(), failure));
        }
    }
}

/// Makes a request that is sent again say of the trace what holds for this attempt.
fn retell(attempts: &Attempts, request: &mut Request<()>) {
    if !attempts.is_traced() {
        return;
    }
    if let Some(said) = request.headers_mut().get_mut(TRACEPARENT) {
        let mut told = said.as_bytes().to_vec();
        attempts.retell(&mut told);
        if let Ok(told) = HeaderValue::try_from(told) {
            *said = told;
        }
    }
}

/// One try: sends the request and waits for the head.
async fn once(
    place: &Place,
    request: &Request<()>,
    upload: &mut Option<Upload>,
    attempts: &Attempts,
) -> Result<(Response<RecvStream>, Option<Pump>), Outcome> {
    let first_byte = attempts.lease.upstream().first_byte;
    let until = |deadline: Option<Instant>| {
        let at = Instant::now() + first_byte;
        tokio::time::Instant::from(deadline.map_or(at, |d| d.min(at)))
    };
    let ready = timeout_at(until(attempts.deadline), place.send.clone().ready()).await;
    let mut send = ready.map_err(|_| Outcome::Failed(Failure::Silent))?.map_err(outcome)?;
    // An error of the library here means that the connection is going: nothing was sent.
    let sent = send.send_request(request.clone(), upload.is_none());
    let (response, stream) = sent.map_err(Outcome::Unprocessed)?;
    let mut pump = upload.take().map(|upload| Pump::start(upload, stream));
    let response = head(response, &mut pump, attempts, until).await?;
    Ok((response, pump))
}

/// Waits for the head. The wait begins anew while the request makes progress or it is the client that is waited for.
async fn head(
    mut response: ResponseFuture,
    pump: &mut Option<Pump>,
    attempts: &Attempts,
    until: impl Fn(Option<Instant>) -> tokio::time::Instant,
) -> Result<Response<RecvStream>, Outcome> {
    loop {
        let body_failed = async {
            match pump {
                Some(pump) => pump.failure().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = body_failed => return Err(Outcome::Failed(Failure::Upload(error))),
            answered = &mut response => return answered.map_err(outcome),
            () = sleep_until(until(attempts.deadline)) => {}
        }
        if attempts.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(Outcome::Failed(Failure::TooLong));
        }
        if !pump.as_mut().is_some_and(Pump::moved) {
            return Err(Outcome::Failed(Failure::Silent));
        }
    }
}

impl Http2Head {
    /// The answer that has this head, given to the request that made these attempts.
    pub(in crate::upstream) fn answered(self, attempts: Attempts) -> Answered {
        let (parts, stream) = self.response.into_parts();
        let said = parts.headers.get(header::CONTENT_LENGTH);
        let left = said
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .filter(|_| !self.head_request);
        let mut kept = HeaderMap::with_capacity(parts.headers.len() + headers::ADDED_TO_ANSWERS);
        for (name, value) in &parts.headers {
            if headers::reaches_client(name.as_str()) {
                kept.append(name, value.clone());
            }
        }
        let upstream = Arc::clone(attempts.lease.upstream());
        let silence = Silence::new(upstream.idle, attempts.deadline, self.pump.as_ref().map(Pump::body));
        let body = AnswerBody::new(stream, left, silence, self.pump, self.place);
        (parts.status, kept, Incoming::http2(body, attempts.lease))
    }
}
