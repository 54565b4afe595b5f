//! A request, through the five phases in order.

mod agree;
mod answer;
mod cached;
mod call;
mod forward;
mod once;

pub(crate) use call::check_countable;

use crate::admit::Admission;
use crate::authenticate::Caller;
use crate::body::Answer;
use crate::cache::{Ask, Fetch};
use crate::client::ClientBody;
use crate::feature_gates::Passed;
use crate::headers::{self, Short};
use crate::http1::Invalid;
use crate::identity::JWKS_PATH;
use crate::listen::{Client, Peer};
use crate::metrics::{Kind, Phase};
use crate::rate::Stand;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::{self, Route, Routes};
use crate::seen::{Entry, Outcome};
use crate::upload::Upload;
use crate::upstream::BodyLength;
use crate::worker::Worker;
use crate::{cors, grpc, quote, tunnel};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use model::{Reading, RequestId, Time};
use once::Turn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is known of a request from its first moment.
struct Exchange<'a> {
    worker: &'a Arc<Worker>,
    id: RequestId,
    id_text: Short,
    /// Business time.
    now: Time,
    /// The machine's time.
    machine_now: Time,
    /// Steady time, in nanoseconds.
    now_ns: u64,
    started: Instant,
    /// When the last phase ended, in nanoseconds since then.
    passed_ns: AtomicU64,
    /// Its number, once it is found.
    route: Option<u16>,
    /// What is told of it, where somebody looks.
    seen: Option<Arc<Entry>>,
    /// Whether refusals are said as gRPC says them.
    grpc: bool,
    /// Whether it is a WebSocket handshake.
    websocket: bool,
}

/// A request that passed the first three phases.
struct Ready {
    route: Arc<Route>,
    caller: Caller,
    admission: Admission,
    open: Open,
    parts: Parts,
    length: BodyLength,
    upload: Option<Upload>,
    /// What it says about kept answers, where the route keeps some.
    ask: Option<Box<Ask>>,
    /// The right to keep the answer.
    fetch: Option<Box<Fetch>>,
    /// Why kept answers were not looked through.
    went_by: Option<&'static str>,
    /// Gates that it passed by its caller's features.
    passed: Passed,
    /// Where a change of its resource is noted, when it may make one.
    touches: Option<usize>,
}

/// The life of a request.
pub(crate) async fn handle(
    worker: &Arc<Worker>,
    peer: &Peer,
    parts: Parts,
    body: Option<ClientBody>,
) -> Response<Answer> {
    let mut exchange = Exchange::new(worker);
    exchange.watch(peer, Some(&parts));
    if parts.uri.path() == JWKS_PATH {
        let keys = worker
            .shared
            .identities
            .answer(&parts.method, exchange.machine_now.unix_s());
        return exchange.plain(keys.map(|body| Answer::Whole(Some(body))));
    }
    exchange.grpc = grpc::is_call(&parts);
    let Some(routes) = worker.shared.tables.routes.load_full() else {
        let refused = Refused::new(Refusal::NotReady, "The gateway has not been told its routes yet.");
        return exchange.refuse(refused.retry_after(1), None, "");
    };
    if let Some(answer) = exchange.preflight(&routes, &parts) {
        return answer;
    }
    let route = match find(&routes, &parts, body.is_some()) {
        Ok(route) => route,
        Err(refused) => return exchange.refuse(refused, None, &routes.portal_url),
    };
    exchange.route = Some(route.number);
    if let Some(seen) = &exchange.seen {
        seen.found(&route);
    }
    exchange.passed(Phase::Route, Instant::now());
    exchange.websocket = route.websocket.is_some() && tunnel::is_asked_for(&parts);
    let client = peer.client(&parts.headers, &worker.shared.listening.trusted);
    let origin = route
        .cors
        .as_ref()
        .and_then(|_| parts.headers.get(header::ORIGIN).cloned());
    let page = match exchange.websocket {
        true => cors::check_handshake(&route, &parts, client.scheme),
        false => Ok(()),
    };
    let answered = match page {
        Ok(()) => exchange.answered(&client, Arc::clone(&route), parts, body).await,
        Err(refused) => Err(Early::new(None, refused)),
    };
    let mut answer = answered.unwrap_or_else(|early| exchange.refuse_early(early, &routes.portal_url));
    if exchange.websocket && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // What came behind the handshake was meant for another protocol.
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(cors) = &route.cors {
        cors.say(origin.as_ref(), answer.headers_mut());
    }
    answer
}

/// The answer to what is no request; `parts` is its head, where it could be read. Without one nobody knows where the next
/// request begins, and the connection is closed.
pub(crate) fn malformed(worker: &Arc<Worker>, peer: &Peer, parts: Option<&Parts>, why: Invalid) -> Response<Answer> {
    let routes = worker.shared.tables.routes.load_full();
    let portal = routes.as_ref().map_or("", |r| r.portal_url.as_str());
    let detail = format!("This cannot be read as a request: {why}.");
    let mut exchange = Exchange::new(worker);
    exchange.watch(peer, parts);
    exchange.grpc = parts.is_some_and(grpc::is_call);
    let refused = Refused::new(Refusal::BadRequest, detail);
    let refused = if parts.is_some() { refused } else { refused.closing() };
    exchange.refuse(refused, None, portal)
}

/// A refusal, with what there is to record of it.
struct Early(Box<(Option<Open>, Refused)>);

impl Early {
    fn new(open: Option<Open>, refused: Refused) -> Self {
        Self(Box::new((open, refused)))
    }
}

impl<'a> Exchange<'a> {
    fn new(worker: &'a Arc<Worker>) -> Self {
        let Reading {
            now,
            security_now: machine_now,
            steady_ns: now_ns,
        } = worker.shared.clock.reading();
        worker.date.set(machine_now);
        let id = RequestId::new(now, &worker.random);
        Self {
            worker,
            id,
            id_text: Short::id(&id),
            now,
            machine_now,
            now_ns,
            started: Instant::now(),
            passed_ns: AtomicU64::new(0),
            route: None,
            seen: None,
            grpc: false,
            websocket: false,
        }
    }

    /// Gathers what operators want to know of it, where they do.
    fn watch(&mut self, peer: &Peer, parts: Option<&Parts>) {
        let shared = &self.worker.shared;
        if shared.access_log.is_none() && shared.tracer.is_none() {
            return;
        }
        let asked = parts.map(|p| (peer.client(&p.headers, &shared.listening.trusted), p));
        let address = asked.as_ref().map_or(peer.address(), |(client, _)| client.address);
        let mut entry = Entry::new(self.id, self.machine_now, address, parts);
        if let Some(tracer) = &shared.tracer {
            let asked = asked.as_ref().map(|(client, parts)| (client.scheme, *parts));
            entry = entry.traced(|said| tracer.begin((self.id, self.started), said, asked, &self.worker.random));
        }
        self.seen = Some(Arc::new(entry));
    }

    /// An answer to nobody known: counted here, because no record of it is written.
    fn uncalled(&self, status: StatusCode, refusal: Option<Refusal>) {
        self.worker.metrics.request(Kind {
            route: self.route,
            plan: 0,
            status: status.as_u16(),
            refusal,
        });
        let took = self.started.elapsed();
        self.worker.metrics.ended(took);
        if let Some(seen) = &self.seen {
            let status = status.as_u16();
            self.worker.shared.tell(seen, Outcome::of_nobody(status, refusal, took));
        }
    }

    /// An answer of the gateway's own for which it does not matter who asks.
    fn plain(&self, mut answer: Response<Answer>) -> Response<Answer> {
        self.uncalled(answer.status(), None);
        answer.headers_mut().insert(headers::X_REQUEST_ID, self.id_text.value());
        answer
    }

    /// A phase is over; how long it took.
    fn passed(&self, phase: Phase, now: Instant) -> Duration {
        let now_ns = u64::try_from((now - self.started).as_nanos()).unwrap_or(u64::MAX);
        let before_ns = self.passed_ns.load(Ordering::Relaxed);
        self.passed_ns.store(now_ns, Ordering::Relaxed);
        let took = Duration::from_nanos(now_ns.saturating_sub(before_ns));
        self.worker.metrics.passed(phase, took);
        if let Some(seen) = &self.seen {
            seen.passed(phase, took);
        }
        took
    }

    /// The answer to a page's question whether it may call, where the route lets pages call; it needs no key and counts
    /// for nothing. Every other `OPTIONS` is a request like others.
    fn preflight(&self, routes: &Routes, parts: &Parts) -> Option<Response<Answer>> {
        let (_, answered) = cors::preflight(routes, parts)?;
        Some(match answered {
            Ok(answer) => self.plain(answer.map(|()| Answer::Whole(None))),
            Err(refused) => self.refuse(refused, None, &routes.portal_url),
        })
    }

    /// All phases, for a request whose route is found.
    async fn answered(
        &self,
        client: &Client,
        route: Arc<Route>,
        parts: Parts,
        body: Option<ClientBody>,
    ) -> Result<Response<Answer>, Early> {
        if quote::is_asked(&parts.headers).map_err(|r| Early::new(None, r))? {
            return Box::pin(self.quote(client, &route, parts)).await;
        }
        let mut ready = self.prepare(client, route, parts, body)?;
        if ready.admission.lack.is_some()
            && let Err(refused) = Box::pin(self.wait_for_lease(client, &mut ready)).await
        {
            return Err(Early::new(Some(ready.open), refused));
        }
        if ready.admission.stand != Stand::Alone
            && let Err(refused) = Box::pin(self.agree(client, &mut ready)).await
        {
            return Err(Early::new(Some(ready.open), refused));
        }
        // A body that comes slowly takes no place while it is waited for.
        if let Err(refused) = call::pass_gates(&mut ready).await {
            return Err(Early::new(Some(ready.open), refused));
        }
        if let Some(ask) = ready.ask.take() {
            match Box::pin(self.kept_or_fetch(client, &mut ready, ask)).await {
                Ok(Some(kept)) => {
                    self.passed(Phase::Admit, Instant::now());
                    return self.answer_kept(ready, &kept);
                }
                Ok(None) => {}
                Err(refused) => return Err(Early::new(Some(ready.open), refused)),
            }
        }
        if ready.route.idempotency.is_some() {
            match Box::pin(self.claim(client, &mut ready)).await {
                Ok(Turn::Plain) => {}
                Ok(Turn::First(claim)) => return Box::pin(self.first(client, ready, claim)).await,
                Ok(Turn::Replay(saved)) => return self.replay(ready, &saved),
                Err(refused) => return Err(Early::new(Some(ready.open), refused)),
            }
        }
        // Nothing was there for it that costs nothing.
        if let Some(refused) = ready.admission.unpaid.take() {
            return Err(Early::new(Some(ready.open), *refused));
        }
        if let Err(refused) = self.let_in(&mut ready).await {
            return Err(Early::new(Some(ready.open), refused));
        }
        self.passed(Phase::Admit, Instant::now());
        if ready.route.cache.is_some() {
            return Box::pin(self.fetch(client, ready)).await;
        }
        match self.forward(client, &mut ready).await {
            Ok((status, headers, incoming)) => self.answer(ready, status, headers, incoming, None),
            Err(failed) => Err(self.failed(ready, failed)),
        }
    }
}

/// Phase one, with what must hold before a path means anything.
fn find(routes: &Routes, parts: &Parts, has_body: bool) -> Result<Arc<Route>, Refused> {
    route::check_host(parts.version, &parts.uri, &parts.headers)?;
    let found = routes.find(&parts.method, &parts.uri, &parts.headers);
    tunnel::choose(found, parts, has_body)
}
