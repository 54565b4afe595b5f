//! Figures for pages: what a period has used, calls by day, errors.

use crate::catalogue::{self, issuers};
use crate::snapshot::entitlement_of;
use crate::{Domain, Result, Viewer};
use model::access::Environment;
use model::catalogue::MeterTerms;
use model::overrides::Override;
use model::quota::Quota;
use model::{ConsumerId, Period, Time};
use sqlx::{PgConnection, Postgres, Transaction};
use std::collections::BTreeMap;

/// Series that a chart keeps apart; the rest is one more.
pub const MAX_SERIES: usize = 5;
/// Most days of a chart.
pub const MAX_DAYS: i64 = 400;
const DAY_S: i64 = 86_400;

/// What is used and left in the running period.
#[derive(Debug, Clone)]
pub struct PeriodUsage {
    /// Live or test.
    pub environment: Environment,
    /// Slug of the plan; empty without one.
    pub plan: String,
    /// The running period; its end is when the counts begin anew.
    pub period: Period,
    /// Per meter.
    pub meters: Vec<MeterUsage>,
    /// When it was read.
    pub as_of: Time,
}

/// What is used and left of a meter.
#[derive(Debug, Clone)]
pub struct MeterUsage {
    /// Name that terms refer to.
    pub slug: String,
    /// Name on pages.
    pub name: String,
    /// One of what is counted, in the singular.
    pub unit: String,
    /// Units used.
    pub used: u64,
    /// Those of them that the allowance and the prices of an earlier plan were for.
    pub settled: u64,
    /// Units that count against the quota.
    pub counted: u64,
    /// Allowance and prices.
    pub terms: MeterTerms,
    /// What may be used: the allowance, or what an override says.
    pub quota: Quota,
    /// The override that the quota comes from.
    pub own: Option<Override>,
}

impl MeterUsage {
    /// Units of the quota that are left.
    pub fn left(&self) -> u64 {
        self.quota.units.saturating_sub(self.counted)
    }
    /// Units above the quota.
    pub fn over(&self) -> u64 {
        self.counted.saturating_sub(self.quota.units)
    }
}

/// A transaction for reading pages: a statement that takes two seconds is stopped, because a page that slow helps
/// nobody and a pool full of such statements harms everybody.
pub(super) async fn reading(domain: &Domain) -> Result<Transaction<'static, Postgres>> {
    let mut tx = domain.pool.begin().await?;
    sqlx::query!(
        "SELECT set_config('statement_timeout', '2s', true) AS wait, set_config('plan_cache_mode', 'force_custom_plan', true) AS plan"
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(tx)
}

/// What the running period has used; none before the account has an entitlement.
///
/// # Errors
/// When the database fails.
pub async fn period(domain: &Domain, viewer: &Viewer, environment: Environment) -> Result<Option<PeriodUsage>> {
    let now = domain.clock.now();
    let mut tx = reading(domain).await?;
    let Some(record) = entitlement_of(&mut tx, viewer.consumer(), environment, now).await? else {
        return Ok(None);
    };
    let names = catalogue::meters(&mut tx).await?;
    let meters = record.meters.iter().map(|m| {
        let name = names.iter().find(|n| n.number == m.meter);
        let (quota, own) = record.quota_at(m, now);
        MeterUsage {
            slug: m.terms.meter.clone(),
            name: name.map_or_else(|| m.terms.meter.clone(), |n| n.name.clone()),
            unit: name.map_or_else(|| "unit".to_owned(), |n| n.unit.clone()),
            used: m.used,
            settled: m.settled_outside_allowance(),
            counted: m.counted(quota),
            terms: m.terms.clone(),
            quota,
            own: own.cloned(),
        }
    });
    Ok(Some(PeriodUsage {
        environment,
        meters: meters.collect(),
        plan: record.plan,
        period: record.period,
        as_of: now,
    }))
}

/// What a chart's colours stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// One series a route.
    Route,
    /// One series a key.
    Key,
}

/// Calls by day, in UTC.
#[derive(Debug, Clone)]
pub struct Daily {
    /// The start of each day, without gaps.
    pub days: Vec<Time>,
    /// The largest series first; at most [`MAX_SERIES`] and one for the rest.
    pub series: Vec<Series>,
    /// Calls in all.
    pub requests: u64,
    /// Calls that the gateway refused.
    pub refused: u64,
    /// Calls that the API failed to answer (5xx).
    pub errors: u64,
}

/// One colour of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// The route's slug, or the key's name and last characters.
    pub label: String,
    /// Calls on each day.
    pub values: Vec<u64>,
    /// Their sum.
    pub total: u64,
}

fn day(time: Time) -> Time {
    Time::from_unix_s(time.unix_s().div_euclid(DAY_S) * DAY_S)
}

/// Calls by day within the range, at most [`MAX_DAYS`] days up to its end.
///
/// # Errors
/// When the database fails.
pub async fn by_day(
    domain: &Domain,
    viewer: &Viewer,
    environment: Environment,
    range: Period,
    group: GroupBy,
) -> Result<Daily> {
    let first = day(range.start).max(day(range.end).plus_s(-DAY_S * MAX_DAYS));
    let days: Vec<Time> = (0..=MAX_DAYS)
        .map(|n| first.plus_s(n * DAY_S))
        .take_while(|d| *d < range.end)
        .collect();
    let mut tx = reading(domain).await?;
    let rows = sqlx::query!(
        r#"SELECT date_trunc('day', hour, 'UTC') AS "day!", key_id, route, sum(requests)::bigint AS "requests!",
                  sum(refused)::bigint AS "refused!", sum(errors)::bigint AS "errors!"
           FROM usage_hours WHERE consumer_id = $1 AND environment = $2 AND hour >= $3 AND hour < $4
           GROUP BY 1, 2, 3"#,
        viewer.consumer() as ConsumerId,
        environment as Environment,
        first,
        range.end,
    )
    .fetch_all(&mut *tx)
    .await?;
    let labels = labels(&mut tx, viewer.consumer(), group).await?;
    let mut daily = Daily {
        series: Vec::new(),
        requests: 0,
        refused: 0,
        errors: 0,
        days,
    };
    let mut series: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in rows {
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let id = match group {
            GroupBy::Key => row.key_id.to_string(),
            GroupBy::Route => row.route.to_string(),
        };
        let values = series.entry(id).or_insert_with(|| vec![0; daily.days.len()]);
        let index = daily.days.iter().position(|d| *d == row.day);
        if let Some(value) = index.and_then(|i| values.get_mut(i)) {
            *value += count(row.requests);
        }
        daily.requests += count(row.requests);
        daily.refused += count(row.refused);
        daily.errors += count(row.errors);
    }
    daily.series = largest(series, &labels);
    Ok(daily)
}

/// Names the series, puts the largest first and adds up what is beyond [`MAX_SERIES`].
fn largest(series: BTreeMap<String, Vec<u64>>, labels: &BTreeMap<String, String>) -> Vec<Series> {
    let mut all: Vec<Series> = series
        .into_iter()
        .map(|(id, values)| Series {
            label: labels.get(&id).cloned().unwrap_or_else(|| "no route".to_owned()),
            total: values.iter().sum(),
            values,
        })
        .collect();
    all.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.label.cmp(&b.label)));
    if all.len() <= MAX_SERIES + 1 {
        return all;
    }
    let rest = all.split_off(MAX_SERIES);
    let days = rest.first().map_or(0, |s| s.values.len());
    all.push(Series {
        label: format!("{} others", rest.len()),
        values: (0..days)
            .map(|i| rest.iter().filter_map(|s| s.values.get(i)).sum())
            .collect(),
        total: rest.iter().map(|s| s.total).sum(),
    });
    all
}

async fn labels(
    connection: &mut PgConnection,
    consumer: ConsumerId,
    group: GroupBy,
) -> Result<BTreeMap<String, String>> {
    Ok(match group {
        GroupBy::Route => sqlx::query!("SELECT number, slug FROM routes")
            .fetch_all(connection)
            .await?
            .into_iter()
            .map(|r| (r.number.to_string(), r.slug))
            .collect(),
        GroupBy::Key => {
            let keys = sqlx::query!(
                "SELECT id, name, last4 FROM keys WHERE consumer_id = $1",
                consumer as ConsumerId
            )
            .fetch_all(&mut *connection)
            .await?;
            let keys = keys.into_iter().map(|k| (k.id, format!("{} …{}", k.name, k.last4)));
            let tokens = issuers::labels(connection).await?;
            keys.chain(tokens).map(|(id, label)| (id.to_string(), label)).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_one_series_and_nothing_is_lost() {
        let series: BTreeMap<String, Vec<u64>> = (0..9u64).map(|n| (n.to_string(), vec![n, 1])).collect();
        let labels = (0..9).map(|n| (n.to_string(), format!("route {n}"))).collect();
        let out = largest(series, &labels);
        assert_eq!(out.len(), MAX_SERIES + 1);
        assert_eq!(out[0].label, "route 8");
        assert_eq!(out[5].label, "4 others");
        assert_eq!(out[5].values, [6, 4]);
        assert_eq!(out.iter().map(|s| s.total).sum::<u64>(), 36 + 9);
    }
}
