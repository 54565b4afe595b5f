//! Phase one: from the raw path and the method to a route, or out.
//!
//! The path is forwarded byte for byte. It is matched with its percent-escapes decoded, and everything that an
//! upstream could read in another way than the matcher did is refused: then a gate on `/v1/admin` cannot be walked
//! around by `/v1/%61dmin`, `/v1//admin` or `/v1/x/../admin`.

use crate::refusal::{Refusal, Refused};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Uri};
use model::access;
use model::catalogue::StatusSet;
use model::snapshot::{RouteRecord, Routing, UpstreamRecord};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A service behind the gateway, ready to be called.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) number: u16,
    pub(crate) slug: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Host` for it.
    pub(crate) host_header: HeaderValue,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
}

/// A route, ready to be used.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) number: u16,
    pub(crate) slug: String,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) meter: u16,
    pub(crate) counts: StatusSet,
    pub(crate) weight: u32,
    pub(crate) feature: Option<String>,
}

/// The routing table, compiled.
#[derive(Debug)]
pub(crate) struct Routes {
    paths: matchit::Router<Vec<(access::Method, Arc<Route>)>>,
    pub(crate) portal_url: String,
    /// As it came, for the copy on disk.
    pub(crate) told: Routing,
}

/// Why a routing table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoutingError {
    #[error("upstream {0} has no usable address: {1}")]
    Upstream(String, String),
    #[error("route {0} names the unknown upstream {1}")]
    NoUpstream(String, u16),
    #[error("route {0}: {1}")]
    Path(String, String),
}

impl Routes {
    /// Compiles a table.
    pub(crate) fn compile(told: Routing) -> Result<Self, RoutingError> {
        let mut upstreams = HashMap::new();
        for u in &told.upstreams {
            upstreams.insert(u.number, Arc::new(upstream(u)?));
        }
        let words = |m: &model::snapshot::MeterRecord| StatusSet::from_words(m.statuses.iter().map(String::as_str));
        let meters: HashMap<u16, StatusSet> = told.meters.iter().map(|m| (m.number, words(m))).collect();
        let mut by_path: HashMap<String, Vec<(access::Method, Arc<Route>)>> = HashMap::new();
        for r in &told.routes {
            let upstream = upstreams.get(&r.upstream);
            let upstream = upstream.ok_or_else(|| RoutingError::NoUpstream(r.slug.clone(), r.upstream))?;
            let route = Arc::new(Route {
                number: r.number,
                slug: r.slug.clone(),
                upstream: Arc::clone(upstream),
                meter: r.meter,
                counts: meters
                    .get(&r.meter)
                    .copied()
                    .unwrap_or_else(|| StatusSet::from_words([])),
                weight: r.weight,
                feature: r.feature.clone(),
            });
            let bound = by_path.entry(pattern(r)).or_default();
            bound.extend(r.methods.iter().map(|m| (*m, Arc::clone(&route))));
        }
        let mut paths = matchit::Router::new();
        for (path, bound) in by_path {
            let slug = bound.first().map(|(_, r)| r.slug.clone()).unwrap_or_default();
            paths
                .insert(path, bound)
                .map_err(|e| RoutingError::Path(slug, e.to_string()))?;
        }
        Ok(Self {
            paths,
            portal_url: told.portal_url.trim_end_matches('/').to_owned(),
            told,
        })
    }

    /// The route of a request.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Result<Arc<Route>, Refused> {
        let path = canonical(path)?;
        let bound = match self.paths.at(&path) {
            Ok(found) => found.value,
            Err(_) => return Err(Refused::new(Refusal::NoRoute, "No API has a route at this path.")),
        };
        let wanted = match *method {
            Method::GET | Method::HEAD => Some(access::Method::Get),
            Method::POST => Some(access::Method::Post),
            Method::PUT => Some(access::Method::Put),
            Method::PATCH => Some(access::Method::Patch),
            Method::DELETE => Some(access::Method::Delete),
            _ => None,
        };
        if let Some((_, route)) = bound.iter().find(|(m, _)| Some(*m) == wanted) {
            return Ok(Arc::clone(route));
        }
        let mut allow: Vec<&str> = bound.iter().map(|(m, _)| m.word()).collect();
        if allow.contains(&"GET") {
            allow.push("HEAD");
        }
        let allow = allow.join(", ");
        let refused = Refused::new(Refusal::MethodNotAllowed, format!("Allowed here: {allow}."));
        Err(refused.with(header::ALLOW, crate::headers::value(&allow)))
    }
}

/// Parameters are called by their place, so that `/a/{id}` and `/a/{code}` with other methods are one path.
fn pattern(route: &RouteRecord) -> String {
    let renamed = route.path.split('/').enumerate().map(|(i, segment)| {
        match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) if name.starts_with('*') => format!("{{*p{i}}}"),
            Some(_) => format!("{{p{i}}}"),
            None => segment.to_owned(),
        }
    });
    renamed.collect::<Vec<_>>().join("/")
}

fn upstream(u: &UpstreamRecord) -> Result<Upstream, RoutingError> {
    let wrong = |why: &str| RoutingError::Upstream(u.slug.clone(), format!("{}: {why}", u.url));
    let uri: Uri = u.url.parse().map_err(|_| wrong("not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("only http:// is supported"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Ok(Upstream {
        number: u.number,
        slug: u.slug.clone(),
        host,
        port: authority.port_u16().unwrap_or(80),
        host_header: HeaderValue::try_from(authority.as_str()).map_err(|_| wrong("no usable host"))?,
        first_byte: Duration::from_millis(u64::from(u.first_byte_timeout_ms.max(1))),
        idle: Duration::from_millis(u64::from(u.idle_timeout_ms.max(1))),
    })
}

fn ambiguous(why: &'static str) -> Refused {
    Refused::new(Refusal::BadRequest, why)
}

/// The path that is matched: escapes decoded, ambiguous ones refused. Borrows unless there is an escape.
pub(crate) fn canonical(raw: &str) -> Result<Cow<'_, str>, Refused> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(ambiguous("The request target must be a path."));
    }
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'\\' | b';' | b'#');
    if !bytes.iter().all(plain) {
        return Err(ambiguous(
            "The path holds a character that servers read differently: \\ ; # or one outside ASCII.",
        ));
    }
    let decoded = if bytes.contains(&b'%') {
        Cow::Owned(decode(bytes)?)
    } else {
        Cow::Borrowed(raw)
    };
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let empty_inside = segment.is_empty() && segments.peek().is_some();
        if empty_inside || segment == "." || segment == ".." {
            return Err(ambiguous("The path holds an empty or dot segment."));
        }
    }
    Ok(decoded)
}

fn decode(bytes: &[u8]) -> Result<String, Refused> {
    let hex = |b: Option<&u8>| {
        b.and_then(|b| char::from(*b).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if b != b'%' {
            out.push(b);
            i += 1;
            continue;
        }
        let (Some(high), Some(low)) = (hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) else {
            return Err(ambiguous("The path holds a % that begins no escape."));
        };
        let byte = high * 16 + low;
        let twice = byte == b'%' && hex(bytes.get(i + 3)).is_some() && hex(bytes.get(i + 4)).is_some();
        if twice || matches!(byte, b'.' | b'/' | b'\\' | b';') || byte.is_ascii_control() {
            return Err(ambiguous(
                "The path holds an escape that servers read differently: of . / \\ ; % or a control.",
            ));
        }
        out.push(byte);
        i += 3;
    }
    String::from_utf8(out).map_err(|_| ambiguous("The path's escapes are not UTF-8."))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in [
            "//a",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/%2e%2e/b",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a%00",
            "/a%",
            "/a%g1",
            "/a%252e",
            "/%c0%ae",
            "/%ff",
            "a",
            "*",
            "/a%0d%0ab",
        ] {
            assert!(canonical(path).is_err(), "{path}");
        }
        for (path, read) in [
            ("/", "/"),
            ("/a/", "/a/"),
            ("/a%20b", "/a b"),
            ("/%61dmin", "/admin"),
            ("/a%40b", "/a@b"),
        ] {
            assert_eq!(canonical(path).unwrap(), read);
        }
    }

    proptest! {
        /// What is matched is what an upstream sees after decoding once, and decoding it again changes nothing that
        /// separates or steps out of segments.
        #[test]
        fn a_path_let_through_has_one_reading(path in "/([a-z./%;\\\\]|%2[ef]|%5c|%25|%61|%c3%a9){0,12}") {
            if let Ok(read) = canonical(&path) {
                prop_assert_eq!(read.matches('/').count(), path.matches('/').count());
                prop_assert!(read.split('/').all(|s| s != "." && s != ".."));
                prop_assert!(!read.contains("//") && !read.contains('\\') && !read.contains(';'));
            }
        }
    }
}
