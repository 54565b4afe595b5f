//! What to do when nobody knows whether Stripe has a row: ask for its sum over the row's minute, take away what is known
//! to be there, and send only what is missing.

use super::send::{Claimed, Outcome, outcome_of};
use super::{Bucket, insert};
use crate::{Domain, DomainError, Result, locks};
use model::{ConsumerId, Time};

/// Stripe sums over whole minutes.
const MINUTE_S: i64 = 60;

/// Finds out how much of the row Stripe has. All of it: acknowledged. A part: that part is acknowledged and the rest
/// becomes a row of its own. Nothing: it is sent again, under the same identifier, in case it is on its way after all.
pub(super) async fn reconcile(domain: &Domain, row: &Claimed) -> Result<Outcome> {
    let (Some(meter), Some(customer)) = (&row.stripe_meter, &row.customer) else {
        return Ok(Outcome::Refused(
            "the meter or the customer is not at Stripe".to_owned(),
        ));
    };
    let start = Time::from_unix_s(row.at.unix_s().div_euclid(MINUTE_S) * MINUTE_S);
    let end = start.plus_s(MINUTE_S);
    let there = match domain.payments.meter_total(meter, customer, start, end).await {
        Ok(total) => i64::try_from(total).map_err(DomainError::internal)?,
        Err(error) => return Ok(outcome_of(&error)),
    };
    let known = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(units), 0)::bigint AS "known!" FROM meter_events
           WHERE consumer_id = $1 AND meter = $2 AND state = 'acknowledged' AND at >= $3 AND at < $4"#,
        row.consumer as ConsumerId,
        row.meter,
        start,
        end,
    )
    .fetch_one(&domain.pool)
    .await?;
    let arrived = there.saturating_sub(known);
    if arrived > row.units {
        tracing::error!(
            meter,
            customer,
            there,
            known,
            units = row.units,
            "Stripe has more usage than was sent"
        );
    }
    if arrived >= row.units {
        return Ok(Outcome::Acknowledged);
    }
    if arrived > 0 {
        split(domain, row, arrived).await?;
        return Ok(Outcome::Acknowledged);
    }
    Ok(Outcome::Absent)
}

async fn split(domain: &Domain, row: &Claimed, arrived: i64) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    locks::hold(&mut tx, locks::COLLECTING).await?;
    sqlx::query!(
        "UPDATE meter_events SET units = $2, state = 'acknowledged' WHERE id = $1",
        row.id,
        arrived
    )
    .execute(&mut *tx)
    .await?;
    let bucket = Bucket {
        subscription: row.subscription,
        consumer: row.consumer,
        meter: row.meter,
        hour: row.hour,
        period_start: row.period_start,
        plan_version: row.plan_version.clone(),
    };
    insert(&mut tx, &bucket, row.units - arrived, row.at).await?;
    tx.commit().await?;
    Ok(())
}
