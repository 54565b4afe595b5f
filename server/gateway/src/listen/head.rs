//! The bounds on a request's head over HTTP/2. They are those over HTTP/1.1, counted as the head would be written there.

use crate::config::Limits;
use crate::http1::Invalid;
use http::header::{COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

/// So many times [`Limits::head_bytes`] the library takes before it refuses by itself, without an id and unseen: what lies
/// between is refused by the gateway.
const LIBRARY_TIMES: usize = 2;
/// ` HTTP/1.1` and the line's end, behind method and target.
const REQUEST_LINE: usize = 12;
/// The colon, the blank and the line's end around a header's name and value.
const LINE: usize = 4;
/// The empty line.
const END: usize = 2;

/// The bound that the library holds by itself, in bytes as HTTP/2 counts them (RFC 9113, section 6.5.2).
pub(super) fn library_bytes(limits: &Limits) -> u32 {
    u32::try_from(limits.head_bytes.saturating_mul(LIBRARY_TIMES)).unwrap_or(u32::MAX)
}

/// Refuses a head with more bytes or lines than are taken over HTTP/1.1.
pub(super) fn check(parts: &Parts, limits: &Limits) -> Result<(), Invalid> {
    let (host, mut lines) = match parts.uri.authority() {
        Some(authority) if !parts.headers.contains_key(HOST) => {
            (HOST.as_str().len() + authority.as_str().len() + LINE, 1)
        }
        _ => (0, 0),
    };
    let target = parts.uri.path_and_query().map_or(1, |p| p.as_str().len());
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + LINE;
    let fields: usize = parts.headers.iter().map(line).sum();
    if parts.method.as_str().len() + target + REQUEST_LINE + host + fields + END > limits.head_bytes {
        return Err(Invalid("the head is too long"));
    }
    lines += parts.headers.len();
    if lines > limits.headers {
        return Err(Invalid("the head has too many lines"));
    }
    Ok(())
}

/// Makes one line of the cookies, which HTTP/2 lets clients send apart and HTTP/1.1 does not (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn heads_are_counted_as_they_would_be_written_over_http1() {
        let parts = |value: &str, cookies: usize| {
            let mut request = Request::get("http://a.example/b?c").header("x-a", value);
            for _ in 0..cookies {
                request = request.header("cookie", "a=b");
            }
            let mut parts = request.body(()).unwrap().into_parts().0;
            join_cookies(&mut parts.headers);
            parts
        };
        let written = "GET /b?c HTTP/1.1\r\nhost: a.example\r\nx-a: yyy\r\n\r\n";
        let limits = |head_bytes, headers| Limits {
            head_bytes,
            headers,
            ..Limits::default()
        };
        assert_eq!(check(&parts("yyy", 0), &limits(written.len(), 2)), Ok(()));
        assert!(check(&parts("yyyy", 0), &limits(written.len(), 2)).is_err());
        assert!(check(&parts("yyy", 0), &limits(written.len(), 1)).is_err());
        assert_eq!(
            check(&parts("yyy", 9), &limits(1_000, 3)),
            Ok(()),
            "cookies are one line"
        );
        assert!(check(&parts("yyy", 9), &limits(1_000, 2)).is_err());
        assert_eq!(parts("y", 3).headers["cookie"], "a=b; a=b; a=b");
        assert_eq!(parts("y", 1).headers["cookie"], "a=b");
    }
}
