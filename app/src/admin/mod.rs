//! The provider's pages.

pub mod cache;
pub mod consumers;
pub mod inbox;
pub mod overview;
pub mod plans;
