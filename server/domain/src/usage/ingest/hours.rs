//! Usage by the hour.

use super::{saturating, small, summed};
use crate::Result;
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, Time};
use sqlx::PgConnection;

#[derive(Default)]
struct Hour {
    requests: i64,
    refused: i64,
    errors: i64,
    units: i64,
    request_bytes: i64,
    response_bytes: i64,
}

impl Hour {
    fn add(&mut self, r: &UsageRecord) {
        self.requests += i64::from(!r.continues);
        // An upstream that cannot be reached is a failure, although it is the gateway that says so.
        self.refused += i64::from(r.refusal != 0 && r.status < 500);
        self.errors += i64::from(r.status >= 500);
        self.units += i64::from(r.units);
        self.request_bytes = self.request_bytes.saturating_add(saturating(r.request_bytes));
        self.response_bytes = self.response_bytes.saturating_add(saturating(r.response_bytes));
    }
}

type HourKey = (ConsumerId, Environment, Time, KeyId, i16, i16);

fn key(r: &UsageRecord) -> HourKey {
    let (route, meter) = (small(r.route), small(r.meter));
    (r.consumer, r.environment, r.at.hour(), r.key, route, meter)
}

/// Adds to the hourly aggregates.
pub(super) async fn add(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<()> {
    let hours = summed(records.iter().copied(), key, Hour::add);
    let number = |f: fn(&Hour) -> i64| hours.iter().map(|(_, h)| f(h)).collect::<Vec<_>>();
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
        &hours.iter().map(|(k, _)| k.0).collect::<Vec<_>>() as &[ConsumerId],
        &hours.iter().map(|(k, _)| k.1).collect::<Vec<_>>() as &[Environment],
        &hours.iter().map(|(k, _)| k.2).collect::<Vec<_>>() as &[Time],
        &hours.iter().map(|(k, _)| k.3).collect::<Vec<_>>() as &[KeyId],
        &hours.iter().map(|(k, _)| k.4).collect::<Vec<_>>(),
        &hours.iter().map(|(k, _)| k.5).collect::<Vec<_>>(),
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
