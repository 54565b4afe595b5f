//! Subscriptions: a consumer's dated agreement to a plan version. At most one is in force.
//!
//! A free or complimentary one is ours alone and follows the calendar from its first day. A paid one is a mirror:
//! Stripe's object is the truth, [`sync`] copies it here, and only then do entitlements change. Whatever asks Stripe
//! and then writes holds the consumer's [`turn::Turn`], so what is written is never older than what is there.

mod begin;
mod change;
mod checkout;
mod current;
mod dispute;
mod end;
mod grace;
mod intent;
mod lines;
mod refund;
mod sync;
mod turn;

pub use begin::{grant_complimentary, start_free};
pub use change::{ChangePreview, Done, Effect, Target, apply, keep_plan, preview};
pub use checkout::{Opened, Return, open, returned};
pub(crate) use checkout::{completed, expired};
pub(crate) use current::of;
pub use current::{OpenInvoice, Scheduled, Subscription, current};
pub use dispute::{Dispute, disputes};
pub(crate) use dispute::{disputed, stops};
pub use end::{cancel, portal_url, resume};
pub use grace::{EndGrace, EveryNight, Reconcile};
pub use refund::CancelDuplicate;
pub(crate) use refund::refunded;
pub(crate) use sync::{customer_deleted, sync_subscription};

use crate::jobs::{self, Registry};
use crate::{Domain, Result};

/// The jobs of subscriptions.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .with::<EndGrace>()
        .with::<CancelDuplicate>()
        .with::<Reconcile>()
        .with::<EveryNight>()
}

/// Starts the jobs that repeat; doing so again changes nothing. Without a Stripe key there is nothing to compare with.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    if !domain.payments.is_configured() {
        return Ok(());
    }
    let mut connection = domain.pool.acquire().await?;
    let first = domain.clock.now().plus_s(grace::RECONCILE_EVERY_S);
    jobs::enqueue(domain, &mut connection, &EveryNight {}, first).await
}
