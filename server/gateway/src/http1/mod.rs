//! What both sides of the gateway read the same way: where heads and bodies of HTTP/1.1 messages end (RFC 9112), strictly.

mod field;
mod framing;
mod scan;
mod turn;

pub(crate) use field::{append, content_length};
pub(crate) use framing::{Framing, Piece};
pub(crate) use scan::Scan;
pub(crate) use turn::Turn;

/// What came can be read in more ways than one, or in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(pub(crate) &'static str);
