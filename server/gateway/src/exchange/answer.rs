//! Phase five: the answer's head and its record, or a refusal.

use super::forward::Failed;
use super::{Early, Exchange, Ready};
use crate::authenticate::Caller;
use crate::body::{Answer, Stream};
use crate::cache::Fill;
use crate::download::Download;
use crate::ground::Ground;
use crate::grpc;
use crate::headers;
use crate::metrics::Phase;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use crate::tunnel::{self, Seconds, Tunnel};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use model::policy::WebSocketCount;
use std::sync::Arc;
use std::time::Instant;

impl Exchange<'_> {
    /// Phase five: the answer's head and its record.
    pub(super) fn answer(
        &self,
        ready: Ready,
        status: StatusCode,
        mut headers: HeaderMap,
        mut incoming: Download,
        mut fill: Option<Box<Fill>>,
    ) -> Result<Response<Answer>, Early> {
        let Ready {
            route,
            caller,
            admission,
            mut open,
            passed,
            ..
        } = ready;
        let worker = self.worker;
        let now = Instant::now();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        // A handshake that succeeded counts like any success.
        let counted = if switched { StatusCode::OK } else { status };
        let counts = route.counts.contains(counted.as_u16());
        open.answered(status.as_u16(), counts);
        worker.metrics.answered(route.number, status, now - self.started);
        let waited = self.passed(Phase::Forward, now);
        worker.metrics.first_byte(route.upstream.number, waited);
        let compressed = switched && tunnel::agrees_on_deflate(&headers);
        route.edit_answer(&mut headers);
        admission.add_headers(&mut headers, &route, counts, self.now);
        headers.insert(headers::X_REQUEST_ID, self.id_text.value());
        let whole = incoming.take_whole();
        if let Some(data) = &whole {
            open.sent(data.len());
            if let Some(fill) = &mut fill {
                fill.push(data, worker.shared.clock.steady_ns());
            }
        }
        let ended = incoming.is_end();
        if (ended || is_event_stream(&headers)) && open.write_at(now).is_err() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        let written = Instant::now();
        self.passed(Phase::Record, written);
        let body = if switched {
            let seconds = counts.then(|| self.seconds(&route, &caller)).flatten();
            let ground = Ground::new(caller.hold, Arc::clone(&route), passed);
            let tunnel = incoming.into_far().map(|far| Tunnel {
                far,
                worker: Arc::clone(worker),
                policy: route.websocket.unwrap_or_default(),
                compressed,
                cut: ground.watch(&worker.shared),
                seconds,
                places: open.take_places(),
            });
            Answer::Tunnel(tunnel.map(Box::new))
        } else if ended {
            let most = worker.shared.limits.idle_per_upstream;
            incoming.give_back(&worker.pool, now, most);
            if let Some(fill) = fill {
                fill.finish();
            }
            open.over(written);
            Answer::Whole(whole)
        } else {
            Answer::Stream(Box::new(Stream::new(
                incoming,
                open,
                fill,
                Ground::new(caller.hold, route, passed),
            )))
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// The time of a WebSocket that begins, where that is counted.
    fn seconds(&self, route: &Arc<Route>, caller: &Caller) -> Option<Seconds> {
        let policy = route.websocket.filter(|_| route.weight > 0)?;
        let hold = caller.hold.clone();
        (policy.count == WebSocketCount::Seconds).then(|| Seconds::after_first(self.worker, hold, route, self.id))
    }

    /// What becomes of a request without an answer to pass on. One that the upstream gave counts as its status says,
    /// whether the client sees it or not: what the client asked for was done, and it may be its own doing that it cannot be
    /// given the answer.
    pub(super) fn failed(&self, ready: Ready, failed: Failed) -> Early {
        let Ready {
            route,
            admission,
            mut open,
            ..
        } = ready;
        let refused = match failed {
            Failed::Unanswered(refused) => refused,
            Failed::Withheld(status, refused) => {
                let counts = route.counts.contains(status.as_u16());
                open.withheld(counts);
                refused.saying(|headers| admission.add_headers(headers, &route, counts, self.now))
            }
        };
        Early::new(Some(open), refused)
    }

    pub(super) fn refuse_early(&self, early: Early, portal: &str) -> Response<Answer> {
        let (open, refused) = *early.0;
        self.refuse(refused, open, portal)
    }

    /// Says no, in the record, in the metrics and to the client.
    pub(super) fn refuse(&self, refused: Refused, open: Option<Open>, portal: &str) -> Response<Answer> {
        let refusal = refused.refusal();
        self.worker.metrics.refused(refusal);
        let mut money = HeaderMap::new();
        match open {
            Some(mut open) => {
                open.refused(refusal);
                open.say_cost(&mut money);
                // A refusal that cannot be recorded costs nobody anything; the error is logged there.
                let _ = open.write();
            }
            None => self.uncalled(refusal.status(), Some(refusal)),
        }
        let detail = self.grpc.then(|| refused.detail().to_owned());
        let mut answer = refused.answer(portal, self.id_text.value());
        answer.headers_mut().extend(money);
        match detail {
            Some(detail) => grpc::refuse(refusal, &detail, answer.into_parts().0.headers).map(|()| Answer::Whole(None)),
            None => answer.map(|b: Bytes| Answer::Whole(Some(b))),
        }
    }
}

pub(super) fn is_event_stream(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|k| k.len() >= 17 && k[..17].eq_ignore_ascii_case(b"text/event-stream"))
}
