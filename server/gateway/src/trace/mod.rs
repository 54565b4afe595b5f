//! Traces of requests for an OpenTelemetry collector, behind a switch.
//!
//! A request that is recorded becomes a span of kind server, and each attempt at an upstream a span of kind client below
//! it ([`Part`], [`spans`]). Trace context comes and goes as the W3C has it: a caller's well-formed `traceparent` is
//! carried on, with its `tracestate`, and anything else begins a trace. The upstream is told the span of the attempt, and
//! whether it is recorded; so it is told the same trace when nothing of it is recorded here. An answer that several
//! callers share is fetched without a word of any of them, a trace's id with it. Who calls the gateway is a
//! stranger as a rule: what a `traceparent` says of recording counts only where [`TraceConfig::trust_parent`] says so, and
//! else a lot decides that no caller can know.
//!
//! Spans are sent as OTLP over HTTP in its JSON form ([`otlp`]), which every collector takes at the same address, with the
//! HTTP client that asks issuers for their keys. The crates for it (`opentelemetry-proto`, `opentelemetry-otlp`) bring
//! `opentelemetry`, `opentelemetry_sdk`, `prost` with its macros and a second HTTP client or `tonic`, for five kinds of
//! objects that are written here in a hundred lines.
//!
//! Nothing waits for the collector ([`Tracer`], [`export`]): a request that is over goes into a bounded queue, or is
//! dropped and counted; one task sends batches, one at a time. A batch that the collector does not take is dropped and
//! counted, and the next one is sent after a pause, so a collector that is down, slow or busy costs at most the queue's
//! memory. No span holds a query, a header or a key. A span lasts as long as its request is in flight; that of a WebSocket
//! ends with the handshake, as its record does.

mod collector;
mod config;
mod export;
mod otlp;
mod part;
mod spans;
mod tracer;

pub use config::{CollectorHeaders, CollectorUrl, TraceConfig};
pub(crate) use part::{Left, Part};
pub(crate) use tracer::Tracer;
