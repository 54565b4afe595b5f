//! The spans of a request that is over, named and described as OpenTelemetry's conventions for HTTP say. What may hold a
//! query (`url.full`) or is the client's own text (`user_agent.original`, a method of another name) is left out.

use super::otlp::{Kind, Place, Span};
use super::part::{Left, Part, Try};
use crate::refusal::Refusal;
use crate::seen::{Entry, Outcome};
use http::uri::Authority;
use model::key;
use std::time::{Duration, Instant};

/// Methods that are called by their name; all others are one.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];
/// A method of another name, and what went wrong in a way that has none.
const OTHER: &str = "_OTHER";

/// Adds the spans of a request: its own, and one for each attempt at an upstream.
pub(super) fn add<'a>(spans: &mut Vec<Span<'a>>, entry: &'a Entry, outcome: &'a Outcome, shows_client: bool) {
    let Some(part) = entry.part() else { return };
    let times = Times::of(entry, part, outcome);
    spans.push(server(entry, part, outcome, &times, shows_client));
    for (number, tried) in part.tries().iter().enumerate() {
        spans.push(client(entry, part, outcome, &times, (number, tried)));
    }
}

/// When it all was: the clock's time at the beginning, and what went by since then.
struct Times {
    started: Instant,
    began_ns: u64,
    ended_ns: u64,
}

impl Times {
    fn of(entry: &Entry, part: &Part, outcome: &Outcome) -> Self {
        let began_ns = u64::try_from(entry.at.jiff().as_nanosecond()).unwrap_or(0);
        Self {
            started: part.started,
            began_ns,
            ended_ns: began_ns.saturating_add(ns(outcome.took)),
        }
    }

    /// A moment of it, no later than its end.
    fn at(&self, moment: Instant) -> u64 {
        let since = ns(moment.saturating_duration_since(self.started));
        self.began_ns.saturating_add(since).min(self.ended_ns)
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn method(entry: &Entry) -> &'static str {
    let known = METHODS.iter().find(|known| **known == &*entry.method);
    known.copied().unwrap_or(OTHER)
}

/// A method as a span is called by it.
fn called(method: &'static str) -> &'static str {
    if method == OTHER { "HTTP" } else { method }
}

/// The span of the request itself.
fn server<'a>(entry: &'a Entry, part: &'a Part, outcome: &'a Outcome, times: &Times, shows_client: bool) -> Span<'a> {
    let (method, route) = (method(entry), entry.route());
    let name = match route {
        Some(route) => format!("{} {}", called(method), route.path),
        None => called(method).to_owned(),
    };
    let place = Place {
        trace: part.trace(),
        span: part.span(),
        parent: part.caller(),
        kind: Kind::Server,
        time_ns: (times.began_ns, times.ended_ns),
    };
    let mut span = Span::new(name, place);
    span.text("http.request.method", method);
    if let Some(scheme) = part.scheme {
        span.text("url.scheme", scheme);
        span.text("url.path", entry.shown_path());
    }
    if let Some(route) = route {
        span.text("http.route", route.path.as_str());
        span.text("turnpike.upstream", route.upstream.slug.as_str());
    }
    say_host(&mut span, &part.host);
    if shows_client {
        span.text("client.address", entry.client.to_canonical().to_string());
    }
    span.number("http.response.status_code", outcome.status);
    span.text("turnpike.request.id", entry.request.to_string());
    if let Some(consumer) = outcome.consumer() {
        span.text("turnpike.consumer.id", consumer.to_string());
    }
    if let Some(key) = outcome.key() {
        span.text("turnpike.key.id", key.to_string());
    }
    if let Some(plan) = outcome.plan() {
        span.text("turnpike.plan", plan);
        span.number("turnpike.units", outcome.units);
    }
    let refusal = outcome.refusal.map(Refusal::slug);
    if let Some(refusal) = refusal {
        span.text("turnpike.refusal", refusal);
    }
    if outcome.status >= 500 {
        match refusal {
            Some(refusal) => span.failed(refusal),
            None => span.failed(outcome.status.to_string()),
        }
    }
    span
}

/// The host that was asked, and the port where it is said; nothing where somebody put a key there.
fn say_host(span: &mut Span<'_>, host: &str) {
    let Ok(authority) = host.parse::<Authority>() else {
        return;
    };
    let host = authority.host();
    if host.split('.').any(|label| key::parse(label.as_bytes()).is_some()) {
        return;
    }
    let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    span.text("server.address", address.unwrap_or(host).to_owned());
    if let Some(port) = authority.port_u16() {
        span.number("server.port", port);
    }
}

/// The span of an attempt, up to the head of the answer.
fn client<'a>(
    entry: &'a Entry,
    part: &Part,
    outcome: &Outcome,
    times: &Times,
    (number, tried): (usize, &Try),
) -> Span<'a> {
    let method = method(entry);
    let ended_ns = tried.left.map_or(times.ended_ns, |(at, _)| times.at(at));
    let place = Place {
        trace: part.trace(),
        span: part.span_of(number),
        parent: Some(part.span()),
        kind: Kind::Client,
        time_ns: (times.at(tried.began), ended_ns),
    };
    let mut span = Span::new(called(method).to_owned(), place);
    span.text("http.request.method", method);
    if let Some(upstream) = entry.route().map(|route| &route.upstream) {
        span.text("turnpike.upstream", upstream.slug.as_str());
        if let Some(member) = upstream.balance.members.get(tried.target) {
            let url = &member.target.identity.url;
            span.text("server.address", url.host.as_str());
            span.number("server.port", url.port);
            span.text("url.scheme", if url.tls { "https" } else { "http" });
        }
    }
    if let Some(again) = u64::try_from(number).ok().filter(|again| *again > 0) {
        span.number("http.request.resend_count", again);
    }
    match tried.left.map(|(_, how)| how) {
        Some(Left::Answered(status)) => {
            span.number("http.response.status_code", status);
            if status >= 400 {
                span.failed(status.to_string());
            }
        }
        Some(Left::Failed(why)) => span.failed(why.slug()),
        // The request ended while the attempt was being made.
        None => span.failed(outcome.refusal.map_or(OTHER, Refusal::slug)),
    }
    span
}
