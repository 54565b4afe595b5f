//! What the owner of a key lets it use in a billing period: units, and a part of the usage charges. Gateways hold every
//! request against both (`gateway`'s `key_limit` has the arithmetic).

use crate::snapshot::{entitlement_of, rolled};
use crate::{Domain, DomainError, KeyManager, Result, Viewer, audit, keys};
use model::access::Environment;
use model::snapshot::{Entitlement, KeyLimits, KeyRecord, KeyUse};
use model::usage::UsageRecord;
use model::{ConsumerId, Currency, KeyId, Period, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};

/// Highest quota, in units: beyond it a number is a typing mistake.
const MAX_UNITS: i64 = 1_000_000_000_000_000;
/// Highest budget, in minor units.
const MAX_BUDGET_MINOR: i64 = 100_000_000_000;

/// Limits of a key, each for a billing period; none means none besides the account's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Units of all meters together.
    pub quota_units: Option<i64>,
    /// Its part of the usage charges, in minor units.
    pub budget_minor: Option<i64>,
}

/// Limits of a key, and what they are measured against.
#[derive(Debug, Clone)]
pub struct InForce {
    /// The limits.
    pub limits: Limits,
    /// Units that the key has used in the period.
    pub used: u64,
    /// The running period; none before the account has an entitlement.
    pub period: Option<Period>,
    /// Currency of the budget.
    pub currency: Currency,
}

/// The limits of a key.
///
/// # Errors
/// `NotFound` when the consumer has no such key.
pub async fn read(domain: &Domain, viewer: &Viewer, id: KeyId) -> Result<InForce> {
    let key = keys::get(domain, viewer, id).await?;
    let mut connection = domain.pool.acquire().await?;
    let limits = sqlx::query_as!(
        Limits,
        "SELECT quota_units, budget_minor FROM keys WHERE id = $1",
        id as KeyId
    )
    .fetch_one(&mut *connection)
    .await?;
    let now = domain.clock.now();
    let record = entitlement_of(&mut connection, viewer.consumer(), key.environment, now).await?;
    let used = match &record {
        None => 0,
        Some(record) => sqlx::query_scalar!(
            r#"SELECT coalesce(sum(units), 0)::bigint AS "units!" FROM usage_keys WHERE key_id = $1 AND period_start = $2"#,
            id as KeyId,
            record.period.start,
        )
        .fetch_one(&mut *connection)
        .await?,
    };
    Ok(InForce {
        limits,
        used: u64::try_from(used).map_err(DomainError::internal)?,
        period: record.as_ref().map(|r| r.period),
        currency: record.map_or(Currency::USD, |r| r.currency),
    })
}

/// Whether limits can be set: what [`set`] checks.
///
/// # Errors
/// `Invalid` for `quota` or `budget`.
pub fn check(limits: Limits) -> Result<()> {
    if limits.quota_units.is_some_and(|n| !(0..=MAX_UNITS).contains(&n)) {
        return Err(DomainError::invalid(
            "quota",
            "Give a number of units from 0 to 1,000,000,000,000,000.",
        ));
    }
    if limits
        .budget_minor
        .is_some_and(|n| !(0..=MAX_BUDGET_MINOR).contains(&n))
    {
        return Err(DomainError::invalid(
            "budget",
            "Give an amount from 0 to 1,000,000,000.",
        ));
    }
    Ok(())
}

/// Sets or removes the limits of a key; reaches the gateways within a second.
///
/// # Errors
/// As [`check`]; `NotFound` when the consumer has no such key.
pub async fn set(domain: &Domain, manager: &KeyManager, id: KeyId, limits: Limits) -> Result<()> {
    check(limits)?;
    let mut tx = domain.pool.begin().await?;
    let changed = sqlx::query!(
        "UPDATE keys SET quota_units = $3, budget_minor = $4 WHERE id = $1 AND consumer_id = $2",
        id as KeyId,
        manager.consumer() as ConsumerId,
        limits.quota_units,
        limits.budget_minor,
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Err(DomainError::NotFound);
    }
    let consumer = Some(manager.consumer());
    audit::record(
        domain,
        &mut tx,
        manager.actor(),
        consumer,
        "key.limits",
        &id.to_string(),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Counts what each key has used, in the transaction that takes usage in.
pub(crate) async fn count(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<()> {
    let mut units: BTreeMap<(KeyId, Time, i16), i64> = BTreeMap::new();
    for r in records.iter().filter(|r| r.units > 0) {
        let key = (r.key, r.period_start, i16::try_from(r.meter).unwrap_or(0));
        *units.entry(key).or_default() += i64::from(r.units);
    }
    sqlx::query!(
        "INSERT INTO usage_keys AS u (key_id, period_start, meter, units)
         SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::smallint[], $4::bigint[])
         ON CONFLICT (key_id, period_start, meter) DO UPDATE SET units = u.units + excluded.units",
        &units.keys().map(|k| k.0).collect::<Vec<_>>() as &[KeyId],
        &units.keys().map(|k| k.1).collect::<Vec<_>>() as &[Time],
        &units.keys().map(|k| k.2).collect::<Vec<_>>(),
        &units.values().copied().collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Fills in the limits of these keys (quota and budget, by id) with what is used in the period that holds `now`.
pub(crate) async fn fill(
    connection: &mut PgConnection,
    records: &mut [KeyRecord],
    limits: &HashMap<KeyId, Limits>,
    now: Time,
) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    let limited = records.iter().filter(|k| limits.contains_key(&k.id));
    let consumers: Vec<ConsumerId> = limited.map(|k| k.consumer).collect();
    let entitled = sqlx::query_scalar!(
        "SELECT record FROM entitlements WHERE consumer_id = ANY($1)",
        &consumers as &[ConsumerId],
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut periods: HashMap<(ConsumerId, Environment), Time> = HashMap::new();
    for record in entitled {
        let record: Entitlement = serde_json::from_value(record)?;
        let start = rolled(record.period, now).start;
        periods.insert((record.consumer, record.environment), start);
    }
    let used = sqlx::query!(
        r#"SELECT key_id AS "key: KeyId", period_start AS "start: Time", meter, units FROM usage_keys WHERE key_id = ANY($1)"#,
        &limits.keys().copied().collect::<Vec<_>>() as &[KeyId],
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut uses: HashMap<(KeyId, Time), Vec<KeyUse>> = HashMap::new();
    for row in used {
        uses.entry((row.key, row.start)).or_default().push(KeyUse {
            meter: u16::try_from(row.meter).map_err(DomainError::internal)?,
            units: u64::try_from(row.units).unwrap_or(0),
        });
    }
    for record in records {
        let (Some(set), Some(start)) = (
            limits.get(&record.id),
            periods.get(&(record.consumer, record.environment)),
        ) else {
            continue;
        };
        record.limits = Some(KeyLimits {
            quota: set.quota_units.and_then(|n| u64::try_from(n).ok()),
            budget_minor: set.budget_minor,
            period_start: *start,
            used: uses.remove(&(record.id, *start)).unwrap_or_default(),
        });
    }
    Ok(())
}
