//! A client that keeps one connection and never tries again by itself.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Why there is no whole answer.
pub(crate) type Lost = Box<dyn std::error::Error + Send + Sync>;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's text; empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is kept.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Lost> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: address.to_string(),
        })
    }

    /// A GET, up to the answer's head.
    pub(crate) async fn begin(&mut self, path: &str, key: Option<&str>) -> Result<http::Response<Incoming>, Lost> {
        let mut request = Request::get(path).header("host", &self.host);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        self.sender.ready().await?;
        let sent = self.sender.send_request(request.body(Full::default())?);
        Ok(tokio::time::timeout(LIMIT, sent).await??)
    }

    /// A form, as a browser sends it from a page of the same site.
    pub(crate) async fn post_form(&mut self, path: &str, cookie: &str, form: &str) -> Result<Answer, Lost> {
        let request = Request::post(path)
            .header("host", &self.host)
            .header("cookie", cookie)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded");
        self.sender.ready().await?;
        let sent = self.sender.send_request(request.body(Full::from(form.to_owned()))?);
        let (head, body) = tokio::time::timeout(LIMIT, sent).await??.into_parts();
        let body = tokio::time::timeout(LIMIT, body.collect()).await??.to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// A GET, to the answer's last byte.
    pub(crate) async fn get(&mut self, path: &str, key: Option<&str>) -> Result<Answer, Lost> {
        let (head, body) = self.begin(path, key).await?.into_parts();
        let body = tokio::time::timeout(LIMIT, body.collect()).await??.to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// One GET on a connection of its own.
pub(crate) async fn call(address: SocketAddr, path: &str, key: Option<&str>) -> Result<Answer, Lost> {
    Connection::open(address).await?.get(path, key).await
}
