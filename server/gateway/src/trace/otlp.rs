//! Spans as a collector takes them: OTLP in its JSON form.
//!
//! That is protobuf's JSON mapping of `ExportTraceServiceRequest` with what OTLP says otherwise: names in camel case, ids
//! in hexadecimal, 64-bit integers as decimal strings, enumerations as numbers.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The media type of a batch.
pub(super) const JSON: &str = "application/json";
/// What made the spans.
const SCOPE: &str = "turnpike.gateway";
/// The flags of a span say whether its parent is somebody else's, and that they say so.
const KNOWN_REMOTE: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// Recorded, in trace context and in a span's flags.
const SAMPLED: u32 = 1;

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server = 2,
    Client = 3,
}

/// A span.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

/// Where a span stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) parent: Option<u64>,
    pub(super) kind: Kind,
    /// Begin and end in nanoseconds since 1970.
    pub(super) time_ns: (u64, u64),
}

#[derive(Debug, Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Debug, Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(Cow<'a, str>),
    /// A 64-bit integer.
    #[serde(rename = "intValue")]
    Number(String),
}

#[derive(Debug, Serialize)]
struct Status {
    code: u8,
}
/// The operation failed.
const ERROR: Status = Status { code: 2 };

impl<'a> Span<'a> {
    pub(super) fn new(name: String, place: Place) -> Self {
        let remote = match (place.kind, place.parent) {
            (Kind::Server, Some(_)) => REMOTE,
            _ => 0,
        };
        Self {
            trace_id: format!("{:032x}", place.trace),
            span_id: format!("{:016x}", place.span),
            parent_span_id: place.parent.map(|parent| format!("{parent:016x}")),
            flags: SAMPLED | KNOWN_REMOTE | remote,
            name,
            kind: place.kind as u8,
            start_time_unix_nano: place.time_ns.0.to_string(),
            end_time_unix_nano: place.time_ns.1.to_string(),
            attributes: Vec::new(),
            status: None,
        }
    }

    /// Says something of it.
    pub(super) fn text(&mut self, key: &'static str, value: impl Into<Cow<'a, str>>) {
        let value = Value::Text(value.into());
        self.attributes.push(Attribute { key, value });
    }

    /// Says a number.
    pub(super) fn number(&mut self, key: &'static str, value: impl Into<u64>) {
        let value = Value::Number(value.into().to_string());
        self.attributes.push(Attribute { key, value });
    }

    /// It failed, in a way that has this name.
    pub(super) fn failed(&mut self, how: impl Into<Cow<'a, str>>) {
        self.text("error.type", how);
        self.status = Some(ERROR);
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: [Attribute<'a>; 3],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: &'a [Span<'a>],
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

/// The spans as the body of a request, from the gateway of this name.
pub(super) fn batch(instance: &str, spans: &[Span<'_>]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let attribute = |key, value| Attribute {
        key,
        value: Value::Text(Cow::Borrowed(value)),
    };
    let batch = Batch {
        resource_spans: [ResourceSpans {
            resource: Resource {
                attributes: [
                    attribute("service.name", "turnpike-gateway"),
                    attribute("service.version", version),
                    attribute("service.instance.id", instance),
                ],
            },
            scope_spans: [ScopeSpans {
                scope: Scope { name: SCOPE, version },
                spans,
            }],
        }],
    };
    // Texts and numbers can always be said in JSON.
    serde_json::to_vec(&batch).unwrap_or_default()
}

/// What a collector answers.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Taken {
    partial_success: Partial,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Partial {
    rejected_spans: Rejected,
}

/// A 64-bit integer, which may be written either way.
#[derive(Deserialize)]
#[serde(untagged)]
enum Rejected {
    Text(String),
    Number(u64),
}

impl Default for Rejected {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// How many spans of a batch a collector says it did not take; an answer that says nothing of it took all.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let taken: Taken = serde_json::from_slice(answer).unwrap_or_default();
    match taken.partial_success.rejected_spans {
        Rejected::Text(text) => text.parse().unwrap_or(0),
        Rejected::Number(number) => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_batch_is_as_the_specification_writes_it() {
        let place = Place {
            trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span: 0xb7ad,
            parent: Some(u64::MAX),
            kind: Kind::Server,
            time_ns: (1_793_577_600_123_000_000, u64::MAX),
        };
        let mut server = Span::new("GET /a".to_owned(), place);
        server.text("http.route", "/\"a\"\n");
        server.number("http.response.status_code", 200u16);
        let own = Place { parent: None, ..place };
        let mut client = Span::new(
            "GET".to_owned(),
            Place {
                kind: Kind::Client,
                ..own
            },
        );
        client.failed("503");
        let said: Value = serde_json::from_slice(&batch("gw", &[server, client])).unwrap();
        let resource = &said["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][2],
            json!({"key": "service.instance.id", "value": {"stringValue": "gw"}})
        );
        let scope = &resource["scopeSpans"][0];
        assert_eq!(scope["scope"]["name"], "turnpike.gateway");
        let span = |name: &str, kind: u8, flags: u32| {
            json!({
                "traceId": "0af7651916cd43dd8448eb211c80319c",
                "spanId": "000000000000b7ad",
                "flags": flags,
                "name": name,
                "kind": kind,
                "startTimeUnixNano": "1793577600123000000",
                "endTimeUnixNano": "18446744073709551615",
            })
        };
        let mut wanted = [span("GET /a", 2, 0x301), span("GET", 3, 0x101)];
        wanted[0]["parentSpanId"] = json!("ffffffffffffffff");
        wanted[0]["attributes"] = json!([
            {"key": "http.route", "value": {"stringValue": "/\"a\"\n"}},
            {"key": "http.response.status_code", "value": {"intValue": "200"}},
        ]);
        wanted[1]["attributes"] = json!([{"key": "error.type", "value": {"stringValue": "503"}}]);
        wanted[1]["status"] = json!({"code": 2});
        assert_eq!(scope["spans"], json!(wanted));
    }

    #[test]
    fn what_was_not_taken_is_read_as_far_as_it_is_said() {
        for (answer, count) in [
            (
                r#"{"partialSuccess":{"rejectedSpans":"7","errorMessage":"too old"}}"#,
                7,
            ),
            (r#"{"partialSuccess":{"rejectedSpans":7}}"#, 7),
            (r#"{"partialSuccess":{}}"#, 0),
            ("{}", 0),
            ("", 0),
            ("thanks", 0),
            (r#"{"partialSuccess":{"rejectedSpans":"many"}}"#, 0),
            (r#"{"partialSuccess":{"rejectedSpans":-1}}"#, 0),
        ] {
            assert_eq!(rejected(answer.as_bytes()), count, "{answer}");
        }
    }
}
