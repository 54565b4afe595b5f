//! Asks each decision in turn.

use super::admission;
use super::forwarding;
use super::notes::Notes;
use super::{Explanation, Question};
use crate::account::Terms;
use crate::admit::{self, Request};
use crate::authenticate::{self, Arrival, Caller, Known};
use crate::config::Limits;
use crate::cors;
use crate::exchange::check_countable;
use crate::gate::Gate;
use crate::http1;
use crate::identity::{self, JWKS_PATH};
use crate::ledger::Ledger;
use crate::listen::Peer;
use crate::rate::{self, Stand};
use crate::record;
use crate::route::{self, Fit, Route, Routes};
use crate::sharing::Sharing;
use crate::upstream::BodyLength;
use crate::{quote, tunnel};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use model::policy::AddressRange;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What decisions are made from.
pub(crate) struct Knowledge<'a> {
    pub(crate) known: Known<'a>,
    pub(crate) trusted: &'a [AddressRange],
    pub(crate) limits: &'a Limits,
    pub(crate) ledger: &'a Ledger,
    /// Of the worker threads.
    pub(crate) gates: &'a [Arc<Gate>],
    /// Where rate limits are shared with other gateways.
    pub(crate) sharing: Option<&'a Sharing>,
    /// When it is asked; the client is none yet.
    pub(crate) arrival: Arrival,
    pub(crate) live: bool,
}

impl Knowledge<'_> {
    /// Who counts rate limits.
    pub(super) fn stand(&self) -> Stand {
        self.sharing.map_or(Stand::Alone, Sharing::stand)
    }
}

/// Explains a request.
///
/// # Errors
/// When the question is none: a malformed URL or header, a key that is not there, no routes. In words.
pub(crate) fn explain(knowledge: &Knowledge<'_>, question: &Question) -> Result<Explanation, String> {
    let mut parts = read(question)?;
    let length = length(&parts)?;
    let routes = knowledge.known.tables.routes.load_full();
    let routes = routes.ok_or("the gateway has no routes yet")?;
    let mut notes = Notes::new(knowledge.live);
    if parts.uri.path() == JWKS_PATH {
        let status = identity::status(&parts.method);
        notes.answers(
            "own address",
            status,
            "The gateway's own public keys are here, for everybody.",
        );
        return Ok(notes.explanation());
    }
    if answers_preflight(&mut notes, &routes, &parts) {
        return Ok(notes.explanation());
    }
    let Some(route) = find(&mut notes, &routes, &parts, length != BodyLength::Absent) else {
        return Ok(notes.explanation());
    };
    let client = question.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let tls = question.url.starts_with("https:");
    let client = Peer::new(client, knowledge.trusted, tls).client(&parts.headers, knowledge.trusted);
    if tunnel::is_asked_for(&parts) {
        let page = cors::check_handshake(&route, &parts, client.scheme);
        notes.decided("page", page, "No page asks for the WebSocket, or one that may.");
    }
    let arrival = Arrival {
        client: client.address,
        ..knowledge.arrival
    };
    let quote = quote::is_asked(&parts.headers);
    let is_quote = quote.as_ref().is_ok_and(|asked| *asked);
    if quote.is_err() {
        notes.decided("quote", quote, "");
    }
    notes.phase = "authenticate";
    let address = format!("Requests from {} are let in.", client.address);
    notes.decided("address", route.check_address(client.address), address);
    let Some(caller) = identify(&mut notes, knowledge, &route, &mut parts, (question, arrival))? else {
        return Ok(notes.explanation());
    };
    let asked = Request::new(&caller, &route, client.address, &parts);
    let terms = caller.terms(arrival.now);
    let is_billed = record::is_billed(caller.key.account.environment, caller.key.id, &terms, route.meter);
    let stale_ns = knowledge.known.tables.stale_ns(knowledge.limits, arrival.now_ns);
    let countable = check_countable(route.weight > 0 && is_billed, knowledge.ledger, stale_ns);
    let countable = if knowledge.live { countable } else { Ok(()) };
    notes.decided("usage", countable, "It can be counted, or need not be.");
    notes.phase = "admit";
    if is_quote {
        answers_quote(&mut notes, knowledge, &asked, (&terms, arrival));
    }
    admission::ask(&mut notes, knowledge, &asked, (&terms, arrival), length);
    notes.phase = "forward";
    forwarding::ask(&mut notes, &asked, &terms, &client);
    notes.phase = "record";
    forwarding::record(&mut notes, &routes, &route, &terms);
    Ok(notes.explanation())
}

/// The answer to who asks for the price: the plan's overall rate limit alone can refuse it.
fn answers_quote(
    notes: &mut Notes,
    knowledge: &Knowledge<'_>,
    asked: &Request<'_>,
    (terms, arrival): (&Terms, Arrival),
) {
    let at = (knowledge.stand(), arrival.now_ns);
    let overall = rate::peek(&knowledge.known.tables.arrivals, &asked.asked(), terms, at);
    match overall.first().filter(|limit| !limit.rate.allowed) {
        Some(limit) => drop(notes.decided::<()>("quote", Err(admit::limited_by(limit)), "")),
        None => notes.answers(
            "quote",
            StatusCode::OK,
            "The price is asked for, and nothing is forwarded. What follows is what the call would meet.",
        ),
    }
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

/// The length that the request's head says its body has.
fn length(parts: &Parts) -> Result<BodyLength, String> {
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(BodyLength::Chunked);
    }
    let Some(said) = parts.headers.get(CONTENT_LENGTH) else {
        return Ok(BodyLength::Absent);
    };
    match http1::content_length(said.as_bytes()) {
        Ok(0) => Ok(BodyLength::Absent),
        Ok(bytes) => Ok(BodyLength::Exact(bytes)),
        Err(why) => Err(format!("this is no request: {why}")),
    }
}

/// Whether it is the question of a page whether it may call, and the gateway answers that.
fn answers_preflight(notes: &mut Notes, routes: &Routes, parts: &Parts) -> bool {
    if cors::asked(parts).is_none() {
        return false;
    }
    let Some((route, answer)) = cors::preflight(routes, parts) else {
        notes.says(
            "preflight",
            "A page asks whether it may call, and no route with cors takes that: it is a request like others.",
        );
        return false;
    };
    match answer {
        Ok(answer) => {
            let detail = format!("A page asks whether it may call {}, and it may.", route.slug);
            notes.answers("preflight", answer.status(), &detail);
        }
        Err(refused) => drop(notes.decided::<()>("preflight", Err(refused), "")),
    }
    true
}

fn find(notes: &mut Notes, routes: &Routes, parts: &Parts, has_body: bool) -> Option<Arc<Route>> {
    let host = route::check_host(parts.version, &parts.uri, &parts.headers);
    notes.decided("host", host, "One plain host.")?;
    let mut asked = HashSet::new();
    let found = routes.find_watched(&parts.method, &parts.uri, (&parts.headers, &[]), &mut |route, fit| {
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
    let takes = format!("{slug} takes the request.");
    if !tunnel::is_asked_for(parts) {
        return notes.decided("route", found, takes);
    }
    let told = found
        .as_ref()
        .map_or_else(|refused| refused.detail().to_owned(), |_| takes);
    notes.says("route", told);
    let choice = tunnel::choose(found, parts, has_body);
    notes.decided("upgrade", choice, "A WebSocket handshake, which the route passes on.")
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
        None => authenticate::peek(knowledge.known, &route.auth, parts, arrival),
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
