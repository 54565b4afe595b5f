//! What it costs: the public page of plans, with an estimator that does the invoice's arithmetic.

pub mod estimate;
pub mod island;
#[cfg(feature = "ssr")]
mod page;
#[cfg(feature = "ssr")]
pub mod words;

#[cfg(feature = "ssr")]
pub use page::page;
