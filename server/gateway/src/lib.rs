//! The data plane: route, authenticate, admit, forward, record. See the modules of these names.

mod account;
mod admit;
mod authenticate;
mod body;
mod config;
mod disk;
mod forward;
mod gateway;
mod guard;
mod headers;
mod ledger;
mod metrics;
mod record;
mod refusal;
mod route;
mod server;
mod shipper;
mod source;
mod sync;
mod tables;

pub use config::{Config, Limits, Peppers};
pub use gateway::{Gateway, Running, StartError};
pub use refusal::Refusal;
pub use source::{SnapshotSource, SourceError, UsageSink};
