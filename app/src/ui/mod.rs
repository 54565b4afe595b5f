//! The parts that pages are made of.

#[cfg(feature = "ssr")]
pub mod chart;
#[cfg(feature = "ssr")]
mod form;
#[cfg(feature = "ssr")]
mod parts;

pub mod copy;
pub mod wire;

#[cfg(feature = "ssr")]
pub use form::{FormState, field, hidden, select, submit};
#[cfg(feature = "ssr")]
pub use parts::{Tone, badge, banner, card, empty, meter_bar, on_day, page_head, stat, when};
