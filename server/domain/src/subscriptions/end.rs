//! Cancelling at the end of the period, taking that back, and Stripe's page for the card.

use super::change::release;
use super::sync::copy;
use super::turn::Turn;
use super::{Subscription, of};
use crate::{BillingManager, Domain, DomainError, Result, audit};

/// Ends the plan with its period; until then everything stays, afterwards the free plan begins with the same keys.
///
/// # Errors
/// [`DomainError::Conflict`] when there is no paid plan.
pub async fn cancel(domain: &Domain, manager: &BillingManager) -> Result<()> {
    set(domain, manager, true).await
}

/// Takes a cancellation back: the plan goes on as if nothing had been.
///
/// # Errors
/// [`DomainError::Conflict`] when there is no paid plan.
pub async fn resume(domain: &Domain, manager: &BillingManager) -> Result<()> {
    set(domain, manager, false).await
}

async fn set(domain: &Domain, manager: &BillingManager, cancel: bool) -> Result<()> {
    let mut turn = Turn::take(domain, manager.consumer()).await?;
    let current = of(turn.connection(), manager.consumer()).await?;
    let Some((subscription, stripe)) = paid(current) else {
        return Err(DomainError::Conflict("There is no paid plan to cancel.".to_owned()));
    };
    if let Some(schedule) = &subscription.stripe_schedule {
        // Stripe lets a subscription either change by schedule or end, not both.
        release(domain, schedule).await?;
    }
    domain.payments.cancel_at_period_end(&stripe, cancel).await?;
    copy(domain, &mut turn, &stripe).await?;
    let action = if cancel {
        "subscription.cancel"
    } else {
        "subscription.resume"
    };
    let target = subscription.id.to_string();
    audit::record(
        domain,
        turn.connection(),
        manager.actor(),
        Some(manager.consumer()),
        action,
        &target,
    )
    .await?;
    turn.commit().await
}

fn paid(current: Option<Subscription>) -> Option<(Subscription, String)> {
    let current = current?;
    let stripe = current.stripe_subscription.clone()?;
    Some((current, stripe))
}

/// Stripe's page where the card is changed and open invoices are paid; it leads back to the plan page. The address is
/// good for minutes and for one account: never store or log it.
///
/// # Errors
/// [`DomainError::Conflict`] when the account has never paid for anything.
pub async fn portal_url(domain: &Domain, manager: &BillingManager) -> Result<String> {
    let customer = sqlx::query_scalar!(
        "SELECT stripe_customer FROM consumers WHERE id = $1",
        manager.consumer() as model::ConsumerId
    )
    .fetch_optional(&domain.pool)
    .await?
    .flatten();
    let Some(customer) = customer else {
        return Err(DomainError::Conflict(
            "There is no card yet: it is asked for with the first paid plan.".to_owned(),
        ));
    };
    let back = format!("{}/plan", domain.settings.portal_url);
    Ok(domain.payments.portal_url(&customer, &back).await?)
}
