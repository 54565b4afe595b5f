//! HTTP/2 to upstreams: connections that many requests of a worker thread share.
//!
//! Bodies flow as the windows allow, and trailers of an answer are passed on. A request that the upstream says it did
//! not process (`REFUSED_STREAM`, or beyond the last stream of a `GOAWAY`) is sent again, once without asking why.

mod answer;
mod call;
mod links;
mod pump;

pub(super) use answer::AnswerBody;
pub(super) use call::{Http2Call, Http2Head};
pub(super) use links::{Links, shake_hands};
