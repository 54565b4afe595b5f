//! Changing a paid plan: more at once, prorated and paid for before it holds; less with the next period.

use super::checkout::nonce;
use super::sync::{Sold, copy};
use super::turn::Turn;
use super::{Subscription, intent, lines, of};
use crate::payments::{ItemChange, PaymentsError, StripeSubscription};
use crate::{BillingManager, Domain, DomainError, Result, audit, catalogue, meter_events};
use model::access::{Interval, SubscriptionStatus};
use model::catalogue::{Offer, PlanTerms};
use model::{Money, PlanVersionId, Time};

/// How long a preview may be acted on, in seconds: the proration is fixed at its instant.
const PREVIEW_VALID_S: i64 = 3_600;

/// What somebody wants to change to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Slug of the plan.
    pub plan: String,
    /// How long its periods are.
    pub interval: Interval,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once, prorated as of this instant.
    Now(Time),
    /// With the next period.
    AtPeriodEnd(Time),
}

/// What a change would do and cost, before anybody agrees to it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangePreview {
    /// The plan now.
    pub from: Subscription,
    /// Terms of the new plan.
    pub to: PlanTerms,
    /// Its offer.
    pub offer: Offer,
    /// When.
    pub effect: Effect,
    /// What is charged today; Stripe's own figure for this very instant.
    pub due_now: Money,
    /// The lines behind it, in words, with Stripe's amounts.
    pub lines: Vec<(String, Money)>,
    /// The flat price that the next invoice has, and when it comes.
    pub next: (Money, Time),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The new plan is in force.
    Changed,
    /// It is in force once its invoice is paid; until then the old plan stays.
    Pending {
        /// Then it lapses.
        until: Time,
    },
    /// It begins with the next period.
    Scheduled(Time),
}

/// What changing would do and cost. The preview names the instant that [`apply`] must be given.
///
/// # Errors
/// [`DomainError::Conflict`] when the plan cannot be changed to that now, with what to do instead.
pub async fn preview(domain: &Domain, manager: &BillingManager, target: &Target) -> Result<ChangePreview> {
    let mut connection = domain.pool.acquire().await?;
    let from = of(&mut connection, manager.consumer()).await?;
    drop(connection);
    let step = Step::plan(domain, from, target, domain.clock.now()).await?;
    let zero = Money::zero(step.offer.flat.currency);
    let (due_now, lines, next_at) = match step.effect {
        Effect::AtPeriodEnd(end) => (zero, Vec::new(), end),
        Effect::Now(at) => {
            let object = domain.payments.subscription(&step.stripe).await?;
            let change = step.items(domain, &object).await?;
            let invoice = domain
                .payments
                .preview_change(&step.stripe, &change, at)
                .await
                .map_err(refusal)?;
            let end = if change.restart_period {
                model::Period::nth(at, target.interval, 0).end
            } else {
                step.from.period.end
            };
            let mut connection = domain.pool.acquire().await?;
            let lines = lines::describe(&mut connection, &invoice.lines).await?;
            (invoice.amount_due, lines, end)
        }
    };
    Ok(ChangePreview {
        next: (step.offer.flat, next_at),
        effect: step.effect,
        from: step.from,
        to: step.terms,
        offer: step.offer,
        due_now,
        lines,
    })
}

/// Changes the plan as previewed at `at`.
///
/// # Errors
/// [`DomainError::Conflict`] when the preview is out of date, the card was declined, or the plan cannot be changed now.
pub async fn apply(domain: &Domain, manager: &BillingManager, target: &Target, at: Time) -> Result<Done> {
    let age_s = at.ms_until(domain.clock.now()) / 1000;
    if !(0..=PREVIEW_VALID_S).contains(&age_s) {
        return Err(DomainError::Conflict(
            "This preview is out of date. Look at it again.".to_owned(),
        ));
    }
    let flushed = flush_before(domain, manager, target, at).await?;
    let mut turn = Turn::take(domain, manager.consumer()).await?;
    let from = of(turn.connection(), manager.consumer()).await?;
    let step = Step::plan(domain, from, target, at).await?;
    if step.sold_before() != flushed {
        return Err(DomainError::Conflict(
            "The plan was changed meanwhile. Look at the preview again.".to_owned(),
        ));
    }
    if let Some(schedule) = &step.from.stripe_schedule {
        // The later decision wins: what was scheduled is taken back first.
        release(domain, schedule).await?;
    }
    let done = step.carry_out(domain).await?;
    copy(domain, &mut turn, &step.stripe).await?;
    let to = format!("{} {}", target.plan, target.interval);
    let actor = manager.actor();
    audit::record(
        domain,
        turn.connection(),
        actor,
        Some(manager.consumer()),
        "subscription.change",
        &to,
    )
    .await?;
    turn.commit().await?;
    Ok(done)
}

/// Sends what was used so far, which is billed at the price it was used under, where the change is one at once. Done
/// before the turn is taken: it takes seconds, and webhooks wait for the turn. Gives what is sold before the change.
async fn flush_before(domain: &Domain, manager: &BillingManager, target: &Target, at: Time) -> Result<Sold> {
    let mut connection = domain.pool.acquire().await?;
    let from = of(&mut connection, manager.consumer()).await?;
    drop(connection);
    let step = Step::plan(domain, from, target, at).await?;
    if matches!(step.effect, Effect::Now(_)) {
        meter_events::flush_and_settle(domain, &step.stripe).await?;
    }
    Ok(step.sold_before())
}

/// Takes a scheduled change back: the plan stays as it is.
///
/// # Errors
/// [`DomainError::Conflict`] when nothing is scheduled.
pub async fn keep_plan(domain: &Domain, manager: &BillingManager) -> Result<()> {
    let mut turn = Turn::take(domain, manager.consumer()).await?;
    let current = of(turn.connection(), manager.consumer()).await?;
    let ids = current.and_then(|s| s.stripe_subscription.zip(s.stripe_schedule));
    let Some((subscription, schedule)) = ids else {
        return Err(DomainError::Conflict("No change is scheduled.".to_owned()));
    };
    release(domain, &schedule).await?;
    copy(domain, &mut turn, &subscription).await?;
    let actor = manager.actor();
    audit::record(
        domain,
        turn.connection(),
        actor,
        Some(manager.consumer()),
        "subscription.keep",
        "",
    )
    .await?;
    turn.commit().await
}

/// Releases a schedule; one that is over already is as good as released.
pub(super) async fn release(domain: &Domain, schedule: &str) -> Result<()> {
    match domain.payments.release_schedule(schedule).await {
        Ok(()) | Err(PaymentsError::Missing) => Ok(()),
        Err(PaymentsError::Refused { .. }) if domain.payments.schedule(schedule).await?.next_prices.is_empty() => {
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

/// A card that was declined is for the payer to mend; everything else is ours.
fn refusal(e: PaymentsError) -> DomainError {
    match e {
        PaymentsError::Refused { code, .. } if code.contains("card") || code.contains("payment") => {
            DomainError::Conflict(
                "The payment was declined and nothing was changed. Check the card and try again.".to_owned(),
            )
        }
        other => other.into(),
    }
}

/// A change, decided.
struct Step {
    from: Subscription,
    stripe: String,
    version: PlanVersionId,
    terms: PlanTerms,
    offer: Offer,
    interval: Interval,
    effect: Effect,
}

impl Step {
    /// Decides whether and when the change can be made.
    async fn plan(domain: &Domain, from: Option<Subscription>, target: &Target, at: Time) -> Result<Self> {
        let conflict = |text: &str| Err(DomainError::Conflict(text.to_owned()));
        let Some((from, stripe)) = from.and_then(|s| {
            let stripe = s.stripe_subscription.clone()?;
            Some((s, stripe))
        }) else {
            return conflict("There is no paid plan to change. Choose one on the pricing page.");
        };
        if from.status != SubscriptionStatus::Active {
            return conflict("A payment is open. Pay it first, then change the plan.");
        }
        if from.cancel_at_period_end {
            return conflict("The plan is cancelled for the end of the period. Resume it first, then change it.");
        }
        let catalogue = catalogue::current(domain).await?;
        let found = catalogue.as_ref().and_then(|c| c.plan(&target.plan));
        let found = found.ok_or_else(|| DomainError::invalid("plan", "is not sold; choose one of the plans shown"))?;
        if found.terms.is_free() {
            return conflict("To go back to the free plan, cancel this one.");
        }
        let Some(offer) = found.terms.offer(target.interval).cloned() else {
            return Err(DomainError::invalid(
                "interval",
                format!("{} is not sold by the {}", found.terms.name, target.interval),
            ));
        };
        if (found.version, target.interval) == (from.version, from.interval) {
            return conflict("This is the plan already.");
        }
        let now_minor = from.offer().map_or(0, |o| o.flat.minor);
        let effect = if offer.flat.minor > now_minor {
            Effect::Now(at)
        } else {
            Effect::AtPeriodEnd(from.period.end)
        };
        Ok(Self {
            from,
            stripe,
            version: found.version,
            terms: found.terms.clone(),
            offer,
            interval: target.interval,
            effect,
        })
    }

    fn sold_before(&self) -> Sold {
        Sold {
            version: self.from.version,
            interval: self.from.interval,
        }
    }

    /// The items to take off and the prices to put on.
    async fn items(&self, domain: &Domain, object: &StripeSubscription) -> Result<ItemChange> {
        let old = catalogue::stripe::prices(&domain.pool, self.from.version, self.from.interval).await?;
        let new = catalogue::stripe::prices(&domain.pool, self.version, self.interval).await?;
        let ours = |price: &String| old.values().any(|p| p == price);
        let (flat, metered): (Vec<_>, Vec<_>) = new.into_iter().partition(|(part, _)| part == catalogue::stripe::FLAT);
        Ok(ItemChange {
            // Items that are none of the plan's (the provider added them by hand) stay.
            remove: object
                .items
                .iter()
                .filter(|i| ours(&i.price))
                .map(|i| i.id.clone())
                .collect(),
            add_flat: flat.into_iter().map(|(_, price)| price).collect(),
            add_metered: metered.into_iter().map(|(_, price)| price).collect(),
            interval: self.interval,
            restart_period: self.interval != self.from.interval,
        })
    }

    async fn carry_out(&self, domain: &Domain) -> Result<Done> {
        let object = domain.payments.subscription(&self.stripe).await?;
        let change = self.items(domain, &object).await?;
        let name = format!("{}-{}-{}", self.stripe, self.version, self.interval);
        match self.effect {
            Effect::Now(at) => {
                let key = format!("change-{name}-{}", at.unix_ms());
                let wanted = Sold {
                    version: self.version,
                    interval: self.interval,
                };
                intent::note(domain, self.from.id, wanted, at).await?;
                let changed = match domain.payments.change_now(&self.stripe, &change, at, &key).await {
                    Ok(changed) => changed,
                    Err(e) => {
                        if matches!(e, PaymentsError::Refused { .. } | PaymentsError::Missing) {
                            intent::forget(domain, self.from.id).await?;
                        }
                        return Err(refusal(e));
                    }
                };
                Ok(changed
                    .pending_until
                    .map_or(Done::Changed, |until| Done::Pending { until }))
            }
            Effect::AtPeriodEnd(end) => {
                let key = format!("schedule-{name}-{}", nonce(domain));
                domain
                    .payments
                    .change_at_period_end(&self.stripe, &change, &key)
                    .await?;
                Ok(Done::Scheduled(end))
            }
        }
    }
}
