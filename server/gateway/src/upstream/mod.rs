//! Phase four: to the upstream and back, over connections that each worker thread keeps for itself.
//!
//! A connection of HTTP/1.1 is a socket with its two buffers and has no task of its own: it is driven by the request
//! that holds it, so an answer wakes one task, passes no channel, and its body is handed on without being copied. `head`
//! writes requests and reads the heads of answers, `exchange` sends one request and waits for the head (`sending` is its body, `answer` that of the answer, `silence` how long that may stop), `pool` keeps connections between requests.
//! `call` is a request with its attempts: which targets are tried, and when another one is, is said in `attempts`.
//! `http2` is the other way to send a request, on connections that many share.
//!
//! An answer is read strictly (RFC 9112): whatever two readers could frame differently is refused, the connection is
//! closed, and nothing that follows an answer on its connection reaches anybody.

mod answer;
mod attempts;
mod call;
mod check;
mod connection;
mod exchange;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod head;
mod http2;
mod pool;
mod sending;
mod silence;
mod tls;

pub(crate) use answer::Incoming;
pub(crate) use attempts::unavailable;
pub(crate) use call::Call;
pub(crate) use check::check;
pub(crate) use connection::Connection;
pub(crate) use head::{BodyLength, RequestHead};
pub(crate) use pool::Pool;
pub(crate) use tls::{TlsClient, connector};
