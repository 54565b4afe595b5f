//! What every test here begins with: a fresh database, a clock that stands still, and a Stripe that must not be called.

use domain::Domain;
use domain::settings::Secret;
use payments::{Config, Stripe};
use std::sync::Arc;
use testkit::{Database, FixedClock, SeededRandom};

pub(crate) struct World {
    pub(crate) domain: Domain,
    pub(crate) clock: Arc<FixedClock>,
    /// Dropped last: it takes the database away.
    pub(crate) database: Database,
}

impl World {
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        let clock = FixedClock::start();
        let nowhere = Config {
            secret_key: Secret::new("sk_test_nobody"),
            base_url: Some("http://127.0.0.1:9".to_owned()),
        };
        let stripe = Arc::new(Stripe::new(&nowhere).unwrap());
        let domain = testkit::domain(&database, &clock, &SeededRandom::new(7), stripe);
        Self {
            domain,
            clock,
            database,
        }
    }

    /// The only number that a query gives.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.unwrap()
    }
}
