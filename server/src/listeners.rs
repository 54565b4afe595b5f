//! The listeners of portal and operators: they can be handed over, and stop accepting before their connections close.

use crate::handover::Named;
use crate::output::Failure;
use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use http::{HeaderValue, header};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// When listeners open and close.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    /// Clients are accepted.
    pub(crate) open: CancellationToken,
    /// Nobody is accepted any more, and every answer says that the connection closes.
    pub(crate) closing: CancellationToken,
    /// Connections without a request close.
    pub(crate) closed: CancellationToken,
}

/// A client's address.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A listener that accepts from one moment to another.
struct Door {
    listener: Option<TcpListener>,
    address: SocketAddr,
    doors: Doors,
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        self.doors.open.cancelled().await;
        if let Some(listener) = &mut self.listener {
            tokio::select! {
                biased;
                () = self.doors.closing.cancelled() => {}
                (stream, peer) = Listener::accept(listener) => {
                    // Without this a page that is sent in two pieces waits 40 ms for an acknowledgement.
                    drop(stream.set_nodelay(true));
                    return (stream, peer);
                }
            }
        }
        self.listener = None;
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Passes the client's address on, and says that the connection closes where it does.
async fn pass(State(doors): State<Doors>, mut request: Request, next: Next) -> Response {
    if let Some(ConnectInfo(Peer(address))) = request.extensions().get().copied() {
        request.extensions_mut().insert(ConnectInfo(address));
    }
    let mut answer = next.run(request).await;
    if doors.closing.is_cancelled() {
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Takes the socket, or binds one now, so that an address in use stops the start. Gives the task that serves, and the
/// socket again, to be handed over.
pub(crate) fn listen(
    (name, address): (&'static str, SocketAddr),
    taken: Option<std::net::TcpListener>,
    router: Router,
    doors: &Doors,
) -> Result<(impl Future<Output = ()> + use<>, Named), Failure> {
    let failed = |e| Failure(format!("cannot listen on {address} for the {name}: {e}"));
    let socket = match taken {
        Some(socket) => socket,
        None => bind(address).map_err(failed)?,
    };
    let named = Named {
        name,
        address,
        socket: socket.try_clone().map_err(failed)?,
    };
    let door = Door {
        address: socket.local_addr().map_err(failed)?,
        listener: Some(TcpListener::from_std(socket).map_err(failed)?),
        doors: doors.clone(),
    };
    tracing::info!(%address, "{name} listens");
    let router = router.layer(from_fn_with_state(doors.clone(), pass));
    let closed = doors.closed.clone();
    let serve = async move {
        let service = router.into_make_service_with_connect_info::<Peer>();
        let served = axum::serve(door, service).with_graceful_shutdown(closed.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(error = error.to_string(), "{name} ended");
        }
    };
    Ok((serve, named))
}

/// As tokio binds: an address that was in use a moment ago is free.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
