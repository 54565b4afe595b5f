//! The audit log: who changed what. Written in the transaction of the change.

use crate::{Actor, Domain, Result};
use model::ConsumerId;

/// Adds a line. `action` is a verb phrase such as `key.create`, `target` an id.
///
/// # Errors
/// When the database fails.
pub async fn record(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    actor: &Actor,
    consumer: Option<ConsumerId>,
    action: &str,
    target: &str,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit_log (at, actor, consumer_id, action, target) VALUES ($1, $2, $3, $4, $5)",
        domain.clock.security_now(),
        actor.to_string(),
        consumer as Option<ConsumerId>,
        action,
        target,
    )
    .execute(connection)
    .await?;
    Ok(())
}
