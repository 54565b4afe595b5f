//! How connections to an upstream are made.

use super::{PolicyError, wrong};
use serde::{Deserialize, Serialize};

/// What is spoken with an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: over TLS by ALPN, else with prior knowledge. gRPC needs it.
    Http2,
}

impl Protocol {
    /// Whether it is the one that need not be said.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How an upstream's certificate is checked; it always is. Without this, against the authorities that browsers trust.
/// The files lie on every gateway's own disk; a gateway that cannot read one goes on with the routes it had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// File with the authorities that may have signed it, in PEM; then only those may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Name it must be for, and that is asked for; none means the host of the upstream's `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// File with the gateway's own certificate and what leads to its authority, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<String>,
    /// File with its key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<String>,
}

impl UpstreamTls {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        for (field, file) in [
            ("tls.ca_file", &self.ca_file),
            ("tls.client_certificate_file", &self.client_certificate_file),
            ("tls.client_key_file", &self.client_key_file),
        ] {
            if file.as_ref().is_some_and(|f| !f.starts_with('/')) {
                return wrong(field, "must be a path from the root, such as /etc/turnpike/ca.pem");
            }
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            return wrong("tls.client_key_file", "a client's certificate and its key go together");
        }
        Ok(())
    }
}
