//! Asks an issuer for its keys: one address, no redirects, a bound on time and size.

use super::address::Screened;
use crate::causes::chain;
use crate::outgoing;
use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Longest wait for the keys, from the first packet to the last byte.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer, in bytes: keys of sixty-four RSA keys with certificates are below.
const BODY_MOST: usize = 256 << 10;

/// Fetches keys.
#[derive(Clone)]
pub(super) struct Client(Pooled<HttpsConnector<HttpConnector<Screened>>, Empty<Bytes>>);

impl Client {
    pub(super) fn new() -> Self {
        let http = HttpConnector::new_with_resolver(Screened::new());
        // Once in five minutes: a connection kept so long is more trouble than a new one.
        let client = Pooled::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(outgoing::connector(http, TIMEOUT));
        Self(client)
    }

    /// The body behind the address.
    pub(super) async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let fetched = tokio::time::timeout(TIMEOUT, self.answer(url)).await;
        fetched.map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))?
    }

    async fn answer(&self, url: &str) -> Result<Vec<u8>, String> {
        let uri: Uri = url.parse().map_err(|_| "the address is none".to_owned())?;
        let request = Request::get(uri)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, "turnpike-gateway")
            .body(Empty::new())
            .map_err(|e| e.to_string())?;
        let answer = self.0.request(request).await.map_err(|e| chain(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("status {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), BODY_MOST).collect().await;
        let body = body.map_err(|e| format!("the answer broke off or is longer than {BODY_MOST} bytes: {e}"))?;
        Ok(body.to_bytes().to_vec())
    }
}
