//! Usage by the billing period, and what of it goes to Stripe.

use super::small;
use crate::Result;
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, PlanVersionId, SubscriptionId, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What an open subscription that Stripe settles is on now.
struct Billed {
    consumer: ConsumerId,
    plan_version: PlanVersionId,
    period_start: Time,
}

impl Billed {
    /// Whether the record was made by a gateway that had not heard yet of the running period or plan version. One that
    /// is ahead, because it entered the next period by itself, is left as it is.
    fn takes_over(&self, record: &UsageRecord) -> bool {
        let stale = record.period_start < self.period_start || record.plan_version != Some(self.plan_version);
        record.period_start <= self.period_start && record.at >= self.period_start && stale
    }
}

/// Who of these is billed by Stripe. Ended subscriptions count too: their last usage may arrive after their end.
async fn billed(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<HashMap<SubscriptionId, Billed>> {
    let ids: BTreeSet<SubscriptionId> = records
        .iter()
        .filter(|r| r.units > 0 && r.environment == Environment::Live)
        .filter_map(|r| r.subscription)
        .collect();
    let rows = sqlx::query!(
        "SELECT id, consumer_id, plan_version_id, period_start FROM subscriptions
         WHERE id = ANY($1) AND settlement = 'stripe'",
        &ids.into_iter().collect::<Vec<_>>() as &[SubscriptionId],
    )
    .fetch_all(connection)
    .await?;
    let billed = rows.into_iter().map(|r| {
        let billed = Billed {
            consumer: r.consumer_id,
            plan_version: r.plan_version_id,
            period_start: r.period_start,
        };
        (r.id, billed)
    });
    Ok(billed.collect())
}

type PeriodKey = (ConsumerId, Environment, Time, i16, Option<PlanVersionId>);
type UnbilledKey = (SubscriptionId, i16, Time, Time, Option<PlanVersionId>);

#[derive(Default)]
struct Totals {
    periods: BTreeMap<PeriodKey, (Option<SubscriptionId>, i64)>,
    unbilled: BTreeMap<UnbilledKey, (ConsumerId, i64, Time)>,
}

/// Sums by period, and apart what goes to Stripe. Usage under a plan version or a period that the subscription has left
/// since arrives after that one's last invoice: Stripe bills it at the new price, as of now, and so do we.
fn totals(records: &[&UsageRecord], billed: &HashMap<SubscriptionId, Billed>, now: Time) -> Totals {
    let mut totals = Totals::default();
    for r in records.iter().filter(|r| r.units > 0 && r.meter != 0) {
        let live = r.environment == Environment::Live;
        let bill = r
            .subscription
            .filter(|_| live)
            .and_then(|id| Some((id, billed.get(&id).filter(|b| b.consumer == r.consumer)?)));
        let (mut version, mut at, mut period_start) = (r.plan_version, r.at, r.period_start);
        if let Some((_, bill)) = bill
            && bill.takes_over(r)
        {
            version = Some(bill.plan_version);
            period_start = bill.period_start;
            at = at.max(now);
        }
        let (meter, units) = (small(r.meter), i64::from(r.units));
        if let Some((id, _)) = bill {
            let key = (id, meter, at.hour(), period_start, version);
            let entry = totals.unbilled.entry(key).or_insert((r.consumer, 0, at));
            entry.1 += units;
            entry.2 = entry.2.max(at);
        }
        let key = (r.consumer, r.environment, period_start, meter, version);
        totals.periods.entry(key).or_insert((r.subscription, 0)).1 += units;
    }
    totals
}

/// The column's text; none stands in it as an empty one.
fn version(id: Option<PlanVersionId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// Adds to what is used in the running periods, and to what Stripe has not been told.
pub(super) async fn add(connection: &mut PgConnection, records: &[&UsageRecord], now: Time) -> Result<()> {
    let billed = billed(connection, records).await?;
    let Totals { periods, unbilled } = totals(records, &billed, now);
    sqlx::query!(
        "INSERT INTO usage_periods AS p (consumer_id, environment, period_start, meter, plan_version_id,
                                         subscription_id, units)
         SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::smallint[], $5::text[], $6::text[],
                              $7::bigint[])
         ON CONFLICT (consumer_id, environment, period_start, meter, plan_version_id) DO UPDATE SET
             units = p.units + excluded.units",
        &periods.keys().map(|k| k.0).collect::<Vec<_>>() as &[ConsumerId],
        &periods.keys().map(|k| k.1).collect::<Vec<_>>() as &[Environment],
        &periods.keys().map(|k| k.2).collect::<Vec<_>>() as &[Time],
        &periods.keys().map(|k| k.3).collect::<Vec<_>>(),
        &periods.keys().map(|k| version(k.4)).collect::<Vec<_>>(),
        &periods.values().map(|v| v.0).collect::<Vec<_>>() as &[Option<SubscriptionId>],
        &periods.values().map(|v| v.1).collect::<Vec<_>>(),
    )
    .execute(&mut *connection)
    .await?;
    // What has no price cannot be billed: Stripe would refuse it, or bill nothing.
    sqlx::query!(
        "INSERT INTO unbilled_units AS u (subscription_id, meter, hour, period_start, plan_version_id, consumer_id,
                                          units, last_at)
         SELECT n.* FROM unnest($1::text[], $2::smallint[], $3::timestamptz[], $4::timestamptz[], $5::text[],
                                $6::text[], $7::bigint[], $8::timestamptz[])
             AS n (subscription_id, meter, hour, period_start, plan_version_id, consumer_id, units, last_at)
         WHERE is_priced(n.subscription_id, n.plan_version_id, n.meter)
         ORDER BY n.subscription_id, n.meter, n.hour, n.period_start, n.plan_version_id
         ON CONFLICT (subscription_id, meter, hour, period_start, plan_version_id) DO UPDATE SET
             units = u.units + excluded.units, last_at = greatest(u.last_at, excluded.last_at)",
        &unbilled.keys().map(|k| k.0).collect::<Vec<_>>() as &[SubscriptionId],
        &unbilled.keys().map(|k| k.1).collect::<Vec<_>>(),
        &unbilled.keys().map(|k| k.2).collect::<Vec<_>>() as &[Time],
        &unbilled.keys().map(|k| k.3).collect::<Vec<_>>() as &[Time],
        &unbilled.keys().map(|k| version(k.4)).collect::<Vec<_>>(),
        &unbilled.values().map(|v| v.0).collect::<Vec<_>>() as &[ConsumerId],
        &unbilled.values().map(|v| v.1).collect::<Vec<_>>(),
        &unbilled.values().map(|v| v.2).collect::<Vec<_>>() as &[Time],
    )
    .execute(connection)
    .await?;
    Ok(())
}
