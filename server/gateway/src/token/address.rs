//! Names into addresses, without those at which clouds hand out credentials to whoever asks from inside.

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use model::issuer::is_metadata;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_service::Service;

/// The system's resolver, screened.
#[derive(Clone)]
pub(super) struct Screened(GaiResolver);

impl Screened {
    pub(super) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Screened {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.0.call(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.filter(|a| !is_metadata(a.ip())).collect();
            Ok(found.into_iter())
        })
    }
}
