//! What spans say of a request, and what they do not.

use super::*;
use crate::clients::with_config;
use gateway::{AccessLogConfig, AccessLogTo};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_and_its_attempt_another_below() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let lines = format!("{}Tracestate: a=1\r\nTracestate: b=2\r\n", parent(TRACE, CALLER, "00"));
    let reply = get(&world, "/v1/status/201?q=1", &lines).await;
    let request = world.upstream.last();
    let spans = collector.wait(2).await;
    let (server, client) = (all(&spans, SERVER)[0], all(&spans, CLIENT)[0]);
    assert_eq!((server.text("traceId"), server.text("parentSpanId")), (TRACE, CALLER));
    assert_eq!(
        (client.text("traceId"), client.text("parentSpanId")),
        (TRACE, server.text("spanId"))
    );
    let ours = (TRACE.to_owned(), client.text("spanId").to_owned(), "01".to_owned());
    assert_eq!(told(&request), ours, "the upstream's parent is the attempt");
    assert!(request.contains("tracestate: a=1\r\n") && request.contains("tracestate: b=2\r\n"));
    assert_eq!((server.text("name"), client.text("name")), ("GET /v1/{*rest}", "GET"));
    let (consumer, key) = (world.consumer.to_string(), world.shipped().await[0].key.to_string());
    server.says(&[
        ("http.request.method", Some("GET")),
        ("http.route", Some("/v1/{*rest}")),
        ("url.path", Some("/v1/status/201")),
        ("url.scheme", Some("http")),
        ("server.address", Some("api.example")),
        ("server.port", Some("8443")),
        ("http.response.status_code", Some("201")),
        ("turnpike.consumer.id", Some(&consumer)),
        ("turnpike.key.id", Some(&key)),
        ("turnpike.plan", Some("pro")),
        ("turnpike.units", Some("1")),
        ("turnpike.upstream", Some("main")),
        ("turnpike.request.id", reply.header("x-request-id")),
        ("turnpike.refusal", None),
        ("error.type", None),
        ("client.address", None),
        ("url.query", None),
    ]);
    client.says(&[
        ("http.request.method", Some("GET")),
        ("server.address", Some("127.0.0.1")),
        ("server.port", Some(&world.upstream.addr.port().to_string())),
        ("http.response.status_code", Some("201")),
        ("turnpike.upstream", Some("main")),
        ("http.request.resend_count", None),
        ("error.type", None),
    ]);
    assert!(!server.failed() && !client.failed());
    let ((began, ended), (sent, answered)) = (server.times(), client.times());
    let now_ns = u64::try_from(START_MS + DAY_MS).unwrap() * 1_000_000;
    assert_eq!(began, now_ns, "the clock's time");
    assert!(began <= sent && sent < answered && answered <= ended, "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_no_query_and_no_header_leaves_for_the_collector() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let key = world.key.reveal();
    let secret = "s3cret-of-a-caller";
    for (line, status) in [
        (
            format!("GET /v1/{key}/ok?token={secret}&x=%20 HTTP/1.1\r\nX-API-Key: {key}"),
            200,
        ),
        (
            format!("GET /v1/ok?{secret} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nCookie: a={secret}"),
            200,
        ),
        (format!("GET /v1/ok?key={key} HTTP/1.1"), 401),
        (format!("GET /v1/ok HTTP/1.1\r\nX-API-Key: {secret}"), 401),
        (format!("GET /{key}?a={secret} HTTP/1.1"), 404),
        (format!("{secret} /v1/ok HTTP/1.1\r\nX-API-Key: {key}"), 405),
        (format!("GET /v1/ok?{secret} HTTP/7.7\r\nX-API-Key: {key}"), 400),
        (
            format!("GET http://{secret}:{key}@api.example/v1/ok HTTP/1.1\r\nX-API-Key: {key}"),
            400,
        ),
        (
            format!("GET /down?{secret} HTTP/1.1\r\nX-API-Key: {key}\r\nTracestate: a={secret}"),
            502,
        ),
    ] {
        let reply = world.send(&format!("{line}\r\nHost: api.example\r\n"), "").await;
        assert_eq!(reply.status, status, "{line}");
    }
    let reply = world
        .send(
            &format!("GET /v1/ok HTTP/1.1\r\nHost: {key}.example\r\nX-API-Key: {key}\r\n"),
            "",
        )
        .await;
    assert_eq!(reply.status, 200);
    until(|| all(&collector.spans(), SERVER).len() == 10).await;
    let bytes = collector.bytes();
    assert!(!bytes.contains(key) && !bytes.contains(secret), "{bytes}");
    assert!(bytes.contains("/v1/[key]/ok") && !bytes.contains("token=") && !bytes.contains("%20"));
}

/// A request line, its span's name, and what that says of a refusal, of an error, and the attempt's of an error.
type Bad = (
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    Option<&'static str>,
);

const UNREACHABLE: Option<&str> = Some("upstream-unreachable");
const TIMEOUT: Option<&str> = Some("upstream-timeout");
const BROKEN: Option<&str> = Some("upstream-broken");
const BAD: &[Bad] = &[
    ("GET /nothing HTTP/1.1", "GET", Some("no-route"), None, None),
    (
        "GET /export HTTP/1.1",
        "GET /export",
        Some("feature-missing"),
        None,
        None,
    ),
    ("GET /v1/ok HTTP/7.7", "HTTP", Some("bad-request"), None, None),
    ("BREW /v1/ok HTTP/1.1", "HTTP", Some("method-not-allowed"), None, None),
    (
        "GET /v1/status/404 HTTP/1.1",
        "GET /v1/{*rest}",
        None,
        None,
        Some("404"),
    ),
    (
        "GET /v1/status/500 HTTP/1.1",
        "GET /v1/{*rest}",
        None,
        Some("500"),
        Some("500"),
    ),
    ("GET /down HTTP/1.1", "GET /down", UNREACHABLE, UNREACHABLE, UNREACHABLE),
    (
        "GET /slow/hang HTTP/1.1",
        "GET /slow/{*rest}",
        TIMEOUT,
        TIMEOUT,
        TIMEOUT,
    ),
    (
        "GET /v1/raw/garbage HTTP/1.1",
        "GET /v1/{*rest}",
        BROKEN,
        BROKEN,
        BROKEN,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_failures_are_spans_that_say_so() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let key = world.key.reveal();
    let mut replies = Vec::new();
    for (line, ..) in BAD {
        let head = format!("{line}\r\nHost: a\r\nX-API-Key: {key}\r\n");
        replies.push(world.send(&head, "").await);
    }
    until(|| all(&collector.spans(), SERVER).len() == BAD.len()).await;
    let spans = collector.spans();
    for (reply, (line, name, refusal, error, attempt)) in replies.iter().zip(BAD) {
        let mut requests = all(&spans, SERVER).into_iter();
        let id = reply.header("x-request-id");
        let request = requests.find(|s| s.said("turnpike.request.id") == id).unwrap();
        assert_eq!(request.text("name"), *name, "{line}");
        request.says(&[
            ("http.response.status_code", Some(&reply.status.to_string())),
            ("turnpike.refusal", *refusal),
            ("error.type", *error),
        ]);
        assert_eq!(request.failed(), error.is_some(), "{line}");
        let mut attempts = all(&spans, CLIENT).into_iter();
        let mine = attempts.find(|s| s.text("parentSpanId") == request.text("spanId"));
        assert_eq!(mine.and_then(|s| s.said("error.type")), *attempt, "{line}");
        assert_eq!(mine.is_some_and(Span::failed), attempt.is_some(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_spans() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let mut leaving = tokio::net::TcpStream::connect(world.addr).await.unwrap();
    let key = world.key.reveal();
    let head = format!("GET /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut leaving, head.as_bytes())
        .await
        .unwrap();
    until(|| !world.upstream.requests().is_empty()).await;
    drop(leaving);
    let spans = collector.wait(2).await;
    let (server, client) = (all(&spans, SERVER)[0], all(&spans, CLIENT)[0]);
    assert_eq!(server.said("turnpike.refusal"), Some("client-gone"));
    assert_eq!(client.said("error.type"), Some("client-gone"));
    assert_eq!(server.times().1, client.times().1, "both end when it leaves");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_and_the_trace_find_each_other() {
    let collector = Collector::start().await;
    let world = with_config(|config, world| {
        config.trace = Some(trace(&collector, "1"));
        config.access_log = Some(AccessLogConfig {
            to: AccessLogTo::File(world.folder.0.join("access.log")),
            sample: gateway::Share::ALL,
        });
    })
    .await;
    world.get("/v1/ok").await;
    let spans = collector.wait(2).await;
    let server = all(&spans, SERVER)[0];
    let log = world.folder.0.join("access.log");
    let mut text = String::new();
    until(|| {
        text = std::fs::read_to_string(&log).unwrap();
        text.ends_with('\n')
    })
    .await;
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["trace_id"], server.text("traceId"));
    assert_eq!(line["request_id"], server.said("turnpike.request.id").unwrap());
    assert_eq!(
        server.said("client.address"),
        Some("127.0.0.1"),
        "shown there, shown here"
    );
}
