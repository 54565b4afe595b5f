//! When keys were last used.

use super::summed;
use crate::Result;
use model::usage::UsageRecord;
use model::{KeyId, Time};
use sqlx::PgConnection;

/// Notes when keys were last used, at most once a minute each.
pub(super) async fn touch(connection: &mut PgConnection, records: &[&UsageRecord]) -> Result<()> {
    let later = |at: &mut Option<Time>, r: &UsageRecord| *at = (*at).max(Some(r.at));
    let last: Vec<(KeyId, Option<Time>)> = summed(records.iter().copied(), |r| r.key, later);
    // A row that another batch is writing right now is skipped: the next batch writes it.
    sqlx::query!(
        "UPDATE keys k SET last_used_at = due.at FROM (
             SELECT k.id, n.at FROM unnest($1::text[], $2::timestamptz[]) AS n (id, at) JOIN keys k ON k.id = n.id
             WHERE k.last_used_at IS NULL OR k.last_used_at <= n.at - interval '1 minute'
             ORDER BY k.id FOR NO KEY UPDATE OF k SKIP LOCKED
         ) due WHERE k.id = due.id",
        &last.iter().map(|(id, _)| *id).collect::<Vec<_>>() as &[KeyId],
        &last.iter().filter_map(|(_, at)| *at).collect::<Vec<_>>() as &[Time],
    )
    .execute(connection)
    .await?;
    Ok(())
}
