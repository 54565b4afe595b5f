//! Phase four: the request goes to its upstream.

use super::{Exchange, Ready};
use crate::body;
use crate::download::Download;
use crate::ground::Ground;
use crate::headers::Short;
use crate::identity::About;
use crate::listen::Client;
use crate::once;
use crate::own::{Own, Told};
use crate::refusal::{Refusal, Refused};
use crate::seen::{TRACEPARENT, TRACESTATE};
use crate::upload::Upload;
use crate::upstream::{Call, RequestHead};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use model::policy::{Idempotency, IdentityForm};
use std::sync::Arc;

/// Why there is no answer to pass on.
pub(super) enum Failed {
    /// The upstream gave none.
    Unanswered(Refused),
    /// It gave one with this status, and that cannot be passed on.
    Withheld(StatusCode, Refused),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Unanswered(refused)
    }
}

impl Failed {
    /// Whether what a key of repeats stands for may be done: an upstream that is slow may be at it still.
    pub(super) fn may_be_done(&self, policy: &Idempotency) -> bool {
        match self {
            Self::Unanswered(refused) => refused.refusal() == Refusal::UpstreamTimeout,
            Self::Withheld(status, _) => once::is_final(policy, *status),
        }
    }
}

impl Exchange<'_> {
    /// Phase four: the request goes to its upstream. What is the client's to say goes with it, and what is ours.
    pub(super) async fn forward(
        &self,
        client: &Client,
        ready: &mut Ready,
    ) -> Result<(StatusCode, HeaderMap, Download), Failed> {
        let upstream = &ready.route.upstream;
        let consumer = ready.caller.key.account.consumer;
        let canary = upstream
            .balance
            .wants_canary(upstream.number, &ready.parts.headers, consumer);
        let mut call = Call::open(self.worker, upstream, self.started, canary, self.seen.as_ref()).await?;
        let streams = ready.upload.as_ref().is_some_and(Upload::is_stream);
        self.send(client, ready, &mut call);
        let headers = std::mem::take(&mut ready.parts.headers);
        let head = if streams {
            // It may be long until there is an answer.
            let ground = Ground::new(ready.caller.hold.clone(), Arc::clone(&ready.route), ready.passed);
            Box::pin(async {
                tokio::select! {
                    biased;
                    refused = ground.watch(&self.worker.shared) => Err(refused.closing()),
                    answered = call.answer(self.worker, headers) => answered,
                }
            })
            .await?
        } else {
            call.answer(self.worker, headers).await?
        };
        let (status, mut headers, incoming) = call.answered(head)?;
        if let Some(fetch) = &mut ready.fetch {
            fetch.answered(&headers);
        }
        if let Some(place) = ready.touches.filter(|_| status.is_success() || status.is_redirection()) {
            self.worker.shared.cache.changed(place);
        }
        let (gates, closed) = (&ready.route.gates, ready.admission.closed);
        let withheld = |refused| Failed::Withheld(status, refused);
        let filter = gates.treat_answer(closed, &ready.parts.method, status, &mut headers);
        let mut download = Download::new(incoming, filter.map_err(withheld)?);
        let ahead = download.look_ahead().await;
        ahead.map_err(|e| withheld(body::broken_answer(e, &ready.route.upstream)))?;
        Ok((status, headers, download))
    }

    pub(super) fn send(&self, client: &Client, ready: &mut Ready, call: &mut Call) {
        let upload = ready.upload.take();
        let trace = self.say_trace(ready);
        let Parts {
            method,
            uri,
            headers: said,
            ..
        } = &ready.parts;
        let (key, profile) = (Short::id(&ready.caller.key.id), &ready.admission.terms.profile);
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => said.get(header::HOST).map(HeaderValue::as_bytes),
        };
        let granted = ready.caller.granted.as_ref().map(|g| g.header(profile));
        let features = granted.as_ref().unwrap_or(&profile.features_header);
        // An answer that several share is made without knowing which of them asked.
        let shared_by = ready
            .fetch
            .as_ref()
            .and(ready.route.cache.as_ref())
            .map(|rule| rule.shared_by);
        let token = self.identity_token(ready, features);
        let own = Own::new(Told {
            client,
            caller: &ready.caller,
            route: &ready.route,
            profile,
            features,
            token: token.as_ref().map_or(b"", |t| t.as_bytes()),
            key: key.as_bytes(),
            request_id: self.id_text.as_bytes(),
            host,
            shared_by,
        })
        .traced(trace.as_ref().map(Short::as_bytes));
        // Absolute form: the upstream gets the path and the query alone, byte for byte.
        let asked = uri.path_and_query().map_or("/", |p| p.as_str());
        let rewritten = ready.route.target.as_ref().map(|target| target.apply(uri));
        let head = RequestHead {
            method,
            target: rewritten.as_deref().unwrap_or(asked),
            client: said,
            own: own.lines(),
            edits: &ready.route.request_edits,
            length: ready.length,
            websocket: self.websocket,
        };
        call.send(&head, upload);
    }

    /// What the upstream is told of the trace, in place of what the caller said; nothing where the route keeps it back, nor a
    /// trace of the caller's choice for an answer that others get, too.
    fn say_trace(&self, ready: &mut Ready) -> Option<Short> {
        let part = self.seen.as_ref()?.part()?;
        let headers = &mut ready.parts.headers;
        headers.remove(TRACEPARENT);
        if part.begins() {
            headers.remove(TRACESTATE);
        }
        let rule = ready.fetch.as_ref().and(ready.route.cache.as_ref());
        let shared = rule.is_some_and(|rule| rule.shared_by.is_shared()) && !part.begins();
        let kept_back = ready.route.request_edits.drops(&HeaderName::from_static(TRACEPARENT));
        (!kept_back && !shared).then(|| Short::id(&part.told()))
    }

    /// Who is calling, signed, where the upstream is told so.
    pub(super) fn identity_token(&self, ready: &Ready, features: &HeaderValue) -> Option<HeaderValue> {
        let upstream = &ready.route.upstream;
        if upstream.identity != IdentityForm::Jwt {
            return None;
        }
        let shared = &self.worker.shared;
        let routes = shared.tables.routes.load();
        let about = About {
            caller: &ready.caller,
            profile: &ready.admission.terms.profile,
            features,
            upstream: (upstream.number, &upstream.slug),
            gateway_url: routes.as_ref().map_or("", |r| r.told.gateway_url.as_str()),
        };
        shared.identities.token(&about, self.machine_now.unix_s())
    }
}
