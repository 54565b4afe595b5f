//! The usage page: what is used and left, what it costs, calls by day, the last requests.

pub mod api;
pub mod island;

#[cfg(feature = "ssr")]
pub(crate) mod arguments;
#[cfg(feature = "ssr")]
mod live;
#[cfg(feature = "ssr")]
mod page;

#[cfg(feature = "ssr")]
pub use page::page;
