//! How spans reach the collector, and what becomes of them when it does not take them.

use super::*;
use crate::clients::with_config;
use crate::metrics::metrics;
use std::time::{Duration, Instant};

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
async fn a_collector_that_takes_nothing_holds_up_nobody() {
    for deed in [
        Deed::Close,
        Deed::Status(503),
        Deed::Status(400),
        Deed::Cut("HTTP/1.1 429 X\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"),
        Deed::Cut("SSH-2.0-OpenSSH\r\n\r\n"),
    ] {
        let collector = Collector(Stub::start("", deed.clone()).await);
        let began = Instant::now();
        let mut world = traced(&collector, "1").await;
        for _ in 0..20 {
            assert_eq!(world.get("/v1/ok").await.status, 200);
        }
        until(|| metrics(&world).sum("trace_spans_dropped_total", &[]) > 0.0).await;
        assert_eq!(metrics(&world).sum("trace_spans_total", &[]), 0.0, "{deed:?}");
        // Each pause is a second or longer.
        let (tries, most) = (collector.0.count(), 2 + began.elapsed().as_secs());
        assert!(tries as u64 <= most, "{tries} tries, {most} at most: {deed:?}");
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

/// What a collector was sent of 1200 requests by a gateway that then ended at once, and how long the end took.
async fn sent_by_the_end() -> (Collector, Duration) {
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
    let began = Instant::now();
    let running = world.gateway.take().unwrap();
    running.shutdown(Duration::from_secs(60)).await;
    (collector, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_sent_before_the_end() {
    /// What the last spans have at the end.
    const END_MOST: Duration = Duration::from_secs(5);
    for _ in 0..3 {
        let (collector, took) = sent_by_the_end().await;
        // A machine that stood still has left them no time: that says nothing of the gateway.
        if took >= END_MOST {
            continue;
        }
        let spans = collector.spans();
        assert_eq!(spans.len(), 2_400, "all of them, once");
        let most = collector.batches().len();
        assert!((2..=30).contains(&most), "{most} batches");
        return;
    }
    panic!("no end came in time");
}
