//! What the owner of a key lets it use in a billing period: units, and a part of the usage charges. Gateways hold every
//! request against both (`gateway`'s `key_limit` has the arithmetic). Limits are those of a key's whole chain of rotations:
//! all keys of it have the same, and what they use counts together.

use crate::snapshot::{entitlement_of, rolled};
use crate::usage::ingest::{small, summed};
use crate::{Domain, DomainError, KeyManager, Result, Viewer, audit, keys};
use model::access::Environment;
use model::key_part::{self, KeyShare};
use model::snapshot::{Entitlement, KeyLimits, KeyRecord, KeyUse};
use model::usage::UsageRecord;
use model::{ConsumerId, Currency, KeyId, Money, Period, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// Keys of its chain of rotations, itself among them; 1 when it was never rotated.
    pub keys: u64,
    /// Units that these keys have used in the period.
    pub used: u64,
    /// Their part of the usage charges: what gateways hold against the budget.
    pub spent: Money,
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
    let set = sqlx::query!(
        r#"SELECT k.quota_units, k.budget_minor, r.id AS "root: KeyId",
                  (SELECT count(*) FROM keys c WHERE c.id = r.id OR c.root_id = r.id) AS "keys!"
           FROM keys k JOIN keys r ON r.id = coalesce(k.root_id, k.id) WHERE k.id = $1"#,
        id as KeyId
    )
    .fetch_one(&mut *connection)
    .await?;
    let now = domain.clock.now();
    let record = entitlement_of(&mut connection, viewer.consumer(), key.environment, now).await?;
    let used = match &record {
        None => BTreeMap::new(),
        Some(record) => used(&mut connection, set.root, record.period.start).await?,
    };
    let currency = record.as_ref().map_or(Currency::USD, |r| r.currency);
    Ok(InForce {
        limits: Limits {
            quota_units: set.quota_units,
            budget_minor: set.budget_minor,
        },
        keys: u64::try_from(set.keys).map_err(DomainError::internal)?,
        used: used.values().sum(),
        spent: Money {
            minor: record.as_ref().map_or(Ok(0), |r| spent_minor(r, &used))?,
            currency,
        },
        period: record.as_ref().map(|r| r.period),
        currency,
    })
}

/// Units that a chain has used of each meter in a period.
async fn used(connection: &mut PgConnection, root: KeyId, period_start: Time) -> Result<BTreeMap<u16, u64>> {
    let rows = sqlx::query!(
        r#"SELECT u.meter, sum(u.units)::bigint AS "units!" FROM keys k JOIN usage_keys u ON u.key_id = k.id
           WHERE (k.id = $1 OR k.root_id = $1) AND u.period_start = $2 GROUP BY u.meter"#,
        root as KeyId,
        period_start,
    )
    .fetch_all(connection)
    .await?;
    let whole = |n: i64| u64::try_from(n).map_err(DomainError::internal);
    let meter = |n: i16| u16::try_from(n).map_err(DomainError::internal);
    rows.into_iter()
        .map(|r| Ok((meter(r.meter)?, whole(r.units)?)))
        .collect()
}

/// What chains of keys may use, and have used in a period, by their first keys; those without limits are left out.
pub(crate) async fn of_chains(
    connection: &mut PgConnection,
    chains: &BTreeSet<(KeyId, Time)>,
) -> Result<HashMap<(KeyId, Time), KeyLimits>> {
    if chains.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"SELECT c.root AS "root!: KeyId", c.period_start AS "period_start!: Time", r.quota_units, r.budget_minor,
                  u.meter AS "meter?", u.units AS "units?"
           FROM unnest($1::text[], $2::timestamptz[]) AS c (root, period_start) JOIN keys r ON r.id = c.root
           LEFT JOIN LATERAL (
               SELECT u.meter, sum(u.units)::bigint AS units FROM keys k JOIN usage_keys u ON u.key_id = k.id
               WHERE (k.id = c.root OR k.root_id = c.root) AND u.period_start = c.period_start GROUP BY u.meter) u ON true
           WHERE r.quota_units IS NOT NULL OR r.budget_minor IS NOT NULL"#,
        &chains.iter().map(|c| c.0).collect::<Vec<_>>() as &[KeyId],
        &chains.iter().map(|c| c.1).collect::<Vec<_>>() as &[Time],
    )
    .fetch_all(connection)
    .await?;
    let mut all = HashMap::new();
    for r in rows {
        let limits = all.entry((r.root, r.period_start)).or_insert_with(|| KeyLimits {
            root: None,
            quota: r.quota_units.and_then(|n| u64::try_from(n).ok()),
            budget_minor: r.budget_minor,
            period_start: r.period_start,
            used: Vec::new(),
        });
        if let Some((meter, units)) = r.meter.zip(r.units) {
            limits.used.push(KeyUse {
                meter: u16::try_from(meter).map_err(DomainError::internal)?,
                units: u64::try_from(units).map_err(DomainError::internal)?,
            });
        }
    }
    Ok(all)
}

/// What gateways hold against the budget.
fn spent_minor(record: &Entitlement, used: &BTreeMap<u16, u64>) -> Result<i64> {
    let shares = record.meters.iter().map(|m| KeyShare {
        own: used.get(&m.meter).copied().unwrap_or(0),
        all: m.used,
        settled: m.settled_units,
        prices: Some(&m.terms),
    });
    key_part::cost_minor(shares, record.settled_minor, record.currency)
        .ok_or_else(|| DomainError::internal("a key's part of the charges is too large"))
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

/// Sets or removes the limits of a key and of all keys of its chain; reaches the gateways within a second.
///
/// # Errors
/// As [`check`]; `NotFound` when the consumer has no such key.
pub async fn set(domain: &Domain, manager: &KeyManager, id: KeyId, limits: Limits) -> Result<()> {
    check(limits)?;
    let mut tx = domain.pool.begin().await?;
    let root = keys::lock_chain(&mut tx, manager.consumer(), id).await?;
    // Locked before the first is changed: who has the turn of versions waits for nobody.
    sqlx::query!(
        "SELECT id FROM keys WHERE id = $1 OR root_id = $1 ORDER BY id FOR UPDATE",
        root as KeyId
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE keys SET quota_units = $2, budget_minor = $3 WHERE id = $1 OR root_id = $1",
        root as KeyId,
        limits.quota_units,
        limits.budget_minor,
    )
    .execute(&mut *tx)
    .await?;
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
    let key = |r: &UsageRecord| (r.key, r.period_start, small(r.meter));
    let add = |units: &mut i64, r: &UsageRecord| *units += i64::from(r.units);
    let units = summed(records.iter().copied().filter(|r| r.units > 0), key, add);
    sqlx::query!(
        "INSERT INTO usage_keys AS u (key_id, period_start, meter, units)
         SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::smallint[], $4::bigint[])
         ON CONFLICT (key_id, period_start, meter) DO UPDATE SET units = u.units + excluded.units",
        &units.iter().map(|(k, _)| k.0).collect::<Vec<_>>() as &[KeyId],
        &units.iter().map(|(k, _)| k.1).collect::<Vec<_>>() as &[Time],
        &units.iter().map(|(k, _)| k.2).collect::<Vec<_>>(),
        &units.iter().map(|(_, units)| *units).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Limits of a key of a chain.
pub(crate) struct OfChain {
    /// First key of the chain; none for that one itself.
    pub(crate) root: Option<KeyId>,
    /// The chain's.
    pub(crate) limits: Limits,
}

/// Fills in the limits of these keys (by id) with what their chains have used in the period that holds `now`.
pub(crate) async fn fill(
    connection: &mut PgConnection,
    records: &mut [KeyRecord],
    limits: &HashMap<KeyId, OfChain>,
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
    let roots: BTreeSet<KeyId> = limits.iter().map(|(id, set)| set.root.unwrap_or(*id)).collect();
    let used = sqlx::query!(
        r#"SELECT coalesce(k.root_id, k.id) AS "root!: KeyId", u.period_start AS "start: Time", u.meter,
                  sum(u.units)::bigint AS "units!"
           FROM keys k JOIN usage_keys u ON u.key_id = k.id WHERE k.id = ANY($1) OR k.root_id = ANY($1)
           GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"#,
        &roots.into_iter().collect::<Vec<_>>() as &[KeyId],
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut uses: HashMap<(KeyId, Time), Vec<KeyUse>> = HashMap::new();
    for row in used {
        uses.entry((row.root, row.start)).or_default().push(KeyUse {
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
        let root = set.root.unwrap_or(record.id);
        record.limits = Some(KeyLimits {
            root: set.root,
            quota: set.limits.quota_units.and_then(|n| u64::try_from(n).ok()),
            budget_minor: set.limits.budget_minor,
            period_start: *start,
            used: uses.get(&(root, *start)).cloned().unwrap_or_default(),
        });
    }
    Ok(())
}
