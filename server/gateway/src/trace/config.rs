//! Where traces go.

use crate::config::Share;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme, Uri};
use percent_encoding::percent_decode_str;
use std::str::FromStr;

/// Where a collector takes spans, behind its address (OTLP/HTTP).
const SPANS_PATH: &str = "/v1/traces";
/// Most headers for the collector.
const HEADERS_MOST: usize = 16;

/// Traces of requests.
#[derive(Debug, Clone)]
pub struct TraceConfig {
    /// The collector.
    pub endpoint: CollectorUrl,
    /// What it is told with every batch.
    pub headers: CollectorHeaders,
    /// Requests that are recorded, of those about which nobody who is trusted has decided.
    pub sample: Share,
    /// Whether a caller's `traceparent` decides whether its request is recorded. Without that a stranger could have all
    /// of its requests recorded, or none.
    pub trust_parent: bool,
}

/// The address that a collector takes spans at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorUrl(Uri);

impl CollectorUrl {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl std::fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CollectorUrl {
    type Err = &'static str;

    /// The collector's address (`http://127.0.0.1:4318`, perhaps with a path), or that with `/v1/traces` behind it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "http://host:port or https://host:port is wanted, perhaps with a path, without user and query";
        let uri: Uri = text.parse().map_err(|_| wanted)?;
        let known = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri
            .authority()
            .is_some_and(|a| !a.as_str().contains('@') && !a.host().is_empty());
        if !known || !host || text.contains(['?', '#']) {
            return Err(wanted);
        }
        let path = uri.path().trim_end_matches('/');
        let path = format!("{}{SPANS_PATH}", path.strip_suffix(SPANS_PATH).unwrap_or(path));
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| wanted)?);
        Uri::from_parts(parts).map(Self).map_err(|_| wanted)
    }
}

/// Headers for a collector: secrets as a rule, which are never printed.
#[derive(Clone, Default)]
pub struct CollectorHeaders(HeaderMap);

impl CollectorHeaders {
    pub(super) fn map(&self) -> &HeaderMap {
        &self.0
    }
}

impl std::fmt::Debug for CollectorHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CollectorHeaders").field(&self.0.len()).finish()
    }
}

/// What frames a message, says where it goes or is the gateway's to say.
fn is_ours(name: &HeaderName) -> bool {
    let ours = [
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    ours.contains(name)
}

impl FromStr for CollectorHeaders {
    /// Without what is wrong: that may be a secret.
    type Err = &'static str;

    /// `name=value`, more of them behind commas; in values `%2C` is a comma and `%25` a percent sign, as OpenTelemetry
    /// writes them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "name=value[,name=value] is wanted, a comma in a value as %2C";
        let mut headers = HeaderMap::new();
        for one in text.split(',') {
            let (name, value) = one.split_once('=').ok_or(wanted)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| wanted)?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value = HeaderValue::try_from(value).map_err(|_| wanted)?;
            value.set_sensitive(true);
            if is_ours(&name) {
                return Err("one of the headers is the gateway's to say (Host, Content-Type, what frames a message)");
            }
            if headers.insert(name, value).is_some() || headers.len() > HEADERS_MOST {
                return Err("each header once, and at most 16 of them");
            }
        }
        Ok(Self(headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_behind_the_address() {
        for (text, uri) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://otlp.example/otlp", "https://otlp.example/otlp/v1/traces"),
            (
                "https://otlp.example/otlp/v1/traces",
                "https://otlp.example/otlp/v1/traces",
            ),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(text.parse::<CollectorUrl>().unwrap().to_string(), uri);
        }
        for wrong in [
            "",
            "4318",
            "127.0.0.1:4318",
            "/v1/traces",
            "grpc://collector:4317",
            "http://",
            "http://user:secret@collector",
            "http://collector?key=secret",
            "http://collector#x",
            "http://a b",
        ] {
            let error = wrong.parse::<CollectorUrl>().unwrap_err();
            assert!(
                error.contains("http://host:port") && !error.contains("secret"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn headers_are_read_and_never_shown() {
        let headers: CollectorHeaders = "api-key=s3cret, Authorization = Bearer%20a%2Cb=".parse().unwrap();
        assert_eq!(headers.map()["api-key"], "s3cret");
        assert_eq!(headers.map()["authorization"], "Bearer a,b=");
        assert!(!format!("{headers:?}").contains("s3cret") && !format!("{:?}", headers.map()).contains("s3cret"));
        for wrong in [
            "",
            "s3cret",
            "=s3cret",
            "a b=s3cret",
            "a=s3cret,",
            "a=s3%0Acret",
            "host=s3cret",
            "a=s3cret,A=s3cret",
        ] {
            let error = wrong.parse::<CollectorHeaders>().unwrap_err();
            assert!(!error.contains("s3cret"), "{wrong}");
        }
    }
}
