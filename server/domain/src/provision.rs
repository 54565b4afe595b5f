//! Accounts made by the provider rather than by sign-up: from the command line and for the demo.

use crate::consumers::{self, NewConsumer};
use crate::email::Email;
use crate::{Domain, DomainError, Provider, Result, catalogue, subscriptions};
use model::access::Interval;
use model::catalogue::PlanTerms;
use model::{ConsumerId, KeyId};
use sqlx::PgConnection;

/// The plan a provisioned consumer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// The free plan, which must have this slug.
    Free(&'a str),
    /// Any plan, metered and never billed.
    Gift(&'a str, Interval),
}

/// Makes a consumer with its owner, who is invited by mail, on a plan.
///
/// # Errors
/// [`DomainError::Invalid`] for a bad address or a plan that is not there, or is paid and not a gift;
/// [`DomainError::Conflict`] when the address has an account.
pub async fn consumer(
    domain: &Domain,
    provider: &Provider,
    email: &str,
    name: &str,
    start: Start<'_>,
) -> Result<ConsumerId> {
    check_plan(&mut *domain.pool.acquire().await?, start).await?;
    let new = NewConsumer {
        name: name.to_owned(),
        email: email.to_owned(),
        password: None,
    };
    let (id, _) = consumers::create(domain, provider, new).await?;
    if let Start::Gift(plan, interval) = start {
        subscriptions::grant_complimentary(domain, provider, id, plan, interval).await?;
    }
    Ok(id)
}

async fn check_plan(connection: &mut PgConnection, start: Start<'_>) -> Result<()> {
    let known: Vec<String> = sqlx::query_scalar!("SELECT slug FROM plans WHERE retired_at IS NULL ORDER BY position")
        .fetch_all(&mut *connection)
        .await?;
    let (Start::Free(slug) | Start::Gift(slug, _)) = start;
    if !known.iter().any(|k| k == slug) {
        let hint = if known.is_empty() {
            "nothing is published yet".to_owned()
        } else {
            format!("one of {} is wanted", known.join(", "))
        };
        return Err(DomainError::invalid("plan", format!("{slug:?} is no plan: {hint}")));
    }
    let free = catalogue::free_plan(&mut *connection).await?;
    if matches!(start, Start::Free(_)) && free.is_none_or(|(plan, _)| plan.terms.slug != slug) {
        return Err(DomainError::invalid(
            "plan",
            format!("{slug} is paid: a member buys it in the portal, or give it away with --complimentary"),
        ));
    }
    if let Start::Gift(_, interval) = start {
        let terms = sqlx::query_scalar!(
            "SELECT v.terms FROM plan_versions v JOIN plans p ON p.id = v.plan_id
             WHERE p.slug = $1 ORDER BY v.number DESC LIMIT 1",
            slug
        )
        .fetch_one(connection)
        .await?;
        let terms: PlanTerms = serde_json::from_value(terms)?;
        if terms.offer(interval).is_none() {
            let problem = format!("{slug} is not sold by the {interval}");
            return Err(DomainError::invalid("interval", problem));
        }
    }
    Ok(())
}

/// The consumer whose bills go to an address, if there is one: the oldest.
///
/// # Errors
/// When the database fails.
pub async fn consumer_by_email(domain: &Domain, email: &str) -> Result<Option<ConsumerId>> {
    let email = Email::parse(email)?;
    Ok(sqlx::query_scalar!(
        "SELECT id FROM consumers WHERE billing_email = $1 ORDER BY created_at LIMIT 1",
        email.address()
    )
    .fetch_optional(&domain.pool)
    .await?)
}

/// Refuses an id that no consumer has.
///
/// # Errors
/// [`DomainError::NotFound`].
pub async fn find_consumer(domain: &Domain, _provider: &Provider, consumer: ConsumerId) -> Result<()> {
    sqlx::query_scalar!("SELECT name FROM consumers WHERE id = $1", consumer as ConsumerId)
        .fetch_optional(&domain.pool)
        .await?
        .map(drop)
        .ok_or(DomainError::NotFound)
}

/// Whose a key is.
///
/// # Errors
/// [`DomainError::NotFound`] when there is no such key.
pub async fn key_owner(domain: &Domain, _provider: &Provider, key: KeyId) -> Result<ConsumerId> {
    sqlx::query_scalar!("SELECT consumer_id FROM keys WHERE id = $1", key.to_string())
        .fetch_optional(&domain.pool)
        .await?
        .ok_or(DomainError::NotFound)
}
