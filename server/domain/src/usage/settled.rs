//! What a period cost before its plan was changed: the part of a spend cap that the gateway must take as gone.
//!
//! The rule is [`crate::cost`]'s: units that count under an earlier plan version cost what that version says.

use crate::{DomainError, Result, cost};
use model::access::{Environment, Interval};
use model::snapshot::Entitlement;
use model::{ConsumerId, Time};
use sqlx::PgConnection;
use std::collections::HashMap;

/// Fills in, for the period of each record, what counts under other plan versions than the record's: units, and money.
///
/// # Errors
/// When the database fails, or an amount does not fit.
pub(crate) async fn fill(connection: &mut PgConnection, records: &mut [Entitlement]) -> Result<()> {
    let mut live = HashMap::new();
    for (place, record) in (0usize..).zip(records.iter()) {
        if let (Environment::Live, Some(subscription), Some(version)) =
            (record.environment, record.subscription, record.plan_version)
        {
            live.insert(
                record.consumer,
                (
                    place,
                    subscription.to_string(),
                    version.to_string(),
                    record.period.start,
                ),
            );
        }
    }
    let rows = sqlx::query!(
        r#"SELECT u.consumer_id AS "consumer: ConsumerId", u.meter, m.slug, u.units, s.interval AS "interval: Interval", v.terms
           FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])
                AS w (consumer_id, subscription_id, version, period_start)
           JOIN usage_periods u ON u.consumer_id = w.consumer_id AND u.environment = 'live'
                AND u.period_start = w.period_start AND u.plan_version_id <> w.version AND u.units > 0
           JOIN meters m ON m.number = u.meter
           JOIN subscriptions s ON s.id = w.subscription_id
           JOIN plan_versions v ON v.id = u.plan_version_id"#,
        &live.keys().copied().collect::<Vec<_>>() as &[ConsumerId],
        &live.values().map(|l| l.1.clone()).collect::<Vec<_>>(),
        &live.values().map(|l| l.2.clone()).collect::<Vec<_>>(),
        &live.values().map(|l| l.3).collect::<Vec<_>>() as &[Time],
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        let Some(record) = live.get(&row.consumer).and_then(|l| records.get_mut(l.0)) else {
            continue;
        };
        let units = u64::try_from(row.units).map_err(DomainError::internal)?;
        let terms = serde_json::from_value(row.terms)?;
        let lines = cost::usage_lines(&terms, row.interval, &row.slug, units, record.currency)?.unwrap_or_default();
        let amount = cost::sum(record.currency, lines.iter().map(|l| l.amount))?;
        record.settled_minor = record.settled_minor.saturating_add(amount.minor);
        let number = u16::try_from(row.meter).map_err(DomainError::internal)?;
        if let Some(meter) = record.meters.iter_mut().find(|m| m.meter == number) {
            meter.settled_units = meter.settled_units.saturating_add(units);
        }
    }
    Ok(())
}
