//! The sweep: what Stripe could not deliver is fetched, so hours without a reachable portal lose nothing.

use super::receive::store;
use crate::jobs::{self, Job};
use crate::{Domain, Result};
use serde::{Deserialize, Serialize};

/// How often, in seconds.
pub(super) const EVERY_S: i64 = 600;
/// How far back, in seconds: Stripe itself tries for three days.
const BACK_S: i64 = 4 * 86_400;

/// Takes in the events that were not delivered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sweep {}

#[async_trait::async_trait]
impl Job for Sweep {
    const KIND: &'static str = "stripe_inbox.sweep";
    const ASKS_STRIPE: bool = true;

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let now = domain.clock.now();
        for event in domain.payments.undelivered_events(now.plus_s(-BACK_S)).await? {
            let mut tx = domain.pool.begin().await?;
            store(domain, &mut tx, &event.raw, now).await?;
            tx.commit().await?;
        }
        let mut connection = domain.pool.acquire().await?;
        jobs::enqueue(domain, &mut connection, self, now.plus_s(EVERY_S)).await
    }
}
