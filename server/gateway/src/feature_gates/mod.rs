//! What of a route needs a feature that the caller may not have (`model::policy::Gate`).
//!
//! A gate is *closed* for a request when it is there for the request's method and the caller has not its feature; the
//! closed gates of a request are the bits of a word. Callers for whom no gate is closed pay one comparison.
//!
//! * Whole requests and the query are checked before anything is counted ([`Gates::check_head`]).
//! * A body is read whole, and checked, before any of it reaches the upstream ([`Gates::reads_body`],
//!   [`Gates::check_body`]), up to [`BODY_MOST`] bytes.
//! * The answer is asked for as plain JSON ([`answer::ask_plainly`]) and filtered while it streams
//!   ([`Gates::treat_answer`]).
//!
//! Where an upstream could read a request in another way than the gateway does, the reading that asks for more counts,
//! and what has no sure reading is refused.

mod answer;
mod body;
mod query;

use crate::filter::Paths;
use crate::refusal::{Refusal, Refused};
use http::HeaderMap;
use http::request::Parts;
use model::access;
use model::policy::Gate;
use query::{Parameter, Unclear};
use std::sync::Arc;

/// Largest body that is read whole to be checked, in bytes: it is held in memory until then. Requests with larger ones
/// need the features.
pub(crate) const BODY_MOST: u64 = 1 << 20;
/// Headers by which some upstreams are told that the method is another one than it is.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// The gates of a route, compiled.
#[derive(Debug)]
pub(crate) struct Gates {
    gates: Vec<Closable>,
    /// Fields of the request's body, with names folded.
    asked: Paths,
    /// Gates that have such fields, as bits.
    asking: u32,
    /// Gates that have parameters of the query, as bits.
    querying: u32,
    /// Fields of the answer.
    fields: Arc<Paths>,
    /// Gates that have such fields, as bits.
    hiding: u32,
}

#[derive(Debug)]
struct Closable {
    feature: String,
    methods: Vec<access::Method>,
    whole: bool,
    parameter: Option<Parameter>,
    /// What tells answers without this gate's fields from others.
    tag: u32,
}

/// The closed gates of a request, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Closed(u32);

impl Closed {
    /// Whether there is one.
    pub(crate) fn any(self) -> bool {
        self.0 != 0
    }

    /// A bit a gate.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

fn bits(gates: &[Gate], which: impl Fn(&Gate) -> bool) -> u32 {
    let numbered = (0u32..32).zip(gates);
    numbered.filter(|(_, g)| which(g)).fold(0, |all, (n, _)| all | 1 << n)
}

/// In the case that case-blind upstreams compare in.
fn fold(text: &str) -> String {
    if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        // Through upper case, so that signs with the same capital, such as ſ and s, become one.
        text.to_uppercase().to_lowercase()
    }
}

impl Gates {
    /// At most 32; the catalogue takes no more.
    pub(crate) fn compile(gates: &[Gate]) -> Self {
        let closable = |g: &Gate| Closable {
            feature: g.feature.clone(),
            methods: g.methods.clone(),
            whole: g.guards_requests(),
            parameter: g.query.as_ref().map(|name| Parameter::new(name, &g.query_values)),
            tag: answer::tag(&g.response_fields),
        };
        let numbered = || gates.iter().enumerate();
        let asked = numbered().flat_map(|(n, g)| g.request_fields.iter().map(move |f| (n, f)));
        let fields = numbered().flat_map(|(n, g)| g.response_fields.iter().map(move |f| (n, f)));
        Self {
            gates: gates.iter().map(closable).collect(),
            asked: Paths::new(asked, fold),
            asking: bits(gates, |g| !g.request_fields.is_empty()),
            querying: bits(gates, |g| g.query.is_some()),
            fields: Arc::new(Paths::new(fields, str::to_owned)),
            hiding: bits(gates, |g| !g.response_fields.is_empty()),
        }
    }

    /// The gates closed for a request by a caller that `has` some features.
    pub(crate) fn closed(&self, has: impl Fn(&str) -> bool, request: &Parts) -> Closed {
        let mut closed = 0;
        for (number, gate) in (0u32..32).zip(&self.gates) {
            if gate.is_there(request) && !has(&gate.feature) {
                closed |= 1 << number;
            }
        }
        Closed(closed)
    }

    /// Refuses a request that as a whole, or by its query, needs a closed gate's feature.
    pub(crate) fn check_head(&self, closed: Closed, query: Option<&str>, plan: &str) -> Result<(), Refused> {
        for gate in self.those(closed.0) {
            if gate.whole {
                return Err(missing(&gate.feature, plan, "this request"));
            }
        }
        match query {
            Some(query) => self.check_query(closed, query, plan),
            None => Ok(()),
        }
    }

    fn check_query(&self, closed: Closed, query: &str, plan: &str) -> Result<(), Refused> {
        for gate in self.those(closed.0 & self.querying) {
            let Some(parameter) = &gate.parameter else { continue };
            match parameter.asked(query) {
                Ok(false) => {}
                Ok(true) => return Err(missing(&gate.feature, plan, &parameter.shown())),
                Err(Unclear) => return Err(unclear_query()),
            }
        }
        Ok(())
    }

    /// Whether the request's body must be read whole and checked.
    pub(crate) fn reads_body(&self, closed: Closed, headers: &HeaderMap) -> Result<bool, Refused> {
        body::is_read(closed.0 & self.asking != 0, closed.0 & self.querying != 0, headers)
    }

    /// Refuses a body that asks for what needs a closed gate's feature.
    pub(crate) fn check_body(
        &self,
        closed: Closed,
        headers: &HeaderMap,
        bytes: &[u8],
        plan: &str,
    ) -> Result<(), Refused> {
        if body::is_form(headers) && closed.0 & self.querying != 0 {
            let text = std::str::from_utf8(bytes).map_err(|_| unclear_query())?;
            self.check_query(closed, text, plan)?;
        }
        let asking = closed.0 & self.asking;
        if asking == 0 || !body::is_json(headers, bytes) {
            return Ok(());
        }
        let asked = body::fields_asked(&self.asked, asking, bytes)?;
        match self.those(asked).next() {
            Some(gate) => Err(missing(&gate.feature, plan, "a field of the request's body")),
            None => Ok(()),
        }
    }

    fn those(&self, bits: u32) -> impl Iterator<Item = &Closable> {
        let numbered = (0u32..32).zip(&self.gates);
        numbered.filter(move |(n, _)| bits & 1 << n != 0).map(|(_, g)| g)
    }
}

impl Closable {
    /// Whether it is there for the request's method, or one that the upstream might be talked into.
    fn is_there(&self, request: &Parts) -> bool {
        let there = |word: &str| {
            let is = |m: &access::Method| m.word().eq_ignore_ascii_case(word);
            let of_get = word.eq_ignore_ascii_case("HEAD") && self.methods.contains(&access::Method::Get);
            of_get || self.methods.iter().any(is)
        };
        if self.methods.is_empty() || there(request.method.as_str()) {
            return true;
        }
        let said = OVERRIDES.iter().flat_map(|name| request.headers.get_all(*name));
        let mut said = said.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        said.any(|word| there(word.trim()))
            || request
                .uri
                .query()
                .is_some_and(|q| query::values(q, "_method").any(|v| there(&v)))
    }
}

fn missing(feature: &str, plan: &str, what: &str) -> Refused {
    let detail = format!("The plan {plan} does not include {feature}, which {what} needs.");
    Refused::new(Refusal::FeatureMissing, detail)
}

fn unclear_query() -> Refused {
    Refused::new(
        Refusal::BadRequest,
        "A parameter's name or value can be read in more than one way: escape it once, as UTF-8.",
    )
}
