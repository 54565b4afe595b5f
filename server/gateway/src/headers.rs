//! Header rules: what never crosses the gateway, and what it says itself.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use model::Time;
use model::catalogue::RateLimit;
use std::fmt::Write;

pub(crate) const X_CONSUMER_ID: &str = "x-consumer-id";
pub(crate) const X_KEY_ID: &str = "x-key-id";
pub(crate) const X_PLAN: &str = "x-plan";
pub(crate) const X_FEATURES: &str = "x-features";
pub(crate) const X_ENVIRONMENT: &str = "x-environment";
pub(crate) const X_IDENTITY_TOKEN: &str = "x-identity-token";
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_FORWARDED_FOR: &str = "x-forwarded-for";
pub(crate) const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
pub(crate) const X_FORWARDED_HOST: &str = "x-forwarded-host";
/// What the call costs.
pub(crate) const TURNPIKE_COST: HeaderName = HeaderName::from_static("turnpike-cost");
/// What is left under the spend cap after it.
pub(crate) const TURNPIKE_BUDGET_REMAINING: HeaderName = HeaderName::from_static("turnpike-budget-remaining");
/// The call was let through beyond a hard quota.
pub(crate) const TURNPIKE_GRACE: HeaderName = HeaderName::from_static("turnpike-grace");
/// Asks what a call would cost, without making it.
pub(crate) const TURNPIKE_QUOTE: HeaderName = HeaderName::from_static("turnpike-quote");
pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What begins so is said by the gateway alone, in both directions.
const OWN_PREFIX: &str = "turnpike-";

/// A header value from text of ours; what a header cannot hold becomes `?`.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| {
        let shown: String = text
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '?' })
            .collect();
        HeaderValue::try_from(shown).unwrap_or_else(|_| HeaderValue::from_static("?"))
    })
}

/// Longest text: an id has 29 characters, an amount with its currency at most 47.
const SHORT_MOST: usize = 64;

/// Text built on the stack.
pub(crate) struct Short {
    bytes: [u8; SHORT_MOST],
    len: usize,
}

impl Short {
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; SHORT_MOST],
            len: 0,
        }
    }
    /// An id.
    pub(crate) fn id(id: &impl std::fmt::Display) -> Self {
        let mut short = Self::new();
        // An id is shorter than the place for it.
        let _ = write!(short, "{id}");
        short
    }
    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
    /// As a header's value, in one allocation.
    pub(crate) fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static("?"))
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Hop-by-hop in either direction, besides what `Connection` names.
fn hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Names that only the gateway says to an upstream, with `-` for every `_`: many servers read `X_Plan` as `X-Plan`.
fn reserved(name: &str) -> bool {
    let said = |name: &str| {
        matches!(
            name,
            "x-consumer-id"
                | "x-key-id"
                | "x-plan"
                | "x-features"
                | "x-environment"
                | "x-identity-token"
                | "x-request-id"
                | "x-real-ip"
                | "x-api-key"
                | "forwarded"
        ) || name.starts_with("x-forwarded-")
            || name.starts_with(OWN_PREFIX)
    };
    if name.as_bytes().contains(&b'_') {
        let dashed = name.replace('_', "-");
        said(&dashed) || hop_by_hop(&dashed) || matches!(&*dashed, "authorization" | "content-length" | "host")
    } else {
        said(name)
    }
}

/// Whether a client's header may reach an upstream. Those that `Connection` names ([`nominated`]) do not either.
pub(crate) fn reaches_upstream(name: &str) -> bool {
    !(hop_by_hop(name) || reserved(name) || name == "expect")
}

/// Headers that the gateway adds to an answer.
pub(crate) const ADDED_TO_ANSWERS: usize = 6;

/// Whether an upstream's header may reach the client.
pub(crate) fn reaches_client(name: &str) -> bool {
    !(hop_by_hop(name)
        || matches!(name, "x-request-id" | "ratelimit" | "ratelimit-policy")
        || name.starts_with(OWN_PREFIX))
}

/// Headers that `Connection` makes hop-by-hop too.
pub(crate) fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let tokens = values.flat_map(|v| v.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii));
    tokens.filter_map(nominable).collect()
}

/// The header that a token of `Connection` names: what frames the message or says where it goes cannot be nominated
/// away, and the usual tokens name none.
pub(crate) fn nominable(token: &[u8]) -> Option<HeaderName> {
    let usual = token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close");
    let name = HeaderName::from_bytes(token).ok().filter(|_| !usual)?;
    (name != header::HOST && name != header::CONTENT_LENGTH).then_some(name)
}

/// `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11): the burst and how long it takes to fill again, and
/// the quota of the period where there is a ceiling.
pub(crate) fn policy(rate: RateLimit, quota: Option<(u64, i64)>) -> HeaderValue {
    let burst = rate.burst;
    let window = burst.div_ceil(rate.per_second.max(1)).max(1);
    let mut text = format!("\"rate\";q={burst};w={window}");
    if let Some((ceiling, seconds)) = quota {
        let _ = write!(text, ", \"quota\";q={ceiling};w={seconds}");
    }
    value(&text)
}

/// What is left of a grace, as a structured field: `units=52, until=@1793577600`.
pub(crate) fn grace(units: Option<u64>, until: Time) -> HeaderValue {
    let mut text = Short::new();
    let units = units.map_or(Ok(()), |units| write!(text, "units={units}, "));
    // Both numbers are shorter than the place for them.
    let _ = units.and_then(|()| write!(text, "until=@{}", until.unix_s()));
    text.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(n, v): &(&str, &str)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap());
        pairs.iter().map(pair).collect()
    }

    fn strip_request(headers: &mut HeaderMap) {
        let nominated = nominated(headers);
        let passes = |(n, _): &(&HeaderName, &HeaderValue)| reaches_upstream(n.as_str()) && !nominated.contains(n);
        let left = headers.iter().filter(passes);
        *headers = left.map(|(n, v)| (n.clone(), v.clone())).collect();
    }

    #[test]
    fn a_client_cannot_speak_for_the_gateway() {
        let mut headers = map(&[
            ("x-consumer-id", "con_1"),
            ("x_consumer_id", "con_1"),
            ("x-plan", "scale"),
            ("x-plan", "pro"),
            ("x_api-key", "k"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_proto", "https"),
            ("forwarded", "for=1.2.3.4"),
            ("transfer_encoding", "chunked"),
            ("turnpike-quote", "?0"),
            ("accept", "*/*"),
        ]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
        assert!(!reaches_client("turnpike-cost") && reaches_client("turnpikes"));
    }

    #[test]
    fn what_connection_names_goes() {
        let mut headers = map(&[
            ("connection", "close, X-Own ,te"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("host", "a"),
        ]);
        headers.append("connection", HeaderValue::from_static("x-other, host"));
        headers.append("x-other", HeaderValue::from_static("2"));
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("host", "a")]));
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_reserved_name_passes(
            name in "(x[-_]consumer[-_]id|x[-_]key[-_]id|x[-_]plan|x[-_]features|x[-_]environment|x[-_]identity[-_]token|x[-_]api[-_]key|x[-_]forwarded[-_][a-z]{1,8})",
            upper in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let spelled: String = name.chars().zip(upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
            let mut headers = map(&[(&spelled, "forged")]);
            strip_request(&mut headers);
            prop_assert!(headers.is_empty());
        }
    }
}
