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

/// One host, plainly written: HTTP/1.1 must have it, and two readers must not see two hosts.
pub(crate) fn check_host(version: http::Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let plain = |h: &HeaderValue| {
        !h.is_empty()
            && h.as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'))
    };
    let userinfo = uri.authority().is_some_and(|a| a.as_str().contains('@'));
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if plain(host) && !userinfo => Ok(()),
        (None, _) if version == http::Version::HTTP_10 && !userinfo => Ok(()),
        _ => Err(ambiguous("There must be one plain Host.").closing()),
    }
}
