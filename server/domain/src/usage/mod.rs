//! What was used: taken in from the gateways' ledgers, and read for pages.

pub mod ingest;

pub use ingest::{ship, shipped_through};
