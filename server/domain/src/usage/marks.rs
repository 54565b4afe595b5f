//! Marks: members get a mail when so many percent of an allowance, a quota or the spend cap are used.
//!
//! The transaction that takes usage in notes whose usage grew; a job that runs every few seconds looks at those, with the
//! counts and the arithmetic that the gateway is given. A mark is a row, and its mail is stored in the same transaction,
//! so it is sent once for each mark, amount and period, whatever dies in between. When several are reached between two
//! looks, the highest is told alone.

use super::ingest::saturating;
use crate::jobs::{self, Job};
use crate::{Domain, DomainError, Result, catalogue, letters, mail, snapshot};
use model::access::Environment;
use model::quota::{DEFAULT_MARKS, Quota, is_reached};
use model::snapshot::{Entitlement, MeterEntitlement};
use model::usage::UsageRecord;
use model::{ConsumerId, Money, Time, price};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use std::collections::{BTreeSet, HashMap};

/// How often usage is looked at, in seconds: a mail that comes this late is still in time.
const EVERY_S: i64 = 10;
/// Consumers in one run of the job; the rest follows at once.
const PAGE: i64 = 200;
/// The mark at which an allowance is used up.
const ALL: u16 = 100;

/// Notes whose live usage grew, in the transaction that counts it. The row is written also where it is there already: so
/// the job waits for this transaction, or comes again.
pub(super) async fn touch(connection: &mut PgConnection, records: &[&UsageRecord], now: Time) -> Result<()> {
    let grew = records
        .iter()
        .filter(|r| r.units > 0 && r.environment == Environment::Live);
    let consumers: BTreeSet<ConsumerId> = grew.map(|r| r.consumer).collect();
    if consumers.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO usage_touched (consumer_id, touched_at) SELECT n.id, $2 FROM unnest($1::text[]) AS n (id) ORDER BY n.id
         ON CONFLICT (consumer_id) DO UPDATE SET touched_at = excluded.touched_at",
        &consumers.into_iter().collect::<Vec<_>>() as &[ConsumerId],
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// When quotas whose grace is bounded in time were used up, as far as it is known here.
pub(crate) async fn fill(connection: &mut PgConnection, records: &mut [Entitlement], now: Time) -> Result<()> {
    let timed = |m: &MeterEntitlement| m.terms.grace.is_some_and(|g| g.hours.is_some());
    let live = |r: &&Entitlement| r.environment == Environment::Live && r.meters.iter().any(timed);
    let consumers: Vec<ConsumerId> = records.iter().filter(live).map(|r| r.consumer).collect();
    if consumers.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        r#"SELECT consumer_id AS "consumer: ConsumerId", meter, period_start, amount, reached_at FROM usage_marks
           WHERE consumer_id = ANY($1) AND percent = 100 AND meter <> ''"#,
        &consumers as &[ConsumerId],
    )
    .fetch_all(connection)
    .await?;
    let reached: HashMap<_, _> = rows
        .into_iter()
        .map(|r| ((r.consumer, r.meter, r.period_start, r.amount), r.reached_at))
        .collect();
    for record in records.iter_mut().filter(|r| live(&&**r)) {
        let (consumer, start) = (record.consumer, record.period.start);
        let quotas: Vec<Quota> = record.meters.iter().map(|m| record.quota_at(m, now).0).collect();
        let meters = record.meters.iter_mut().zip(quotas);
        for (meter, quota) in meters.filter(|(m, _)| timed(m)) {
            let key = (consumer, meter.terms.meter.clone(), start, saturating(quota.units));
            meter.used_up_at = reached.get(&key).copied();
        }
    }
    Ok(())
}

/// Looks at those whose usage grew, tells their members of new marks, and comes again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TellMarks {}

#[async_trait::async_trait]
impl Job for TellMarks {
    const KIND: &'static str = "usage.tell_marks";
    const EVERY_S: Option<i64> = Some(EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let mut tx = domain.pool.begin().await?;
        let consumers = sqlx::query_scalar!(
            r#"DELETE FROM usage_touched WHERE consumer_id IN
                   (SELECT consumer_id FROM usage_touched ORDER BY consumer_id LIMIT $1 FOR UPDATE SKIP LOCKED)
               RETURNING consumer_id AS "consumer: ConsumerId""#,
            PAGE
        )
        .fetch_all(&mut *tx)
        .await?;
        if let Err(error) = tell(domain, &mut tx, &consumers).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "marks are told one by one: somebody's cannot be"
            );
            drop(tx);
            tx = domain.pool.begin().await?;
            one_by_one(domain, &mut tx, &consumers).await?;
        }
        if i64::try_from(consumers.len()).unwrap_or(PAGE) >= PAGE {
            jobs::enqueue(domain, &mut tx, self, domain.clock.now()).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Tells the members of these consumers of new marks.
async fn tell(domain: &Domain, connection: &mut PgConnection, consumers: &[ConsumerId]) -> Result<()> {
    let now = domain.clock.now();
    let meters = catalogue::meters(connection).await?;
    for record in snapshot::live_of(connection, consumers, now).await? {
        for part in parts(&record, &meters, now)? {
            part.tell(domain, connection, &record, now).await?;
        }
    }
    Ok(())
}

/// As [`tell`], each on its own: one that fails is passed over until its usage grows again.
async fn one_by_one(domain: &Domain, connection: &mut PgConnection, consumers: &[ConsumerId]) -> Result<()> {
    for consumer in consumers {
        let mut part = connection.begin().await?;
        sqlx::query!(
            "DELETE FROM usage_touched WHERE consumer_id = $1",
            *consumer as ConsumerId
        )
        .execute(&mut *part)
        .await?;
        match tell(domain, &mut part, std::slice::from_ref(consumer)).await {
            Ok(()) => part.commit().await?,
            Err(error) => {
                tracing::error!(%consumer, error = &error as &dyn std::error::Error, "marks cannot be told");
                part.rollback().await?;
                sqlx::query!(
                    "DELETE FROM usage_touched WHERE consumer_id = $1",
                    *consumer as ConsumerId
                )
                .execute(&mut *connection)
                .await?;
            }
        }
    }
    Ok(())
}

/// Something of which a part is used.
struct Part<'a> {
    /// The meter, with its name on pages and its quota; none for the spend cap.
    meter: Option<(&'a MeterEntitlement, String, Quota)>,
    used: u64,
    of: u64,
    marks: &'a [u16],
    /// `40,000 of 50,000 calls`.
    words: String,
}

fn parts<'a>(record: &'a Entitlement, names: &[catalogue::Meter], now: Time) -> Result<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    let mut cost_minor = record.settled_minor;
    for meter in &record.meters {
        let name = names.iter().find(|n| n.number == meter.meter);
        let (quota, _) = record.quota_at(meter, now);
        let (used, of) = (meter.counted(quota), quota.units);
        let unit = name.map_or("unit", |n| n.unit.as_str());
        parts.push(Part {
            words: format!("{} of {} {unit}s", grouped(used), grouped(of)),
            meter: Some((
                meter,
                name.map_or_else(|| meter.terms.meter.clone(), |n| n.name.clone()),
                quota,
            )),
            used,
            of,
            marks: meter.terms.marks(),
        });
        let units = meter.used.saturating_sub(meter.settled_units);
        let cost = price::cost(&meter.terms, units, record.currency).map_err(DomainError::internal)?;
        cost_minor = cost_minor.saturating_add(cost.minor);
    }
    if let Some(cap_minor) = record.spend_cap_minor {
        let money = |minor| Money {
            minor,
            currency: record.currency,
        };
        parts.push(Part {
            meter: None,
            used: u64::try_from(cost_minor).unwrap_or(0),
            of: u64::try_from(cap_minor).unwrap_or(0),
            marks: &DEFAULT_MARKS,
            words: format!("{} of {} usage charges", money(cost_minor), money(cap_minor)),
        });
    }
    parts.retain(|p| p.of > 0);
    Ok(parts)
}

fn grouped(units: u64) -> String {
    model::money::grouped(units)
}

impl Part<'_> {
    /// Whether gateways need to know when it was used up.
    fn is_timed(&self) -> bool {
        let grace = self.meter.as_ref().and_then(|(m, ..)| m.terms.grace);
        grace.is_some_and(|g| g.hours.is_some())
    }

    async fn tell(
        &self,
        domain: &Domain,
        connection: &mut PgConnection,
        record: &Entitlement,
        now: Time,
    ) -> Result<()> {
        let mut marks = self.marks.to_vec();
        if self.is_timed() {
            marks.push(ALL);
        }
        marks.retain(|mark| is_reached(self.used, self.of, *mark));
        marks.sort_unstable();
        marks.dedup();
        let Some(highest) = marks.last().copied() else {
            return Ok(());
        };
        let slug = self.meter.as_ref().map_or("", |(m, ..)| m.terms.meter.as_str());
        let marks: Vec<i16> = marks.into_iter().filter_map(|m| i16::try_from(m).ok()).collect();
        let new = sqlx::query_scalar!(
            "INSERT INTO usage_marks (consumer_id, meter, period_start, amount, percent, reached_at)
             SELECT $1, $2, $3, $4, n.percent, $6 FROM unnest($5::smallint[]) AS n (percent)
             ON CONFLICT DO NOTHING RETURNING percent",
            record.consumer as ConsumerId,
            slug,
            record.period.start,
            saturating(self.of),
            &marks,
            now,
        )
        .fetch_all(&mut *connection)
        .await?;
        let is_new = |mark: u16| new.iter().any(|n| u16::try_from(*n) == Ok(mark));
        if self.is_timed() && is_new(ALL) {
            // The row stays as it is and gets a new version: with it gateways hear when the grace began.
            sqlx::query!(
                "UPDATE entitlements SET period_end = period_end WHERE consumer_id = $1 AND environment = 'live'",
                record.consumer as ConsumerId
            )
            .execute(&mut *connection)
            .await?;
        }
        if is_new(highest) && self.marks.contains(&highest) {
            self.mail(domain, connection, record, highest).await?;
        }
        Ok(())
    }

    async fn mail(
        &self,
        domain: &Domain,
        connection: &mut PgConnection,
        record: &Entitlement,
        mark: u16,
    ) -> Result<()> {
        let members = sqlx::query!(
            "SELECT m.email, c.name FROM memberships s JOIN members m ON m.id = s.member_id
                                    JOIN consumers c ON c.id = s.consumer_id
             WHERE s.consumer_id = $1 AND m.verified_at IS NOT NULL AND m.disabled_at IS NULL ORDER BY m.id",
            record.consumer as ConsumerId
        )
        .fetch_all(&mut *connection)
        .await?;
        let words = letters::Mark {
            percent: mark,
            meter: self
                .meter
                .as_ref()
                .map(|(m, name, quota)| (name.as_str(), &m.terms, *quota)),
            used: &self.words,
            until: record.period.end,
        };
        for member in members {
            let letter = letters::usage_mark(&domain.settings, &member.name, &words);
            mail::send(domain, connection, &member.email, &letter).await?;
        }
        Ok(())
    }
}
