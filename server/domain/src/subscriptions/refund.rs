//! Money that goes back: a subscription bought twice, and refunds that the provider makes in Stripe.

use super::sync::{by_customer, sync_subscription};
use crate::jobs::Job;
use crate::payments::PaymentsError;
use crate::{Actor, Domain, Result, audit};
use model::ConsumerId;
use serde::{Deserialize, Serialize};

/// Ends a subscription that somebody bought although another was in force, and pays it back in full.
#[derive(Debug, Serialize, Deserialize)]
pub struct CancelDuplicate {
    /// Who bought it.
    pub consumer: ConsumerId,
    /// Stripe's subscription.
    pub subscription: String,
}

#[async_trait::async_trait]
impl Job for CancelDuplicate {
    const KIND: &'static str = "subscriptions.cancel_duplicate";
    const ASKS_STRIPE: bool = true;

    fn dedup_key(&self) -> Option<String> {
        Some(self.subscription.clone())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let object = match domain.payments.subscription(&self.subscription).await {
            Ok(object) => object,
            Err(PaymentsError::Missing) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if object.status != "canceled" {
            match domain.payments.cancel_now(&self.subscription, false).await {
                Ok(()) | Err(PaymentsError::Missing) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if let Some(invoice) = &object.latest_invoice {
            let key = format!("duplicate-{}", self.subscription);
            domain.payments.refund_invoice(invoice, &key).await?;
        }
        let mut connection = domain.pool.acquire().await?;
        let actor = Actor::System("stripe");
        let action = "subscription.duplicate_refunded";
        audit::record(
            domain,
            &mut connection,
            &actor,
            Some(self.consumer),
            action,
            &self.subscription,
        )
        .await
    }
}

/// A charge was refunded. Paid back in full it ends the subscription that it paid for; a part changes nothing. Usage
/// stays either way.
///
/// # Errors
/// When Stripe cannot be asked.
pub(crate) async fn refunded(domain: &Domain, charge: &str) -> Result<()> {
    let Some(refund) = domain.payments.refund_of(charge).await? else {
        return Ok(());
    };
    let Some(consumer) = by_customer(domain, &refund.customer).await? else {
        return Ok(());
    };
    let mut connection = domain.pool.acquire().await?;
    let actor = Actor::System("stripe");
    let action = if refund.full {
        "payment.refunded"
    } else {
        "payment.partly_refunded"
    };
    audit::record(domain, &mut connection, &actor, Some(consumer), action, charge).await?;
    drop(connection);
    let Some(subscription) = refund.subscription.filter(|_| refund.full) else {
        return Ok(());
    };
    // Only what is in force through this very payment: an old invoice paid back says nothing about today.
    let paid_by = sqlx::query_scalar!(
        "SELECT stripe_invoice FROM subscriptions WHERE stripe_subscription = $1 AND ended_at IS NULL",
        subscription
    )
    .fetch_optional(&domain.pool)
    .await?
    .flatten();
    if paid_by.is_some() && paid_by == refund.invoice {
        match domain.payments.cancel_now(&subscription, false).await {
            Ok(()) | Err(PaymentsError::Missing) => {}
            Err(e) => return Err(e.into()),
        }
        sync_subscription(domain, &subscription).await?;
    }
    Ok(())
}
