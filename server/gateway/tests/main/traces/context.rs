//! Trace context: what comes from callers, what goes to upstreams, and who decides what is recorded.

use super::*;
use crate::clients::with_config;
use crate::http2_upstream::Server;
use crate::routing::with_routes;

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

/// A caller with this flag, and then one who says nothing, at a gateway that trusts them.
async fn trusting(sample: &str, flag: &str, recorded: bool) {
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
    // Waited for while it runs: its end leaves the last spans little time.
    collector.wait(2).await;
    world.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "one of the two requests: {spans:?}");
    let trace = if recorded { TRACE } else { own.0.as_str() };
    assert!(spans.iter().all(|s| s.text("traceId") == trace));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_decide_where_they_are_trusted() {
    tokio::join!(
        trusting("0", "01", true),
        trusting("1", "00", false),
        trusting("0", "03", true),
        trusting("1", "02", false),
    );
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
