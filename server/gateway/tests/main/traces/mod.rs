//! Traces: spans for a collector, trace context for upstreams, and nothing in the way of a request.

mod context;
mod export;
mod spans;

use crate::clients::with_config;
use crate::stub::{Deed, Stub};
use crate::support::*;
use gateway::{CollectorHeaders, TraceConfig};
use serde_json::Value;

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
