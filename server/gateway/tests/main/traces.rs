//! Traces: spans for a collector, trace context for upstreams, and nothing in the way of a request.

use crate::clients::with_config;
use crate::http2_upstream::Server;
use crate::metrics::metrics;
use crate::routing::with_routes;
use crate::stub::{Deed, Stub};
use crate::support::*;
use gateway::{AccessLogConfig, AccessLogTo, CollectorHeaders, TraceConfig};
use serde_json::Value;
use std::time::{Duration, Instant};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// A target that takes nothing.
const NOBODY: &str = "http://127.0.0.1:1";

/// What a collector was sent.
struct Collector(Stub);

impl Collector {
    async fn start() -> Self {
        Self(Stub::start("", Deed::Status(200)).await)
    }
    fn batches(&self) -> Vec<(String, Value)> {
        let seen = self.0.seen.lock().unwrap();
        let split = seen.iter().map(|request| request.split_once("\r\n\r\n").unwrap());
        split
            .map(|(head, body)| (head.to_ascii_lowercase(), serde_json::from_str(body).unwrap()))
            .collect()
    }
    fn bytes(&self) -> String {
        self.0.seen.lock().unwrap().join("\n")
    }
    /// All spans, in their order.
    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (_, batch) in self.batches() {
            let found = batch["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
            spans.extend(found.iter().cloned().map(Span));
        }
        spans
    }
    /// Waits for so many spans, and no more.
    async fn wait(&self, count: usize) -> Vec<Span> {
        until(|| self.spans().len() >= count).await;
        let spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:?}");
        spans
    }
}

#[derive(Debug, Clone)]
struct Span(Value);

impl Span {
    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }
    fn kind(&self) -> u64 {
        self.0["kind"].as_u64().unwrap()
    }
    /// An attribute, as text.
    fn said(&self, key: &str) -> Option<&str> {
        let mut all = self.0["attributes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|a| a["key"] == *key);
        let value = &all.next()?["value"];
        assert!(all.next().is_none(), "{key} is said twice: {self:?}");
        value["stringValue"].as_str().or(value["intValue"].as_str())
    }
    fn says(&self, wanted: &[(&str, Option<&str>)]) {
        for (key, value) in wanted {
            assert_eq!(self.said(key), *value, "{key} of {self:?}");
        }
    }
    fn failed(&self) -> bool {
        self.0["status"]["code"] == 2
    }
    fn times(&self) -> (u64, u64) {
        let ns = |field| self.text(field).parse().unwrap();
        (ns("startTimeUnixNano"), ns("endTimeUnixNano"))
    }
}

fn trace(collector: &Collector, sample: &str) -> TraceConfig {
    TraceConfig {
        endpoint: collector.0.url().parse().unwrap(),
        headers: CollectorHeaders::default(),
        sample: sample.parse().unwrap(),
        trust_parent: false,
    }
}

async fn traced(collector: &Collector, sample: &str) -> World {
    with_config(|config, _| config.trace = Some(trace(collector, sample))).await
}

/// GET with a key and more header lines.
async fn get(world: &World, path: &str, lines: &str) -> Reply {
    let key = world.key.reveal();
    let head = format!("GET {path} HTTP/1.1\r\nHost: api.example:8443\r\nX-API-Key: {key}\r\n{lines}");
    world.send(&head, "").await
}

fn parent(trace: &str, span: &str, flags: &str) -> String {
    format!("Traceparent: 00-{trace}-{span}-{flags}\r\n")
}

/// Trace, span and flags that an upstream was told.
fn told(request: &str) -> (String, String, String) {
    let request = request.to_ascii_lowercase();
    let mut lines = request.lines().filter_map(|l| l.strip_prefix("traceparent: "));
    let parts: Vec<&str> = lines
        .next()
        .unwrap_or_else(|| panic!("no traceparent: {request}"))
        .split('-')
        .collect();
    assert!(lines.next().is_none(), "two of them: {request}");
    assert_eq!((parts.len(), parts[0]), (4, "00"));
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

fn all(spans: &[Span], kind: u64) -> Vec<&Span> {
    spans.iter().filter(|s| s.kind() == kind).collect()
}

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
async fn a_batch_says_whose_it_is_and_what_the_collector_wants_to_hear() {
    let collector = Collector::start().await;
    let world = with_config(|config, _| {
        config.trace = Some(TraceConfig {
            headers: "x-tenant=acme,authorization=Bearer%20token".parse().unwrap(),
            ..trace(&collector, "1")
        });
    })
    .await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    collector.wait(2).await;
    let (head, batch) = &collector.batches()[0];
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    for line in [
        "content-type: application/json",
        "x-tenant: acme",
        "authorization: bearer token",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    let resource = batch["resourceSpans"][0]["resource"]["attributes"].to_string();
    assert!(resource.contains(r#"{"key":"service.name","value":{"stringValue":"turnpike-gateway"}}"#));
    assert!(resource.contains(world.gateway.as_ref().unwrap().ledger_id()));
    until(|| metrics(&world).sum("trace_spans_total", &[]) == 2.0).await;
    assert_eq!(metrics(&world).sum("trace_spans_dropped_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_is_a_span_and_its_upstream_is_told_which() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let (busy, well) = (
        Stub::start("busy", Deed::Status(503)).await,
        Stub::start("well", Deed::Status(200)).await,
    );
    let policy = format!(
        r#"{{"targets": [{{"url": "{}"}}, {{"url": "{}"}}, {{"url": "{NOBODY}"}}],
            "breaker": {{"consecutive_failures": 0}},
            "retries": {{"attempts": 3, "statuses": [503], "budget_percent": 100, "budget_min_per_second": 1000}}}}"#,
        busy.url(),
        well.url()
    );
    world.policy(&policy).await;
    for _ in 0..30 {
        assert_eq!(world.ask().await, (200, "well".to_owned()));
    }
    until(|| all(&collector.spans(), SERVER).len() == 30).await;
    let spans = collector.spans();
    let tried = all(&spans, CLIENT);
    let mut seen = [0; 4];
    for request in all(&spans, SERVER) {
        let mine: Vec<_> = tried
            .iter()
            .filter(|s| s.text("parentSpanId") == request.text("spanId"))
            .collect();
        seen[mine.len()] += 1;
        for (number, attempt) in mine.iter().enumerate() {
            assert_eq!(attempt.text("traceId"), request.text("traceId"));
            let again = (number > 0).then(|| number.to_string());
            assert_eq!(attempt.said("http.request.resend_count"), again.as_deref());
            let last = number + 1 == mine.len();
            assert_eq!(attempt.failed(), !last, "{mine:?}");
            if let Some(next) = mine.get(number + 1) {
                assert!(attempt.times().1 <= next.times().0, "one after another: {mine:?}");
            }
        }
    }
    assert!(seen[0] == 0 && seen[1] > 0 && seen[2] > 0 && seen[3] > 0, "{seen:?}");
    for (stub, status, error) in [(&busy, "503", Some("503")), (&well, "200", None)] {
        let port = stub.addr.port().to_string();
        let mut mine: Vec<&str> = Vec::new();
        for attempt in tried.iter().filter(|s| s.said("server.port") == Some(&port)) {
            assert_eq!(attempt.said("http.response.status_code"), Some(status));
            assert_eq!(attempt.said("error.type"), error);
            mine.push(attempt.text("spanId"));
        }
        let mut asked: Vec<String> = stub.seen.lock().unwrap().iter().map(|r| told(r).1).collect();
        mine.sort_unstable();
        asked.sort_unstable();
        assert_eq!(mine, asked, "each is told the span of the very attempt");
        assert!(!mine.is_empty());
    }
    let refused = tried.iter().filter(|s| s.said("server.port") == Some("1"));
    let errors: Vec<_> = refused.map(|s| s.said("error.type")).collect();
    assert!(!errors.is_empty() && errors.iter().all(|e| *e == Some("upstream-unreachable")));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_over_http2_are_told_apart_too() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let (one, other) = (Server::start(None).await, Server::start(None).await);
    let policy = format!(
        r#"{{"targets": [{{"url": "http://{}"}}, {{"url": "http://{}"}}], "protocol": "http2"}}"#,
        one.addr, other.addr
    );
    world.policy(&policy).await;
    let lines = format!("{}Tracestate: a=1\r\n", parent(TRACE, CALLER, "01"));
    assert_eq!(get(&world, "/v1/broken", &lines).await.status, 502);
    let spans = collector.wait(3).await;
    let mut wanted: Vec<String> = all(&spans, CLIENT)
        .iter()
        .map(|s| format!("00-{TRACE}-{}-01", s.text("spanId")))
        .collect();
    let mut told = Vec::new();
    for server in [&one, &other] {
        let seen = server.seen.lock().unwrap();
        assert_eq!(
            (seen.len(), &seen[0].headers()["tracestate"]),
            (1, &"a=1".parse().unwrap())
        );
        told.push(seen[0].headers()["traceparent"].to_str().unwrap().to_owned());
    }
    wanted.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, wanted);
    let errors = all(&spans, CLIENT)
        .iter()
        .map(|s| s.said("error.type"))
        .collect::<Vec<_>>();
    assert_eq!(errors, [Some("upstream-broken"); 2]);
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_recorded_is_sent_nowhere_and_goes_on_with_its_flag_down() {
    let collector = Collector::start().await;
    let mut world = traced(&collector, "0").await;
    let lines = format!("{}Tracestate: a=1\r\n", parent(TRACE, CALLER, "01"));
    assert_eq!(get(&world, "/v1/ok", &lines).await.status, 200);
    let request = world.upstream.last();
    let (trace, span, flags) = told(&request);
    assert_eq!(
        (trace.as_str(), flags.as_str()),
        (TRACE, "00"),
        "a stranger's word counts for nothing"
    );
    assert!(span != CALLER && request.contains("tracestate: a=1\r\n"));
    assert_eq!(get(&world, "/v1/ok", "").await.status, 200);
    let (new, _, flags) = told(&world.upstream.last());
    assert!(new != TRACE && flags == "00");
    world.stop().await;
    assert_eq!(collector.bytes(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_are_no_traces_nothing_is_said_of_one() {
    let world = World::new().await;
    assert_eq!(get(&world, "/v1/ok", "").await.status, 200);
    assert!(!world.upstream.last().to_ascii_lowercase().contains("traceparent"));
    let lines = format!("{}Tracestate: a=1\r\n", parent(TRACE, CALLER, "01"));
    assert_eq!(get(&world, "/v1/ok", &lines).await.status, 200);
    let as_it_came = (TRACE.to_owned(), CALLER.to_owned(), "01".to_owned());
    assert_eq!(told(&world.upstream.last()), as_it_came);
    assert!(!world.gateway.as_ref().unwrap().metrics().contains("trace_spans"));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_decide_where_they_are_trusted() {
    for (sample, flag, recorded) in [
        ("0", "01", true),
        ("1", "00", false),
        ("0", "03", true),
        ("1", "02", false),
    ] {
        let collector = Collector::start().await;
        let mut world = with_config(|config, _| {
            config.trace = Some(TraceConfig {
                trust_parent: true,
                ..trace(&collector, sample)
            });
        })
        .await;
        get(&world, "/v1/ok", &parent(TRACE, CALLER, flag)).await;
        assert_eq!(told(&world.upstream.last()).2, if recorded { "01" } else { "00" });
        get(&world, "/v1/ok", "").await;
        let own = told(&world.upstream.last());
        assert_eq!(
            own.2,
            if sample == "1" { "01" } else { "00" },
            "who says nothing decides nothing"
        );
        world.stop().await;
        let spans = collector.spans();
        assert_eq!(spans.len(), 2, "one of the two requests: {spans:?}");
        let trace = if recorded { TRACE } else { own.0.as_str() };
        assert!(spans.iter().all(|s| s.text("traceId") == trace));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_traceparent_begins_a_trace() {
    let collector = Collector::start().await;
    let world = traced(&collector, "1").await;
    let good = parent(TRACE, CALLER, "01");
    let wrong = [
        String::new(),
        "Traceparent: nonsense\r\n".to_owned(),
        parent(&"0".repeat(32), CALLER, "01"),
        parent(TRACE, &"0".repeat(16), "01"),
        parent(&TRACE.to_uppercase(), CALLER, "01"),
        good.replace("00-0af", "ff-0af"),
        format!("{good}{good}"),
    ];
    for lines in &wrong {
        let reply = get(&world, "/v1/ok", &format!("{lines}Tracestate: a=1\r\n")).await;
        assert_eq!(reply.status, 200, "{lines}");
        let request = world.upstream.last();
        let (trace, _, flags) = told(&request);
        assert!(trace != TRACE && trace != "0".repeat(32) && flags == "01", "{lines}");
        assert!(
            !request.contains("tracestate"),
            "it belongs to a trace that ended: {request}"
        );
    }
    let spans = collector.wait(2 * wrong.len()).await;
    let mut traces: Vec<&str> = all(&spans, SERVER).iter().map(|s| s.text("traceId")).collect();
    assert!(all(&spans, SERVER).iter().all(|s| s.0.get("parentSpanId").is_none()));
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), wrong.len());
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
async fn a_collector_that_takes_nothing_holds_up_nobody() {
    for deed in [
        Deed::Close,
        Deed::Status(503),
        Deed::Status(400),
        Deed::Cut("HTTP/1.1 429 X\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"),
        Deed::Cut("SSH-2.0-OpenSSH\r\n\r\n"),
    ] {
        let collector = Collector(Stub::start("", deed.clone()).await);
        let mut world = traced(&collector, "1").await;
        for _ in 0..20 {
            assert_eq!(world.get("/v1/ok").await.status, 200);
        }
        until(|| metrics(&world).sum("trace_spans_dropped_total", &[]) > 0.0).await;
        assert_eq!(metrics(&world).sum("trace_spans_total", &[]), 0.0, "{deed:?}");
        let tries = collector.0.count();
        assert!(tries <= 2, "{tries} within its first pause: {deed:?}");
        assert_eq!(world.shipped().await.len(), 20);
        world.stop().await;
    }
    let mut world = with_config(|config, _| {
        let endpoint = NOBODY.parse().unwrap();
        let (headers, sample) = (CollectorHeaders::default(), gateway::Share::ALL);
        config.trace = Some(TraceConfig {
            endpoint,
            headers,
            sample,
            trust_parent: false,
        });
    })
    .await;
    for _ in 0..20 {
        assert_eq!(world.get("/v1/ok").await.status, 200);
    }
    until(|| metrics(&world).sum("trace_spans_dropped_total", &[]) > 0.0).await;
    assert_eq!(told(&world.upstream.last()).2, "01");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_silent_holds_up_neither_requests_nor_the_end() {
    let collector = Collector(Stub::start("", Deed::Hang).await);
    let mut world = traced(&collector, "1").await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    until(|| collector.0.count() == 1).await;
    for _ in 0..50 {
        assert_eq!(world.get("/v1/ok").await.status, 200);
    }
    let running = world.gateway.take().unwrap();
    let began = Instant::now();
    running.shutdown(Duration::from_secs(1)).await;
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "its own time limit is none of the end's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_comes_back_is_sent_to_again() {
    let collector = Collector(Stub::start("", Deed::Status(503)).await);
    let world = traced(&collector, "1").await;
    world.get("/v1/ok").await;
    until(|| metrics(&world).sum("trace_spans_dropped_total", &[]) == 2.0).await;
    collector.0.set(Deed::Status(200));
    world.get("/v1/ok").await;
    until(|| metrics(&world).sum("trace_spans_total", &[]) == 2.0).await;
    let partial = r#"{"partialSuccess":{"rejectedSpans":"1"}}"#;
    let length = partial.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{partial}");
    collector.0.set(Deed::Cut(answer.leak()));
    world.get("/v1/ok").await;
    until(|| metrics(&world).sum("trace_spans_total", &[]) == 3.0).await;
    assert_eq!(metrics(&world).sum("trace_spans_dropped_total", &[]), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_sent_before_the_end() {
    let collector = Collector::start().await;
    let mut world = traced(&collector, "1").await;
    let one = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n",
        world.key.reveal()
    );
    let many = format!("{one}\r\n").repeat(1_199) + &one + "Connection: close\r\n\r\n";
    let answers = raw(world.addr, many.as_bytes()).await;
    let answers = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count();
    assert_eq!(answers, 1_200);
    world.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2_400, "all of them, once");
    let most = collector.batches().len();
    assert!((2..=30).contains(&most), "{most} batches");
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
    let text = std::fs::read_to_string(world.folder.0.join("access.log")).unwrap();
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["trace_id"], server.text("traceId"));
    assert_eq!(line["request_id"], server.said("turnpike.request.id").unwrap());
    assert_eq!(
        server.said("client.address"),
        Some("127.0.0.1"),
        "shown there, shown here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_keep_the_trace_back() {
    let collector = Collector::start().await;
    let mut world = with_routes(vec![
        (
            "quiet",
            "/quiet",
            r#"{"request_headers": {"remove": ["traceparent", "tracestate"]}}"#,
        ),
        (
            "kept",
            "/kept/{*rest}",
            r#"{"cache": {"shared_by": "everyone", "default_ttl_s": 60}}"#,
        ),
    ])
    .await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.trace = Some(trace(&collector, "1"));
    world.start_with(config);
    world.synced().await;
    let lines = format!("{}Tracestate: a=1\r\n", parent(TRACE, CALLER, "01"));
    assert_eq!(get(&world, "/quiet", &lines).await.status, 200);
    let request = world.upstream.last().to_ascii_lowercase();
    assert!(
        !request.contains("traceparent") && !request.contains("tracestate"),
        "{request}"
    );
    assert_eq!(collector.wait(2).await[0].text("traceId"), TRACE);
    assert_eq!(get(&world, "/kept/one", &lines).await.status, 200);
    let request = world.upstream.last().to_ascii_lowercase();
    assert!(
        !request.contains("traceparent"),
        "whoever gets the answer, too, did not choose this: {request}"
    );
    assert_eq!(get(&world, "/kept/two", "").await.status, 200);
    told(&world.upstream.last());
    let spans = collector.wait(6).await;
    assert_eq!(spans[3].text("traceId"), TRACE, "the caller's trace goes on here");
}
