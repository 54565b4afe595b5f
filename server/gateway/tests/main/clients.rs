//! How clients connect: HTTP/2, TLS, and through proxies that are trusted.

use crate::support::*;
use bytes::Bytes;
use gateway::{Config, TlsFiles};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A world whose gateway was started again with another configuration.
pub(crate) async fn with_config(change: impl FnOnce(&mut Config, &World)) -> World {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    change(&mut config, &world);
    world.start_with(config);
    world.synced().await;
    world
}

type Asked = Vec<(u16, String)>;

/// Sends the paths at once over one HTTP/2 connection.
async fn over_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    world: &World,
    stream: S,
    paths: &[&str],
) -> Asked {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let asks = paths.iter().map(|path| {
        let request = http::Request::get(format!("http://api.example{path}"))
            .header("x-api-key", world.key.reveal())
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut sender = sender.clone();
        tokio::spawn(async move {
            sender.ready().await.unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert!(answer.headers().contains_key("x-request-id"));
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    });
    let mut answers = Vec::new();
    for ask in asks.collect::<Vec<_>>() {
        answers.push(ask.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_without_tls_is_spoken_with_who_begins_so() {
    let world = World::new().await;
    let stream = TcpStream::connect(world.addr).await.unwrap();
    let answers = over_http2(&world, stream, &["/v1/ok", "/v1/chunked", "/v1/status/404", "/nothing"]).await;
    assert_eq!(answers[0], (200, "ok".to_owned()));
    assert_eq!((answers[1].0, answers[2].0, answers[3].0), (200, 404, 404));
    assert!(answers[3].1.contains("/problems/no-route"));
    let rows = world.shipped().await;
    assert_eq!(rows.len(), 3, "what has no route is not recorded");
    let seen = world.upstream.seen.lock().unwrap().clone();
    let heads: Vec<String> = seen
        .iter()
        .map(|b| String::from_utf8_lossy(b).to_ascii_lowercase())
        .collect();
    assert!(
        heads.iter().all(|h| h.contains("x-forwarded-host: api.example\r\n")),
        "{heads:?}"
    );
    assert_eq!(world.get("/v1/ok").await.status, 200, "HTTP/1.1 goes on beside it");
}

/// Clients send cookies apart over HTTP/2; HTTP/1.1 has one line for them.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_of_http2_are_one_line_to_the_upstream() {
    let world = World::new().await;
    let stream = TcpStream::connect(world.addr).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://api.example/v1/ok")
        .header("x-api-key", world.key.reveal())
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Empty::<Bytes>::new())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let seen = world.upstream.last().to_ascii_lowercase();
    let lines: Vec<&str> = seen.lines().filter(|l| l.starts_with("cookie:")).collect();
    assert_eq!(lines, ["cookie: a=1; b=2"]);
}

pub(crate) fn certificate(world: &World, name: &str) -> (TlsFiles, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: world.folder.0.join("certificate.pem"),
        key: world.folder.0.join("key.pem"),
    };
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    (files, cert.der().clone())
}

pub(crate) async fn tls(
    world: &World,
    root: &CertificateDer<'static>,
    name: &str,
    protocol: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(world.addr).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(name.to_owned()).unwrap(), stream)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_chooses_the_protocol_and_follows_its_files() {
    let mut first = None;
    let world = with_config(|config, world| {
        let (files, root) = certificate(world, "one.example");
        config.tls = Some(files);
        first = Some(root);
    })
    .await;
    let first = first.unwrap();
    let stream = tls(&world, &first, "one.example", b"h2").await.unwrap();
    assert_eq!(over_http2(&world, stream, &["/v1/ok"]).await, [(200, "ok".to_owned())]);

    let mut stream = tls(&world, &first, "one.example", b"http/1.1").await.unwrap();
    let key = world.key.reveal();
    let request = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(Reply::parse(&answer).status, 200);
    assert!(world.upstream.last().contains("x-forwarded-proto: https\r\n"));

    let (_, second) = certificate(&world, "two.example");
    for _ in 0..400 {
        if tls(&world, &second, "two.example", b"h2").await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the new certificate is not served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_stops_the_start() {
    let mut world = World::new().await;
    world.stop().await;
    let (files, _) = certificate(&world, "one.example");
    let other = generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
    let mut config = config(&world.folder.0);
    config.tls = Some(files);
    let error = world.try_start_with(config).unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_say_who_the_client_is() {
    let world = with_config(|config, _| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]).await;
    let key = world.key.reveal();
    let head = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nX-Forwarded-For: 10.9.9.9, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n"
    );
    assert_eq!(world.send(&head, "").await.status, 200);
    let seen = world.upstream.last();
    assert!(
        seen.contains("x-forwarded-for: 203.0.113.9\r\n") && seen.contains("x-forwarded-proto: https\r\n"),
        "{seen}"
    );

    let untrusting = World::new().await;
    let head = head.replace(key, untrusting.key.reveal());
    assert_eq!(untrusting.send(&head, "").await.status, 200);
    let seen = untrusting.upstream.last();
    assert!(
        seen.contains("x-forwarded-for: 127.0.0.1\r\n") && seen.contains("x-forwarded-proto: http\r\n"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_it_before_the_first_byte() {
    let world = with_config(|config, _| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        config.proxy_protocol = true;
    })
    .await;
    let key = world.key.reveal();
    let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
    let told = raw(
        world.addr,
        format!("PROXY TCP4 203.0.113.9 10.0.0.1 5000 80\r\n{head}").as_bytes(),
    )
    .await;
    assert_eq!(Reply::parse(&told).status, 200);
    assert!(world.upstream.last().contains("x-forwarded-for: 203.0.113.9\r\n"));
    assert!(
        raw(world.addr, head.as_bytes()).await.is_empty(),
        "a connection without the header is closed"
    );
}

/// T91: behind a balancer each client has as many connections as one that comes by itself; the balancer has no bound.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_by_the_address_that_a_balancer_says() {
    let world = with_config(|config, _| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        config.proxy_protocol = true;
        config.limits.connections_per_address = 2;
    })
    .await;
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    // A kept connection, and whether it was answered on.
    let ask = async |from: &str| {
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        let told = format!("PROXY TCP4 {from} 10.0.0.1 5000 80\r\n{text}");
        stream.write_all(told.as_bytes()).await.unwrap();
        let answered = matches!(stream.read(&mut [0; 4096]).await, Ok(1..));
        (stream, answered)
    };
    let mut crowd = Vec::new();
    for _ in 0..2 {
        for from in ["203.0.113.7", "203.0.113.8", "203.0.113.9"] {
            crowd.push(ask(from).await);
        }
    }
    assert!(crowd.iter().all(|(_, answered)| *answered));
    assert!(!ask("203.0.113.8").await.1, "a third of one client");
    drop(crowd);
    for attempt in 0.. {
        if ask("203.0.113.8").await.1 {
            break;
        }
        assert!(attempt < 1_000, "its places are not given back");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
