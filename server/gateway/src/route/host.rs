//! The host a request is for.

use super::path::ambiguous;
use crate::refusal::Refused;
use http::Uri;
use http::header::{self, HeaderMap, HeaderValue};
use std::borrow::Cow;

/// The host asked for, in lower case and without a port. An absolute target goes before the header (RFC 9112, 3.2.2).
pub(super) fn asked<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
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
    let plain = |h: &[u8]| {
        let known = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_');
        !h.is_empty() && h.iter().all(known)
    };
    let authority = uri.authority().map(|a| a.as_str().as_bytes());
    let userinfo = authority.is_some_and(|a| a.contains(&b'@'));
    let said = match (hosts.next().map(HeaderValue::as_bytes), hosts.next()) {
        (_, Some(_)) => false,
        (Some(host), None) if version == http::Version::HTTP_2 => {
            plain(host) && authority.is_none_or(|a| a.eq_ignore_ascii_case(host))
        }
        (Some(host), None) => plain(host),
        (None, None) if version == http::Version::HTTP_2 => authority.is_some_and(plain),
        (None, None) => version == http::Version::HTTP_10,
    };
    if said && !userinfo {
        Ok(())
    } else {
        Err(ambiguous("There must be one plain Host.").closing())
    }
}
