//! The request log: the last requests with filters, and the job that drops what is older than the retention.

use super::marks::TellMarks;
use super::report::reading;
use crate::jobs::{self, Job, Registry};
use crate::{Domain, Result, Viewer};
use model::access::Environment;
use model::{ConsumerId, KeyId, RequestId, Time};
use serde::{Deserialize, Serialize};

/// Requests that the log shows.
pub const LOG_LINES: i64 = 100;
/// How long single requests are kept, in days. The aggregates stay.
pub const RETENTION_DAYS: i64 = 30;
/// Rows deleted by one statement.
const DELETE_BATCH: i64 = 10_000;
/// Statements in one run of the job: below its time limit by far.
const DELETE_ROUNDS: u32 = 50;
/// How often old requests are dropped, in seconds.
const DROP_EVERY_S: i64 = 3_600;

/// Which requests to show; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// First digit of the status, 1 to 5.
    pub class: Option<i16>,
    /// Slug of the route.
    pub route: Option<String>,
    /// The key.
    pub key: Option<KeyId>,
    /// Live or test.
    pub environment: Option<Environment>,
    /// Only what the gateway answered itself.
    pub refused: bool,
}

/// A request as the log shows it.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// Its id, as in the answer's `X-Request-Id`.
    pub request: RequestId,
    /// When.
    pub at: Time,
    /// Live or test.
    pub environment: Environment,
    /// The key's name.
    pub key_name: Option<String>,
    /// The key's last characters.
    pub key_last4: Option<String>,
    /// Slug of the issuer, for a caller with a token in place of a key.
    pub issuer: Option<String>,
    /// Slug of the route; none when none matched.
    pub route: Option<String>,
    /// Status the client saw.
    pub status: i16,
    /// Number of the gateway's refusal; 0 when it did not refuse.
    pub refusal: i16,
    /// The feature variants it was made under: `ranking=b`.
    pub variants: Option<String>,
    /// Units counted, so far where it is still open.
    pub units: i64,
    /// From the first byte of the request to the last of the answer; of a WebSocket that is counted by its time, that time.
    pub duration_us: i64,
    /// Bytes of the answer's body, or those that a WebSocket's upstream sent.
    pub response_bytes: i64,
}

/// The last [`LOG_LINES`] requests that pass the filter, newest first, each with all of its parts.
///
/// # Errors
/// When the database fails.
pub async fn requests(domain: &Domain, viewer: &Viewer, filter: &LogFilter) -> Result<Vec<LogLine>> {
    let mut tx = reading(domain).await?;
    Ok(sqlx::query_as!(
        LogLine,
        r#"SELECT q.request_id AS "request: RequestId", q.at, q.environment, k.name AS "key_name?",
                  k.last4 AS "key_last4?", i.slug AS "issuer?", r.slug AS "route?", q.status, q.refusal,
                  q.units + coalesce(p.units, 0) AS "units!",
                  q.duration_us + coalesce(p.duration_us, 0) AS "duration_us!",
                  q.response_bytes + coalesce(p.response_bytes, 0) AS "response_bytes!", v.words AS "variants?"
           FROM requests q LEFT JOIN request_parts p ON q.status = 101 AND p.request_id = q.request_id
                           LEFT JOIN variant_sets v ON v.number = q.variants LEFT JOIN keys k ON k.id = q.key_id
                           LEFT JOIN issuers i ON i.key_id = q.key_id LEFT JOIN routes r ON r.number = q.route
           WHERE q.consumer_id = $1 AND NOT q.continues
             AND ($2::smallint IS NULL OR q.status BETWEEN $2 * 100 AND $2 * 100 + 99)
             AND ($3::text IS NULL OR r.slug = $3)
             AND ($4::text IS NULL OR q.key_id = $4)
             AND ($5::text IS NULL OR q.environment = $5)
             AND (NOT $6 OR (q.refusal <> 0 AND q.status >= 400))
           ORDER BY q.at DESC, q.seq DESC LIMIT $7"#,
        viewer.consumer() as ConsumerId,
        filter.class as Option<i16>,
        filter.route.as_deref(),
        filter.key as Option<KeyId>,
        filter.environment as Option<Environment>,
        filter.refused,
        LOG_LINES,
    )
    .fetch_all(&mut *tx)
    .await?)
}

/// Whether the consumer ever had a request let through.
///
/// # Errors
/// When the database fails.
pub async fn has_requests(domain: &Domain, viewer: &Viewer) -> Result<bool> {
    let there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM usage_hours WHERE consumer_id = $1 AND requests > refused) AS "there!""#,
        viewer.consumer() as ConsumerId,
    )
    .fetch_one(&domain.pool)
    .await?;
    Ok(there)
}

/// Drops requests older than [`RETENTION_DAYS`].
#[derive(Debug, Serialize, Deserialize)]
pub struct DropOldRequests {}

#[async_trait::async_trait]
impl Job for DropOldRequests {
    const KIND: &'static str = "usage.drop_old_requests";
    const EVERY_S: Option<i64> = Some(DROP_EVERY_S);

    fn dedup_key(&self) -> Option<String> {
        Some(String::new())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let now = domain.clock.now();
        super::leases::drop_old(domain).await?;
        let oldest = now.plus_s(-RETENTION_DAYS * 86_400);
        sqlx::query!("DELETE FROM request_parts WHERE last_at < $1", oldest)
            .execute(&domain.pool)
            .await?;
        for _ in 0..DELETE_ROUNDS {
            let gone = sqlx::query!(
                "DELETE FROM requests WHERE (ledger, seq) IN
                    (SELECT ledger, seq FROM requests WHERE at < $1 ORDER BY at LIMIT $2)",
                oldest,
                DELETE_BATCH,
            )
            .execute(&domain.pool)
            .await?
            .rows_affected();
            if gone == 0 {
                return Ok(());
            }
        }
        // There is more.
        let mut connection = domain.pool.acquire().await?;
        jobs::enqueue(domain, &mut connection, self, now).await
    }
}

/// The jobs of usage.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<DropOldRequests>().with::<TellMarks>()
}

/// Starts the jobs that repeat; doing so again changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    let mut connection = domain.pool.acquire().await?;
    let now = domain.clock.now();
    jobs::enqueue(domain, &mut connection, &DropOldRequests {}, now).await?;
    jobs::enqueue(domain, &mut connection, &TellMarks {}, now).await
}
