//! Connections of clients: who is there, TLS, and which HTTP is spoken.
//!
//! HTTP/2 is chosen in the TLS handshake, or, without TLS, by the client's first bytes (RFC 9113, 3.3), and left to hyper.
//! HTTP/1.1 is the [client](crate::client) module's.

mod certificates;
mod client;
mod crowd;
mod head;
pub(crate) mod proxy_header;

pub use certificates::{TlsError, TlsFiles};
pub(crate) use client::{Client, Peer};
pub(crate) use crowd::Crowd;

use crate::body::Answer;
use crate::client::{ClientBody, Handler};
use crate::config::{Config, Limits};
use crate::exchange;
use crate::http1::Invalid;
use crate::stop::Stop;
use crate::worker::Worker;
use certificates::Certificates;
use crowd::Seat;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::policy::AddressRange;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// What an HTTP/2 client sends first; no request of HTTP/1.1 has this method.
const HTTP2_BEGIN: &[u8; 4] = b"PRI ";
/// How often a silent HTTP/2 connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Longest wait for the answer to that.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's body in flight on one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of all bodies in flight on one connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of an answer that wait in memory for an HTTP/2 client to take them.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that a client opened and gave up before they were looked at: more is an attack (CVE-2023-44487).
const RESETS_MOST: usize = 20;

/// How clients connect.
pub(crate) struct Listening {
    tls: Option<(TlsAcceptor, Arc<Certificates>)>,
    pub(crate) trusted: Vec<AddressRange>,
    proxy_protocol: bool,
}

impl Listening {
    /// From the configuration; reads the certificate.
    pub(crate) fn new(config: &Config) -> Result<Self, TlsError> {
        let tls = match &config.tls {
            None => None,
            Some(files) => {
                let certificates = Certificates::load(files)?;
                Some((TlsAcceptor::from(certificates.server_config()?), certificates))
            }
        };
        Ok(Self {
            tls,
            trusted: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
        })
    }

    /// The certificate, where there is TLS.
    pub(crate) fn certificates(&self) -> Option<Arc<Certificates>> {
        self.tls.as_ref().map(|(_, certificates)| Arc::clone(certificates))
    }
}

/// Serves a client's connection to its end.
pub(crate) async fn connection(
    worker: Arc<Worker>,
    mut stream: TcpStream,
    mut address: IpAddr,
    stop: watch::Receiver<Option<Stop>>,
    mut place: (Seat, mpsc::Sender<()>),
) {
    let shared = Arc::clone(&worker.shared);
    let (listening, limits) = (&shared.listening, &shared.limits);
    if listening.proxy_protocol && listening.trusted.iter().any(|r| r.contains(address)) {
        match timeout(limits.head_timeout, proxy_header::read(&mut stream)).await {
            Ok(Ok(Some(told))) => {
                address = told.ip();
                let Some(seat) = shared.crowd.seat(address) else { return };
                place.0 = seat;
            }
            // The balancer's own: it asks whether this is alive.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return tracing::debug!(%error, "a trusted proxy sent no PROXY header"),
            Err(_) => return,
        }
    }
    let peer = Peer::new(address, &listening.trusted, listening.tls.is_some());
    match &listening.tls {
        Some((acceptor, _)) => match timeout(limits.head_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                serve_http2(worker, stream, peer, stop).await;
            }
            Ok(Ok(stream)) => serve_http1(worker, stream, peer, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
            Err(_) => {}
        },
        None if begins_http2(&stream, limits).await => serve_http2(worker, stream, peer, stop).await,
        None => serve_http1(worker, stream, peer, stop).await,
    }
}

/// Whether a client without TLS speaks HTTP/2. It sends its first bytes in one piece; one that does not is taken for
/// HTTP/1.1 and refused there.
async fn begins_http2(stream: &TcpStream, limits: &Limits) -> bool {
    let mut begin = [0u8; HTTP2_BEGIN.len()];
    let read = timeout(limits.head_timeout, stream.peek(&mut begin)).await;
    matches!(read, Ok(Ok(n)) if n == begin.len()) && begin == *HTTP2_BEGIN
}

struct Http1 {
    worker: Arc<Worker>,
    peer: Peer,
}

impl Handler for Http1 {
    async fn handle(&self, parts: Parts, body: Option<ClientBody>) -> Response<Answer> {
        exchange::handle(&self.worker, &self.peer, parts, body).await
    }
    fn malformed(&self, why: Invalid) -> Response<Answer> {
        exchange::malformed(&self.worker, &self.peer, None, why)
    }
    fn date(&self) -> [u8; 29] {
        self.worker.date.text()
    }
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    worker: Arc<Worker>,
    stream: S,
    peer: Peer,
    stop: watch::Receiver<Option<Stop>>,
) {
    let limits = &worker.shared.limits;
    let limits = crate::client::Limits {
        head_bytes: limits.head_bytes,
        headers: limits.headers,
        head_timeout: limits.head_timeout,
    };
    crate::client::serve(stream, &Http1 { worker, peer }, limits, stop).await;
}

/// A request over HTTP/2.
async fn handle_http2(
    worker: Arc<Worker>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (mut parts, body) = request.into_parts();
    head::join_cookies(&mut parts.headers);
    if let Err(why) = head::check(&parts, &worker.shared.limits) {
        return Ok(exchange::malformed(&worker, &peer, Some(&parts), why));
    }
    Ok(exchange::handle(&worker, &peer, parts, ClientBody::from_http2(body)).await)
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    worker: Arc<Worker>,
    stream: S,
    peer: Peer,
    mut stop: watch::Receiver<Option<Stop>>,
) {
    let limits = &worker.shared.limits;
    let (streams, head_bytes) = (limits.streams_per_connection, head::library_bytes(limits));
    let service = service_fn(move |request| handle_http2(Arc::clone(&worker), peer.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(head_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MOST)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            // The open requests are the last.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "client connection ended");
    }
}
