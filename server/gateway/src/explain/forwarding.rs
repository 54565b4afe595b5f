//! What the upstream would get, and what would be written down.

use super::notes::Notes;
use crate::account::Terms;
use crate::admit::Request;
use crate::balance::Gate as Circuit;
use crate::cost;
use crate::headers;
use crate::own::{Own, Told};
use crate::route::{self, Route, Routes};
use crate::upstream::{BodyLength, RequestHead, unavailable};
use http::header::{HOST, HeaderName, HeaderValue};
use model::money::Major;
use model::policy::IdentityForm;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Phase four.
pub(super) fn ask(notes: &mut Notes, asked: &Request<'_>, terms: &Terms, client: &crate::listen::Client) {
    let (route, parts, caller) = (asked.route, asked.parts, asked.caller);
    let upstream = &route.upstream;
    let canary = upstream
        .balance
        .wants_canary(upstream.number, &parts.headers, caller.key.account.consumer);
    let group = if canary {
        "the canary's targets"
    } else {
        "the usual targets"
    };
    notes.says("upstream", format!("{}, {group}.", upstream.slug));
    targets(notes, upstream);
    let takes = upstream.balance.peek(canary, Instant::now());
    notes.decided(
        "a target",
        takes.map_err(|why| unavailable(upstream, why)),
        "One takes the request.",
    );
    let rewritten = route.target.as_ref().map(|target| target.apply(&parts.uri));
    let came = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let target = rewritten.as_deref().unwrap_or(came);
    let detail = match &rewritten {
        Some(path) => format!("{came} becomes {path}."),
        None => format!("{came}, as it came."),
    };
    notes.says("path", detail);
    let granted = caller.granted.as_ref().map(|g| g.header(&terms.profile));
    let key = headers::Short::id(&caller.key.id);
    let shared_by = route.cache.as_ref().map(|rule| rule.shared_by);
    let own = Own::new(Told {
        client,
        caller,
        route,
        profile: &terms.profile,
        features: granted.as_ref().unwrap_or(&terms.profile.features_header),
        token: b"(a token signed for this upstream)",
        key: key.as_bytes(),
        request_id: b"(a new id)",
        host: parts.headers.get(HOST).map(HeaderValue::as_bytes),
        shared_by,
    });
    let head = RequestHead {
        method: &parts.method,
        target,
        client: &parts.headers,
        own: own.lines(),
        edits: &route.request_edits,
        length: BodyLength::Absent,
        websocket: false,
    };
    let ours = own
        .lines()
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)));
    notes.says("headers added", ours.collect::<Vec<_>>().join("; "));
    let names = |names: Vec<&HeaderName>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", "),
    };
    let passed: Vec<&HeaderName> = head.passed_on().map(|(name, _)| name).collect();
    let said = parts.headers.keys().filter(|name| !passed.contains(name));
    notes.says("headers not passed on", names(said.collect()));
    notes.says("headers passed on", names(passed));
    notes.says(
        "headers set by the route",
        names(route.request_edits.written().map(|(name, _)| name).collect()),
    );
    if upstream.identity == IdentityForm::Jwt {
        notes.says("identity", "Told in a signed token.");
    }
}

fn targets(notes: &mut Notes, upstream: &route::Upstream) {
    let now = Instant::now();
    for (place, member) in upstream.balance.members.iter().enumerate() {
        let target = &member.target;
        let circuit = match target.circuit.gate(target.ms(now)) {
            Circuit::Closed => "closed",
            Circuit::HalfOpen => "half-open",
            Circuit::Open(_) => "open",
        };
        let health = if target.healthy.load(Ordering::Relaxed) {
            "well"
        } else {
            "ill"
        };
        let detail = format!(
            "{}: {health}, circuit {circuit}, weight {}, {} in flight.",
            target.identity.url.as_str(),
            member.weight,
            target.in_flight.load(Ordering::Relaxed)
        );
        let group = if place < upstream.balance.usual {
            "target"
        } else {
            "canary target"
        };
        notes.says(&format!("{group} {place}"), detail);
    }
}

/// Phase five.
pub(super) fn record(notes: &mut Notes, routes: &Routes, route: &Route, terms: &Terms) {
    let meter = routes.told.meters.iter().find(|m| m.number == route.meter);
    let (slug, statuses) = meter.map_or(("", String::new()), |m| (m.slug.as_str(), m.statuses.join(", ")));
    notes.says(
        "meter",
        format!(
            "{} units of {slug} when the answer's status is one of: {statuses}.",
            route.weight
        ),
    );
    let taken = terms.limit(route.meter).map_or(0, |l| l.slot.taken());
    let then = taken.saturating_add(route.weight.into());
    let currency = terms.profile.currency;
    let price = cost::of(terms, route.meter, then, route.weight);
    let price = price.map_or("none".to_owned(), |minor| {
        format!("{} {currency}", Major { minor, currency })
    });
    notes.says("price", price);
}
