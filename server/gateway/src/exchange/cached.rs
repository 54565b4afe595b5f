//! Requests whose answers may be kept, between admission and the upstream.

use super::{Early, Exchange, Ready};
use crate::body::Answer;
use crate::cache::{self, Ask, Kept, Look, Looked, Who};
use crate::download::Download;
use crate::headers;
use crate::listen::Client;
use crate::refusal::{Refusal, Refused};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use std::sync::Arc;
use std::time::Instant;

impl Exchange<'_> {
    /// The kept answer to a request, if there is one; else the request is made ready to fetch it.
    ///
    /// # Errors
    /// When the client wants nothing but a kept answer.
    pub(super) async fn kept_or_fetch(
        &self,
        client: &Client,
        ready: &mut Ready,
        ask: Box<Ask>,
    ) -> Result<Option<Kept>, Refused> {
        let Some(rule) = &ready.route.cache else {
            return Ok(None);
        };
        let shared = &self.worker.shared;
        let account = &ready.caller.key.account;
        let upstream = &ready.route.upstream;
        let canary = |headers| {
            upstream
                .balance
                .wants_canary(upstream.number, headers, account.consumer)
        };
        if ask.goes_by().is_some() || canary(&ready.parts.headers) {
            ready.went_by = Some(ask.goes_by().unwrap_or("bypass"));
            shared.cache.count(cache::How::Bypass);
            return Ok(None);
        }
        if rule.is_shared(ready.caller.key.id) {
            ready.parts.headers = rule.lets_through(&ready.parts.headers);
        }
        let profile = &ready.admission.terms.profile;
        let granted = ready.caller.granted.as_ref().map(|g| g.header(profile));
        let look = Look {
            rule,
            who: Who {
                account,
                key: ready.caller.key.id,
                address: client.address,
                plan: &profile.plan_header,
                features: granted.as_ref().unwrap_or(&profile.features_header),
                closed: ready.admission.closed,
                scheme: client.scheme,
            },
            parts: &ready.parts,
            clock: &*shared.clock,
        };
        match shared.cache.look(look, *ask).await {
            Looked::Kept(kept) => Ok(Some(kept)),
            Looked::Nothing => {
                let detail = "The request wants an answer only if one is kept (only-if-cached), and none is.";
                Err(Refused::new(Refusal::NotCached, detail))
            }
            Looked::Fetch(fetch) => {
                fetch.ask(&mut ready.parts.headers);
                ready.fetch = Some(fetch);
                Ok(None)
            }
        }
    }

    /// Phase five for a kept answer.
    pub(super) fn answer_kept(&self, ready: Ready, kept: &Kept) -> Result<Response<Answer>, Early> {
        let shared = &self.worker.shared;
        shared.cache.count(kept.how);
        let (status, headers, body) = kept.answer(&ready.parts.method, shared.clock.steady_ns());
        let counts = !kept.is_hit() || ready.admission.terms.profile.cache_hits.count();
        self.answer_held(ready, (status, headers, body), counts)
    }

    /// Phase five for an answer that is all here.
    pub(super) fn answer_held(
        &self,
        ready: Ready,
        (status, mut headers, body): (StatusCode, HeaderMap, Option<Bytes>),
        counts: bool,
    ) -> Result<Response<Answer>, Early> {
        let Ready {
            route,
            admission,
            mut open,
            ..
        } = ready;
        let counts = counts && route.counts.contains(status.as_u16());
        open.answered(status.as_u16(), counts);
        let took = Instant::now() - self.started;
        self.worker.metrics.answered(route.number, status, took);
        route.answer_edits.apply(&mut headers);
        admission.add_headers(&mut headers, &route, counts, self.now);
        headers.insert(headers::X_REQUEST_ID, self.id_text.value());
        open.sent(body.as_ref().map_or(0, Bytes::len));
        if open.write().is_err() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        let mut answer = Response::new(Answer::Whole(body));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// Phases four and five for a request on a route that keeps answers, when none was kept for it.
    pub(super) async fn fetch(&self, client: &Client, mut ready: Ready) -> Result<Response<Answer>, Early> {
        let (mut status, mut headers, mut incoming) = match self.forward(client, &mut ready).await {
            Ok(answered) => answered,
            Err(failed) => return Err(self.failed(ready, failed)),
        };
        if status == StatusCode::NOT_MODIFIED
            && let Some(fetch) = ready.fetch.as_mut().filter(|f| f.is_of_another_version())
        {
            // What it confirms is not what is kept: that is of no more use, and would be asked about for ever.
            ready.parts.headers = fetch.ask_anew();
            let most = self.worker.shared.limits.idle_per_upstream;
            incoming.give_back(&self.worker.pool, Instant::now(), most);
            (status, headers, incoming) = match self.forward(client, &mut ready).await {
                Ok(answered) => answered,
                Err(failed) => return Err(self.failed(ready, failed)),
            };
        }
        self.answer_fetched(ready, status, headers, incoming)
    }

    /// Phase five for an answer that the upstream gave, on a route that keeps answers.
    fn answer_fetched(
        &self,
        mut ready: Ready,
        status: StatusCode,
        mut headers: HeaderMap,
        mut incoming: Download,
    ) -> Result<Response<Answer>, Early> {
        let Some(mut fetch) = ready.fetch.take() else {
            if let Some(why) = ready.went_by {
                cache::say(&mut headers, &format!("fwd={why}; fwd-status={}", status.as_u16()));
            }
            return self.answer(ready, status, headers, incoming, None);
        };
        let route = Arc::clone(&ready.route);
        let Some(rule) = &route.cache else {
            return self.answer(ready, status, headers, incoming, None);
        };
        let shared = &self.worker.shared;
        let now = (shared.clock.steady_ns(), shared.clock.security_now());
        if status == StatusCode::NOT_MODIFIED {
            if let Some(kept) = fetch.confirmed(rule, &headers, now) {
                let most = shared.limits.idle_per_upstream;
                incoming.give_back(&self.worker.pool, Instant::now(), most);
                return self.answer_kept(ready, &kept);
            }
            if fetch.is_anew() {
                let detail = format!(
                    "{} says that nothing changed, and was asked for all of it.",
                    route.upstream.slug
                );
                let refused = Refused::new(Refusal::UpstreamBroken, detail);
                return Err(Early::new(Some(ready.open), refused));
            }
        }
        let method = ready.parts.method.clone();
        let whole = incoming.ends_for_sure();
        let fill = fetch.fill(rule, (route.number, &method), (status, &mut headers), whole, now);
        self.answer(ready, status, headers, incoming, fill)
    }
}
