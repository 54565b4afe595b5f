//! Connections that the gateway makes on its own behalf: to issuers of tokens, and to a collector of traces.

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use std::time::Duration;

/// With TLS or without, as the address says; certificates are checked against the authorities that browsers trust. `timeout`
/// is the longest wait for a connection.
pub(crate) fn connector<R>(mut http: HttpConnector<R>, timeout: Duration) -> HttpsConnector<HttpConnector<R>> {
    http.enforce_http(false);
    http.set_connect_timeout(Some(timeout));
    HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(http)
}
