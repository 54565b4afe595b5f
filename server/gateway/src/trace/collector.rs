//! Sends a batch to the collector: one address, no redirects, a bound on time.

use super::config::TraceConfig;
use super::otlp;
use crate::causes::chain;
use crate::outgoing;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Longest wait for a collector to take a batch, from the first packet to the last byte of its answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes: it says how much was not taken, and why.
const ANSWER_MOST: usize = 64 << 10;

/// The collector.
pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
}

/// Why a batch was not taken.
#[derive(Debug)]
pub(super) struct NotTaken {
    pub(super) why: String,
    /// How long it wants to be left alone, where it says so.
    pub(super) pause: Option<Duration>,
}

impl NotTaken {
    pub(super) fn new(why: String) -> Self {
        Self { why, pause: None }
    }
}

impl Collector {
    pub(super) fn new(config: &TraceConfig) -> Self {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        let mut headers = config.headers.map().clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(otlp::JSON));
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static("turnpike-gateway"));
        Self {
            // Batches go one after another.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(1)
                .build(outgoing::connector(http, TIMEOUT)),
            uri: config.endpoint.uri().clone(),
            headers,
        }
    }

    /// Where it is.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Sends a batch; how many of its spans were not taken all the same.
    pub(super) async fn send(&self, batch: Vec<u8>) -> Result<u64, NotTaken> {
        let sent = tokio::time::timeout(TIMEOUT, self.answer(batch)).await;
        sent.unwrap_or_else(|_| Err(NotTaken::new(format!("no answer within {} s", TIMEOUT.as_secs()))))
    }

    async fn answer(&self, batch: Vec<u8>) -> Result<u64, NotTaken> {
        let mut request = Request::new(Full::from(batch));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let sent = self.client.request(request).await;
        let answer = sent.map_err(|e| NotTaken::new(chain(&e)))?;
        let status = answer.status();
        let pause = pause(answer.headers());
        // Read to its end, so that the connection serves again.
        let body = Limited::new(answer.into_body(), ANSWER_MOST).collect().await;
        if !status.is_success() {
            let why = format!("status {status}");
            return Err(NotTaken { why, pause });
        }
        Ok(body.map_or(0, |b| otlp::rejected(&b.to_bytes())))
    }
}

/// The seconds of `Retry-After`; a date there is not looked at.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}
