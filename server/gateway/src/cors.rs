//! Requests of pages in a browser (Fetch standard, "CORS protocol"). The gateway answers for the upstream: preflights
//! never reach it, and what it says itself in these headers is replaced.

use crate::headers;
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use model::policy;

/// Request headers that every page may send: what carries a key, and what a body needs.
const ALWAYS_ASKED: [&str; 5] = [
    "authorization",
    "content-type",
    "x-api-key",
    "idempotency-key",
    "turnpike-quote",
];
/// Answer headers of the gateway that every page may read.
const ALWAYS_SHOWN: [&str; 10] = [
    "age",
    "cache-status",
    "idempotent-replayed",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "turnpike-budget-remaining",
    "turnpike-cost",
    "turnpike-grace",
    "x-request-id",
];
/// What an upstream may not say on a route for which the gateway answers.
const OURS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Who may call a route from a page, compiled.
#[derive(Debug)]
pub(crate) struct Cors {
    told: policy::Cors,
    asked: HeaderValue,
    shown: HeaderValue,
}

impl Cors {
    /// From what the catalogue says.
    pub(crate) fn compile(told: &policy::Cors) -> Self {
        let joined = |always: &[&str], more: &[String]| {
            let names = always.iter().copied().chain(more.iter().map(String::as_str));
            headers::value(&names.collect::<Vec<_>>().join(", "))
        };
        Self {
            asked: joined(&ALWAYS_ASKED, &told.request_headers),
            shown: joined(&ALWAYS_SHOWN, &told.exposed_headers),
            told: told.clone(),
        }
    }

    /// What the answer says to the browser, when its page may read it. An answer that differs by origin says so, also
    /// to those who sent none, because caches keep it for all.
    pub(crate) fn say(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in &OURS {
            headers.remove(name);
        }
        if self.told.origins.iter().any(|o| o == "*") {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
            match origin.filter(|o| o.to_str().is_ok_and(|o| self.told.allows(o))) {
                Some(origin) => headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
                None => return,
            };
        }
        if self.told.credentials {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.shown.clone());
    }

    /// The answer to a preflight for a method that the route takes.
    pub(crate) fn preflight(&self, origin: &HeaderValue, method: &Method) -> Result<Response<()>, Refused> {
        if !origin.to_str().is_ok_and(|o| self.told.allows(o)) {
            let detail = "The provider does not let pages of this origin call this route.";
            return Err(Refused::new(Refusal::OriginRefused, detail));
        }
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let out = answer.headers_mut();
        self.say(Some(origin), out);
        out.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, headers::value(method.as_str()));
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.asked.clone());
        out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.told.max_age_s));
        Ok(answer)
    }
}

/// Refuses a WebSocket handshake of a page that may not call the route. Browsers ask nobody before they open a WebSocket,
/// and send what a person logged in with (RFC 6455, 10.2), so `Origin` is all there is to tell pages apart by. Those of the
/// gateway's own origin may; others where `cors` names them. A route without `cors` says nothing about pages: there they are
/// refused where the credential may be the browser's own doing, for a page that sends a key of its own needs no protection.
/// What is no page sends no `Origin`.
pub(crate) fn check_handshake(route: &Route, parts: &Parts, scheme: &str) -> Result<(), Refused> {
    let guarded = route.cors.is_some() || route.auth.is_sent_unasked();
    let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let own = host.map(|host| format!("{scheme}://{host}"));
    let named = |origin: &str| route.cors.as_ref().is_some_and(|cors| cors.told.allows(origin));
    let may = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(origin)) || named(origin)
    };
    if !guarded || parts.headers.get_all(header::ORIGIN).iter().all(may) {
        return Ok(());
    }
    let detail = "The provider does not let pages of this origin open a WebSocket here.";
    Err(Refused::new(Refusal::OriginRefused, detail))
}

/// The method a preflight asks for, with its origin; none when the request is not one.
pub(crate) fn asked(parts: &Parts) -> Option<(Method, &HeaderValue)> {
    if parts.method != Method::OPTIONS {
        return None;
    }
    let origin = parts.headers.get(header::ORIGIN)?;
    let method = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok().map(|m| (m, origin))
}
