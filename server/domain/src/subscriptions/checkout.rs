//! Checkout: one open session for each account, and the one routine that both the webhook and the return page run.

use super::begin::lock_consumer;
use super::sync::copy;
use super::turn::Turn;
use crate::payments::{Checkout, NewCheckout, PaymentsError};
use crate::{BillingManager, Domain, DomainError, Result, Viewer, audit, catalogue};
use model::access::Interval;
use model::{ConsumerId, PlanVersionId, Time};

/// A session that ends sooner than that is not shown again: typing a card takes a while.
const MIN_LEFT_S: i64 = 600;

/// Where somebody who wants to pay goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// To Stripe's page.
    Pay(String),
    /// To our return page: the open session turned out to be paid.
    Paid {
        /// Stripe's session.
        session: String,
    },
}

/// What the return page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Return {
    /// The plan is active.
    Active,
    /// Paid or nearly, and not yet with us: look again.
    Waiting,
    /// Not paid; the page is still open there.
    Open(String),
    /// Not paid, and the page is closed.
    Expired,
}

/// Opens a Checkout for a plan, or gives the one that is open: clicking twice, or in two tabs, is one session.
///
/// # Errors
/// [`DomainError::Invalid`] when no such plan is sold; [`DomainError::Conflict`] when it costs nothing or the account
/// pays for a plan already.
pub async fn open(domain: &Domain, manager: &BillingManager, plan: &str, interval: Interval) -> Result<Opened> {
    if !domain.payments.is_configured() {
        return Err(DomainError::Conflict(
            "Paid plans cannot be bought here yet: the provider has not set up payments.".to_owned(),
        ));
    }
    let wanted = Wanted::find(domain, plan, interval).await?;
    let mut turn = Turn::take(domain, manager.consumer()).await?;
    if super::of(turn.connection(), manager.consumer())
        .await?
        .is_some_and(|s| s.is_paid())
    {
        return Err(DomainError::Conflict(
            "This account pays for a plan already. Change it on the plan page.".to_owned(),
        ));
    }
    if let Some(open) = find_open(turn.connection(), manager.consumer()).await? {
        let reused = reuse(domain, &mut turn, &wanted, open).await?;
        if let Some(opened) = reused {
            turn.commit().await?;
            return Ok(opened);
        }
    }
    let customer = ensure_customer(domain, &mut turn).await?;
    let url = create(domain, &mut turn, &wanted, customer).await?;
    let actor = manager.actor();
    audit::record(
        domain,
        turn.connection(),
        actor,
        Some(manager.consumer()),
        "checkout.open",
        plan,
    )
    .await?;
    turn.commit().await?;
    Ok(Opened::Pay(url))
}

/// A plan that somebody wants to pay for.
struct Wanted {
    plan: String,
    version: PlanVersionId,
    interval: Interval,
}

impl Wanted {
    async fn find(domain: &Domain, plan: &str, interval: Interval) -> Result<Self> {
        let catalogue = catalogue::current(domain).await?;
        let found = catalogue.as_ref().and_then(|c| c.plan(plan));
        let found = found.ok_or_else(|| DomainError::invalid("plan", "is not sold; choose one of the plans shown"))?;
        if found.terms.is_free() {
            return Err(DomainError::Conflict(format!("{} costs nothing.", found.terms.name)));
        }
        if found.terms.offer(interval).is_none() {
            let problem = format!("{} is not sold by the {interval}", found.terms.name);
            return Err(DomainError::invalid("interval", problem));
        }
        Ok(Self {
            plan: plan.to_owned(),
            version: found.version,
            interval,
        })
    }
}

/// A session recorded as open.
struct Open {
    id: i64,
    version: PlanVersionId,
    interval: Interval,
    session: String,
    expires_at: Time,
}

async fn find_open(connection: &mut sqlx::PgConnection, consumer: ConsumerId) -> Result<Option<Open>> {
    let row = sqlx::query!(
        r#"SELECT id, plan_version_id, interval, stripe_session AS "session!", expires_at FROM checkouts
           WHERE consumer_id = $1 AND state = 'open'"#,
        consumer as ConsumerId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|r| Open {
        id: r.id,
        version: r.plan_version_id,
        interval: r.interval,
        session: r.session,
        expires_at: r.expires_at,
    }))
}

/// Uses the open session when it is for the same plan; otherwise closes it, here and at Stripe.
async fn reuse(domain: &Domain, turn: &mut Turn, wanted: &Wanted, open: Open) -> Result<Option<Opened>> {
    let session = domain.payments.checkout(&open.session).await?;
    if session.status == "complete" {
        settle(domain, turn, &session).await?;
        return Ok(Some(Opened::Paid { session: session.id }));
    }
    let same = (open.version, open.interval) == (wanted.version, wanted.interval);
    let lasts = domain.clock.now().plus_s(MIN_LEFT_S) < open.expires_at;
    if let Some(url) = session.url.filter(|_| session.status == "open" && same && lasts) {
        return Ok(Some(Opened::Pay(url)));
    }
    if session.status == "open" {
        match domain.payments.expire_checkout(&open.session).await {
            Ok(()) | Err(PaymentsError::Missing) => {}
            // Paid between the two calls: never close what was paid for.
            Err(PaymentsError::Refused { .. }) => {
                return Ok(Some(Opened::Paid { session: open.session }));
            }
            Err(e) => return Err(e.into()),
        }
    }
    close(turn.connection(), open.id, "expired").await?;
    Ok(None)
}

async fn close(connection: &mut sqlx::PgConnection, id: i64, state: &str) -> Result<()> {
    sqlx::query!("UPDATE checkouts SET state = $2 WHERE id = $1", id, state)
        .execute(connection)
        .await?;
    Ok(())
}

/// The consumer's customer in Stripe, made at the first Checkout.
async fn ensure_customer(domain: &Domain, turn: &mut Turn) -> Result<String> {
    let consumer = turn.consumer();
    let row = sqlx::query!(
        "SELECT name, billing_email, stripe_customer FROM consumers WHERE id = $1",
        consumer as ConsumerId
    )
    .fetch_one(turn.connection())
    .await?;
    if let Some(customer) = row.stripe_customer {
        return Ok(customer);
    }
    // A key of its own each time: a customer that was deleted must not come back under the old one.
    let key = format!("customer-{consumer}-{}", nonce(domain));
    let payments = &domain.payments;
    let customer = payments
        .create_customer(consumer, &row.name, &row.billing_email, &key)
        .await?;
    // On a connection of its own: whatever becomes of the session, the customer is there.
    sqlx::query!(
        "UPDATE consumers SET stripe_customer = $2 WHERE id = $1",
        consumer as ConsumerId,
        customer
    )
    .execute(&domain.pool)
    .await?;
    Ok(customer)
}

/// Makes an idempotency key good for one call and its repetitions; two calls never meet, because turns are taken.
pub(super) fn nonce(domain: &Domain) -> String {
    let mut bytes = [0; 16];
    domain.random.fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

async fn create(domain: &Domain, turn: &mut Turn, wanted: &Wanted, customer: String) -> Result<String> {
    let consumer = turn.consumer();
    let prices = catalogue::stripe::prices(turn.connection(), wanted.version, wanted.interval).await?;
    let (flat, metered): (Vec<_>, Vec<_>) = prices
        .into_iter()
        .partition(|(part, _)| part == catalogue::stripe::FLAT);
    let portal = &domain.settings.portal_url;
    let new = NewCheckout {
        customer,
        consumer,
        flat_prices: flat.into_iter().map(|(_, price)| price).collect(),
        metered_prices: metered.into_iter().map(|(_, price)| price).collect(),
        success_url: format!("{portal}/plan/return?session_id={{CHECKOUT_SESSION_ID}}"),
        cancel_url: format!(
            "{portal}/plan/cancelled?plan={}&interval={}",
            wanted.plan, wanted.interval
        ),
    };
    let now = domain.clock.now();
    let key = format!("checkout-{consumer}-{}", nonce(domain));
    let session = domain.payments.create_checkout(&new, &key).await?;
    let url = session
        .url
        .ok_or_else(|| DomainError::internal("Stripe opened a Checkout without a page"))?;
    sqlx::query!(
        "INSERT INTO checkouts (consumer_id, plan_version_id, interval, stripe_session, url, state, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, 'open', $6, $7)",
        consumer as ConsumerId,
        wanted.version as PlanVersionId,
        wanted.interval as Interval,
        session.id,
        url,
        now,
        session.expires_at
    )
    .execute(turn.connection())
    .await?;
    Ok(url)
}

/// What became of a session that this consumer opened: the return page. Looking again changes nothing.
///
/// # Errors
/// [`DomainError::NotFound`] when it is not a session of this consumer.
pub async fn returned(domain: &Domain, viewer: &Viewer, session: &str) -> Result<Return> {
    let known = sqlx::query!(
        "SELECT state FROM checkouts WHERE stripe_session = $1 AND consumer_id = $2",
        session,
        viewer.consumer() as ConsumerId
    )
    .fetch_optional(&domain.pool)
    .await?
    .ok_or(DomainError::NotFound)?;
    match known.state.as_str() {
        "completed" => return Ok(Return::Active),
        "expired" => return Ok(Return::Expired),
        _ => {}
    }
    let object = match domain.payments.checkout(session).await {
        Ok(object) => object,
        // The webhook may come all the same; the page looks again.
        Err(PaymentsError::Unavailable(_) | PaymentsError::Ambiguous(_)) => return Ok(Return::Waiting),
        Err(e) => return Err(e.into()),
    };
    match (object.status.as_str(), &object.url) {
        ("open", Some(url)) => Ok(Return::Open(url.clone())),
        ("expired", _) => {
            let mut turn = Turn::take(domain, viewer.consumer()).await?;
            settle(domain, &mut turn, &object).await?;
            turn.commit().await?;
            Ok(Return::Expired)
        }
        _ => {
            let mut turn = Turn::take(domain, viewer.consumer()).await?;
            let active = settle(domain, &mut turn, &object).await?;
            turn.commit().await?;
            Ok(if active { Return::Active } else { Return::Waiting })
        }
    }
}

/// The webhook's way in: a session was completed, or paid later, or failed to be.
///
/// # Errors
/// When Stripe cannot be asked.
pub(crate) async fn completed(domain: &Domain, session: &str) -> Result<()> {
    let object = match domain.payments.checkout(session).await {
        Ok(object) => object,
        Err(PaymentsError::Missing) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let consumer: Option<ConsumerId> = object.client_reference_id.as_deref().and_then(|id| id.parse().ok());
    let known = match consumer {
        Some(id) => {
            sqlx::query_scalar!("SELECT id FROM consumers WHERE id = $1", id as ConsumerId)
                .fetch_optional(&domain.pool)
                .await?
        }
        None => None,
    };
    let Some(consumer) = known else {
        tracing::warn!(session, "a Checkout of nobody we know");
        return Ok(());
    };
    let mut turn = Turn::take(domain, consumer).await?;
    settle(domain, &mut turn, &object).await?;
    turn.commit().await
}

/// The webhook's way in for a session that nobody paid.
///
/// # Errors
/// When Stripe cannot be asked.
pub(crate) async fn expired(domain: &Domain, session: &str) -> Result<()> {
    completed(domain, session).await
}

/// Writes down what became of a session; tells whether its plan is active. Both ways in come here.
async fn settle(domain: &Domain, turn: &mut Turn, session: &Checkout) -> Result<bool> {
    let consumer = turn.consumer();
    if session.client_reference_id.as_deref() != Some(consumer.to_string().as_str()) {
        return Err(DomainError::NotFound);
    }
    if session.status == "expired" {
        set_state(turn.connection(), &session.id, "expired").await?;
        return Ok(false);
    }
    let paid = session.status == "complete" && session.payment_status != "unpaid";
    let Some(subscription) = session.subscription.as_deref().filter(|_| paid) else {
        return Ok(false);
    };
    lock_consumer(turn.connection(), consumer).await?;
    sqlx::query!(
        "UPDATE consumers SET stripe_customer = $2 WHERE id = $1 AND stripe_customer IS NULL",
        consumer as ConsumerId,
        session.customer
    )
    .execute(turn.connection())
    .await?;
    copy(domain, turn, subscription).await?;
    set_state(turn.connection(), &session.id, "completed").await?;
    // Whichever it is: bought twice, the first one counts and the second is paid back.
    let current = super::of(turn.connection(), consumer).await?;
    Ok(current.is_some_and(|s| s.is_paid()))
}

async fn set_state(connection: &mut sqlx::PgConnection, session: &str, state: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE checkouts SET state = $2 WHERE stripe_session = $1 AND state <> 'completed'",
        session,
        state
    )
    .execute(connection)
    .await?;
    Ok(())
}
