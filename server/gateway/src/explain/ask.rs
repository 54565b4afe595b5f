//! Asks each decision in turn.

use super::{Decision, Explanation, Question, Verdict};
use crate::account::Terms;
use crate::admit::{self, Request};
use crate::authenticate::{self, Arrival, Caller, Known};
use crate::balance::Gate as Circuit;
use crate::cost;
use crate::flight::Flight;
use crate::gate::Gate;
use crate::headers;
use crate::listen::Peer;
use crate::own::{Own, Told};
use crate::rate;
use crate::refusal::Refused;
use crate::route::{self, Fit, Route, Routes};
use crate::tables::Tables;
use crate::upstream::{BodyLength, RequestHead};
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use model::money::Major;
use model::overrides::Override;
use model::policy::{AddressRange, IdentityForm};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What decisions are made from.
pub(crate) struct Knowledge<'a> {
    pub(crate) known: Known<'a>,
    pub(crate) trusted: &'a [AddressRange],
    /// Of the worker threads.
    pub(crate) gates: &'a [Arc<Gate>],
    /// When it is asked; the client is none yet.
    pub(crate) arrival: Arrival,
    pub(crate) live: bool,
}

/// The decisions so far.
struct Notes {
    phase: &'static str,
    all: Explanation,
}

impl Notes {
    fn add(&mut self, about: &str, verdict: Verdict, detail: impl Into<String>) {
        self.all.decisions.push(Decision {
            phase: self.phase.to_owned(),
            about: about.to_owned(),
            verdict,
            detail: detail.into(),
        });
    }

    fn says(&mut self, about: &str, detail: impl Into<String>) {
        self.add(about, Verdict::Says, detail);
    }

    /// Notes what a decision came to; what it gives, when it lets the request pass.
    fn decided<T>(&mut self, about: &str, decision: Result<T, Refused>, passes: impl Into<String>) -> Option<T> {
        match decision {
            Ok(given) => {
                self.add(about, Verdict::Passes, passes);
                Some(given)
            }
            Err(refused) => {
                let refusal = refused.refusal();
                let detail = format!("{} {}: {}", refusal.status().as_u16(), refusal.slug(), refused.detail());
                self.add(about, Verdict::Refuses, detail);
                if self.all.refusal.is_none() {
                    self.all.refusal = Some(refusal.slug().to_owned());
                    self.all.status = Some(refusal.status().as_u16());
                }
                None
            }
        }
    }
}

/// Explains a request.
///
/// # Errors
/// When the question is none: a malformed URL or header, a key that is not there, no routes. In words.
pub(crate) fn explain(knowledge: &Knowledge<'_>, question: &Question) -> Result<Explanation, String> {
    let mut parts = read(question)?;
    let routes = knowledge.known.tables.routes.load_full();
    let routes = routes.ok_or("the gateway has no routes yet")?;
    let mut notes = Notes {
        phase: "route",
        all: Explanation {
            decisions: Vec::new(),
            refusal: None,
            status: None,
            live: knowledge.live,
        },
    };
    let Some(route) = find(&mut notes, &routes, &parts) else {
        return Ok(notes.all);
    };
    let client = question.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let client = Peer::new(client, knowledge.trusted, false).client(&parts.headers, knowledge.trusted);
    let arrival = Arrival {
        client: client.address,
        ..knowledge.arrival
    };
    notes.phase = "authenticate";
    let address = format!("Requests from {} are let in.", client.address);
    notes.decided("address", route.check_address(client.address), address);
    let Some(caller) = identify(&mut notes, knowledge, &route, &mut parts, (question, arrival))? else {
        return Ok(notes.all);
    };
    let asked = Request {
        caller: &caller,
        route: &route,
        method: route::known_method(&parts.method),
        address: client.address,
        parts: &parts,
    };
    let terms = caller.terms(arrival.now);
    notes.phase = "admit";
    admission(&mut notes, knowledge, &asked, (&terms, arrival));
    notes.phase = "forward";
    forwarding(&mut notes, &asked, &terms, &client);
    notes.phase = "record";
    recording(&mut notes, &routes, &route, &terms);
    Ok(notes.all)
}

/// The head that the question describes.
fn read(question: &Question) -> Result<Parts, String> {
    let url: Uri = question
        .url
        .parse()
        .map_err(|e| format!("the URL {} is none: {e}", question.url))?;
    let path = url.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut request = http::Request::builder()
        .method(question.method.as_str())
        .uri(Uri::from(path));
    let headers = question.headers.iter();
    let named_host = headers.clone().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !named_host {
        let host = url.authority().map_or("localhost", |a| a.as_str());
        request = request.header(HOST, host);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(|e| format!("this is no request: {e}"))?;
    Ok(request.into_parts().0)
}

fn find(notes: &mut Notes, routes: &Routes, parts: &Parts) -> Option<Arc<Route>> {
    let host = route::check_host(parts.version, &parts.uri, &parts.headers);
    notes.decided("host", host, "One plain host.")?;
    let mut asked = HashSet::new();
    let found = routes.find_watched(&parts.method, &parts.uri, &parts.headers, &mut |route, fit| {
        asked.insert(route.number);
        let detail = match fit {
            Fit::Taken => "Host, path, method and headers fit.",
            Fit::OtherHeaders => "The path fits, and the request has not the headers that it asks for.",
            Fit::OtherMethod => "The path fits, and the method is none of its own.",
        };
        notes.says(&format!("route {}", route.slug), detail);
    });
    let others = routes.told.routes.iter().filter(|r| !asked.contains(&r.number)).count();
    notes.says(
        "other routes",
        format!("{others} have another host or path, or come later."),
    );
    let slug = found.as_ref().map_or_else(|_| String::new(), |r| r.slug.clone());
    notes.decided("route", found, format!("{slug} takes the request."))
}

fn identify(
    notes: &mut Notes,
    knowledge: &Knowledge<'_>,
    route: &Route,
    parts: &mut Parts,
    (question, arrival): (&Question, Arrival),
) -> Result<Option<Caller>, String> {
    notes.says("accepted", route.auth.places());
    let who = match question.key {
        Some(id) => authenticate::by_id(knowledge.known, &route.auth, parts, id, arrival.now)
            .ok_or_else(|| format!("there is no key {id} here"))?,
        None => authenticate::authenticate(knowledge.known, &route.auth, parts, arrival),
    };
    let who = who.map_err(|(_, refused)| refused);
    let about = if question.key.is_some() { "key" } else { "credential" };
    let Some(caller) = notes.decided(about, who, "It works now.") else {
        return Ok(None);
    };
    let (key, account) = (&caller.key, &caller.key.account);
    let scope = match &key.routes {
        None => "every route".to_owned(),
        Some(routes) => format!("{} routes", routes.len()),
    };
    let ends = key.expires().map_or("never".to_owned(), |at| at.to_string());
    let who = format!(
        "{} in {}; ends {ends}; for {scope}.",
        account.consumer,
        account.environment.word()
    );
    notes.says("caller", who);
    Ok(Some(caller))
}

fn admission(notes: &mut Notes, knowledge: &Knowledge<'_>, asked: &Request<'_>, (terms, arrival): (&Terms, Arrival)) {
    let (route, profile, tables) = (asked.route, &terms.profile, knowledge.known.tables);
    notes.says(
        "plan",
        format!(
            "{}, period {} to {}.",
            profile.plan, terms.period.start, terms.period.end
        ),
    );
    notes.decided("account", admit::check_state(terms), "Not suspended.");
    notes.decided("scope", admit::check_scope(asked), "The key may use this route.");
    let feature = match &route.feature {
        None => "The route needs none.".to_owned(),
        Some(feature) => format!("The caller has {feature}."),
    };
    notes.decided("feature", admit::check_feature(asked, terms), feature);
    let switched = route.feature.as_ref().and_then(|f| profile.feature_override(f));
    if let Some(o) = switched {
        notes.says("feature", format!("{} switches it, whatever the plan says.", by(o)));
    }
    let gates = admit::check_gates(asked, terms);
    let closed = gates.as_ref().is_ok_and(|closed| closed.any());
    let open = match closed {
        true => "Some are closed: fields they guard are refused in the body, or left out of the answer.",
        false => "None is closed.",
    };
    notes.decided("feature gates", gates, open);
    let account = &asked.caller.key.account;
    let bounds = (&tables.flights, route.number, route.concurrency);
    let (fits, [own, all]) = Flight::peek((account, profile.concurrency), bounds);
    let fits = fits.map_err(|full| admit::too_many(full, terms, route, arrival.now));
    let most = |bound: Option<u32>| bound.map_or("no bound".to_owned(), |b| format!("at most {b}"));
    let detail = match (profile.concurrency, route.concurrency) {
        (None, None) => "Neither the plan nor the route has a bound.".to_owned(),
        (plan, of_route) => format!(
            "The consumer has {own} in flight ({}), the route {all} ({}).",
            most(plan),
            most(of_route)
        ),
    };
    notes.decided("concurrency", fits, detail);
    rates(notes, tables, asked, (terms, arrival));
    quota(notes, route, terms, arrival);
    waiting(notes, knowledge, route, terms);
}

/// The rate limits; where an override changes one, it says so, whatever the limit says.
fn rates(notes: &mut Notes, tables: &Tables, asked: &Request<'_>, (terms, arrival): (&Terms, Arrival)) {
    for limit in rate::peek(&tables.arrivals, &asked.asked(), terms, arrival.now_ns) {
        let about = format!("rate limit {}", limit.name);
        let (rate, seconds) = (limit.rate, limit.rate.seconds());
        if rate.allowed {
            let detail = format!(
                "At most {}; {} left after this one, whole again in {seconds} s.",
                limit.words, rate.remaining
            );
            notes.add(&about, Verdict::Passes, detail);
        } else {
            let refused = admit::limited_by(&limit);
            notes.decided::<()>(&about, Err(refused), "");
        }
        let own = terms.profile.limit_override(&limit.name).filter(|_| limit.of_plan);
        if let Some((o, told)) = own {
            notes.says(&about, format!("{}; the plan says {told}.", by(o)));
        }
    }
}

/// `The override ovr_... (until 2026-12-24T00:00:00Z)`
fn by(o: &Override) -> String {
    format!("The override {} ({})", o.id, o.until())
}

fn quota(notes: &mut Notes, route: &Route, terms: &Terms, arrival: Arrival) {
    let Some(limit) = terms.limit(route.meter) else {
        notes.says(
            "quota",
            "The plan does not mention the route's meter: recorded, neither limited nor priced.",
        );
        return;
    };
    let taken = limit.slot.taken();
    let fits = terms.peek(limit, route.weight, arrival.now);
    let fits = fits.map_err(|over| admit::over_limit(over, terms, limit, arrival.now));
    let most = limit
        .quota
        .map_or("no hard quota".to_owned(), |q| format!("a hard quota of {q}"));
    let cap = cost::budget_left(terms).map_or("no spend cap".to_owned(), |left| {
        format!("a spend cap that leaves {left}")
    });
    notes.decided(
        "quota and spend cap",
        fits,
        format!("{taken} units taken of {most}; {cap}."),
    );
    if let Some((o, plan)) = terms.quota_override(route.meter) {
        let told = format!("{}; the plan says {} ({}).", by(o), plan.units, plan.kind);
        notes.says("quota", told);
    }
}

fn waiting(notes: &mut Notes, knowledge: &Knowledge<'_>, route: &Route, terms: &Terms) {
    let priority = terms.profile.priority;
    if let Some(gate) = knowledge.known.tables.gate(route.upstream.number) {
        let (in_flight, waiting) = gate.counts();
        notes.says(
            "place at the upstream",
            format!("{in_flight} in flight, {waiting} wait; priority {priority}."),
        );
    }
    if knowledge.live {
        let counts = knowledge.gates.iter().map(|g| g.counts());
        let (in_flight, waiting) = counts.fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
        notes.says(
            "place on a thread",
            format!("{in_flight} in flight, {waiting} wait; priority {priority}."),
        );
    }
}

fn forwarding(notes: &mut Notes, asked: &Request<'_>, terms: &Terms, client: &crate::listen::Client) {
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
    if shared_by.is_some() {
        notes.says(
            "cache",
            "The answer may be one that is kept; what follows is a request that fetches one to keep.",
        );
    }
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

fn recording(notes: &mut Notes, routes: &Routes, route: &Route, terms: &Terms) {
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
