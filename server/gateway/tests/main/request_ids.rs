//! Every answer has an id, which is the gateway's alone to choose.

use crate::clients::with_config;
use crate::metrics::metrics;
use crate::routing::with_routes;
use crate::support::*;
use bytes::Bytes;
use gateway::{AccessLogConfig, AccessLogTo, Share};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashSet;
use tokio::net::TcpStream;

const FORGED: &str = "req_forged";

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_has_an_id_of_its_own() {
    let world = with_routes(vec![(
        "open",
        "/open",
        r#"{"cors": {"origins": ["https://app.example"]}, "websocket": true}"#,
    )])
    .await;
    let key = format!("X-API-Key: {}\r\n", world.key.reveal());
    let preflight = "Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\n";
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let mut seen = HashSet::new();
    for (status, line, more) in [
        (200, "GET /v1/ok HTTP/1.1", key.as_str()),
        (200, "HEAD /v1/ok HTTP/1.1", &key),
        (200, "GET /v1/ok HTTP/1.0", &key),
        (200, "GET /v1/chunked HTTP/1.1", &key),
        (204, "GET /v1/empty HTTP/1.1", &key),
        (418, "GET /v1/status/418 HTTP/1.1", &key),
        (200, "GET /v1/hop HTTP/1.1", &key),
        (204, "OPTIONS /open HTTP/1.1", preflight),
        (200, "GET /.well-known/turnpike/jwks.json HTTP/1.1", ""),
        (200, "GET /v1/ok HTTP/1.1", &format!("{key}Turnpike-Quote: ?1\r\n")),
        (405, "POST /heavy HTTP/1.1", &key),
        (404, "GET /nothing HTTP/1.1", &key),
        (401, "GET /v1/ok HTTP/1.1", ""),
        (403, "GET /export HTTP/1.1", &key),
        (502, "GET /down HTTP/1.1", &key),
        (502, "GET /v1/raw/garbage HTTP/1.1", &key),
        (504, "GET /slow/hang HTTP/1.1", &key),
        (400, "GET /v1/%2e%2e/x HTTP/1.1", &key),
        (400, "GET /v1/ok HTTP/7", &key),
        (400, "\u{1}\u{2} / HTTP/1.1", &key),
        (
            400,
            "POST /v1/ok HTTP/1.1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            413,
            "POST /v1/ok HTTP/1.1",
            &format!("{key}Content-Length: 99999999\r\n"),
        ),
        (501, "GET /v1/ok HTTP/1.1", &format!("{key}{handshake}")),
        (400, "GET /open HTTP/1.1", &format!("{key}{handshake}")),
    ] {
        let head = format!("{line}\r\nHost: a\r\nX-Request-Id: {FORGED}\r\nX_Request_Id: {FORGED}\r\n{more}");
        let reply = world.send(&head, "").await;
        assert_eq!(reply.status, status, "{line} {reply:?}");
        let ids: Vec<&String> = reply
            .headers
            .iter()
            .filter(|h| h.0 == "x-request-id")
            .map(|h| &h.1)
            .collect();
        assert!(
            ids.len() == 1 && ids[0].starts_with("req_") && ids[0] != FORGED,
            "{line} {ids:?}"
        );
        assert!(seen.insert(ids[0].clone()), "{line}");
    }
    for request in world.upstream.requests() {
        let id = request.lines().find_map(|l| l.strip_prefix("x-request-id: ")).unwrap();
        assert!(seen.contains(id), "the upstream is told the id that the caller gets");
        assert!(!request.contains(FORGED), "{request}");
    }
    let rows = world.shipped().await;
    assert!(!rows.is_empty() && rows.iter().all(|r| seen.contains(&r.request.to_string())));
}

/// Headers of a request beside its key.
type More = Vec<(String, String)>;

/// Asks over a connection of HTTP/2 with the world's key.
async fn over_http2(world: &World, method: Method, path: &str, more: &More) -> Reply {
    let stream = TcpStream::connect(world.addr).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://api.example{path}"))
        .header("x-request-id", FORGED)
        .header("x_request_id", FORGED);
    for (name, value) in more {
        request = request.header(name, value);
    }
    let answer = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let headers = answer.headers().iter();
    Reply {
        status: answer.status().as_u16(),
        headers: headers
            .map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap().to_owned()))
            .collect(),
        body: answer.into_body().collect().await.unwrap().to_bytes().to_vec(),
    }
}

fn id(reply: &Reply) -> String {
    let mut ids = reply.headers.iter().filter(|h| h.0 == "x-request-id").map(|h| &h.1);
    let id = ids.next().unwrap_or_else(|| panic!("no id in {reply:?}")).clone();
    assert!(
        ids.next().is_none() && id.starts_with("req_") && id != FORGED,
        "{reply:?}"
    );
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn so_has_every_kind_of_answer_over_http2() {
    let world = with_routes(vec![(
        "open",
        "/open",
        r#"{"cors": {"origins": ["https://app.example"]}}"#,
    )])
    .await;
    let headers = |all: &[(&str, &str)]| -> More {
        let owned = all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        owned.collect()
    };
    let key = headers(&[("x-api-key", world.key.reveal())]);
    let grpc = headers(&[("x-api-key", world.key.reveal()), ("content-type", "application/grpc")]);
    let preflight = headers(&[
        ("origin", "https://app.example"),
        ("access-control-request-method", "GET"),
    ]);
    let mut seen = HashSet::new();
    for (status, method, path, more) in [
        (200, Method::GET, "/v1/ok", &key),
        (200, Method::HEAD, "/v1/ok", &key),
        (200, Method::GET, "/v1/chunked", &key),
        (204, Method::GET, "/v1/empty", &key),
        (200, Method::GET, "/v1/hop", &key),
        (204, Method::OPTIONS, "/open", &preflight),
        (200, Method::GET, "/.well-known/turnpike/jwks.json", &key),
        (404, Method::GET, "/nothing", &key),
        (200, Method::GET, "/nothing", &grpc),
        (405, Method::POST, "/heavy", &key),
        (401, Method::GET, "/v1/ok", &preflight),
        (403, Method::GET, "/export", &key),
        (400, Method::GET, "/v1/%2e%2e/x", &key),
        (502, Method::GET, "/down", &key),
        (504, Method::GET, "/slow/hang", &key),
    ] {
        let reply = over_http2(&world, method, path, more).await;
        assert_eq!(reply.status, status, "{path} {reply:?}");
        assert!(seen.insert(id(&reply)), "{path}");
    }
}

/// T92: a head that is too long, and one with too many lines, are refused alike over both versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_the_bounds_meets_the_same_problem_over_both_versions() {
    let world = with_config(|config, world| {
        config.access_log = Some(AccessLogConfig {
            to: AccessLogTo::File(world.folder.0.join("access.log")),
            sample: Share::ALL,
        });
    })
    .await;
    let refused = || metrics(&world).sum("refusals_total", &[("reason", "bad-request")]);
    let key = || ("x-api-key".to_owned(), world.key.reveal().to_owned());
    let long = |bytes: usize| -> More { vec![key(), ("x-a".to_owned(), "y".repeat(bytes))] };
    // The key, and what every request of `over_http2` has, are lines, too.
    let many = |lines: usize| -> More {
        let more = (0..lines - 4).map(|n| (format!("x-{n}"), "y".to_owned()));
        std::iter::once(key()).chain(more).collect()
    };
    for (headers, fits) in [
        (long(30 << 10), true),
        (long(33 << 10), false),
        (long(40 << 10), false),
        (long(60 << 10), false),
        (many(100), true),
        (many(101), false),
        (many(1_000), false),
    ] {
        let before = refused();
        let mut head =
            format!("GET /v1/ok HTTP/1.1\r\nHost: api.example\r\nX-Request-Id: {FORGED}\r\nConnection: close\r\n");
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let old = Reply::parse(&raw(world.addr, format!("{head}\r\n").as_bytes()).await);
        let new = over_http2(&world, Method::GET, "/v1/ok", &headers).await;
        assert_ne!(id(&old), id(&new));
        if fits {
            assert_eq!((old.status, new.status), (200, 200), "{new:?}");
            continue;
        }
        assert_eq!((old.status, new.status), (400, 400), "{new:?}");
        assert_eq!(
            (old.problem(), new.problem()),
            ("bad-request".to_owned(), "bad-request".to_owned())
        );
        let detail =
            |reply: &Reply| serde_json::from_slice::<serde_json::Value>(&reply.body).unwrap()["detail"].clone();
        assert_eq!(detail(&old), detail(&new));
        assert_eq!(refused(), before + 2.0, "both are counted");
        until(|| {
            let log = std::fs::read_to_string(world.folder.0.join("access.log")).unwrap_or_default();
            log.contains(&id(&old)) && log.contains(&id(&new))
        })
        .await;
    }
}

/// Beyond what the library takes there is no id, but the gateway goes on, and so do others.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_library_refuses_by_itself_harms_nobody() {
    let world = World::new().await;
    for kilobytes in [70, 1_000] {
        let stream = TcpStream::connect(world.addr).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://api.example/v1/ok").header("x-a", "y".repeat(kilobytes << 10));
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        assert!(answer.map_or(true, |a| a.status() == 431), "{kilobytes} KB");
        assert_eq!(world.get("/v1/ok").await.status, 200);
    }
    assert_eq!(world.upstream.requests().len(), 2);
}
