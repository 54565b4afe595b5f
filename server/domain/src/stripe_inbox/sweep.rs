//! The sweep: what Stripe could not deliver is fetched, so hours without a reachable portal lose nothing.

use super::receive::store;
use crate::jobs::Job;
use crate::{Domain, Result};
use model::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    const EVERY_S: Option<i64> = Some(EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let now = domain.clock.now();
        for event in domain.payments.undelivered_events(now.plus_s(-BACK_S)).await? {
            if let Err(error) = take_in(domain, &event.raw, now).await {
                tracing::error!(
                    event = event.id,
                    error = &error as &dyn std::error::Error,
                    "an event that was not delivered cannot be taken in"
                );
            }
        }
        Ok(())
    }
}

async fn take_in(domain: &Domain, raw: &Value, now: Time) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    store(domain, &mut tx, raw, now).await?;
    tx.commit().await?;
    Ok(())
}
