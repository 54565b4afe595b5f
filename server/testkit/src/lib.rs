//! What tests share: a database per test, a clock that stands still, randomness from a seed.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a failed step ends the test"
)]

mod clock;
mod database;
mod random;

pub use clock::FixedClock;
pub use database::Database;
pub use random::SeededRandom;

use domain::settings::{DisputePolicy, Secret, Settings};
use std::sync::Arc;

/// Settings as a test wants them: development off, one pepper, addresses that nothing listens on.
pub fn settings() -> Settings {
    Settings {
        portal_url: "http://127.0.0.1:3000".to_owned(),
        gateway_url: "http://127.0.0.1:8080".to_owned(),
        key_prefix: "tp".to_owned(),
        mail_from: "Atlas <hello@atlas.example>".to_owned(),
        smtp_url: None,
        peppers: vec![(1, Secret::new("a pepper for tests"))],
        dispute_policy: DisputePolicy::Suspend,
        development: false,
    }
}

/// A domain on its own database, with the clock and seed given.
pub fn domain(
    database: &Database,
    clock: &Arc<FixedClock>,
    random: &Arc<SeededRandom>,
    payments: Arc<dyn domain::payments::Payments>,
) -> domain::Domain {
    domain::Domain::new(domain::Inner {
        pool: database.pool().clone(),
        clock: clock.clone(),
        random: random.clone(),
        payments,
        settings: settings(),
    })
}
