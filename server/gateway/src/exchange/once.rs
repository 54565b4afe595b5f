//! Requests that are done once, between admission and the upstream.

use super::forward::Failed;
use super::{Early, Exchange, Ready};
use crate::authenticate::Caller;
use crate::body::{self, Answer, BodyError};
use crate::cache;
use crate::download::Download;
use crate::headers::Short;
use crate::listen::Client;
use crate::memory::Taken;
use crate::once::{self, Claim, Claimed, IDEMPOTENT_REPLAYED, Owner, Place, Saved};
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, header};
use model::KeyId;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What there is for a request on a route with idempotency.
pub(super) enum Turn {
    /// It has no key, and is done like others; or one that is free, and may not be made.
    Plain,
    /// It is the first with its key.
    First(Claim),
    Replay(Arc<Saved>),
}

impl Exchange<'_> {
    /// Where the answer to a request with a key is kept; none where it has none, or the route looks at none.
    fn place(
        &self,
        client: &Client,
        (route, caller): (&Route, &Caller),
        parts: &Parts,
    ) -> Result<Option<Place>, Refused> {
        let policy = route.idempotency.as_ref().filter(|_| !self.grpc && !self.websocket);
        let Some(policy) = policy else { return Ok(None) };
        let Some(key) = once::key(policy, parts)? else {
            return Ok(None);
        };
        let account = &caller.key.account;
        let owner = Owner {
            consumer: account.consumer,
            address: (caller.key.id == KeyId::NONE).then_some(client.address),
            environment: account.environment,
            route: route.number,
        };
        Ok(Some(once::place(&owner, key)))
    }

    /// Whether a request has a key that was used before.
    pub(super) fn may_be_repeat(&self, client: &Client, called: (&Route, &Caller), parts: &Parts) -> bool {
        let shared = &self.worker.shared;
        let place = self.place(client, called, parts).ok().flatten();
        place.is_some_and(|place| shared.once.is_taken(place, shared.clock.steady_ns()))
    }

    /// Claims the request's key, if it has one and may be made. Reads its body.
    pub(super) async fn claim(&self, client: &Client, ready: &mut Ready) -> Result<Turn, Refused> {
        let Some(place) = self.place(client, (&ready.route, &ready.caller), &ready.parts)? else {
            return Ok(Turn::Plain);
        };
        let (shared, account) = (&self.worker.shared, &ready.caller.key.account);
        let body = match &mut ready.upload {
            Some(upload) => {
                let room = Taken::nothing(&shared.bodies, account);
                let read = upload.read(once::BODY_MOST, room, shared.limits.whole_body_time);
                read.await.map_err(body::refused)?
            }
            None => Bytes::new(),
        };
        let hidden = ready.route.gates.hidden(ready.admission.closed);
        let print = once::print(&ready.parts, &body, &hidden);
        let now_ns = shared.clock.steady_ns();
        let claimed = if ready.admission.unpaid.is_some() {
            match shared.once.look(place, print, now_ns) {
                Some(claimed) => claimed,
                None => return Ok(Turn::Plain),
            }
        } else {
            let keep_s = ready.route.idempotency.as_ref().map_or(0, |policy| policy.keep_s);
            shared.once.claim(place, print, keep_s, now_ns)
        };
        if let Some(refused) = once::refused(&claimed) {
            return Err(refused);
        }
        Ok(match claimed {
            Claimed::Mine(claim) => Turn::First(claim),
            Claimed::Answered(saved) => Turn::Replay(saved),
            Claimed::Running | Claimed::Other | Claimed::Lost | Claimed::Full => Turn::Plain,
        })
    }

    /// Phase five for a repeat: the first answer, which costs nothing.
    pub(super) fn replay(&self, ready: Ready, saved: &Saved) -> Result<Response<Answer>, Early> {
        let mut headers = saved.headers.clone();
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        let body = (!saved.body.is_empty()).then(|| saved.body.clone());
        self.answer_held(ready, (saved.status, headers, body), false)
    }

    /// Does a request to its end in a task of its own, so that a client that goes away does not leave open whether it
    /// was done.
    pub(super) async fn first(&self, client: &Client, ready: Ready, claim: Claim) -> Result<Response<Answer>, Early> {
        let (worker, client) = (Arc::clone(self.worker), client.clone());
        let (id, now, machine_now, now_ns, started) = (self.id, self.now, self.machine_now, self.now_ns, self.started);
        let passed_ns = self.passed_ns.load(Ordering::Relaxed);
        let (route, seen) = (self.route, self.seen.clone());
        let task = self.worker.detached.spawn(async move {
            let exchange = Exchange {
                worker: &worker,
                id,
                id_text: Short::id(&id),
                now,
                machine_now,
                now_ns,
                started,
                route,
                seen,
                grpc: false,
                websocket: false,
                passed_ns: AtomicU64::new(passed_ns),
            };
            exchange.done_once(&client, ready, claim).await
        });
        task.await.unwrap_or_else(|_| {
            let refused = Refused::new(Refusal::Overloaded, "The gateway is stopping.");
            Err(Early::new(None, refused.retry_after(1)))
        })
    }

    async fn done_once(&self, client: &Client, mut ready: Ready, claim: Claim) -> Result<Response<Answer>, Early> {
        if let Err(refused) = self.let_in(&mut ready).await {
            return Err(Early::new(Some(ready.open), refused));
        }
        let policy = ready.route.idempotency.clone().unwrap_or_default();
        let clock = &self.worker.shared.clock;
        let (status, headers, mut incoming) = match self.forward(client, &mut ready).await {
            Ok(answered) => answered,
            Err(failed) => {
                if failed.may_be_done(&policy) {
                    claim.end(None, clock.steady_ns());
                }
                return Err(self.failed(ready, failed));
            }
        };
        if !once::is_final(&policy, status) {
            drop(claim);
            return self.answer(ready, status, headers, incoming, None);
        }
        let most = usize::try_from(policy.max_answer_bytes).unwrap_or(usize::MAX);
        let gathered = if is_gathered(&headers, &incoming, most) {
            gather(&mut incoming, most).await
        } else {
            Ok(None)
        };
        match gathered {
            Ok(Some(body)) => {
                let saved = Arc::new(Saved {
                    status,
                    headers: cache::copied(&headers, clock.security_now()),
                    body,
                });
                let idle = self.worker.shared.limits.idle_per_upstream;
                incoming.give_back(&self.worker.pool, Instant::now(), idle);
                let body = (!saved.body.is_empty()).then(|| saved.body.clone());
                let answered = self.answer_held(ready, (status, headers, body), true);
                // What could not be written down is not given for nothing to who asks again.
                claim.end(answered.is_ok().then_some(saved), clock.steady_ns());
                answered
            }
            Ok(None) => {
                claim.end(None, clock.steady_ns());
                self.answer(ready, status, headers, incoming, None)
            }
            Err(error) => {
                claim.end(None, clock.steady_ns());
                let refused = body::broken_answer(error, &ready.route.upstream);
                Err(self.failed(ready, Failed::Withheld(status, refused)))
            }
        }
    }
}

/// Whether an answer may be one that is kept, by its head.
fn is_gathered(headers: &HeaderMap, incoming: &Download, most: usize) -> bool {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|l| l.to_str().ok()?.parse().ok());
    let fits = length.is_none_or(|l: usize| l <= most);
    fits && incoming.ends_for_sure() && !super::answer::is_event_stream(headers)
}

/// The whole body; none when it is larger than `most`, and then it can be read from its beginning.
async fn gather(incoming: &mut Download, most: usize) -> Result<Option<Bytes>, BodyError> {
    let mut body = BytesMut::new();
    if let Some(whole) = incoming.take_whole() {
        body.extend_from_slice(&whole);
    }
    while body.len() <= most && !incoming.is_end() {
        match poll_fn(|cx| incoming.poll_data(cx)).await.transpose()? {
            Some(data) => body.extend_from_slice(&data),
            None => break,
        }
    }
    if body.len() > most {
        incoming.put_back(body.freeze());
        return Ok(None);
    }
    Ok(Some(Bytes::copy_from_slice(&body)))
}
