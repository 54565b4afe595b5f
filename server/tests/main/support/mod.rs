//! What the tests of the program share: folders, the binary and its processes, a client, an upstream.

mod client;
mod folder;
mod program;
mod upstream;

pub(crate) use client::{Answer, Connection, call};
pub(crate) use folder::{Folder, signal};
pub(crate) use program::{Output, PEPPER, Program, Serving};
pub(crate) use upstream::Upstream;

use std::io::Write as _;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for anything: far above what a slow machine needs, so that only a hang fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// A line for whoever reads the test's output.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Looks until `done` gives something.
///
/// # Panics
/// After [`LIMIT`].
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut done: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(value) = done().await {
                return value;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(LIMIT, looking)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen in {LIMIT:?}"))
}

/// The next connection. While there are no descriptors there is none.
pub(crate) async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// A product whose routes lead to `upstream`: `/v1/data` answers at once, `/v1/chunked` in pieces, `/v1/gated` when
/// told to. The plan `open` costs money and refuses nothing; `free` is what people begin with.
pub(crate) fn catalogue(upstream: std::net::SocketAddr) -> String {
    let route = |name: &str| {
        format!("[[routes]]\nslug = \"{name}\"\npath = \"/v1/{name}\"\nupstream = \"echo\"\nmeter = \"calls\"\n\n")
    };
    let routes: String = ["data", "chunked", "gated"].map(route).concat();
    format!(
        r#"
[product]
slug = "echo"
name = "Echo"
summary = "Says what it hears."
currency = "usd"

[[upstreams]]
slug = "echo"
url = "http://{upstream}"

[[meters]]
slug = "calls"
name = "API calls"
unit = "call"

{routes}
[[plans]]
slug = "free"
name = "Free"
tagline = "To try it."
rate_limit = {{ per_second = 1000, burst = 1000 }}

[plans.month]
flat = "0.00"

[[plans.month.meters]]
meter = "calls"
included = 10000

[[plans]]
slug = "open"
name = "Open"
tagline = "Limits far above what a machine can send."
rate_limit = {{ per_second = 1000000, burst = 1000000 }}

[plans.month]
flat = "19.00"

[[plans.month.meters]]
meter = "calls"
included = 1000000
overage = {{ model = "graduated", tiers = [{{ unit = "0.001" }}] }}
"#
    )
}
