//! One request to Stripe: sent, tried again where that is safe, and its failure put into words.
//!
//! The requests are async-stripe's, so their parameters are checked by the compiler; the connection is ours, because
//! async-stripe's has no pool (a TLS handshake for every meter event), no time limit, and reports a refused connection
//! and a lost answer alike, while billing has to tell "certainly not done" from "perhaps done".

use bytes::Bytes;
use domain::payments::PaymentsError;
use domain::settings::Secret;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use std::time::Duration;
use stripe_client_core::{RequestBuilder, StripeMethod};

/// One try, answer read to its end.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// Waits before the second and third try: a job gives up after 60 s and must have room for two such calls.
const WAITS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// Longest answer: a page of 100 events is about 1 MB.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// An idle connection is kept that long; Stripe closes its side after about a minute.
const IDLE: Duration = Duration::from_secs(30);

pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: HeaderValue,
    /// With a slash at the end.
    base_url: String,
}

/// How one try ended.
enum Attempt {
    Done(Value),
    Failed(PaymentsError),
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no answer within 10 s")]
    Late,
    #[error("status {0}: {1}")]
    Status(StatusCode, String),
    #[error("the answer is not JSON")]
    NotJson(#[source] serde_json::Error),
}

impl Transport {
    pub(crate) fn new(secret_key: &Secret, base_url: Option<&str>) -> Result<Self, http::Error> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", secret_key.expose()))?;
        authorization.set_sensitive(true);
        let base_url = base_url.unwrap_or("https://api.stripe.com/").trim_end_matches('/');
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_timer(TokioTimer::new())
                .build(https),
            authorization,
            base_url: format!("{base_url}/"),
        })
    }

    /// Sends a request, up to three times. What creates something carries the same idempotency key each time; what
    /// carries none can be repeated without harm.
    pub(crate) async fn send(&self, request: &RequestBuilder, key: Option<&str>) -> Result<Value, PaymentsError> {
        let mut perhaps_done = false;
        let mut waits = WAITS.iter();
        loop {
            let failure = match self.attempt(request, key).await {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Failed(failure) => failure,
            };
            perhaps_done |= matches!(failure, PaymentsError::Ambiguous(_));
            let again = matches!(failure, PaymentsError::Unavailable(_) | PaymentsError::Ambiguous(_));
            match waits.next().filter(|_| again) {
                Some(wait) => {
                    tracing::debug!(path = request.path, error = %failure, "Stripe is asked again");
                    tokio::time::sleep(*wait).await;
                }
                None => {
                    return Err(match failure {
                        // An earlier try may have been carried out although the last was not.
                        PaymentsError::Unavailable(cause) if perhaps_done => PaymentsError::Ambiguous(cause),
                        other => other,
                    });
                }
            }
        }
    }

    async fn attempt(&self, request: &RequestBuilder, key: Option<&str>) -> Attempt {
        let http_request = match self.http_request(request, key) {
            Ok(r) => r,
            Err(e) => return Attempt::Failed(refused("bad_request", &e.to_string())),
        };
        match tokio::time::timeout(ATTEMPT_LIMIT, self.exchange(http_request)).await {
            Ok(attempt) => attempt,
            Err(_) => Attempt::Failed(PaymentsError::Ambiguous(Box::new(Lost::Late))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Attempt {
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(e) if e.is_connect() => return Attempt::Failed(PaymentsError::Unavailable(Box::new(e))),
            Err(e) => return Attempt::Failed(PaymentsError::Ambiguous(Box::new(e))),
        };
        let status = response.status();
        let body = match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return Attempt::Failed(PaymentsError::Ambiguous(e)),
        };
        if !status.is_success() {
            return Attempt::Failed(failure(status, &body));
        }
        match serde_json::from_slice(&body) {
            Ok(answer) => Attempt::Done(answer),
            Err(e) => Attempt::Failed(PaymentsError::Ambiguous(Box::new(Lost::NotJson(e)))),
        }
    }

    fn http_request(&self, request: &RequestBuilder, key: Option<&str>) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut uri = format!("{}v1{}", self.base_url, request.path);
        if let Some(query) = request.query.as_deref().filter(|q| !q.is_empty()) {
            uri.push('?');
            uri.push_str(query);
        }
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let mut builder = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::USER_AGENT, concat!("turnpike/", env!("CARGO_PKG_VERSION")))
            .header("stripe-version", stripe_client_core::VERSION.as_str());
        if let Some(key) = key {
            builder = builder.header("idempotency-key", key);
        }
        if request.body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        builder.body(Full::new(Bytes::from(request.body.clone().unwrap_or_default())))
    }
}

/// What a status that is no success means.
fn failure(status: StatusCode, body: &[u8]) -> PaymentsError {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &json["error"];
    let message = error["message"].as_str().unwrap_or("no message");
    match status.as_u16() {
        404 => PaymentsError::Missing,
        // A lock or a key still in use, a dependency, too many: Stripe has not begun.
        409 | 424 | 429 => PaymentsError::Unavailable(Box::new(Lost::Status(status, message.to_owned()))),
        500.. => PaymentsError::Ambiguous(Box::new(Lost::Status(status, message.to_owned()))),
        _ => {
            let code = error["code"].as_str().or_else(|| error["type"].as_str());
            refused(code.unwrap_or("refused"), message)
        }
    }
}

pub(crate) fn refused(code: &str, message: &str) -> PaymentsError {
    PaymentsError::Refused {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_billing_needs_to_know() {
        let body = br#"{"error":{"code":"card_declined","message":"No."}}"#;
        assert!(matches!(failure(StatusCode::NOT_FOUND, b""), PaymentsError::Missing));
        assert!(matches!(
            failure(StatusCode::TOO_MANY_REQUESTS, body),
            PaymentsError::Unavailable(_)
        ));
        assert!(matches!(
            failure(StatusCode::BAD_GATEWAY, b"<html>"),
            PaymentsError::Ambiguous(_)
        ));
        let PaymentsError::Refused { code, message } = failure(StatusCode::PAYMENT_REQUIRED, body) else {
            unreachable!("402 is a refusal");
        };
        assert_eq!((code.as_str(), message.as_str()), ("card_declined", "No."));
    }

    #[tokio::test]
    async fn a_refused_connection_is_certainly_not_done() {
        // Bound and dropped: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let transport = Transport::new(&Secret::new("sk_test_x"), Some(&format!("http://127.0.0.1:{port}"))).unwrap();
        let request = RequestBuilder::new(StripeMethod::Get, "/prices");
        let failure = transport.send(&request, None).await.unwrap_err();
        assert!(matches!(failure, PaymentsError::Unavailable(_)), "{failure:?}");
    }

    #[tokio::test]
    async fn a_lost_answer_is_perhaps_done() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                // Takes the request and hangs up.
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut buffer).await;
            }
        });
        let transport = Transport::new(&Secret::new("sk_test_x"), Some(&url)).unwrap();
        let request = RequestBuilder::new(StripeMethod::Post, "/customers");
        let failure = transport.send(&request, Some("key")).await.unwrap_err();
        assert!(matches!(failure, PaymentsError::Ambiguous(_)), "{failure:?}");
    }
}
