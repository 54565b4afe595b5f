//! `atlas`: serves the demo provider's API.

use atlas::Clock;
use axum::serve::ListenerExt;
use clap::Parser;
use std::io::Write;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Countries, currencies and local times over HTTP.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "ATLAS_LISTEN", default_value = "127.0.0.1:4010")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let listener = TcpListener::bind(options.listen).await?;
    writeln!(std::io::stdout(), "Atlas answers on http://{}", listener.local_addr()?)?;
    // Without it a streamed event waits for the answer to the packet before (44 ms on Linux).
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            let _ = writeln!(std::io::stderr(), "TCP_NODELAY: {error}");
        }
    });
    let server = axum::serve(listener, atlas::router(Clock::new(now)));
    // Streams last an hour, so stopping does not wait for them.
    tokio::select! {
        result = server.into_future() => result,
        () = stopped() => Ok(()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program's one reading of the clock; the library takes it as a parameter"
)]
fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    // Nobody reads the nanoseconds.
    now.round(jiff::Unit::Millisecond).unwrap_or(now)
}

/// Interrupt or, where there is such a thing, SIGTERM.
async fn stopped() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            let _ = interrupt.await;
            return;
        };
        tokio::select! { _ = interrupt => {}, _ = terminate.recv() => {} }
    }
    #[cfg(not(unix))]
    {
        let _ = interrupt.await;
    }
}
