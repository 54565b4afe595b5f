//! A line of the access log.

use super::{Entry, Outcome};
use crate::metrics::Phase;
use crate::refusal::Refusal;
use serde::Serialize;
use std::borrow::Cow;
use std::net::IpAddr;

/// What is written of a request. What is not known is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    client: IpAddr,
    method: &'a str,
    path: Cow<'a, str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    request_bytes: u64,
    response_bytes: u64,
    duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_us: Option<u64>,
}

/// Adds the line of a request.
pub(super) fn write(out: &mut Vec<u8>, entry: &Entry, outcome: &Outcome) {
    let (upstream, target) = entry.upstream();
    let waited_us = entry.phase_ns(Phase::Forward) / 1_000;
    let line = Line {
        time: entry.at.to_string(),
        request_id: entry.request.to_string(),
        trace_id: entry.trace().map(|trace| format!("{trace:032x}")),
        client: entry.client.to_canonical(),
        method: &entry.method,
        path: entry.shown_path(),
        status: outcome.status,
        refusal: outcome.refusal.map(Refusal::slug),
        route: entry.route().map(|r| r.slug.as_str()),
        consumer: outcome.consumer().map(|c| c.to_string()),
        key: outcome.key().map(|k| k.to_string()),
        plan: outcome.plan(),
        upstream,
        target,
        request_bytes: outcome.request_bytes,
        response_bytes: outcome.response_bytes,
        duration_us: u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX),
        first_byte_us: (waited_us > 0).then_some(waited_us),
    };
    // Texts and numbers can always be said in JSON, and a vector takes everything.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
}
