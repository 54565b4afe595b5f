//! Requests of pages in a browser (Fetch standard, "CORS protocol"). The gateway answers for the upstream: preflights
//! never reach it, and what it says itself in these headers is replaced.

use crate::headers;
use crate::refusal::{Refusal, Refused};
use crate::route::{Route, Routes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use model::policy;
use std::sync::Arc;

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
    fn preflight(&self, origin: &HeaderValue, method: &Method) -> Result<Response<()>, Refused> {
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

/// What a page is told that asks whether it may call.
pub(crate) type Permission = Result<Response<()>, Refused>;

/// The answer to a preflight, with the route that it is about; none when the request is no preflight, or no route that lets
/// pages call takes what it asks for.
pub(crate) fn preflight(routes: &Routes, parts: &Parts) -> Option<(Arc<Route>, Permission)> {
    let (method, origin) = asked(parts)?;
    let route = routes.find(&method, &parts.uri, &parts.headers).ok()?;
    let answer = route.cors.as_ref()?.preflight(origin, &method);
    Some((route, answer))
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
