//! The provider's pages.

pub mod consumers;
