//! The requests themselves, a row each.

use super::{saturating, small};
use crate::Result;
use crate::copy::CopyIn;
use model::usage::UsageRecord;
use sqlx::PgConnection;

/// Adds them. Thousands may come at once, so they are copied in.
pub(super) async fn add(connection: &mut PgConnection, ledger: &str, records: &[&UsageRecord]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let statement = "COPY requests (ledger, seq, request_id, at, consumer_id, environment, key_id, route, meter, units,
                                    status, refusal, request_bytes, response_bytes, duration_us, variants,
                                    continues)
                     FROM STDIN (FORMAT binary)";
    let mut copy = CopyIn::begin(connection, statement, 17).await?;
    for r in records {
        copy.row().await?;
        copy.text(ledger);
        copy.bigint(saturating(r.seq));
        copy.shown(&r.request);
        copy.time(r.at);
        copy.shown(&r.consumer);
        copy.text(r.environment.word());
        copy.shown(&r.key);
        copy.smallint(small(r.route));
        copy.smallint(small(r.meter));
        copy.bigint(i64::from(r.units));
        copy.smallint(small(r.status));
        copy.smallint(i16::from(r.refusal));
        copy.bigint(saturating(r.request_bytes));
        copy.bigint(saturating(r.response_bytes));
        copy.bigint(i64::from(r.duration_us));
        copy.smallint(small(r.variants));
        copy.boolean(r.continues);
    }
    copy.finish().await?;
    Ok(())
}
