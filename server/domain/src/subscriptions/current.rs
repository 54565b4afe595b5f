//! The agreement in force, for pages.

use crate::{Domain, Result, Viewer};
use model::access::{Interval, Settlement, SubscriptionStatus};
use model::catalogue::{Offer, PlanTerms};
use model::{ConsumerId, Currency, Money, Period, PlanVersionId, SubscriptionId, Time};

/// An agreement in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The version agreed to.
    pub version: PlanVersionId,
    /// The version's terms.
    pub terms: PlanTerms,
    /// How long a period is.
    pub interval: Interval,
    /// Where it stands.
    pub status: SubscriptionStatus,
    /// Who settles it.
    pub settlement: Settlement,
    /// The running period.
    pub period: Period,
    /// It ends with the period.
    pub cancel_at_period_end: bool,
    /// What begins with the next period.
    pub scheduled: Option<Scheduled>,
    /// A payment failed; access goes on until then.
    pub grace_until: Option<Time>,
    /// A change waits for its payment until then.
    pub pending_until: Option<Time>,
    /// What is to be paid before everything is well again.
    pub open_invoice: Option<OpenInvoice>,
    /// Stripe's subscription.
    pub stripe_subscription: Option<String>,
    /// Stripe's schedule, when a change is scheduled.
    pub stripe_schedule: Option<String>,
}

/// An invoice that is not paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenInvoice {
    /// What is due.
    pub due: Money,
    /// Stripe's page, where it is paid or the payment confirmed.
    pub hosted_url: Option<String>,
    /// The bank waits for the cardholder's confirmation; another try without it fails again.
    pub needs_confirmation: bool,
}

/// A change that begins with the next period.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduled {
    /// The version.
    pub version: PlanVersionId,
    /// Its terms.
    pub terms: PlanTerms,
    /// How long its periods are.
    pub interval: Interval,
}

impl Subscription {
    /// The offer agreed to.
    pub fn offer(&self) -> Option<&Offer> {
        self.terms.offer(self.interval)
    }
    /// Whether Stripe charges for it.
    pub fn is_paid(&self) -> bool {
        self.settlement == Settlement::Stripe
    }
}

/// The consumer's agreement in force.
///
/// # Errors
/// When the database fails.
pub async fn current(domain: &Domain, viewer: &Viewer) -> Result<Option<Subscription>> {
    let mut connection = domain.pool.acquire().await?;
    of(&mut connection, viewer.consumer()).await
}

/// The agreement in force of a consumer.
pub(crate) async fn of(connection: &mut sqlx::PgConnection, consumer: ConsumerId) -> Result<Option<Subscription>> {
    let row = sqlx::query!(
        r#"SELECT s.id, s.plan_version_id, v.terms, s.interval, s.status, s.settlement, s.period_start, s.period_end,
                  s.cancel_at_period_end, s.scheduled_plan_version_id, s.scheduled_interval,
                  n.terms AS "scheduled_terms?", s.grace_until, s.pending_until, s.stripe_subscription, s.stripe_schedule,
                  i.amount_due_minor AS "due_minor?", i.currency AS "currency?: Currency", i.hosted_url AS "hosted_url?",
                  i.needs_confirmation AS "needs_confirmation?"
           FROM subscriptions s JOIN plan_versions v ON v.id = s.plan_version_id
                LEFT JOIN plan_versions n ON n.id = s.scheduled_plan_version_id
                LEFT JOIN invoices i ON i.stripe_invoice = s.stripe_invoice AND i.status = 'open'
           WHERE s.consumer_id = $1 AND s.ended_at IS NULL"#,
        consumer as ConsumerId
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let scheduled = match (
        row.scheduled_plan_version_id,
        row.scheduled_interval,
        row.scheduled_terms,
    ) {
        (Some(version), Some(interval), Some(terms)) => Some(Scheduled {
            version,
            terms: serde_json::from_value(terms)?,
            interval,
        }),
        _ => None,
    };
    Ok(Some(Subscription {
        id: row.id,
        version: row.plan_version_id,
        terms: serde_json::from_value(row.terms)?,
        interval: row.interval,
        status: row.status,
        settlement: row.settlement,
        period: Period {
            start: row.period_start,
            end: row.period_end,
        },
        cancel_at_period_end: row.cancel_at_period_end,
        scheduled,
        grace_until: row.grace_until,
        pending_until: row.pending_until,
        open_invoice: row.due_minor.zip(row.currency).map(|(minor, currency)| OpenInvoice {
            due: Money { minor, currency },
            hosted_url: row.hosted_url,
            needs_confirmation: row.needs_confirmation.unwrap_or(false),
        }),
        stripe_subscription: row.stripe_subscription,
        stripe_schedule: row.stripe_schedule,
    }))
}
