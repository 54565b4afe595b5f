//! A delivery into the inbox: verify, insert once, answer.

use super::handle::HandleEvents;
use super::{endpoint, verify};
use crate::{Domain, DomainError, Result, jobs};
use model::Time;
use serde_json::Value;
use sqlx::PgConnection;

/// Longest delivery, in bytes: Stripe's largest objects are far below.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What was done with a delivery. All are answered with 200: Stripe shall not send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Stored; a job handles it.
    Stored,
    /// It was here before.
    Duplicate,
    /// Stored, and nothing to do: of a type that we do not use, or of the other mode.
    Ignored,
}

/// Takes a delivery in.
///
/// # Errors
/// [`DomainError::Invalid`] when it is not from Stripe: answer 400 and forget it.
pub async fn receive(domain: &Domain, raw: &[u8], signature: &str) -> Result<Received> {
    let secrets = endpoint::secrets(domain).await?;
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    // Business time: Stripe's own, also where a test clock runs ahead of the wall.
    let event = verify::verify(raw, signature, &secrets, domain.clock.now())
        .map_err(|forged| DomainError::invalid("signature", forged.to_string()))?;
    let mut tx = domain.pool.begin().await?;
    let received = store(domain, &mut tx, &event, domain.clock.now()).await?;
    tx.commit().await?;
    Ok(received)
}

/// Stores a verified event and the job that handles it, in the caller's transaction.
pub(super) async fn store(
    domain: &Domain,
    connection: &mut PgConnection,
    event: &Value,
    now: Time,
) -> Result<Received> {
    let envelope = Envelope::of(event).ok_or_else(|| DomainError::invalid("body", "is not an event"))?;
    let ours = envelope.livemode == domain.payments.livemode();
    let state = if ours && endpoint::is_handled(envelope.kind) {
        "received"
    } else {
        "ignored"
    };
    let inserted = sqlx::query!(
        "INSERT INTO stripe_events (id, type, object_id, customer, livemode, raw, received_at, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
        envelope.id,
        envelope.kind,
        envelope.object,
        envelope.customer,
        envelope.livemode,
        event,
        now,
        state
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(Received::Duplicate);
    }
    if state == "ignored" {
        return Ok(Received::Ignored);
    }
    let job = HandleEvents {
        object: envelope.object.to_owned(),
    };
    jobs::enqueue(domain, connection, &job, now).await?;
    Ok(Received::Stored)
}

/// The parts of an event that every version of Stripe's API has.
struct Envelope<'a> {
    id: &'a str,
    kind: &'a str,
    object: &'a str,
    customer: &'a str,
    livemode: bool,
}

impl<'a> Envelope<'a> {
    fn of(event: &'a Value) -> Option<Self> {
        let object = &event["data"]["object"];
        // Thin events name their object instead of carrying it.
        let id = object["id"].as_str().or_else(|| event["related_object"]["id"].as_str());
        let customer = object["customer"]
            .as_str()
            .or_else(|| object["customer"]["id"].as_str());
        let is_customer = object["object"].as_str() == Some("customer");
        Some(Self {
            id: event["id"].as_str().filter(|id| id.len() <= 255)?,
            kind: event["type"].as_str().filter(|kind| kind.len() <= 255)?,
            object: id.unwrap_or_default(),
            customer: customer.or(id.filter(|_| is_customer)).unwrap_or_default(),
            livemode: event["livemode"].as_bool().unwrap_or(false),
        })
    }
}
