//! Tells systemd (`Type=notify`) that this process serves, and that it is the service's main one from now on.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// To be called when requests are answered; does nothing without `NOTIFY_SOCKET`.
pub(crate) fn ready() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let bytes = name.as_encoded_bytes();
    // A name that begins with @ is an abstract one (sd_notify(3)).
    let address = match bytes.strip_prefix(b"@") {
        Some(rest) => SocketAddr::from_abstract_name(rest),
        None => SocketAddr::from_pathname(&name),
    };
    let text = format!("READY=1\nMAINPID={}\n", std::process::id());
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the service manager that this process is ready");
    }
}
