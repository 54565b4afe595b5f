//! What was used: taken in from the gateways' ledgers, and read for pages.

mod carry_over;
pub mod counts;
pub mod ingest;
pub mod leases;
pub mod log;
pub(crate) mod marks;
pub mod report;
pub(crate) mod settled;

pub(crate) use carry_over::carry_late;
pub use carry_over::carry_over;
pub use counts::counts;
pub use ingest::{ship, shipped_through};
pub use leases::{end_leases, lease};
pub use log::{LogFilter, LogLine, ensure_recurring, has_requests, register, requests};
pub use report::{Daily, GroupBy, MeterUsage, PeriodUsage, Series, by_day, period};
