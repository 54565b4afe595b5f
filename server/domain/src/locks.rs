//! Waiting while a lock is held.

use crate::Result;
use sqlx::PgConnection;

/// Longest pause of a transaction that asks Stripe while it holds a lock, in milliseconds. PostgreSQL ends transactions
/// that pause, and with them the lock: `server`'s connections let them for 15 s, while one call to Stripe with all its
/// tries takes 31 s, and a change of plan makes up to six between two statements.
const STRIPE_PAUSE_MS: &str = "240000";

/// Lets the running transaction pause for as long as Stripe takes to answer.
pub(crate) async fn wait_for_stripe(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        "SELECT set_config('idle_in_transaction_session_timeout', $1, true) AS pause",
        STRIPE_PAUSE_MS
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}
