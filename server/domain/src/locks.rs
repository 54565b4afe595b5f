//! Advisory locks: all of their numbers, so that no two things wait for one another by mistake, and how long one may be
//! held. The number 7,770,001 is drawn by the schema itself (`next_snapshot_version`).

use crate::Result;
use sqlx::PgConnection;

/// One catalogue is published at a time.
pub(crate) const PUBLISHING: i64 = 7_770_002;
/// Units are turned into meter events by one at a time.
pub(crate) const COLLECTING: i64 = 7_770_003;
/// First half of a consumer's turn to ask Stripe; the second is made of the consumer.
pub(crate) const TURN: i32 = 7_770_004;
/// One plan version at a time is carried to Stripe: two would make its product twice.
pub(crate) const CARRYING: i64 = 7_770_005;
/// Whoever decides on the first admin is alone, over all portals.
pub(crate) const FIRST_ADMIN: i64 = 7_770_006;
/// Meter events are handed out by one at a time.
pub(crate) const HANDING_OUT: i64 = 7_770_007;
/// First half of an account's turn to be granted leases; the second is made of the account.
pub(crate) const LEASING: i32 = 7_770_008;

/// Takes one of these locks, when it is free, until commit.
pub(crate) async fn hold(connection: &mut PgConnection, lock: i64) -> Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", lock)
        .execute(connection)
        .await?;
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_lock_has_a_number_of_its_own() {
        let schema = 7_770_001;
        let all = [
            schema,
            PUBLISHING,
            COLLECTING,
            i64::from(TURN),
            CARRYING,
            FIRST_ADMIN,
            HANDING_OUT,
            i64::from(LEASING),
        ];
        assert_eq!(BTreeSet::from(all).len(), all.len());
    }
}
