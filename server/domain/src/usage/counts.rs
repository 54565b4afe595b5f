//! What a gateway is told of the usage that others counted. It names records of their ledgers, which are stored in the
//! transaction that counts them: what is told is read from the counts, the records say only whose have changed.

use crate::{Domain, DomainError, Result};
use model::access::Environment;
use model::snapshot::{COUNTED_MOST, Counts, KeyCount, LedgerPart, MeterCount};
use model::{ConsumerId, KeyId, Period, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is used now of everything that these records counted in, in the running period of its consumer and later ones: the
/// clocks of gateways may be ahead. `ledger` is the asking gateway's. All is read in one snapshot of the database.
///
/// # Errors
/// `Invalid` for more than [`COUNTED_MOST`] records; when the database fails.
pub async fn counts(domain: &Domain, ledger: &str, parts: &[LedgerPart]) -> Result<Counts> {
    let length = |p: &LedgerPart| p.through.saturating_sub(p.after);
    if parts.iter().map(length).fold(0, u64::saturating_add) > COUNTED_MOST {
        return Err(DomainError::invalid("parts", "are too long: ask for fewer records"));
    }
    let mut tx = domain.pool.begin().await?;
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *tx)
        .await?;
    let touched = Touched::by(&mut tx, parts).await?;
    let starts = starts(&mut tx, &touched).await?;
    let shipped = sqlx::query_scalar!("SELECT shipped_through FROM ledgers WHERE id = $1", ledger)
        .fetch_optional(&mut *tx)
        .await?;
    let counts = Counts {
        meters: of_meters(&mut tx, &touched, &starts).await?,
        keys: of_keys(&mut tx, &touched, &starts).await?,
        shipped_through: u64::try_from(shipped.unwrap_or(0)).map_err(DomainError::internal)?,
    };
    tx.commit().await?;
    Ok(counts)
}

type Account = (ConsumerId, Environment);

/// What records counted in.
#[derive(Default)]
struct Touched {
    meters: BTreeSet<(ConsumerId, Environment, i16)>,
    keys: BTreeMap<KeyId, Account>,
}

impl Touched {
    async fn by(connection: &mut PgConnection, parts: &[LedgerPart]) -> Result<Self> {
        let numbers = |f: fn(&LedgerPart) -> u64| {
            let all = parts.iter().map(|p| i64::try_from(f(p)).map_err(DomainError::internal));
            all.collect::<Result<Vec<i64>>>()
        };
        // Ordered and limited, each part is read by the key, however many requests there are beside it.
        let rows = sqlx::query!(
            r#"SELECT DISTINCT r.consumer_id AS "consumer: ConsumerId", r.environment AS "environment: Environment",
                      r.meter AS "meter!", r.key_id AS "key: KeyId"
               FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS p (ledger, after, through)
               CROSS JOIN LATERAL (
                   SELECT q.consumer_id, q.environment, q.meter, q.key_id, q.units FROM requests q
                   WHERE q.ledger = p.ledger AND q.seq > p.after AND q.seq <= p.through ORDER BY q.seq LIMIT $4
               ) r WHERE r.units > 0"#,
            &parts.iter().map(|p| p.ledger.clone()).collect::<Vec<_>>(),
            &numbers(|p| p.after)?,
            &numbers(|p| p.through)?,
            i64::try_from(COUNTED_MOST).map_err(DomainError::internal)?,
        )
        .fetch_all(connection)
        .await?;
        let mut touched = Self::default();
        for row in rows {
            touched.meters.insert((row.consumer, row.environment, row.meter));
            touched.keys.insert(row.key, (row.consumer, row.environment));
        }
        Ok(touched)
    }
}

/// When the running periods of these consumers began, as far as it is known here: the gateway may be in a later one.
async fn starts(connection: &mut PgConnection, touched: &Touched) -> Result<HashMap<Account, Time>> {
    let accounts: BTreeSet<Account> = touched.meters.iter().map(|(c, e, _)| (*c, *e)).collect();
    let rows = sqlx::query!(
        r#"SELECT e.consumer_id, e.environment, e.record -> 'period' AS "period!"
           FROM unnest($1::text[], $2::text[]) AS w (consumer_id, environment)
           JOIN entitlements e USING (consumer_id, environment)"#,
        &accounts.iter().map(|a| a.0).collect::<Vec<_>>() as &[ConsumerId],
        &accounts.iter().map(|a| a.1).collect::<Vec<_>>() as &[Environment],
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| {
            let period: Period = serde_json::from_value(r.period)?;
            Ok(((r.consumer_id, r.environment), period.start))
        })
        .collect()
}

async fn of_meters(
    connection: &mut PgConnection,
    touched: &Touched,
    starts: &HashMap<Account, Time>,
) -> Result<Vec<MeterCount>> {
    let wanted = touched.meters.iter().filter_map(|(consumer, environment, meter)| {
        let start = starts.get(&(*consumer, *environment))?;
        Some((*consumer, *environment, *meter, *start))
    });
    let wanted: Vec<_> = wanted.collect();
    let rows = sqlx::query!(
        r#"SELECT u.consumer_id, u.environment, u.meter, u.period_start, sum(u.units)::bigint AS "units!"
           FROM unnest($1::text[], $2::text[], $3::smallint[], $4::timestamptz[]) AS w (consumer_id, environment, meter, start)
           JOIN usage_periods u USING (consumer_id, environment, meter) WHERE u.period_start >= w.start
           GROUP BY u.consumer_id, u.environment, u.meter, u.period_start"#,
        &wanted.iter().map(|w| w.0).collect::<Vec<_>>() as &[ConsumerId],
        &wanted.iter().map(|w| w.1).collect::<Vec<_>>() as &[Environment],
        &wanted.iter().map(|w| w.2).collect::<Vec<_>>(),
        &wanted.iter().map(|w| w.3).collect::<Vec<_>>() as &[Time],
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(MeterCount {
                consumer: r.consumer_id,
                environment: r.environment,
                meter: u16::try_from(r.meter).map_err(DomainError::internal)?,
                period_start: r.period_start,
                used: u64::try_from(r.units).unwrap_or(0),
            })
        })
        .collect()
}

async fn of_keys(
    connection: &mut PgConnection,
    touched: &Touched,
    starts: &HashMap<Account, Time>,
) -> Result<Vec<KeyCount>> {
    let wanted = touched.keys.iter();
    let wanted: Vec<_> = wanted
        .filter_map(|(key, account)| Some((*key, *starts.get(account)?)))
        .collect();
    let rows = sqlx::query!(
        r#"SELECT c.root AS "root!: KeyId", c.lookup AS "lookup!", u.meter, u.period_start AS "period_start: Time",
                  sum(u.units)::bigint AS "units!"
           FROM (SELECT coalesce(k.root_id, k.id) AS root, min(k.lookup) AS lookup, min(w.start) AS start
                 FROM unnest($1::text[], $2::timestamptz[]) AS w (key_id, start) JOIN keys k ON k.id = w.key_id
                 WHERE k.quota_units IS NOT NULL OR k.budget_minor IS NOT NULL GROUP BY 1) c
           JOIN keys k ON k.id = c.root OR k.root_id = c.root
           JOIN usage_keys u ON u.key_id = k.id AND u.period_start >= c.start
           GROUP BY 1, 2, 3, 4"#,
        &wanted.iter().map(|w| w.0).collect::<Vec<_>>() as &[KeyId],
        &wanted.iter().map(|w| w.1).collect::<Vec<_>>() as &[Time],
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(KeyCount {
                root: r.root,
                lookup: u64::try_from(r.lookup).map_err(DomainError::internal)?,
                meter: u16::try_from(r.meter).map_err(DomainError::internal)?,
                period_start: r.period_start,
                used: u64::try_from(r.units).unwrap_or(0),
            })
        })
        .collect()
}
