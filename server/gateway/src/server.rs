//! A worker thread: its sockets, and the five phases in order for each request.

mod cached;
mod once;

use self::once::Turn;
use crate::admit::{self, Admission};
use crate::authenticate::{self, Arrival, Caller, Callers, Known};
use crate::body::{self, Answer, Progress, Stream, Upload};
use crate::cache::{Ask, Cache, Fetch, Fill};
use crate::client::ClientBody;
use crate::config::{Limits, Peppers};
use crate::cors;
use crate::date::Date;
use crate::download::Download;
use crate::feature_gates;
use crate::gate::{Gate, Passes, Shed};
use crate::grpc;
use crate::headers::{self, Short};
use crate::http1::Invalid;
use crate::identity::{About, Identities, JWKS_PATH};
use crate::ledger::Ledger;
use crate::listen::{self, Client, Crowd, Listening, Peer};
use crate::metrics::{Kind, Metrics, Phase};
use crate::once::Once;
use crate::own::{Own, Told};
use crate::quote;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::{self, Route, Routes};
use crate::seen::{AccessLog, Entry, Outcome};
use crate::stop::Stop;
use crate::tables::Tables;
use crate::tunnel;
use crate::upstream::{BodyLength, Call, Pool, RequestHead};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use model::policy::IdentityForm;
use model::{Clock, Random, RequestId, Time};
use socket2::SockRef;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// Wait after a failed accept: most often the process is out of descriptors, and asking at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle upstream connections are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Random bytes fetched at once: enough for 256 request ids.
const RANDOM_BYTES: usize = 4096;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) limits: Limits,
    pub(crate) tables: Arc<Tables>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) peppers: Peppers,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) callers: Callers,
    pub(crate) identities: Identities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) listening: Listening,
    pub(crate) cache: Arc<Cache>,
    pub(crate) once: Arc<Once>,
    /// Of the worker threads, in their order.
    pub(crate) gates: Vec<Arc<Gate>>,
}

impl Shared {
    /// A request is over.
    pub(crate) fn tell(&self, seen: &Arc<Entry>, outcome: Outcome) {
        if let Some(log) = &self.access_log {
            log.tell(seen, outcome);
        }
    }

    pub(crate) fn known(&self) -> Known<'_> {
        Known {
            tables: &self.tables,
            peppers: &self.peppers,
            callers: &self.callers,
        }
    }
}

/// What one worker thread has for itself.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) date: Date,
    /// Bounds the requests in flight on this thread.
    gate: Arc<Gate>,
    random: Buffered,
}

impl Worker {
    /// A worker with nothing open.
    pub(crate) fn new(shared: Arc<Shared>, gate: Arc<Gate>, metrics: Arc<Metrics>, random: Arc<dyn Random>) -> Self {
        Self {
            gate,
            shared,
            pool: Pool::default(),
            metrics,
            date: Date::default(),
            random: Buffered {
                source: random,
                bytes: Mutex::new(Vec::new()),
            },
        }
    }
}

/// Randomness fetched in large pieces: one call of the system for many request ids.
struct Buffered {
    source: Arc<dyn Random>,
    bytes: Mutex<Vec<u8>>,
}

impl Random for Buffered {
    fn fill(&self, out: &mut [u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() < out.len() {
            bytes.resize(RANDOM_BYTES.max(out.len()), 0);
            self.source.fill(&mut bytes);
        }
        let rest = bytes.len() - out.len();
        out.copy_from_slice(&bytes[rest..]);
        bytes.truncate(rest);
    }
}

/// Accepts until told to stop, then waits for open requests for as long as it is told.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    listener: TcpListener,
    mut open: watch::Receiver<bool>,
    mut stop: watch::Receiver<Option<Stop>>,
) {
    tokio::select! {
        _ = open.wait_for(|open| *open) => {}
        _ = stop.changed() => return,
    }
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let limit = worker.shared.limits.connections_per_thread;
                    let stall = Some(worker.shared.limits.write_stall);
                    let tuned = stream.set_nodelay(true).and(SockRef::from(&stream).set_tcp_user_timeout(stall));
                    if alive.strong_count() > limit || tuned.is_err() {
                        continue;
                    }
                    let Some(seat) = worker.shared.crowd.seat(peer.ip()) else { continue };
                    let place = (seat, alive.clone());
                    tokio::spawn(listen::connection(Arc::clone(&worker), stream, peer.ip(), stop.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = stop.changed() => break,
            _ = housekeeping.tick() => worker.pool.expire(),
        }
    }
    drop(listener);
    drop(alive);
    let drain = (*stop.borrow()).unwrap_or_default().drain;
    if tokio::time::timeout(drain, all_gone.recv()).await.is_err() {
        tracing::warn!("requests were still open at the end of the drain time");
    }
}

/// What is known of a request from its first moment.
struct Exchange<'a> {
    worker: &'a Arc<Worker>,
    id: RequestId,
    id_text: Short,
    /// Business time.
    now: Time,
    /// The machine's time.
    machine_now: Time,
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
    exchange.websocket = route.websocket && tunnel::is_asked_for(&parts);
    let client = peer.client(&parts.headers, &worker.shared.listening.trusted);
    let origin = route
        .cors
        .as_ref()
        .and_then(|_| parts.headers.get(header::ORIGIN).cloned());
    let answered = exchange.answered(&client, Arc::clone(&route), parts, body).await;
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

/// The answer to what is no request.
pub(crate) fn malformed(worker: &Arc<Worker>, peer: &Peer, why: Invalid) -> Response<Answer> {
    let routes = worker.shared.tables.routes.load_full();
    let portal = routes.as_ref().map_or("", |r| r.portal_url.as_str());
    let detail = format!("This cannot be read as a request: {why}.");
    let mut exchange = Exchange::new(worker);
    exchange.watch(peer, None);
    exchange.refuse(Refused::new(Refusal::BadRequest, detail).closing(), None, portal)
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
        let now = worker.shared.clock.now();
        let machine_now = worker.shared.clock.security_now();
        worker.date.set(machine_now);
        let id = RequestId::new(now, &worker.random);
        Self {
            worker,
            id,
            id_text: Short::id(&id),
            now,
            machine_now,
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
        if shared.access_log.is_some() {
            let trusted = &shared.listening.trusted;
            let client = parts.map_or(peer.address(), |p| peer.client(&p.headers, trusted).address);
            self.seen = Some(Arc::new(Entry::new(self.id, self.machine_now, client, parts)));
        }
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
        let (method, origin) = cors::asked(parts)?;
        let route = routes.find(&method, &parts.uri, &parts.headers).ok()?;
        let answered = route.cors.as_ref()?.preflight(origin, &method);
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
            return self.quote(client, &route, parts);
        }
        let mut ready = self.prepare(client, route, parts, body)?;
        // A body that comes slowly takes no place while it is waited for.
        if let Err(refused) = pass_gates(&mut ready).await {
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
        if let Err(refused) = self.let_in(&mut ready).await {
            return Err(Early::new(Some(ready.open), refused));
        }
        self.passed(Phase::Admit, Instant::now());
        match self.forward(client, &mut ready).await {
            Ok((status, headers, incoming)) if ready.route.cache.is_some() => {
                self.answer_fetched(ready, status, headers, incoming)
            }
            Ok((status, headers, incoming)) => self.answer(ready, status, headers, incoming, None),
            Err(refused) => Err(Early::new(Some(ready.open), refused)),
        }
    }

    /// Phase two: who calls, and whether what they do can be written down.
    fn caller(&self, client: &Client, route: &Route, parts: &mut Parts) -> Result<(Caller, Open, u64), Early> {
        let shared = &self.worker.shared;
        route.check_address(client.address).map_err(|r| Early::new(None, r))?;
        let arrival = Arrival {
            client: client.address,
            now: self.now,
            machine_now: self.machine_now,
            now_ns: shared.clock.steady_ns(),
        };
        let who = authenticate::authenticate(shared.known(), &route.auth, parts, arrival);
        let caller = who.map_err(|(caller, r)| Early::new(caller.map(|c| self.open(&c, route)), r))?;
        let open = self.open(&caller, route);
        if !shared.ledger.writable() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage cannot be written down just now.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        Ok((caller, open, arrival.now_ns))
    }

    /// Says what the call would cost, in place of making it. The record says that it was asked: 200, and no units.
    fn quote(&self, client: &Client, route: &Route, mut parts: Parts) -> Result<Response<Answer>, Early> {
        let shared = &self.worker.shared;
        let (caller, mut open, now_ns) = self.caller(client, route, &mut parts)?;
        let asked = admit::Request {
            caller: &caller,
            route,
            method: route::known_method(&parts.method),
            address: client.address,
            parts: &parts,
        };
        let foresight = match admit::foresee(&asked, &shared.tables, self.now, now_ns) {
            Ok(foresight) => foresight,
            Err(refused) => return Err(Early::new(Some(open), refused)),
        };
        let routes = shared.tables.routes.load();
        let told = routes.as_ref().map(|r| &r.told);
        let meter = told.and_then(|t| t.meters.iter().find(|m| m.number == route.meter));
        let meter = meter.map_or("", |m| m.slug.as_str());
        let portal = told.map_or("", |t| t.portal_url.as_str());
        let body = Bytes::from(quote::body(&foresight, route, meter, portal).to_string());
        open.answered(StatusCode::OK.as_u16(), false);
        open.sent(body.len());
        self.worker
            .metrics
            .answered(route.number, StatusCode::OK, self.started.elapsed());
        if open.write().is_err() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        let mut answer = Response::new(Answer::Whole(Some(body)));
        let out = answer.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        out.insert(headers::X_REQUEST_ID, self.id_text.value());
        foresight.add_headers(out, route, self.now);
        Ok(answer)
    }

    /// Phases two and three.
    fn prepare(
        &self,
        client: &Client,
        route: Arc<Route>,
        mut parts: Parts,
        body: Option<ClientBody>,
    ) -> Result<Ready, Early> {
        let shared = &self.worker.shared;
        let (caller, mut open, now_ns) = self.caller(client, &route, &mut parts)?;
        self.passed(Phase::Authenticate, Instant::now());
        let length = match body.as_ref().map(ClientBody::left) {
            None => BodyLength::Absent,
            Some(None) => BodyLength::Chunked,
            Some(Some(bytes)) => BodyLength::Exact(bytes),
        };
        let most = route.max_request_bytes.unwrap_or(shared.limits.body_bytes);
        if matches!(length, BodyLength::Exact(bytes) if bytes > most) {
            return Err(Early::new(Some(open), body::too_large().closing()));
        }
        let asked = admit::Request {
            caller: &caller,
            route: &route,
            method: route::known_method(&parts.method),
            address: client.address,
            parts: &parts,
        };
        let mut admission = match admit::admit(&asked, &shared.tables, self.now, now_ns) {
            Ok(admission) => admission,
            Err(refused) => return Err(Early::new(Some(open), refused)),
        };
        let has_body = !matches!(length, BodyLength::Absent | BodyLength::Exact(0)) || self.websocket;
        let ask = route.cache.as_ref().map(|_| Box::new(Ask::of(&parts, has_body)));
        let touches = (route.changes && !parts.method.is_safe())
            .then(|| shared.cache.place(caller.key.account.environment, &parts));
        if route.gates.hides(admission.closed) {
            route.gates.ask_plainly(admission.closed, &mut parts.headers);
        }
        let upload = body.map(|body| {
            let progress = Arc::<Progress>::default();
            let upload = Upload::new(body, Arc::clone(&progress), most, &shared.limits);
            (upload, progress)
        });
        let (upload, progress) = upload.unzip();
        open.admitted(&mut admission, progress);
        Ok(Ready {
            route,
            caller,
            admission,
            open,
            parts,
            length,
            upload,
            ask,
            fetch: None,
            went_by: None,
            touches,
        })
    }

    fn open(&self, caller: &Caller, route: &Route) -> Open {
        let place = (route.number, route.meter);
        let open = Open::new(Arc::clone(self.worker), caller, place, self.id, self.now, self.started);
        open.seen_by(self.seen.clone())
    }

    /// Waits for a place at the upstream and on this thread, where they are taken. The upstream's comes first, so that a
    /// queue before one upstream takes no place of the thread's.
    async fn let_in(&self, ready: &mut Ready) -> Result<(), Refused> {
        let shared = &self.worker.shared;
        let (priority, upstream) = (ready.admission.terms.profile.priority, &ready.route.upstream);
        let consumer = ready.caller.key.account.consumer;
        let shed = |Shed| {
            let detail = "More is asked for than can be served, and this request waited too long, or others go first.";
            Refused::new(Refusal::Overloaded, detail).retry_after(1)
        };
        let mut passes = Passes::default();
        if let Some(wait) = upstream.max_wait
            && let Some(gate) = shared.tables.gate(upstream.number)
        {
            passes[0] = Some(gate.enter(priority, consumer, wait).await.map_err(shed)?);
        }
        let wait = shared.limits.in_flight_wait;
        passes[1] = Some(self.worker.gate.enter(priority, consumer, wait).await.map_err(shed)?);
        ready.open.let_in(passes);
        Ok(())
    }

    /// Phase four: the request goes to its upstream. What is the client's to say goes with it, and what is ours.
    async fn forward(&self, client: &Client, ready: &mut Ready) -> Result<(StatusCode, HeaderMap, Download), Refused> {
        let upstream = &ready.route.upstream;
        let consumer = ready.caller.key.account.consumer;
        let canary = upstream
            .balance
            .wants_canary(upstream.number, &ready.parts.headers, consumer);
        let mut call = Call::open(self.worker, upstream, self.started, canary, self.seen.as_ref()).await?;
        self.send(client, ready, &mut call);
        let headers = std::mem::take(&mut ready.parts.headers);
        let (status, mut headers, incoming) = call.answer(self.worker, headers).await?;
        if let Some(fetch) = &mut ready.fetch {
            fetch.answered(&headers);
        }
        if let Some(place) = ready.touches.filter(|_| status.is_success() || status.is_redirection()) {
            self.worker.shared.cache.changed(place);
        }
        let (gates, closed) = (&ready.route.gates, ready.admission.closed);
        let filter = gates.treat_answer(closed, &ready.parts.method, status, &mut headers)?;
        let mut download = Download::new(incoming, filter);
        download
            .look_ahead()
            .await
            .map_err(|e| body::broken_answer(e, &ready.route.upstream))?;
        Ok((status, headers, download))
    }

    fn send(&self, client: &Client, ready: &mut Ready, call: &mut Call) {
        let upload = ready.upload.take();
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
        });
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

    /// Who is calling, signed, where the upstream is told so.
    fn identity_token(&self, ready: &Ready, features: &HeaderValue) -> Option<HeaderValue> {
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

    /// Phase five: the answer's head and its record.
    fn answer(
        &self,
        ready: Ready,
        status: StatusCode,
        mut headers: HeaderMap,
        mut incoming: Download,
        mut fill: Option<Box<Fill>>,
    ) -> Result<Response<Answer>, Early> {
        let Ready {
            route,
            admission,
            mut open,
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
        route.answer_edits.apply(&mut headers);
        admission.add_headers(&mut headers, &route, counts, self.now);
        headers.insert(headers::X_REQUEST_ID, self.id_text.value());
        let whole = incoming.take_whole();
        if let Some(data) = &whole {
            open.sent(data.len());
            if let Some(fill) = &mut fill {
                fill.push(data);
            }
        }
        let ended = incoming.is_end();
        if (ended || is_event_stream(&headers)) && open.write().is_err() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        let body = if switched {
            let mut tunnel = incoming.into_tunnel().map(Box::new);
            if let Some(tunnel) = &mut tunnel {
                tunnel.ends_with(body::watch(&open), open.take_places());
            }
            Answer::Tunnel(tunnel)
        } else if ended {
            let most = worker.shared.limits.idle_per_upstream;
            incoming.give_back(&worker.pool, now, most);
            if let Some(fill) = fill {
                fill.finish();
            }
            Answer::Whole(whole)
        } else {
            Answer::Stream(Box::new(Stream::new(incoming, open, fill)))
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        self.passed(Phase::Record, Instant::now());
        Ok(answer)
    }

    fn refuse_early(&self, early: Early, portal: &str) -> Response<Answer> {
        let (open, refused) = *early.0;
        self.refuse(refused, open, portal)
    }

    /// Says no, in the record, in the metrics and to the client.
    fn refuse(&self, refused: Refused, open: Option<Open>, portal: &str) -> Response<Answer> {
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

fn is_event_stream(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|k| k.len() >= 17 && k[..17].eq_ignore_ascii_case(b"text/event-stream"))
}

/// Reads and checks a body in which something may need a feature that the caller has not.
async fn pass_gates(ready: &mut Ready) -> Result<(), Refused> {
    let (gates, closed, headers) = (&ready.route.gates, ready.admission.closed, &ready.parts.headers);
    let Some(upload) = ready.upload.as_mut().filter(|_| closed.any()) else {
        return Ok(());
    };
    if gates.reads_body(closed, headers)? {
        let bytes = upload.read(feature_gates::BODY_MOST).await.map_err(body::refused)?;
        gates.check_body(closed, headers, &bytes, &ready.admission.terms.profile.plan)?;
    }
    Ok(())
}

/// Phase one, with what must hold before a path means anything.
fn find(routes: &Routes, parts: &Parts, has_body: bool) -> Result<Arc<Route>, Refused> {
    route::check_host(parts.version, &parts.uri, &parts.headers)?;
    let found = routes.find(&parts.method, &parts.uri, &parts.headers);
    if !tunnel::is_asked_for(parts) {
        return found;
    }
    let unsupported = || {
        let detail = "This path takes no WebSocket, and nothing takes other upgrades.";
        Refused::new(Refusal::UpgradeUnsupported, detail).closing()
    };
    let route = found.ok().filter(|r| r.websocket && parts.method != Method::CONNECT);
    let route = route.ok_or_else(unsupported)?;
    tunnel::check(parts, has_body)?;
    Ok(route)
}
