//! An API behind the gateway that remembers whom it served.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::get;
use futures::stream;
use http::HeaderMap;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Ends with the value.
pub(crate) struct Upstream {
    address: SocketAddr,
    state: Memory,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Memory {
    seen: Arc<Mutex<HashMap<String, u32>>>,
    gate: Arc<Semaphore>,
}

impl Memory {
    fn note(&self, headers: &HeaderMap) -> String {
        let id = headers
            .get("x-request-id")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        *self.seen.lock().unwrap().entry(id.to_owned()).or_default() += 1;
        id.to_owned()
    }
}

impl Upstream {
    /// Listens on a free port.
    pub(crate) async fn start() -> Self {
        let state = Memory {
            seen: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let router = Router::new()
            .route("/v1/data", get(data))
            .route("/v1/chunked", get(chunked))
            .route("/v1/gated", get(gated))
            .with_state(state.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, task }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it saw each request id.
    pub(crate) fn seen(&self) -> HashMap<String, u32> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Lets one gated answer come to its end.
    pub(crate) fn open_gate(&self) {
        self.state.gate.add_permits(1);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn data(State(memory): State<Memory>, headers: HeaderMap) -> String {
    memory.note(&headers)
}

async fn chunked(State(memory): State<Memory>, headers: HeaderMap) -> Body {
    let id = memory.note(&headers);
    let pieces = ["one ", "two ", id.as_str()].map(|p| Ok::<_, Infallible>(Bytes::from(p.to_owned())));
    Body::from_stream(stream::iter(pieces))
}

async fn gated(State(memory): State<Memory>, headers: HeaderMap) -> Body {
    memory.note(&headers);
    let first = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"first ")) });
    let last = stream::once(async move {
        memory.gate.acquire().await.unwrap().forget();
        Ok(Bytes::from_static(b"last"))
    });
    Body::from_stream(futures::StreamExt::chain(first, last))
}
