//! A worker thread: its sockets, and the five phases in order for each request.

use crate::admit::{self, Admission};
use crate::authenticate::{self, Caller};
use crate::body::{Answer, Progress, Stream, Upload};
use crate::config::{Limits, Peppers};
use crate::forward::{self, Lease, Pool};
use crate::guard::Guard;
use crate::headers;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::{self, Route, Routes};
use crate::tables::Tables;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
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
/// Headers that the gateway adds to a request.
const OWN_HEADERS: usize = 10;
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
    id_header: HeaderValue,
    now: Time,
    started: Instant,
}

/// A request that passed the first three phases.
struct Ready {
    route: Arc<Route>,
    admission: Admission,
    open: Box<Open>,
    request: Request<Upload>,
    upload: Option<Arc<Progress>>,
}

/// The life of a request.
async fn handle(
    worker: Arc<Worker>,
    client: Client,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let now = worker.shared.clock.now();
    let id = RequestId::new(now, &worker.random);
    let exchange = Exchange {
        id,
        id_header: headers::id(&id),
        now,
        started: Instant::now(),
        worker,
    };
    let Some(routes) = exchange.worker.shared.tables.routes.load_full() else {
        let refused = Refused::new(Refusal::NotReady, "The gateway has not been told its routes yet.").retry_after(1);
        return Ok(exchange.refuse(refused, None, ""));
    };
    let Ready {
        route,
        admission,
        mut open,
        request,
        upload,
    } = match exchange.prepare(&routes, &client, request) {
        Ok(ready) => ready,
        Err((open, refused)) => return Ok(exchange.refuse(refused, open, &routes.portal_url)),
    };
    let forwarded = forward::forward(&exchange.worker, &route.upstream, request, upload).await;
    let (answer, lease) = match forwarded {
        Ok(done) => done,
        Err(refused) => return Ok(exchange.refuse(refused, Some(open), &routes.portal_url)),
    };
    open.answered(
        answer.status().as_u16(),
        route.counts.contains(answer.status().as_u16()),
    );
    exchange
        .worker
        .metrics
        .answered(route.number, answer.status(), exchange.started.elapsed());
    Ok(match exchange.answer(&route, &admission, open, answer, lease) {
        Ok(answer) => answer,
        Err((open, refused)) => exchange.refuse(refused, Some(open), &routes.portal_url),
    })
}

type Early = (Option<Box<Open>>, Refused);

impl Exchange {
    /// Phases one to three, and the request as the upstream will see it.
    fn prepare(&self, routes: &Routes, client: &Client, request: Request<Incoming>) -> Result<Ready, Early> {
        let shared = &self.worker.shared;
        let (mut parts, body) = request.into_parts();
        let route = find(routes, &parts).map_err(|r| (None, r))?;
        route.check_address(client.address).map_err(|r| (None, r))?;
        let who = authenticate::authenticate(&shared.tables, &shared.peppers, &mut parts.headers, self.now);
        let caller = who.map_err(|(caller, r)| (caller.map(|c| self.open(&c, &route)), r))?;
        let mut open = self.open(&caller, &route);
        if !shared.ledger.writable() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage cannot be written down just now.");
            return Err((Some(open), refused.retry_after(1)));
        }
        let length = body.size_hint();
        let most = route.max_request_bytes.unwrap_or(shared.limits.body_bytes);
        if length.lower() > most {
            return Err((Some(open), forward::too_large().closing()));
        }
        let now_ns = shared.clock.security_now().jiff().as_nanosecond();
        let admission = match admit::admit(&caller, &route, self.now, u64::try_from(now_ns).unwrap_or(0)) {
            Ok(admission) => admission,
            Err(refused) => return Err((Some(open), refused)),
        };
        let upload = (!body.is_end_stream()).then(Arc::<Progress>::default);
        open.admitted(&admission, upload.clone());
        let body = match &upload {
            Some(progress) => Upload::new(body, Arc::clone(progress), most, shared.limits.body_idle),
            None => Upload::none(),
        };
        self.rewrite(&mut parts, &caller, &admission, &route, &client.header);
        Ok(Ready {
            route,
            admission,
            open,
            request: Request::from_parts(parts, body),
            upload,
        })
    }

    fn open(&self, caller: &Caller, route: &Route) -> Box<Open> {
        let place = (route.number, route.meter);
        Box::new(Open::new(
            Arc::clone(&self.worker),
            caller,
            place,
            self.id,
            self.now,
            self.started,
        ))
    }

    /// Turns the client's head into the upstream's: what is the client's to say stays, then ours is added.
    fn rewrite(&self, parts: &mut Parts, caller: &Caller, admission: &Admission, route: &Route, peer: &HeaderValue) {
        let host = match parts.uri.authority() {
            Some(authority) => HeaderValue::try_from(authority.as_str()).ok(),
            None => parts.headers.get(header::HOST).cloned(),
        };
        let out = &mut parts.headers;
        headers::strip_request(out);
        out.reserve(OWN_HEADERS);
        out.insert(header::HOST, route.upstream.host_header.clone());
        out.insert(headers::X_FORWARDED_FOR, peer.clone());
        out.insert(headers::X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        if let Some(host) = host {
            out.insert(headers::X_FORWARDED_HOST, host);
        }
        let account = &caller.key.account;
        let profile = &admission.terms.profile;
        out.insert(headers::X_CONSUMER_ID, account.header.clone());
        out.insert(headers::X_KEY_ID, headers::id(&caller.key.id));
        out.insert(headers::X_PLAN, profile.plan_header.clone());
        out.insert(headers::X_FEATURES, profile.features_header.clone());
        out.insert(headers::X_ENVIRONMENT, Tables::environment_header(account.environment));
        out.insert(headers::X_REQUEST_ID, self.id_header.clone());
        parts.version = http::Version::HTTP_11;
        if parts.uri.authority().is_some() {
            // Absolute form: the upstream gets the path and the query alone, byte for byte.
            let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
            parts.uri = path.parse::<Uri>().unwrap_or_default();
        }
    }

    /// Gives the answer its head and its record.
    fn answer(
        &self,
        route: &Route,
        admission: &Admission,
        mut open: Box<Open>,
        answer: Response<Incoming>,
        lease: Lease,
    ) -> Result<Response<Answer>, (Box<Open>, Refused)> {
        let (mut parts, incoming) = answer.into_parts();
        headers::strip_response(&mut parts.headers);
        admission.add_headers(&mut parts.headers, route.meter, self.now);
        parts.headers.insert(headers::X_REQUEST_ID, self.id_header.clone());
        parts.version = http::Version::HTTP_11;
        parts.extensions.clear();
        let ended = incoming.is_end_stream();
        if (ended || is_event_stream(&parts.headers)) && open.write().is_err() {
            return Err((
                open,
                Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down."),
            ));
        }
        let body = if ended {
            lease.give_back();
            Answer::Whole(None)
        } else {
            Answer::Stream(Box::new(Stream::new(incoming, open, lease, route.upstream.idle)))
        };
        Ok(Response::from_parts(parts, body))
    }

    /// Says no, in the record, in the metrics and to the client.
    fn refuse(&self, refused: Refused, open: Option<Box<Open>>, portal: &str) -> Response<Answer> {
        let refusal = refused.refusal();
        self.worker.metrics.refused(refusal);
        if let Some(mut open) = open {
            open.refused(refusal);
            // A refusal that cannot be recorded costs nobody anything; the error is logged there.
            let _ = open.write();
        }
        refused
            .answer(portal, self.id_header.clone())
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
