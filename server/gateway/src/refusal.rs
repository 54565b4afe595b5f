//! Every way the gateway says no: a stable number for the ledger, a status, and a problem (RFC 9457) that says how to
//! mend it.

use crate::headers::{self, X_REQUEST_ID};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use std::borrow::Cow;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $status:ident, $slug:literal, $title:literal, $link:literal;)+) => {
        /// A reason to refuse. The numbers are those of `UsageRecord::refusal` and never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Refusal { $($(#[$doc])* $name,)+ }

        impl Refusal {
            /// Every reason, by number.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),+];
            /// The stable number; 0 is no refusal.
            pub fn number(self) -> u8 {
                match self { $(Refusal::$name => $number,)+ }
            }
            /// The last part of the problem's type.
            pub fn slug(self) -> &'static str {
                match self { $(Refusal::$name => $slug,)+ }
            }
            /// What the problem is called.
            pub fn title(self) -> &'static str {
                match self { $(Refusal::$name => $title,)+ }
            }
            /// The status that goes with it.
            pub fn status(self) -> StatusCode {
                match self { $(Refusal::$name => StatusCode::$status,)+ }
            }
            /// Page of the portal that mends it.
            pub fn link(self) -> &'static str {
                match self { $(Refusal::$name => $link,)+ }
            }
            /// The reason with this number.
            pub fn from_number(number: u8) -> Option<Refusal> {
                match number { $($number => Some(Refusal::$name),)+ _ => None }
            }
        }
    };
}

refusals! {
    /// No route has this path.
    NoRoute = 1, NOT_FOUND, "no-route", "There is nothing at this path", "/docs";
    /// The path has routes, none for the method.
    MethodNotAllowed = 2, METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here", "/docs";
    /// The request can be read in more than one way.
    BadRequest = 3, BAD_REQUEST, "bad-request", "The request is malformed or ambiguous", "/docs";
    /// No key was given.
    KeyMissing = 4, UNAUTHORIZED, "key-missing", "An API key is needed", "/keys";
    /// The key given is none of ours.
    KeyUnknown = 5, UNAUTHORIZED, "key-unknown", "The API key is not valid", "/keys";
    /// More than one credential was given.
    TwoCredentials = 6, BAD_REQUEST, "two-credentials", "More than one credential was given", "/docs";
    /// The key was revoked.
    KeyRevoked = 7, UNAUTHORIZED, "key-revoked", "The API key was revoked", "/keys";
    /// The key's time is over.
    KeyExpired = 8, UNAUTHORIZED, "key-expired", "The API key has expired", "/keys";
    /// A payment failed and the grace period ended.
    PaymentRequired = 9, PAYMENT_REQUIRED, "payment-required", "A payment is overdue", "/plan";
    /// The provider suspended the account.
    Suspended = 10, FORBIDDEN, "suspended", "The account is suspended", "/account";
    /// There is no subscription.
    NoPlan = 11, PAYMENT_REQUIRED, "no-plan", "A plan is needed", "/pricing";
    /// The key may not use this route.
    InsufficientScope = 12, FORBIDDEN, "insufficient-scope", "The API key may not use this route", "/keys";
    /// The plan does not grant the feature that the route needs.
    FeatureMissing = 13, FORBIDDEN, "feature-missing", "The plan does not include this", "/pricing";
    /// Too many requests in a short time.
    RateLimited = 14, TOO_MANY_REQUESTS, "rate-limited", "Too many requests in a short time", "/pricing";
    /// The allowance of the period is used up.
    QuotaExceeded = 15, TOO_MANY_REQUESTS, "quota-exceeded", "The plan's allowance is used up", "/pricing";
    /// The consumer's own ceiling on usage charges is reached.
    SpendCapReached = 16, PAYMENT_REQUIRED, "spend-cap-reached", "The spend cap is reached", "/budget";
    /// The body is too large.
    BodyTooLarge = 17, PAYLOAD_TOO_LARGE, "body-too-large", "The request's body is too large", "/docs";
    /// The request asks for another protocol.
    UpgradeUnsupported = 18, NOT_IMPLEMENTED, "upgrade-unsupported", "Protocol upgrades are not supported", "/docs";
    /// The upstream accepts no connection.
    UpstreamUnreachable = 19, BAD_GATEWAY, "upstream-unreachable", "The service behind the gateway cannot be reached", "/docs";
    /// The upstream broke off or answered something that is no HTTP.
    UpstreamBroken = 20, BAD_GATEWAY, "upstream-broken", "The service behind the gateway gave no valid answer", "/docs";
    /// The upstream took too long.
    UpstreamTimeout = 21, GATEWAY_TIMEOUT, "upstream-timeout", "The service behind the gateway took too long", "/docs";
    /// Keys cannot be looked up just now.
    KeysUnavailable = 22, SERVICE_UNAVAILABLE, "keys-unavailable", "The key cannot be checked just now", "/docs";
    /// The gateway has no routes yet.
    NotReady = 23, SERVICE_UNAVAILABLE, "not-ready", "The gateway is starting", "/docs";
    /// Usage cannot be written down, so nothing is let through.
    LedgerUnavailable = 24, SERVICE_UNAVAILABLE, "ledger-unavailable", "The gateway cannot record usage just now", "/docs";
    /// The body came too slowly.
    BodyTimeout = 25, REQUEST_TIMEOUT, "body-timeout", "The request's body came too slowly", "/docs";
    /// The body broke off or was malformed.
    BodyBroken = 26, BAD_REQUEST, "body-broken", "The request's body is malformed or broke off", "/docs";
    /// The client went away before the answer; nobody sees this.
    ClientGone = 27, BAD_REQUEST, "client-gone", "The client went away", "/docs";
    /// The client's address may not come here.
    AddressRefused = 28, FORBIDDEN, "address-refused", "Requests from this address are not let in", "/docs";
    /// Pages of this origin may not call the route.
    OriginRefused = 29, FORBIDDEN, "origin-refused", "Pages of this origin may not call this", "/docs";
    /// The consumer has as many requests in flight as its plan allows.
    TooManyAtOnce = 30, TOO_MANY_REQUESTS, "too-many-at-once", "Too many requests in flight", "/pricing";
    /// The route has as many requests in flight as it takes, of all callers.
    RouteBusy = 31, SERVICE_UNAVAILABLE, "route-busy", "Too many requests are in flight to this route", "/docs";
    /// More is asked for than can be served, and others go first.
    Overloaded = 32, SERVICE_UNAVAILABLE, "overloaded", "There is more to do than can be done just now", "/pricing";
    /// The control plane was not heard for too long.
    SnapshotStale = 33, SERVICE_UNAVAILABLE, "snapshot-stale", "Plans and keys are not certain any more", "/docs";
    /// What is left of a limit is leased to other gateways, or none can be asked for.
    LimitLeased = 34, SERVICE_UNAVAILABLE, "limit-leased", "What is left of a limit is not here just now", "/docs";
    /// A credential is where the route takes none.
    CredentialMisplaced = 40, UNAUTHORIZED, "credential-misplaced", "The credential is in the wrong place", "/docs";
    /// Too many wrong credentials came from one network.
    TooManyFailures = 41, TOO_MANY_REQUESTS, "too-many-failures", "Too many wrong credentials", "/keys";
    /// The token is none that an issuer signed for this API.
    TokenInvalid = 42, UNAUTHORIZED, "token-invalid", "The token is not valid", "/docs";
    /// The token's time is over.
    TokenExpired = 43, UNAUTHORIZED, "token-expired", "The token has expired", "/docs";
    /// The token is good, and names nobody known here.
    TokenUnknownConsumer = 44, FORBIDDEN, "token-unknown-consumer", "The token names nobody known here", "/docs";
    /// The issuer's keys are not known just now.
    IssuerUnavailable = 45, SERVICE_UNAVAILABLE, "issuer-unavailable", "The token cannot be checked just now", "/docs";
    /// The token is good, and names a plan that its issuer may not name.
    TokenPlanRefused = 80, FORBIDDEN, "token-plan-refused", "The token names a plan that it may not", "/docs";
    /// Every target of the upstream is left out after failures.
    UpstreamUnavailable = 55, SERVICE_UNAVAILABLE, "upstream-unavailable", "The service behind the gateway is not available just now", "/docs";
    /// The client wants nothing but a kept answer, and none is kept.
    NotCached = 60, GATEWAY_TIMEOUT, "not-cached", "No answer is kept", "/docs";
    /// Repeats must be told by a key, and there is none.
    IdempotencyKeyMissing = 61, BAD_REQUEST, "idempotency-key-missing", "An Idempotency-Key is needed", "/docs";
    /// The first request with the key is under way.
    IdempotencyBusy = 62, CONFLICT, "idempotency-busy", "The first request with this key is under way", "/docs";
    /// The key was used for another request.
    IdempotencyReused = 63, UNPROCESSABLE_ENTITY, "idempotency-reused", "The key was used for another request", "/docs";
    /// The request was done, and its answer is not kept.
    IdempotencyLost = 64, CONFLICT, "idempotency-lost", "The first answer is not kept", "/docs";
    /// The key has used the units that its owner lets it use in a period.
    KeyQuotaReached = 70, TOO_MANY_REQUESTS, "key-quota-reached", "The key's own quota is used up", "/keys";
    /// The key's part of the usage charges has reached the budget that its owner set.
    KeyBudgetReached = 71, PAYMENT_REQUIRED, "key-budget-reached", "The key's own budget is reached", "/keys";
    /// The body is no JSON, or can be read in more than one way, where it must be checked.
    BodyUnclear = 50, BAD_REQUEST, "body-unclear", "The request's body is not JSON that has one reading", "/docs";
    /// The body is compressed where it must be checked.
    BodyEncoded = 51, UNSUPPORTED_MEDIA_TYPE, "body-encoded", "The request's body must not be compressed here", "/docs";
    /// The answer has a format out of which fields cannot be left.
    FormatRefused = 52, NOT_ACCEPTABLE, "format-refused", "The plan includes this answer as JSON only", "/pricing";
}

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Refused(Box<Details>);

#[derive(Debug)]
struct Details {
    refusal: Refusal,
    detail: Cow<'static, str>,
    headers: HeaderMap,
    /// Names of the limits that refuse.
    violated: Vec<String>,
    /// The page that mends it, where that is not the same for all.
    link: Option<String>,
    closes: bool,
}

impl Refused {
    /// With what it says to people.
    pub(crate) fn new(refusal: Refusal, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Details {
            refusal,
            detail: detail.into(),
            headers: HeaderMap::new(),
            violated: Vec::new(),
            link: None,
            closes: false,
        }))
    }
    /// With a header.
    pub(crate) fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }
    /// With what `add` adds to its headers.
    pub(crate) fn saying(mut self, add: impl FnOnce(&mut HeaderMap)) -> Self {
        add(&mut self.0.headers);
        self
    }
    /// With the names of the limits that refuse, as `RateLimit-Policy` has them: the member `violated-policies`
    /// (draft-ietf-httpapi-ratelimit-headers-11).
    pub(crate) fn violating(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.violated = names.into_iter().map(Into::into).collect();
        self
    }
    /// With a page of the portal that mends it.
    pub(crate) fn mended_at(mut self, path: String) -> Self {
        self.0.link = Some(path);
        self
    }
    /// With `Retry-After`, in seconds.
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.with(header::RETRY_AFTER, HeaderValue::from(seconds))
    }
    /// The connection is closed after it: what follows on it cannot be trusted.
    pub(crate) fn closing(mut self) -> Self {
        self.0.closes = true;
        self
    }
    /// The reason.
    pub(crate) fn refusal(&self) -> Refusal {
        self.0.refusal
    }

    /// What it says to people.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The problem, without the request that it is one of.
    pub(crate) fn problem(&self, portal: &str) -> serde_json::Value {
        let Details {
            refusal,
            detail,
            violated,
            link,
            ..
        } = &*self.0;
        let mut body = serde_json::json!({
            "type": format!("{portal}/problems/{}", refusal.slug()),
            "title": refusal.title(),
            "status": refusal.status().as_u16(),
            "detail": detail,
            "link": format!("{portal}{}", link.as_deref().unwrap_or(refusal.link())),
        });
        if !violated.is_empty() {
            body["violated-policies"] = violated.clone().into();
        }
        body
    }

    /// The answer and the length of its body.
    pub(crate) fn answer(self, portal: &str, request: HeaderValue) -> Response<Bytes> {
        let mut body = self.problem(portal);
        body["instance"] = request.to_str().unwrap_or_default().into();
        let Details {
            refusal,
            headers,
            closes,
            ..
        } = *self.0;
        let mut answer = Response::new(Bytes::from(body.to_string()));
        *answer.status_mut() = refusal.status();
        *answer.headers_mut() = headers;
        let out = answer.headers_mut();
        out.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if refusal.status() == StatusCode::UNAUTHORIZED && !out.contains_key(header::WWW_AUTHENTICATE) {
            out.insert(header::WWW_AUTHENTICATE, headers::value("Bearer realm=\"api\""));
        }
        if closes {
            out.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        out.insert(X_REQUEST_ID, request);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_slugs_name_one_refusal_each() {
        let mut seen = std::collections::HashSet::new();
        for r in Refusal::ALL {
            assert_eq!(Refusal::from_number(r.number()), Some(*r));
            assert!(r.number() > 0 && r.number() < 128, "the ledger keeps seven bits");
            assert!(seen.insert(r.slug()));
        }
        assert_eq!(Refusal::from_number(0), None);
    }
}
