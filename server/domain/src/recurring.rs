//! Every kind of job, and those that repeat for ever.

use crate::jobs::Registry;
use crate::{Domain, Result, catalogue, entitlements, members, meter_events, stripe_inbox, subscriptions, usage};

/// Adds every kind of job.
pub fn register(registry: Registry) -> Registry {
    let registry = usage::register(meter_events::register(members::register(registry)));
    stripe_inbox::register(subscriptions::register(entitlements::register(catalogue::register(
        registry,
    ))))
}

/// Starts the jobs that repeat, unless they are there.
///
/// # Errors
/// When the database fails.
pub async fn ensure(domain: &Domain) -> Result<()> {
    members::ensure_recurring(domain).await?;
    usage::ensure_recurring(domain).await?;
    meter_events::ensure_recurring(domain).await?;
    entitlements::ensure_recurring(domain).await?;
    subscriptions::ensure_recurring(domain).await?;
    catalogue::ensure_recurring(domain).await?;
    stripe_inbox::ensure_recurring(domain).await
}
