//! A worker thread: its sockets, and the five phases in order for each request.

use crate::admit::{self, Admission};
use crate::authenticate::{self, Caller};
use crate::body::{self, Answer, Progress, Stream, Upload};
use crate::config::{Limits, Peppers};
use crate::guard::Guard;
use crate::headers::{self, Short};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::{self, Route, Routes};
use crate::tables::Tables;
use crate::upstream::{BodyLength, Call, Incoming, Pool, RequestHead};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming as ClientBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{Clock, Random, RequestId, Time};
use socket2::SockRef;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Wait after a failed accept: most often the process is out of descriptors, and asking at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle upstream connections are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Random bytes fetched at once: enough for 256 request ids.
const RANDOM_BYTES: usize = 4096;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) tables: Arc<Tables>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) peppers: Peppers,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What one worker thread has for itself.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<Metrics>,
    random: Buffered,
}

impl Worker {
    /// A worker with nothing open.
    pub(crate) fn new(shared: Arc<Shared>, metrics: Arc<Metrics>, random: Arc<dyn Random>) -> Self {
        Self {
            shared,
            pool: Pool::default(),
            metrics,
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
pub(crate) async fn serve(worker: Arc<Worker>, listener: TcpListener, mut stop: watch::Receiver<Option<Duration>>) {
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
                    tokio::spawn(connection(Arc::clone(&worker), stream, peer.ip(), stop.clone(), alive.clone()));
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
    let drain = (*stop.borrow()).unwrap_or_default();
    if tokio::time::timeout(drain, all_gone.recv()).await.is_err() {
        tracing::warn!("requests were still open at the end of the drain time");
    }
}

async fn connection(
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: IpAddr,
    mut stop: watch::Receiver<Option<Duration>>,
    _alive: mpsc::Sender<()>,
) {
    let limits = &worker.shared.limits;
    let client = Client {
        address: peer,
        header: headers::value(&peer.to_canonical().to_string()),
    };
    let service = service_fn(|request| handle(Arc::clone(&worker), client.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .writev(false)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes.max(8192))
        .serve_connection(TokioIo::new(Guard::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "client connection ended");
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Client {
    address: IpAddr,
    /// `X-Forwarded-For`.
    header: HeaderValue,
}

/// What is known of a request from its first moment.
struct Exchange {
    worker: Arc<Worker>,
    id: RequestId,
    id_text: Short,
    now: Time,
    started: Instant,
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
}

/// The life of a request.
async fn handle(
    worker: Arc<Worker>,
    client: Client,
    request: Request<ClientBody>,
) -> Result<Response<Answer>, Infallible> {
    let now = worker.shared.clock.now();
    let id = RequestId::new(now, &worker.random);
    let exchange = Exchange {
        id,
        id_text: Short::id(&id),
        now,
        started: Instant::now(),
        worker,
    };
    let Some(routes) = exchange.worker.shared.tables.routes.load_full() else {
        let refused = Refused::new(Refusal::NotReady, "The gateway has not been told its routes yet.").retry_after(1);
        return Ok(exchange.refuse(refused, None, ""));
    };
    let mut ready = match exchange.prepare(&routes, &client, request) {
        Ok(ready) => ready,
        Err(early) => return Ok(exchange.refuse_early(early, &routes.portal_url)),
    };
    let (status, headers, incoming) = match exchange.forward(&client, &mut ready).await {
        Ok(answer) => answer,
        Err(refused) => return Ok(exchange.refuse(refused, Some(ready.open), &routes.portal_url)),
    };
    Ok(match exchange.answer(ready, status, headers, incoming) {
        Ok(answer) => answer,
        Err(early) => exchange.refuse_early(early, &routes.portal_url),
    })
}

/// A refusal, with what there is to record of it.
struct Early(Box<(Option<Open>, Refused)>);

impl Early {
    fn new(open: Option<Open>, refused: Refused) -> Self {
        Self(Box::new((open, refused)))
    }
}

impl Exchange {
    /// Phases one to three, and the request as the upstream will see it.
    fn prepare(&self, routes: &Routes, client: &Client, request: Request<ClientBody>) -> Result<Ready, Early> {
        let shared = &self.worker.shared;
        let (mut parts, body) = request.into_parts();
        let route = find(routes, &parts).map_err(|r| Early::new(None, r))?;
        route.check_address(client.address).map_err(|r| Early::new(None, r))?;
        let who = authenticate::authenticate(&shared.tables, &shared.peppers, &mut parts.headers, self.now);
        let caller = who.map_err(|(caller, r)| Early::new(caller.map(|c| self.open(&c, &route)), r))?;
        let mut open = self.open(&caller, &route);
        if !shared.ledger.writable() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage cannot be written down just now.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        let length = body.size_hint();
        let most = route.max_request_bytes.unwrap_or(shared.limits.body_bytes);
        if length.lower() > most {
            return Err(Early::new(Some(open), body::too_large().closing()));
        }
        let now_ns = shared.clock.security_now().jiff().as_nanosecond();
        let admission = match admit::admit(&caller, &route, self.now, u64::try_from(now_ns).unwrap_or(0)) {
            Ok(admission) => admission,
            Err(refused) => return Err(Early::new(Some(open), refused)),
        };
        let body_length = match length.exact() {
            _ if body.is_end_stream() => BodyLength::Absent,
            Some(bytes) => BodyLength::Exact(bytes),
            None => BodyLength::Chunked,
        };
        let progress = (body_length != BodyLength::Absent).then(Arc::<Progress>::default);
        open.admitted(&admission, progress.clone());
        Ok(Ready {
            route,
            caller,
            admission,
            open,
            parts,
            length: body_length,
            upload: progress.map(|progress| Upload::new(body, progress, most, shared.limits.body_idle)),
        })
    }

    fn open(&self, caller: &Caller, route: &Route) -> Open {
        let place = (route.number, route.meter);
        Open::new(Arc::clone(&self.worker), caller, place, self.id, self.now, self.started)
    }

    /// Phase four: the request goes to its upstream. What is the client's to say goes with it, and what is ours.
    async fn forward(&self, client: &Client, ready: &mut Ready) -> Result<(StatusCode, HeaderMap, Incoming), Refused> {
        let mut call = Call::open(&self.worker, &ready.route.upstream, self.started).await?;
        self.send(client, ready, &mut call);
        let headers = std::mem::take(&mut ready.parts.headers);
        call.answer(&self.worker, &ready.route.upstream, headers).await
    }

    fn send(&self, client: &Client, ready: &mut Ready, call: &mut Call) {
        let upload = ready.upload.take();
        let Parts {
            method,
            uri,
            headers: said,
            ..
        } = &ready.parts;
        let (account, key) = (&ready.caller.key.account, Short::id(&ready.caller.key.id));
        let (upstream, profile) = (&ready.route.upstream, &ready.admission.terms.profile);
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => said.get(header::HOST).map(HeaderValue::as_bytes),
        };
        let own: [(&'static str, &[u8]); _] = [
            ("host", upstream.host_header.as_bytes()),
            (headers::X_FORWARDED_FOR, client.header.as_bytes()),
            (headers::X_FORWARDED_PROTO, b"http"),
            (headers::X_CONSUMER_ID, account.header.as_bytes()),
            (headers::X_KEY_ID, key.as_bytes()),
            (headers::X_PLAN, profile.plan_header.as_bytes()),
            (headers::X_FEATURES, profile.features_header.as_bytes()),
            (headers::X_ENVIRONMENT, account.environment.word().as_bytes()),
            ("x-request-id", self.id_text.as_bytes()),
            (headers::X_FORWARDED_HOST, host.unwrap_or_default()),
        ];
        let own = if host.is_some() {
            &own[..]
        } else {
            &own[..own.len() - 1]
        };
        let head = RequestHead {
            method,
            // Absolute form: the upstream gets the path and the query alone, byte for byte.
            target: uri.path_and_query().map_or("/", |p| p.as_str()),
            client: said,
            own,
            length: ready.length,
        };
        call.send(&head, upload);
    }

    /// Phase five: the answer's head and its record.
    fn answer(
        &self,
        ready: Ready,
        status: StatusCode,
        mut headers: HeaderMap,
        mut incoming: Incoming,
    ) -> Result<Response<Answer>, Early> {
        let Ready {
            route,
            admission,
            mut open,
            ..
        } = ready;
        let worker = &self.worker;
        let now = Instant::now();
        open.answered(status.as_u16(), route.counts.contains(status.as_u16()));
        worker.metrics.answered(route.number, status, now - self.started);
        admission.add_headers(&mut headers, route.meter, self.now);
        headers.insert(headers::X_REQUEST_ID, self.id_text.value());
        let whole = incoming.take_whole();
        if let Some(data) = &whole {
            open.sent(data.len());
        }
        let ended = incoming.is_end();
        if (ended || is_event_stream(&headers)) && open.write().is_err() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down.");
            return Err(Early::new(Some(open), refused));
        }
        let body = if ended {
            let most = worker.shared.limits.idle_per_upstream;
            incoming.give_back(&worker.pool, &route.upstream, now, most);
            Answer::Whole(whole)
        } else {
            Answer::Stream(Box::new(Stream::new(incoming, open, Arc::clone(&route.upstream))))
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
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
        if let Some(mut open) = open {
            open.refused(refusal);
            // A refusal that cannot be recorded costs nobody anything; the error is logged there.
            let _ = open.write();
        }
        refused
            .answer(portal, self.id_text.value())
            .map(|b: Bytes| Answer::Whole(Some(b)))
    }
}

fn is_event_stream(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|k| k.len() >= 17 && k[..17].eq_ignore_ascii_case(b"text/event-stream"))
}

/// Phase one, with what must hold before a path means anything.
fn find(routes: &Routes, parts: &Parts) -> Result<Arc<Route>, Refused> {
    route::check_host(parts.version, &parts.uri, &parts.headers)?;
    let upgrade = parts.headers.contains_key(header::UPGRADE) || parts.method == Method::CONNECT;
    if upgrade {
        let refused = Refused::new(
            Refusal::UpgradeUnsupported,
            "WebSocket and other upgrades are not supported.",
        );
        return Err(refused.closing());
    }
    routes.find(&parts.method, &parts.uri, &parts.headers)
}
