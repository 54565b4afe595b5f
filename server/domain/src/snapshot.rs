//! What a gateway is told: everything newer than the version it has, read in one snapshot of the database, so that
//! versions, usage and the ledger's cursor agree with each other.

use crate::key_limits::{self, Limits, OfChain};
use crate::usage::ingest::small;
use crate::usage::{marks, settled};
use crate::{Domain, DomainError, Result, catalogue, entitlements, purges};
use futures::TryStreamExt as _;
use model::access::{Environment, Method};
use model::snapshot::{
    Changes, Entitlement, IssuerRecord, KeyRecord, LedgerEnd, MeterRecord, OTHERS_TOLD_FOR_S, RouteRecord, Routing,
    UpstreamRecord,
};
use model::{ConsumerId, KeyId, Period, Time};
use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use std::collections::{BTreeSet, HashMap};

/// Most keys and most entitlements in one answer: some tenths of a second for the database, some megabytes of memory.
const KEYS_MOST: i64 = 20_000;
const ENTITLEMENTS_MOST: i64 = 5_000;
/// A ledger that shipped within this time says by it whether its gateway leases, in seconds. A gateway that does asks every
/// ten.
const LATELY_S: i64 = 60;
/// Wait before a lost connection is tried again, in milliseconds.
const RECONNECT_MS: u64 = 500;

/// What changed since `version`, the oldest changes first, up to as many as fit in an answer; 0 asks for everything.
/// `ledger` is the asking gateway's. What changes between two answers has a version beyond both, and so is told at last.
///
/// # Errors
/// When the database fails or holds an entitlement that this program cannot read.
pub async fn changes_since(domain: &Domain, ledger: &str, version: i64) -> Result<Changes> {
    let mut tx = domain.pool.begin().await?;
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *tx)
        .await?;
    // Versions become visible in order, so whatever is at or below the highest one visible is visible too. There are as
    // many ledgers as gateways had data folders: an index on their times would have to be written with every batch.
    let others_since = if version == 0 {
        Time::from_unix_s(0)
    } else {
        domain.clock.now().plus_s(-OTHERS_TOLD_FOR_S)
    };
    let newest = sqlx::query!(
        r#"SELECT greatest((SELECT max(version) FROM keys), (SELECT max(version) FROM entitlements),
                           (SELECT max(version) FROM routing_state),
                           (SELECT max(version) FROM cache_purges), 0) AS "newest!",
                  (SELECT version FROM routing_state) AS "routing!",
                  coalesce((SELECT shipped_through FROM ledgers WHERE id = $1), 0) AS "shipped!",
                  least((SELECT version FROM keys WHERE version > $2 ORDER BY version OFFSET $3 LIMIT 1),
                        (SELECT version FROM entitlements WHERE version > $2 ORDER BY version OFFSET $4 LIMIT 1))
                  AS left_out,
                  ARRAY (SELECT id FROM ledgers WHERE id <> $1 AND shipped_at >= $5 ORDER BY id) AS "others!",
                  ARRAY (SELECT shipped_through FROM ledgers WHERE id <> $1 AND shipped_at >= $5 ORDER BY id) AS "ends!",
                  ARRAY (SELECT CASE WHEN shipped_at >= $6 THEN coalesce(leased_at >= shipped_at - interval '30 seconds', false) END
                         FROM ledgers WHERE id <> $1 AND shipped_at >= $5 ORDER BY id) AS "leases!: Vec<Option<bool>>""#,
        ledger,
        version,
        KEYS_MOST,
        ENTITLEMENTS_MOST,
        others_since,
        domain.clock.now().plus_s(-LATELY_S),
    )
    .fetch_one(&mut *tx)
    .await?;
    let through = newest.left_out.map_or(newest.newest, |first| first - 1);
    let told = Versions {
        after: version,
        through,
    };
    let changes = Changes {
        version: through,
        more: newest.left_out.is_some(),
        routing: if told.contains(newest.routing) {
            Some(routing(domain, &mut tx).await?)
        } else {
            None
        },
        keys: keys(&mut tx, told, domain.clock.now()).await?,
        entitlements: entitlements(&mut tx, told, domain.clock.now()).await?,
        purges: purges::told(&mut tx, told).await?,
        shipped_through: u64::try_from(newest.shipped).unwrap_or(0),
        others: newest
            .others
            .into_iter()
            .zip(newest.ends)
            .zip(newest.leases)
            .map(|((ledger, end), leases)| LedgerEnd {
                ledger,
                shipped_through: u64::try_from(end).unwrap_or(0),
                leases,
            })
            .collect(),
    };
    tx.commit().await?;
    Ok(changes)
}

/// Everything there is, in one piece: for commands that end with it. What changed while it was read may be in it twice, as
/// it was and then as it is.
///
/// # Errors
/// As [`changes_since`].
pub async fn everything(domain: &Domain, ledger: &str) -> Result<Changes> {
    let mut all = changes_since(domain, ledger, 0).await?;
    while all.more {
        let part = changes_since(domain, ledger, all.version).await?;
        all.version = part.version;
        all.more = part.more;
        all.routing = part.routing.or(all.routing);
        all.keys.extend(part.keys);
        all.entitlements.extend(part.entitlements);
        all.purges.extend(part.purges);
    }
    Ok(all)
}

/// The changes that an answer tells.
#[derive(Clone, Copy)]
pub(crate) struct Versions {
    /// They come after this one.
    pub(crate) after: i64,
    /// The last of them.
    pub(crate) through: i64,
}

impl Versions {
    fn contains(self, version: i64) -> bool {
        self.after < version && version <= self.through
    }
}

fn number(n: i16) -> Result<u16> {
    u16::try_from(n).map_err(DomainError::internal)
}

async fn routing(domain: &Domain, connection: &mut PgConnection) -> Result<Routing> {
    let upstreams =
        sqlx::query!("SELECT number, slug, url, first_byte_timeout_ms, idle_timeout_ms, policy FROM upstreams")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .map(|u| {
                Ok(UpstreamRecord {
                    number: number(u.number)?,
                    slug: u.slug,
                    url: u.url,
                    first_byte_timeout_ms: u32::try_from(u.first_byte_timeout_ms).map_err(DomainError::internal)?,
                    idle_timeout_ms: u32::try_from(u.idle_timeout_ms).map_err(DomainError::internal)?,
                    policy: serde_json::from_value(u.policy)?,
                })
            })
            .collect::<Result<_>>()?;
    let meters = sqlx::query!("SELECT number, slug, statuses FROM meters")
        .fetch_all(&mut *connection)
        .await?
        .into_iter()
        .map(|m| {
            Ok(MeterRecord {
                number: number(m.number)?,
                slug: m.slug,
                statuses: m.statuses,
            })
        })
        .collect::<Result<_>>()?;
    let routes: Vec<RouteRecord> = sqlx::query!(
        r#"SELECT number, slug, methods AS "methods: Vec<Method>", path, upstream, meter, weight, feature, policy
           FROM routes WHERE retired_at IS NULL"#
    )
    .fetch_all(&mut *connection)
    .await?
    .into_iter()
    .map(|r| {
        Ok(RouteRecord {
            number: number(r.number)?,
            slug: r.slug,
            methods: r.methods,
            path: r.path,
            upstream: number(r.upstream)?,
            meter: number(r.meter)?,
            weight: u32::try_from(r.weight).map_err(DomainError::internal)?,
            feature: r.feature,
            policy: serde_json::from_value(r.policy)?,
        })
    })
    .collect::<Result<_>>()?;
    let issuers = catalogue::issuers::records(&mut *connection).await?;
    Ok(Routing {
        upstreams,
        token_plans: token_plans(&mut *connection, &issuers, domain.clock.now()).await?,
        anonymous_plans: anonymous_plans(&mut *connection, &routes, domain.clock.now()).await?,
        issuers,
        routes,
        meters,
        portal_url: domain.settings.portal_url.clone(),
        gateway_url: domain.settings.gateway_url.clone(),
    })
}

/// The plans that routes let callers without a credential be on.
async fn anonymous_plans(connection: &mut PgConnection, routes: &[RouteRecord], now: Time) -> Result<Vec<Entitlement>> {
    let named = routes.iter().filter_map(|r| r.policy.auth.anonymous_plan.as_deref());
    let mut plans = Vec::new();
    for slug in named.collect::<BTreeSet<&str>>() {
        match entitlements::anonymous(connection, slug, now).await? {
            Some(plan) => plans.push(plan),
            None => tracing::error!(plan = slug, "callers without a credential cannot be on this plan"),
        }
    }
    Ok(plans)
}

/// The plans that tokens may name.
async fn token_plans(connection: &mut PgConnection, issuers: &[IssuerRecord], now: Time) -> Result<Vec<Entitlement>> {
    let named = issuers.iter().flat_map(|i| &i.file.plans);
    let mut plans = Vec::new();
    for slug in named.collect::<BTreeSet<&String>>() {
        match entitlements::of_token(connection, slug, now).await? {
            Some(plan) => plans.push(plan),
            None => tracing::error!(plan = slug, "there is no such plan; tokens that name it are refused"),
        }
    }
    Ok(plans)
}

async fn keys(connection: &mut PgConnection, told: Versions, now: Time) -> Result<Vec<KeyRecord>> {
    // A slug that no route has any more allows nothing: the list gets shorter, never absent.
    let mut rows = sqlx::query!(
        r#"SELECT id, consumer_id, environment, lookup, mac, pepper, revoked_at IS NOT NULL AS "revoked!", expires_at,
                  CASE WHEN routes IS NOT NULL
                       THEN ARRAY (SELECT r.number FROM routes r WHERE r.slug = ANY(keys.routes) ORDER BY 1) END
                  AS "routes?: Vec<i16>", root_id AS "root: KeyId", quota_units, budget_minor
           FROM keys WHERE version > $1 AND version <= $2"#,
        told.after,
        told.through,
    )
    .fetch(&mut *connection);
    let mut keys = Vec::new();
    let mut limits = HashMap::new();
    while let Some(k) = rows.try_next().await? {
        let routes = k.routes.map(|all| all.into_iter().map(number).collect::<Result<_>>());
        if k.quota_units.is_some() || k.budget_minor.is_some() {
            let set = OfChain {
                root: k.root,
                limits: Limits {
                    quota_units: k.quota_units,
                    budget_minor: k.budget_minor,
                },
            };
            limits.insert(k.id, set);
        }
        keys.push(KeyRecord {
            id: k.id,
            lookup: u64::try_from(k.lookup).map_err(DomainError::internal)?,
            mac: k
                .mac
                .try_into()
                .map_err(|_| DomainError::internal("a MAC is not 32 bytes"))?,
            pepper: number(k.pepper)?,
            consumer: k.consumer_id,
            environment: k.environment,
            revoked: k.revoked,
            expires_at: k.expires_at,
            routes: routes.transpose()?,
            limits: None,
        });
    }
    drop(rows);
    key_limits::fill(connection, &mut keys, &limits, now).await?;
    Ok(keys)
}

async fn entitlements(connection: &mut PgConnection, told: Versions, now: Time) -> Result<Vec<Entitlement>> {
    let records = sqlx::query_scalar!(
        "SELECT record FROM entitlements WHERE version > $1 AND version <= $2",
        told.after,
        told.through,
    )
    .fetch_all(&mut *connection)
    .await?;
    let records = records
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<_>, _>>()?;
    with_usage(connection, records, now).await
}

/// The consumer's entitlement as the gateway has it now, with what is used.
pub(crate) async fn entitlement_of(
    connection: &mut PgConnection,
    consumer: ConsumerId,
    environment: Environment,
    now: Time,
) -> Result<Option<Entitlement>> {
    let record = sqlx::query_scalar!(
        "SELECT record FROM entitlements WHERE consumer_id = $1 AND environment = $2",
        consumer as ConsumerId,
        environment as Environment,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(record) = record else { return Ok(None) };
    Ok(with_usage(connection, vec![serde_json::from_value(record)?], now)
        .await?
        .pop())
}

/// The live entitlements of these consumers as a gateway has them now.
pub(crate) async fn live_of(
    connection: &mut PgConnection,
    consumers: &[ConsumerId],
    now: Time,
) -> Result<Vec<Entitlement>> {
    let records = sqlx::query_scalar!(
        "SELECT record FROM entitlements WHERE consumer_id = ANY($1) AND environment = 'live'",
        consumers as &[ConsumerId],
    )
    .fetch_all(&mut *connection)
    .await?;
    let records = records
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<_>, _>>()?;
    with_usage(connection, records, now).await
}

/// Fills in what is used of each meter in the period that holds `now`, over all plan versions of that period.
pub(crate) async fn with_usage(
    connection: &mut PgConnection,
    mut records: Vec<Entitlement>,
    now: Time,
) -> Result<Vec<Entitlement>> {
    for record in &mut records {
        record.period = rolled(record.period, now);
    }
    let consumers: Vec<String> = records.iter().map(|r| r.consumer.to_string()).collect();
    let environments: Vec<String> = records.iter().map(|r| r.environment.to_string()).collect();
    let starts: Vec<Time> = records.iter().map(|r| r.period.start).collect();
    let rows = sqlx::query!(
        r#"SELECT u.consumer_id, u.environment, u.meter, sum(u.units)::bigint AS "units!"
           FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS w (consumer_id, environment, period_start)
           JOIN usage_periods u USING (consumer_id, environment, period_start)
           GROUP BY u.consumer_id, u.environment, u.meter"#,
        &consumers,
        &environments,
        &starts as &[Time],
    )
    .fetch_all(&mut *connection)
    .await?;
    let used: HashMap<(ConsumerId, Environment, i16), u64> = rows
        .into_iter()
        .map(|r| {
            let units = u64::try_from(r.units).unwrap_or(0);
            ((r.consumer_id, r.environment, r.meter), units)
        })
        .collect();
    for record in &mut records {
        for meter in &mut record.meters {
            let key = (record.consumer, record.environment, small(meter.meter));
            meter.used = used.get(&key).copied().unwrap_or(0);
        }
    }
    settled::fill(connection, &mut records).await?;
    marks::fill(connection, &mut records, now).await?;
    Ok(records)
}

/// The period that holds `now`, by the gateway's rule for a record whose period has ended: periods of the same length
/// follow it until the record is renewed.
pub(crate) fn rolled(period: Period, now: Time) -> Period {
    let length = period.start.ms_until(period.end);
    if now < period.end || length <= 0 {
        return period;
    }
    let passed = period.start.ms_until(now) / length;
    let start = period.start.plus_ms(passed.saturating_mul(length));
    Period {
        start,
        end: start.plus_ms(length),
    }
}

/// Hints that something changed.
pub struct Hints(PgListener);

/// Begins to listen.
///
/// # Errors
/// When the database cannot be reached.
pub async fn listen(domain: &Domain) -> Result<Hints> {
    let mut listener = PgListener::connect_with(&domain.pool).await?;
    listener.listen("snapshot").await?;
    Ok(Hints(listener))
}

/// The part of PostgreSQL's queue of notifications that is in use, 0 to 1. A listener anywhere on the server that stays in a
/// transaction keeps it from being emptied; once it is full, nothing commits that tells gateways of a change.
///
/// # Errors
/// When the database fails.
pub async fn hint_queue(domain: &Domain) -> Result<f64> {
    let used = sqlx::query_scalar("SELECT pg_notification_queue_usage()");
    Ok(used.fetch_one(&domain.pool).await?)
}

impl Hints {
    /// Waits for the next hint. A lost connection is made again, and that is a hint too, because notifications may
    /// have been missed. Hints that came together are one.
    pub async fn next(&mut self) {
        match self.0.try_recv().await {
            Ok(_) => while self.0.next_buffered().is_some() {},
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "hints of changes cannot be heard"
                );
                tokio::time::sleep(std::time::Duration::from_millis(RECONNECT_MS)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_that_ended_is_followed_by_its_like() {
        let at = Time::from_unix_s;
        let first = Period {
            start: at(100),
            end: at(200),
        };
        assert_eq!(rolled(first, at(199)), first);
        assert_eq!(rolled(first, at(50)), first);
        assert_eq!(
            rolled(first, at(200)),
            Period {
                start: at(200),
                end: at(300)
            }
        );
        assert_eq!(
            rolled(first, at(450)),
            Period {
                start: at(400),
                end: at(500)
            }
        );
    }
}
