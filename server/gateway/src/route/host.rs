//! The host a request is for.

use super::path::ambiguous;
use crate::refusal::Refused;
use http::Uri;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Scheme;
use std::borrow::Cow;

/// The host asked for, in lower case and without a port. An absolute target goes before the header (RFC 9112, 3.2.2).
pub(crate) fn asked<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
    let written = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    // A colon inside brackets belongs to the address.
    let host = match written.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => written,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// One host, plainly written: HTTP/1.1 must have it, and two readers must not see two hosts. HTTP/2 has it in the
/// target, and a `Host` beside that must say the same (RFC 9113, 8.3.1).
pub(crate) fn check_host(version: http::Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let scheme = uri.scheme().is_none_or(|s| *s == Scheme::HTTP || *s == Scheme::HTTPS);
    let authority = uri.authority().map(|a| a.as_str().as_bytes());
    let target = scheme && authority.is_none_or(plain);
    let said = match (hosts.next().map(HeaderValue::as_bytes), hosts.next()) {
        (_, Some(_)) => false,
        (Some(host), None) if version == http::Version::HTTP_2 => {
            plain(host) && authority.is_none_or(|a| a.eq_ignore_ascii_case(host))
        }
        (Some(host), None) => plain(host),
        (None, None) if version == http::Version::HTTP_2 => authority.is_some(),
        (None, None) => version == http::Version::HTTP_10,
    };
    if said && target {
        Ok(())
    } else {
        Err(ambiguous("There must be one plain Host.").closing())
    }
}

/// A name or an address in brackets, and perhaps a port: no userinfo, no escapes, nothing that is cut off elsewhere.
fn plain(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|b| *b == b']') else {
                return false;
            };
            let address = std::str::from_utf8(&rest[..end]).ok();
            if address.and_then(|a| a.parse::<std::net::Ipv6Addr>().ok()).is_none() {
                return false;
            }
            (&b"address"[..], &rest[end + 1..])
        }
        None => host.split_at(host.iter().position(|b| *b == b':').unwrap_or(host.len())),
    };
    let letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let port_fits = match port.split_first() {
        None => true,
        Some((b':', digits)) => {
            digits.iter().all(u8::is_ascii_digit)
                && (digits.is_empty() || std::str::from_utf8(digits).is_ok_and(|d| d.parse::<u16>().is_ok()))
        }
        Some(_) => false,
    };
    !name.is_empty() && name.iter().all(letter) && port_fits
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in [
            "a",
            "a.example",
            "A-b_c.d.",
            "a:80",
            "a:",
            "127.0.0.1:65535",
            "[::1]",
            "[2001:db8::7]:8080",
        ] {
            assert!(plain(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a:x", "a:65536", "a:80:80", "a@b", "u:p@a", "a b", "a,b", "a/b", "[::1", "::1", "[::1]x",
            "[a]", "[]", "a[", "[[::1]]", "a%2e", "a\\b",
        ] {
            assert!(!plain(bad.as_bytes()), "{bad}");
        }
    }
}
