//! HTTP/1.1 towards clients, strictly read: whatever two parsers could frame differently is refused, and nothing behind
//! the first byte out of place is ever looked at.
//!
//! `head` reads requests, `io` is the socket with its buffers, `body` a request's body, `answer` writes answers, `serve`
//! does one after the other for as long as the connection lasts. A connection is one task, and the requests on it run
//! inside that task.

mod answer;
mod body;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod head;
mod io;
mod serve;

pub(crate) use body::ClientBody;
pub(crate) use serve::{Handler, Limits, serve};
