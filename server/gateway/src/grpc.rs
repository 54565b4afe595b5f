//! Refusals as gRPC clients understand them: status 200, no body, and in the headers what would stand in the trailers
//! of an answer ("Trailers-Only" in gRPC over HTTP/2).

use crate::refusal::Refusal;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use std::fmt::Write;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is gRPC's, which is spoken over HTTP/2 alone.
pub(crate) fn is_call(parts: &Parts) -> bool {
    let kind = || parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    parts.version == Version::HTTP_2 && kind().is_some_and(is_kind)
}

fn is_kind(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|r| r.first().is_none_or(|b| matches!(b, b'+' | b';' | b' ')))
}

/// gRPC's number for a refusal (google/rpc/code.proto).
fn code(refusal: Refusal) -> u8 {
    const DEADLINE_EXCEEDED: u8 = 4;
    const PERMISSION_DENIED: u8 = 7;
    const RESOURCE_EXHAUSTED: u8 = 8;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const UNAUTHENTICATED: u8 = 16;
    match (refusal, refusal.status().as_u16()) {
        (Refusal::SpendCapReached, _) | (_, 413 | 429) => RESOURCE_EXHAUSTED,
        (_, 401) => UNAUTHENTICATED,
        (_, 402 | 403) => PERMISSION_DENIED,
        (_, 404 | 405 | 501) => UNIMPLEMENTED,
        (_, 408 | 504) => DEADLINE_EXCEEDED,
        (_, 502 | 503) => UNAVAILABLE,
        _ => INTERNAL,
    }
}

/// The answer, with the headers that the problem would have had and what it says to people.
pub(crate) fn refuse(refusal: Refusal, detail: &str, mut headers: HeaderMap) -> Response<()> {
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code(refusal))));
    headers.insert(GRPC_MESSAGE, crate::headers::value(&encoded(detail)));
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::OK;
    *answer.headers_mut() = headers;
    answer
}

/// Percent-encoded, as messages are: everything but visible ASCII and blanks, and the percent sign.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..0x7f).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(encoded("100 % – é\n"), "100 %25 %E2%80%93 %C3%A9%0A");
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;a=b", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_kind(kind.as_bytes()), is, "{kind}");
        }
    }

    #[test]
    fn each_refusal_has_a_number_that_is_no_success() {
        assert!(Refusal::ALL.iter().all(|r| (1..=16).contains(&code(*r))));
        assert_eq!(code(Refusal::KeyUnknown), 16);
        assert_eq!(code(Refusal::QuotaExceeded), 8);
        assert_eq!(code(Refusal::UpstreamUnavailable), 14);
    }
}
