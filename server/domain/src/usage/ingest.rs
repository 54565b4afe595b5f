//! Taking in the ledgers. The records, their aggregates and the ledger's cursor move in **one** transaction: a batch
//! that is sent again is dropped by its sequence numbers, a batch that skips some is refused, and whatever dies in
//! between, nothing is lost and nothing counts twice.

use crate::{Domain, DomainError, Result, key_limits};
use model::access::Environment;
use model::usage::{UsageBatch, UsageRecord};
use model::{ConsumerId, KeyId, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Longest name of a ledger, in bytes.
const MAX_LEDGER_LEN: usize = 100;

/// The sequence number up to which a ledger has been taken in; 0 for one never heard of.
///
/// # Errors
/// When the database fails.
pub async fn shipped_through(domain: &Domain, ledger: &str) -> Result<u64> {
    let through = sqlx::query_scalar!("SELECT shipped_through FROM ledgers WHERE id = $1", ledger)
        .fetch_optional(&domain.pool)
        .await?;
    u64::try_from(through.unwrap_or(0)).map_err(DomainError::internal)
}

/// Takes in a batch, exactly once.
///
/// # Errors
/// `Conflict` when records are missing before or inside the batch; the sender asks [`shipped_through`] and sends from
/// there.
pub async fn ship(domain: &Domain, batch: &UsageBatch) -> Result<()> {
    if batch.ledger.is_empty() || batch.ledger.len() > MAX_LEDGER_LEN {
        return Err(DomainError::invalid("ledger", "must be 1 to 100 bytes"));
    }
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    sqlx::query!(
        "INSERT INTO ledgers (id, shipped_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        batch.ledger,
        now
    )
    .execute(&mut *tx)
    .await?;
    let known = sqlx::query!(
        "SELECT shipped_through, lease_turn FROM ledgers WHERE id = $1 FOR UPDATE",
        batch.ledger
    )
    .fetch_one(&mut *tx)
    .await?;
    let through = u64::try_from(known.shipped_through).map_err(DomainError::internal)?;
    let leases = known.lease_turn > 0;
    let fresh = unseen(&batch.records, through)?;
    let Some(last) = fresh.last() else { return Ok(()) };
    let consumers = known_consumers(&mut tx, fresh).await?;
    let counted: Vec<&UsageRecord> = fresh.iter().filter(|r| consumers.contains(&r.consumer)).collect();
    // Callers without a credential have no account and no bill: the gateway's metrics count them.
    let anonymous = fresh.iter().filter(|r| r.consumer == ConsumerId::ANONYMOUS).count();
    if counted.len() + anonymous < fresh.len() {
        // A database restored from before the account was made: the records stay in the ledger's own files.
        tracing::error!(
            ledger = batch.ledger,
            records = fresh.len() - counted.len() - anonymous,
            "usage of unknown accounts"
        );
    }
    add_hours(&mut tx, &counted).await?;
    add_periods(&mut tx, &counted, now).await?;
    key_limits::count(&mut tx, &counted).await?;
    if leases {
        super::leases::count(&mut tx, &batch.ledger, &counted).await?;
    }
    super::marks::touch(&mut tx, &counted, now).await?;
    add_requests(&mut tx, &batch.ledger, &counted).await?;
    touch_keys(&mut tx, &counted).await?;
    sqlx::query!(
        "UPDATE ledgers SET shipped_through = $2, shipped_at = $3 WHERE id = $1",
        batch.ledger,
        i64::try_from(last.seq).map_err(DomainError::internal)?,
        now,
    )
    .execute(&mut *tx)
    .await?;
    if leases {
        super::leases::end_reached(&mut tx, &batch.ledger, last.seq).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The records after `through`, which must follow it and one another.
fn unseen(records: &[UsageRecord], through: u64) -> Result<&[UsageRecord]> {
    let seen = records.partition_point(|r| r.seq <= through);
    let fresh = records.get(seen..).unwrap_or_default();
    let in_order = fresh
        .iter()
        .zip(through.saturating_add(1)..)
        .all(|(r, seq)| r.seq == seq);
    if in_order {
        return Ok(fresh);
    }
    Err(DomainError::Conflict(format!(
        "the ledger is taken in through {through}: records are missing after it"
    )))
}

async fn known_consumers(connection: &mut PgConnection, records: &[UsageRecord]) -> Result<HashSet<ConsumerId>> {
    let ids: BTreeSet<ConsumerId> = records.iter().map(|r| r.consumer).collect();
    let ids: Vec<ConsumerId> = ids.into_iter().collect();
    let known = sqlx::query_scalar!("SELECT id FROM consumers WHERE id = ANY($1)", &ids as &[ConsumerId])
        .fetch_all(connection)
        .await?;
    Ok(known.into_iter().collect())
}

fn saturating(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn small(n: u16) -> i16 {
    // Numbers of routes, meters and variants come from smallint columns; statuses are below 1,000.
    i16::try_from(n).unwrap_or(0)
}

#[derive(Default)]
struct Hour {
    requests: i64,
    refused: i64,
    errors: i64,
    units: i64,
    request_bytes: i64,
    response_bytes: i64,
}

type HourKey = (ConsumerId, Environment, Time, KeyId, i16, i16);

/// Adds to the hourly aggregates. Rows are touched in the order of their key, so that two batches never wait for each
/// other in a circle; the same goes for the other tables.
async fn add_hours(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<()> {
    let mut hours: BTreeMap<HourKey, Hour> = BTreeMap::new();
    for r in records {
        let key = (
            r.consumer,
            r.environment,
            r.at.hour(),
            r.key,
            small(r.route),
            small(r.meter),
        );
        let hour = hours.entry(key).or_default();
        hour.requests += 1;
        // An upstream that cannot be reached is a failure, although it is the gateway that says so.
        hour.refused += i64::from(r.refusal != 0 && r.status < 500);
        hour.errors += i64::from(r.status >= 500);
        hour.units += i64::from(r.units);
        hour.request_bytes = hour.request_bytes.saturating_add(saturating(r.request_bytes));
        hour.response_bytes = hour.response_bytes.saturating_add(saturating(r.response_bytes));
    }
    let number = |f: fn(&Hour) -> i64| hours.values().map(f).collect::<Vec<_>>();
    sqlx::query!(
        "INSERT INTO usage_hours AS h (consumer_id, environment, hour, key_id, route, meter, requests, refused, errors,
                                       units, request_bytes, response_bytes)
         SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::smallint[], $6::smallint[],
                              $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
         ON CONFLICT (consumer_id, environment, hour, key_id, route, meter) DO UPDATE SET
             requests = h.requests + excluded.requests, refused = h.refused + excluded.refused,
             errors = h.errors + excluded.errors, units = h.units + excluded.units,
             request_bytes = h.request_bytes + excluded.request_bytes,
             response_bytes = h.response_bytes + excluded.response_bytes",
        &hours.keys().map(|k| k.0).collect::<Vec<_>>() as &[ConsumerId],
        &hours.keys().map(|k| k.1).collect::<Vec<_>>() as &[Environment],
        &hours.keys().map(|k| k.2).collect::<Vec<_>>() as &[Time],
        &hours.keys().map(|k| k.3).collect::<Vec<_>>() as &[KeyId],
        &hours.keys().map(|k| k.4).collect::<Vec<_>>(),
        &hours.keys().map(|k| k.5).collect::<Vec<_>>(),
        &number(|h| h.requests),
        &number(|h| h.refused),
        &number(|h| h.errors),
        &number(|h| h.units),
        &number(|h| h.request_bytes),
        &number(|h| h.response_bytes),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What an open subscription that Stripe settles is on now.
struct Billed {
    consumer: ConsumerId,
    plan_version: String,
    period_start: Time,
}

impl Billed {
    /// Whether the record was made by a gateway that had not heard yet of the running period or plan version. One that
    /// is ahead, because it entered the next period by itself, is left as it is.
    fn takes_over(&self, record: &UsageRecord, version: &str) -> bool {
        let stale = record.period_start < self.period_start || version != self.plan_version;
        record.period_start <= self.period_start && record.at >= self.period_start && stale
    }
}

/// Who of these is billed by Stripe. Ended subscriptions count too: their last usage may arrive after their end.
async fn billed(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<HashMap<String, Billed>> {
    let ids: BTreeSet<String> = records
        .iter()
        .filter(|r| r.units > 0 && r.environment == Environment::Live)
        .filter_map(|r| r.subscription.map(|s| s.to_string()))
        .collect();
    let rows = sqlx::query!(
        "SELECT id, consumer_id, plan_version_id, period_start FROM subscriptions
         WHERE id = ANY($1) AND settlement = 'stripe'",
        &ids.into_iter().collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| {
            let billed = Billed {
                consumer: r.consumer_id,
                plan_version: r.plan_version_id.to_string(),
                period_start: r.period_start,
            };
            (r.id.to_string(), billed)
        })
        .collect())
}

type PeriodKey = (ConsumerId, Environment, Time, i16, String);
type UnbilledKey = (String, i16, Time, Time, String);

#[derive(Default)]
struct Totals {
    periods: BTreeMap<PeriodKey, (Option<String>, i64)>,
    unbilled: BTreeMap<UnbilledKey, (ConsumerId, i64, Time)>,
}

/// Sums by period, and apart what goes to Stripe. Usage under a plan version or a period that the subscription has left
/// since arrives after that one's last invoice: Stripe bills it at the new price, as of now, and so do we.
fn totals(records: &[&UsageRecord], billed: &HashMap<String, Billed>, now: Time) -> Totals {
    let mut totals = Totals::default();
    for r in records.iter().filter(|r| r.units > 0 && r.meter != 0) {
        let subscription = r.subscription.map(|s| s.to_string());
        let mut version = r.plan_version.map(|v| v.to_string()).unwrap_or_default();
        let bill = subscription
            .as_ref()
            .and_then(|s| billed.get(s))
            .filter(|b| b.consumer == r.consumer);
        let (mut at, mut period_start) = (r.at, r.period_start);
        if let Some(bill) = bill
            && r.environment == Environment::Live
            && bill.takes_over(r, &version)
        {
            version.clone_from(&bill.plan_version);
            period_start = bill.period_start;
            at = at.max(now);
        }
        let units = i64::from(r.units);
        if let (Some(_), Some(id), Environment::Live) = (bill, &subscription, r.environment) {
            let key = (id.clone(), small(r.meter), at.hour(), period_start, version.clone());
            let entry = totals.unbilled.entry(key).or_insert((r.consumer, 0, at));
            entry.1 += units;
            entry.2 = entry.2.max(at);
        }
        let key = (r.consumer, r.environment, period_start, small(r.meter), version);
        totals.periods.entry(key).or_insert((subscription, 0)).1 += units;
    }
    totals
}

async fn add_periods(connection: &mut PgConnection, records: &[&UsageRecord], now: Time) -> Result<()> {
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
        &periods.keys().map(|k| k.4.clone()).collect::<Vec<_>>(),
        &periods.values().map(|v| v.0.clone()).collect::<Vec<_>>() as &[Option<String>],
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
        &unbilled.keys().map(|k| k.0.clone()).collect::<Vec<_>>(),
        &unbilled.keys().map(|k| k.1).collect::<Vec<_>>(),
        &unbilled.keys().map(|k| k.2).collect::<Vec<_>>() as &[Time],
        &unbilled.keys().map(|k| k.3).collect::<Vec<_>>() as &[Time],
        &unbilled.keys().map(|k| k.4.clone()).collect::<Vec<_>>(),
        &unbilled.values().map(|v| v.0).collect::<Vec<_>>() as &[ConsumerId],
        &unbilled.values().map(|v| v.1).collect::<Vec<_>>(),
        &unbilled.values().map(|v| v.2).collect::<Vec<_>>() as &[Time],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn add_requests(connection: &mut PgConnection, ledger: &str, records: &[&UsageRecord]) -> Result<()> {
    let long = |f: fn(&UsageRecord) -> i64| records.iter().map(|r| f(r)).collect::<Vec<_>>();
    let short = |f: fn(&UsageRecord) -> i16| records.iter().map(|r| f(r)).collect::<Vec<_>>();
    sqlx::query!(
        "INSERT INTO requests (ledger, seq, request_id, at, consumer_id, environment, key_id, route, meter, units, status,
                               refusal, request_bytes, response_bytes, duration_us, variants)
         SELECT $1, n.* FROM unnest($2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
                                    $8::smallint[], $9::smallint[], $10::bigint[], $11::smallint[], $12::smallint[],
                                    $13::bigint[], $14::bigint[], $15::bigint[], $16::smallint[]) AS n",
        ledger,
        &long(|r| saturating(r.seq)),
        &records.iter().map(|r| r.request).collect::<Vec<_>>() as &[model::RequestId],
        &records.iter().map(|r| r.at).collect::<Vec<_>>() as &[Time],
        &records.iter().map(|r| r.consumer).collect::<Vec<_>>() as &[ConsumerId],
        &records.iter().map(|r| r.environment).collect::<Vec<_>>() as &[Environment],
        &records.iter().map(|r| r.key).collect::<Vec<_>>() as &[KeyId],
        &short(|r| small(r.route)),
        &short(|r| small(r.meter)),
        &long(|r| i64::from(r.units)),
        &short(|r| small(r.status)),
        &short(|r| i16::from(r.refusal)),
        &long(|r| saturating(r.request_bytes)),
        &long(|r| saturating(r.response_bytes)),
        &long(|r| i64::from(r.duration_us)),
        &short(|r| small(r.variants)),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes when keys were last used, at most once a minute each.
async fn touch_keys(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<()> {
    let mut last: BTreeMap<KeyId, Time> = BTreeMap::new();
    for r in records {
        let at = last.entry(r.key).or_insert(r.at);
        *at = (*at).max(r.at);
    }
    // A row that another batch is writing right now is skipped: the next batch writes it.
    sqlx::query!(
        "UPDATE keys k SET last_used_at = due.at FROM (
             SELECT k.id, n.at FROM unnest($1::text[], $2::timestamptz[]) AS n (id, at) JOIN keys k ON k.id = n.id
             WHERE k.last_used_at IS NULL OR k.last_used_at <= n.at - interval '1 minute'
             ORDER BY k.id FOR NO KEY UPDATE OF k SKIP LOCKED
         ) due WHERE k.id = due.id",
        &last.keys().copied().collect::<Vec<_>>() as &[KeyId],
        &last.values().copied().collect::<Vec<_>>() as &[Time],
    )
    .execute(connection)
    .await?;
    Ok(())
}
