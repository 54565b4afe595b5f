//! What the further parts of requests come to: of WebSockets that are counted by their time.

use super::{saturating, summed};
use crate::Result;
use model::usage::UsageRecord;
use model::{RequestId, Time};
use sqlx::PgConnection;

#[derive(Default)]
struct Parts {
    last_at: Option<Time>,
    units: i64,
    duration_us: i64,
    response_bytes: i64,
}

impl Parts {
    fn add(&mut self, r: &UsageRecord) {
        self.last_at = self.last_at.max(Some(r.at));
        self.units += i64::from(r.units);
        self.duration_us += i64::from(r.duration_us);
        self.response_bytes = self.response_bytes.saturating_add(saturating(r.response_bytes));
    }
}

/// Adds to the sums that the log shows.
pub(super) async fn add(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<()> {
    let further = records.iter().copied().filter(|r| r.continues);
    let parts: Vec<(RequestId, Parts)> = summed(further, |r| r.request, Parts::add);
    if parts.is_empty() {
        return Ok(());
    }
    let number = |f: fn(&Parts) -> i64| parts.iter().map(|(_, p)| f(p)).collect::<Vec<_>>();
    sqlx::query!(
        "INSERT INTO request_parts AS p (request_id, last_at, units, duration_us, response_bytes)
         SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[])
         ON CONFLICT (request_id) DO UPDATE SET
             last_at = greatest(p.last_at, excluded.last_at), units = p.units + excluded.units,
             duration_us = p.duration_us + excluded.duration_us,
             response_bytes = p.response_bytes + excluded.response_bytes",
        &parts.iter().map(|(id, _)| *id).collect::<Vec<_>>() as &[RequestId],
        &parts.iter().filter_map(|(_, p)| p.last_at).collect::<Vec<_>>() as &[Time],
        &number(|p| p.units),
        &number(|p| p.duration_us),
        &number(|p| p.response_bytes),
    )
    .execute(connection)
    .await?;
    Ok(())
}
