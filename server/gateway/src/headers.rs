//! Header rules: what never crosses the gateway, and what it says itself.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use model::catalogue::RateLimit;
use std::fmt::Write;

pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const X_CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
pub(crate) const X_KEY_ID: HeaderName = HeaderName::from_static("x-key-id");
pub(crate) const X_PLAN: HeaderName = HeaderName::from_static("x-plan");
pub(crate) const X_FEATURES: HeaderName = HeaderName::from_static("x-features");
pub(crate) const X_ENVIRONMENT: HeaderName = HeaderName::from_static("x-environment");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

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

/// Longest id: a prefix of four, an underscore, 24 characters.
const ID_MOST: usize = 32;

/// Text built on the stack.
struct Short {
    bytes: [u8; ID_MOST],
    len: usize,
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

/// A header value from an id, in one allocation.
pub(crate) fn id(id: &impl std::fmt::Display) -> HeaderValue {
    let mut short = Short {
        bytes: [0; ID_MOST],
        len: 0,
    };
    match write!(short, "{id}") {
        Ok(()) => HeaderValue::from_bytes(&short.bytes[..short.len]).unwrap_or_else(|_| HeaderValue::from_static("?")),
        Err(_) => value(&id.to_string()),
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
                | "x-request-id"
                | "x-real-ip"
                | "x-api-key"
                | "forwarded"
        ) || name.starts_with("x-forwarded-")
    };
    if name.as_bytes().contains(&b'_') {
        let dashed = name.replace('_', "-");
        said(&dashed) || hop_by_hop(&dashed) || matches!(&*dashed, "authorization" | "content-length" | "host")
    } else {
        said(name)
    }
}

/// Removes what the client may not say to an upstream: hop-by-hop headers, those `Connection` names, and those the
/// gateway says itself. To be called before ours are added.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    strip(headers, |n| hop_by_hop(n) || reserved(n) || n == "expect");
}

/// Removes what an upstream may not say to the client.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    strip(headers, |n| {
        hop_by_hop(n) || matches!(n, "x-request-id" | "ratelimit" | "ratelimit-policy")
    });
}

fn strip(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for nominated in headers.get_all(header::CONNECTION) {
        let tokens = nominated.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        // What frames the message or says where it goes cannot be nominated away.
        let names = tokens.filter_map(|t| HeaderName::from_bytes(t).ok());
        gone.extend(names.filter(|n| *n != header::HOST && *n != header::CONTENT_LENGTH));
    }
    gone.extend(headers.keys().filter(|n| goes(n.as_str())).cloned());
    for name in gone {
        headers.remove(name);
    }
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

/// `RateLimit`: what is left of each policy, and the seconds until it is whole again.
pub(crate) fn ratelimit(rate: (u64, u64), quota: Option<(u64, i64)>) -> HeaderValue {
    let mut text = String::with_capacity(64);
    let _ = write!(text, "\"rate\";r={};t={}", rate.0, rate.1);
    if let Some((left, seconds)) = quota {
        let _ = write!(text, ", \"quota\";r={left};t={seconds}");
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(n, v): &(&str, &str)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap());
        pairs.iter().map(pair).collect()
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
            ("accept", "*/*"),
        ]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
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
            name in "(x[-_]consumer[-_]id|x[-_]key[-_]id|x[-_]plan|x[-_]features|x[-_]environment|x[-_]api[-_]key|x[-_]forwarded[-_][a-z]{1,8})",
            upper in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let spelled: String = name.chars().zip(upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
            let mut headers = map(&[(&spelled, "forged")]);
            strip_request(&mut headers);
            prop_assert!(headers.is_empty());
        }
    }
}
