//! The provider's pages.

pub mod consumers;
pub mod overview;
