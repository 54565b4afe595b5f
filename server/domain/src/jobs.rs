//! The job queue: one table, claimed with `SKIP LOCKED`, at least once, so every job is idempotent.
//!
//! A job is enqueued in the transaction of its cause and runs after the commit. It fails by returning an error and is
//! tried again after 2^attempts seconds, at most an hour apart; after [`MAX_ATTEMPTS`] the row stays, marked dead, for
//! an operator to see. A job that repeats ([`Job::EVERY_S`]) never dies: its successor is there before it runs, and is the
//! next try when it fails.

use crate::{Domain, Result};
use async_trait::async_trait;
use model::Time;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Tries before a job is dead: with the back-off about ten hours.
pub const MAX_ATTEMPTS: i32 = 20;
/// Longest wait between two tries, in seconds.
const MAX_BACKOFF_S: i64 = 3_600;
/// Longest wait after a job that repeats has failed, in seconds.
const REPEAT_RETRY_S: i64 = 60;
/// How long an idle worker sleeps, in milliseconds. Also the longest a job waits for a worker.
const POLL_MS: u64 = 250;
/// A job that takes longer is stopped and tried again.
const MAX_RUN: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a claimed job belongs to its worker, in seconds: [`MAX_RUN`] and time to note the outcome.
const LEASE_S: i64 = 90;

/// A kind of work. The value itself is the payload.
#[async_trait]
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its name in the table; never changes.
    const KIND: &'static str;
    /// Whether it asks Stripe. Such a job waits, untried, while no Stripe key is configured.
    const ASKS_STRIPE: bool = false;
    /// Seconds between the runs of a job that repeats for ever. It may enqueue itself to run sooner.
    const EVERY_S: Option<i64> = None;
    /// Two unfinished jobs with the same key are one; one that repeats has a key.
    fn dedup_key(&self) -> Option<String> {
        None
    }
    /// Does it.
    async fn run(&self, domain: &Domain) -> Result<()>;
}

/// Enqueues a job in the caller's transaction, to run at `run_at` or later.
///
/// # Errors
/// When the database fails.
pub async fn enqueue<J: Job>(
    domain: &Domain,
    connection: &mut sqlx::PgConnection,
    job: &J,
    run_at: Time,
) -> Result<()> {
    sqlx::query!(
        // The earlier time wins when the job is already there.
        "INSERT INTO jobs (kind, dedup_key, payload, run_at, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (kind, dedup_key) WHERE dead_at IS NULL AND dedup_key IS NOT NULL
         DO UPDATE SET run_at = least(jobs.run_at, excluded.run_at)",
        J::KIND,
        job.dedup_key(),
        serde_json::to_value(job)?,
        run_at,
        domain.clock.now(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[async_trait]
trait Runner: Send + Sync {
    fn asks_stripe(&self) -> bool;
    /// Enqueues the successor of one that repeats; tells whether it does.
    async fn repeat(&self, domain: &Domain, payload: &serde_json::Value) -> Result<bool>;
    async fn run(&self, domain: &Domain, payload: serde_json::Value) -> Result<()>;
}

struct Typed<J>(std::marker::PhantomData<fn() -> J>);

#[async_trait]
impl<J: Job> Runner for Typed<J> {
    fn asks_stripe(&self) -> bool {
        J::ASKS_STRIPE
    }
    async fn repeat(&self, domain: &Domain, payload: &serde_json::Value) -> Result<bool> {
        let Some(every_s) = J::EVERY_S else { return Ok(false) };
        let next: J = serde_json::from_value(payload.clone())?;
        let mut connection = domain.pool.acquire().await?;
        enqueue(domain, &mut connection, &next, domain.clock.now().plus_s(every_s)).await?;
        Ok(true)
    }
    async fn run(&self, domain: &Domain, payload: serde_json::Value) -> Result<()> {
        serde_json::from_value::<J>(payload)?.run(domain).await
    }
}

/// The kinds of work a worker knows.
#[derive(Clone, Default)]
pub struct Registry(HashMap<&'static str, Arc<dyn Runner>>);

impl Registry {
    /// Adds a kind.
    #[must_use]
    pub fn with<J: Job>(mut self) -> Self {
        self.0.insert(J::KIND, Arc::new(Typed::<J>(std::marker::PhantomData)));
        self
    }

    /// Runs one due job, if there is one; tells whether there was.
    ///
    /// # Errors
    /// When the database fails; a job's own failure is stored, not returned.
    pub async fn run_one(&self, domain: &Domain) -> Result<bool> {
        let now = domain.clock.now();
        let configured = domain.payments.is_configured();
        let can_run = self.0.iter().filter(|(_, r)| configured || !r.asks_stripe());
        let kinds: Vec<String> = can_run.map(|(kind, _)| (*kind).to_owned()).collect();
        // Claimed by moving it past the lease: no lock is held while it runs, and a worker that dies gives it back
        // when the lease ends. Its dedup key is cleared, so that a cause which comes up meanwhile gets a run of its own.
        let row = sqlx::query!(
            "UPDATE jobs SET run_at = $3, attempts = attempts + 1, dedup_key = NULL
             WHERE id = (SELECT id FROM jobs WHERE dead_at IS NULL AND run_at <= $1 AND kind = ANY($2)
                         ORDER BY run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id, kind, payload, attempts",
            now,
            &kinds,
            now.plus_s(LEASE_S),
        )
        .fetch_optional(&domain.pool)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let Some(runner) = self.0.get(row.kind.as_str()) else {
            return Ok(false);
        };
        // First of all: whatever becomes of this run must not end the series. A worker that dies before it gives the row
        // back when the lease ends.
        let repeats = runner.repeat(domain, &row.payload).await?;
        let outcome = match tokio::time::timeout(MAX_RUN, runner.run(domain, row.payload)).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(crate::DomainError::internal(elapsed)),
        };
        match outcome {
            Ok(()) => {
                sqlx::query!("DELETE FROM jobs WHERE id = $1", row.id)
                    .execute(&domain.pool)
                    .await?;
            }
            Err(error) if repeats => fail_once(domain, row.id, &row.kind, &error).await?,
            Err(error) => fail(domain, row.id, &row.kind, row.attempts, &error).await?,
        }
        Ok(true)
    }

    /// Runs due jobs until there are none: what a test does instead of a worker.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn run_due(&self, domain: &Domain) -> Result<u32> {
        let mut count = 0;
        while self.run_one(domain).await? {
            count += 1;
        }
        Ok(count)
    }

    /// Works until cancelled.
    pub async fn work(self, domain: Domain, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.run_one(&domain).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the job queue cannot be read"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(POLL_MS)) => {}
            }
        }
    }
}

/// Ends a failed run of a job that repeats: the successor is the next try.
async fn fail_once(domain: &Domain, id: i64, kind: &str, error: &crate::DomainError) -> Result<()> {
    let cause = error.chain();
    tracing::warn!(job = kind, id, cause, "job failed");
    sqlx::query!(
        "WITH failed AS (DELETE FROM jobs WHERE id = $1)
         UPDATE jobs SET last_error = $3, run_at = least(run_at, $4)
         WHERE kind = $2 AND id <> $1 AND dedup_key IS NOT NULL AND dead_at IS NULL",
        id,
        kind,
        cause,
        domain.clock.now().plus_s(REPEAT_RETRY_S),
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

async fn fail(domain: &Domain, id: i64, kind: &str, attempts: i32, error: &crate::DomainError) -> Result<()> {
    let now = domain.clock.now();
    let dead = attempts >= MAX_ATTEMPTS;
    let backoff = 2i64
        .saturating_pow(u32::try_from(attempts).unwrap_or(0))
        .min(MAX_BACKOFF_S);
    let cause = error.chain();
    tracing::warn!(job = kind, id, attempts, dead, cause, "job failed");
    sqlx::query!(
        "UPDATE jobs SET last_error = $2, run_at = $3, dead_at = CASE WHEN $4 THEN $5::timestamptz END WHERE id = $1",
        id,
        cause,
        now.plus_s(backoff),
        dead,
        now,
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that could run now.
    pub due: i64,
    /// Jobs whose tries are used up.
    pub dead: i64,
}

/// Counts what waits and what is dead.
///
/// # Errors
/// When the database fails.
pub async fn backlog(domain: &Domain) -> Result<Backlog> {
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE dead_at IS NULL AND run_at <= $1) AS "due!", count(*) FILTER (WHERE dead_at IS NOT NULL) AS "dead!" FROM jobs"#,
        domain.clock.now(),
    )
    .fetch_one(&domain.pool)
    .await?;
    Ok(Backlog {
        due: row.due,
        dead: row.dead,
    })
}
