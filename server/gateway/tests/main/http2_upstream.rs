//! HTTP/2 to upstreams: many requests on a connection, bodies both ways, trailers, and upstreams that go away.

use crate::recorder::accept;
use crate::support::*;
use crate::tls::Authority;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// More requests than these are open at a time before `slow` is answered.
const TOGETHER: usize = 5;

/// An upstream that speaks HTTP/2 and does as the path says.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Requests as they came: method, URI, headers.
    pub(crate) seen: Arc<Mutex<Vec<Request<()>>>>,
    /// Most requests open at a time.
    most: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
            seen: Arc::default(),
            most: Arc::default(),
            open: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let stream = accept(&listener).await;
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let (server, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Ok(mut connection) = h2::server::handshake(stream).await else {
            return;
        };
        let mut count = 0;
        while let Some(Ok((request, respond))) = connection.accept().await {
            count += 1;
            let (parts, body) = request.into_parts();
            let path = parts.uri.path().to_owned();
            let first = self.seen.lock().unwrap().iter().all(|r| r.uri().path() != path);
            self.seen.lock().unwrap().push(Request::from_parts(parts, ()));
            if path.ends_with("/leave") && first {
                // What came is not processed: the connection goes away with it.
                let mut respond = respond;
                respond.send_reset(Reason::REFUSED_STREAM);
                connection.graceful_shutdown();
                continue;
            }
            if path.ends_with("/last") && count == 1 {
                connection.graceful_shutdown();
            }
            let server = self.clone();
            tokio::spawn(async move { server.answer(&path, body, respond, first).await });
        }
    }

    async fn answer(&self, path: &str, mut body: h2::RecvStream, mut respond: SendResponse<Bytes>, first: bool) {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        let ok = |name: &str| Response::builder().status(200).header("x-path", name);
        match path.rsplit('/').next().unwrap() {
            "refused" if first => respond.send_reset(Reason::REFUSED_STREAM),
            "always-refused" => respond.send_reset(Reason::REFUSED_STREAM),
            "broken" => respond.send_reset(Reason::INTERNAL_ERROR),
            "hang" => std::future::pending().await,
            "empty" => drop(respond.send_response(ok("empty").body(()).unwrap(), true)),
            "half" => {
                let mut stream = respond.send_response(ok("half").body(()).unwrap(), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
            "echo" => {
                // Sends back what comes while it comes.
                let mut stream = respond.send_response(ok("echo").body(()).unwrap(), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    if stream.send_data(data, false).is_err() {
                        return;
                    }
                }
                // Whoever gave the call up is told nothing more.
                let _ = stream.send_data(Bytes::new(), true);
            }
            "listens" | "count" => {
                // Says how much came, when all of it has; with a head before that, or without.
                let early = path.ends_with("/listens");
                let head = ok("count").body(()).unwrap();
                let mut stream = early.then(|| respond.send_response(head.clone(), false).unwrap());
                let mut count = 0;
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    count += data.len();
                }
                if body.is_end_stream() {
                    let mut stream = stream
                        .take()
                        .unwrap_or_else(|| respond.send_response(head, false).unwrap());
                    stream.send_data(Bytes::from(count.to_string()), true).unwrap();
                }
            }
            "ticks" => {
                let mut stream = respond.send_response(ok("ticks").body(()).unwrap(), false).unwrap();
                while stream.send_data(Bytes::from_static(b"tick"), false).is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            "trailers" => {
                let answer = ok("trailers").header("content-type", "application/grpc").body(());
                let mut stream = respond.send_response(answer.unwrap(), false).unwrap();
                stream.send_data(Bytes::from_static(b"message"), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                trailers.insert("x-request-id", HeaderValue::from_static("forged"));
                stream.send_trailers(trailers).unwrap();
            }
            "slow" => {
                // It takes until some are open at a time: until then none is answered.
                until(|| self.most.load(Ordering::SeqCst) > TOGETHER).await;
                drop(respond.send_response(ok("slow").body(()).unwrap(), true));
            }
            _ => {
                let mut stream = respond.send_response(ok("ok").body(()).unwrap(), false).unwrap();
                stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
            }
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn count(&self, end: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|r| r.uri().path().ends_with(end))
            .count()
    }
}

/// One worker thread, so that connections can be counted.
async fn world(server: &Server) -> World {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.threads = 1;
    world.start_with(config);
    world.policy(&policy(server)).await;
    world
}

fn policy(server: &Server) -> String {
    let url = format!("http://{}", server.addr);
    format!(r#"{{"targets": [{{"url": "{url}"}}], "protocol": "http2"}}"#)
}

/// From now on the first byte of an answer is waited for so long.
async fn patient_for(world: &World, server: &Server, first_byte_timeout_ms: u32) {
    let mut told = routing(world.upstream.addr);
    told.upstreams[0].first_byte_timeout_ms = first_byte_timeout_ms;
    told.upstreams[0].policy = serde_json::from_str(&policy(server)).unwrap();
    world.plane.put_routing(told);
    world.synced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_a_connection() {
    let server = Server::start(None).await;
    let world = Arc::new(world(&server).await);
    let asks: Vec<_> = (0..40)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.get("/v1/slow").await.status })
        })
        .collect();
    for ask in asks {
        assert_eq!(ask.await.unwrap(), 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert!(
        server.most.load(Ordering::SeqCst) > TOGETHER,
        "{:?} at a time",
        server.most
    );
    let reply = world.get("/v1/a/b?c=%20d").await;
    assert_eq!((reply.status, reply.header("x-path")), (200, Some("ok")));
    let seen = server.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen.uri().path_and_query().unwrap(), "/v1/a/b?c=%20d");
    assert_eq!(
        seen.uri().authority().unwrap().as_str(),
        world.upstream.addr.to_string()
    );
    assert!(seen.headers().contains_key("x-consumer-id") && !seen.headers().contains_key("x-api-key"));
    let rows = world.shipped().await;
    assert!(rows.len() == 41 && rows.iter().all(|r| (r.status, r.units) == (200, 1)));
    assert_eq!(world.target("in_flight", 0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_flow_both_ways_at_once() {
    let server = Server::start(None).await;
    let world = world(&server).await;
    let body = "x".repeat(60_000);
    let key = world.key.reveal();
    for head in [
        "Content-Length: 60000\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n".to_owned(),
    ] {
        let text = format!("POST /v1/echo HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{head}");
        let sent = if head.starts_with('C') {
            body.clone()
        } else {
            format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        };
        let reply = world.send(&text, &sent).await;
        assert_eq!(reply.status, 200);
        let got = reply.body.iter().filter(|b| **b == b'x').count();
        assert_eq!(got, body.len());
    }
    let rows = world.shipped().await;
    assert!(
        rows.iter()
            .all(|r| (r.request_bytes, r.response_bytes) == (60_000, 60_000)),
        "{rows:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_processed_is_sent_again_and_what_was_is_not() {
    let server = Server::start(None).await;
    let world = world(&server).await;
    assert_eq!(world.get("/v1/refused").await.status, 200);
    assert_eq!(server.count("/refused"), 2);
    assert_eq!(world.get("/v1/leave").await.status, 200, "on a new connection");
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    let reply = world.get("/v1/always-refused").await;
    assert_eq!((reply.status, reply.problem().as_str()), (502, "upstream-broken"));
    assert_eq!(server.count("/always-refused"), 2, "once more, not for ever");
    let reply = world.get("/v1/broken").await;
    assert_eq!((reply.status, server.count("/broken")), (502, 1));
    for _ in 0..20 {
        assert_eq!(
            world.get("/v1/last").await.status,
            200,
            "a connection that ends takes no new requests"
        );
    }
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_that_stop_are_told_apart_from_the_end() {
    let server = Server::start(None).await;
    let world = world(&server).await;
    let reply = world.get("/v1/half").await;
    assert_eq!(reply.status, 200);
    assert!(
        !String::from_utf8_lossy(&reply.body).ends_with("0\r\n\r\n"),
        "{reply:?}"
    );
    assert_eq!(world.get("/v1/empty").await.header("content-length"), Some("0"));
    patient_for(&world, &server, 100).await;
    assert_eq!(world.get("/v1/hang").await.problem(), "upstream-timeout");
    patient_for(&world, &server, 10_000).await;
    assert_eq!(world.get("/v1/a").await.status, 200, "on another connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_takes_a_body_and_says_nothing_is_given_up() {
    let server = Server::start(None).await;
    let world = world(&server).await;
    patient_for(&world, &server, 200).await;
    let key = world.key.reveal();
    let head = format!("POST /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 4\r\n");
    assert_eq!(world.send(&head, "body").await.problem(), "upstream-timeout");
    patient_for(&world, &server, 10_000).await;
    assert_eq!(world.get("/v1/a").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_reach_clients_that_speak_http2() {
    let server = Server::start(None).await;
    let world = world(&server).await;
    let stream = TcpStream::connect(world.addr).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = |path: &str, key: &str| {
        Request::post(format!("http://api.example{path}"))
            .header("x-api-key", key)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let answer = sender
        .send_request(request("/v1/trailers", world.key.reveal()))
        .await
        .unwrap();
    let body = answer.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap().clone();
    assert_eq!(body.to_bytes(), "message");
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(trailers.get("x-request-id"), None);
    let seen = server.seen.lock().unwrap()[0].headers().clone();
    assert_eq!(seen.get("te").unwrap(), "trailers");
    let reply = world.get("/v1/trailers").await;
    assert!(
        reply.status == 200 && String::from_utf8_lossy(&reply.body).ends_with("message\r\n0\r\n\r\n"),
        "{reply:?}"
    );

    // A refusal is said in gRPC's own way.
    for (path, key, code) in [
        ("/v1/trailers", "tp_live_nonsense", "16"),
        ("/v1/broken", world.key.reveal(), "14"),
        ("/nothing", world.key.reveal(), "12"),
    ] {
        let answer = sender.send_request(request(path, key)).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers().get("grpc-status").unwrap(), code, "{path}");
        assert_eq!(answer.headers().get("content-type").unwrap(), "application/grpc");
        assert!(answer.headers().contains_key("grpc-message") && answer.headers().contains_key("x-request-id"));
        assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    let rows = world.shipped().await;
    assert_eq!(rows.last().unwrap().status, 502, "the record says what happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_http2_is_agreed_on_or_not_spoken() {
    let authority = Authority::new();
    let acceptor = |protocols| TlsAcceptor::from(Arc::new(authority.server("orders.internal", protocols, None)));
    let (able, unable) = (
        Server::start(Some(acceptor(&["h2", "http/1.1"]))).await,
        Server::start(Some(acceptor(&[]))).await,
    );
    let world = world(&able).await;
    let file = authority.file(&world, "ca.pem");
    for (server, status) in [(&able, 200), (&unable, 502)] {
        let tls = format!(r#""tls": {{"ca_file": "{file}", "server_name": "orders.internal"}}"#);
        let url = format!("https://{}", server.addr);
        // A connection is not there before the handshake, which needs this machine on both sides.
        let tls = format!(r#"{tls}, "connect_timeout_ms": 10000"#);
        world
            .policy(&format!(
                r#"{{"targets": [{{"url": "{url}"}}], "protocol": "http2", {tls}}}"#
            ))
            .await;
        assert_eq!(world.get("/v1/a").await.status, status);
    }
    assert_eq!(able.seen.lock().unwrap()[0].uri().scheme_str(), Some("https"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_checked_in_the_protocol_it_speaks() {
    let server = Server::start(None).await;
    let world = world(&server).await;
    let url = format!("http://{}", server.addr);
    let health = |path: &str| {
        let health = format!(r#"{{"path": "{path}", "interval_ms": 100, "unhealthy_after": 1}}"#);
        format!(r#"{{"targets": [{{"url": "{url}"}}], "protocol": "http2", "health": {health}}}"#)
    };
    world.policy(&health("/well")).await;
    until(|| server.count("/well") > 2).await;
    assert_eq!(world.target("healthy", 0), 1);
    world.policy(&health("/broken")).await;
    until(|| world.target("healthy", 0) == 0).await;
}
