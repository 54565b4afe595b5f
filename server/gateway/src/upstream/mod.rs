//! Phase four: to the upstream and back, over HTTP/1.1 connections that each worker thread keeps for itself.
//!
//! A connection is a socket with its two buffers and has no task of its own: it is driven by the request that holds it,
//! so an answer wakes one task, passes no channel, and its body is handed on without being copied. `head` writes
//! requests and reads the heads of answers, `exchange` sends one request and
//! waits for the head (`sending` is its body, `answer` that of the answer), `pool` keeps connections between requests.
//!
//! An answer is read strictly (RFC 9112): whatever two readers could frame differently is refused, the connection is
//! closed, and nothing that follows an answer on its connection reaches anybody.

mod answer;
mod connection;
mod exchange;
mod head;
mod pool;
mod sending;

pub(crate) use answer::Incoming;
pub(crate) use exchange::Call;
pub(crate) use head::{BodyLength, RequestHead};
pub(crate) use pool::Pool;
