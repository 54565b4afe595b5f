//! A service behind the gateway, as routes refer to it.

use super::RoutingError;
use http::Uri;
use http::header::HeaderValue;
use model::snapshot::UpstreamRecord;
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
    /// Longest wait for a connection, where the upstream has a bound of its own.
    pub(crate) connect: Option<Duration>,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
}

impl Upstream {
    /// From what the control plane says.
    pub(super) fn compile(u: &UpstreamRecord) -> Result<Self, RoutingError> {
        let wrong = |why: &str| RoutingError::Upstream(u.slug.clone(), format!("{}: {why}", u.url));
        let uri: Uri = u.url.parse().map_err(|_| wrong("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http:// is supported"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let millis = |ms: u32| Duration::from_millis(u64::from(ms.max(1)));
        Ok(Self {
            number: u.number,
            slug: u.slug.clone(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            host_header: HeaderValue::try_from(authority.as_str()).map_err(|_| wrong("no usable host"))?,
            connect: u.policy.connect_timeout_ms.map(millis),
            first_byte: millis(u.first_byte_timeout_ms),
            idle: millis(u.idle_timeout_ms),
        })
    }
}
