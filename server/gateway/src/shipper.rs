//! Brings ledger records to the control plane, in order. The sink moves the cursor in the transaction that counts the
//! records, so after any failure the cursor is asked for and the rest is sent again.

use crate::ledger::Ledger;
use crate::source::{SourceError, UsageSink};
use crate::worker::Shared;
use model::usage::UsageBatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Most records in a batch at first, at the end, and where a long transaction would keep leases waiting.
const BATCH: usize = 5_000;
/// Most records in a batch ever, some 15 MB on their way: twice as many go as long as batches are full and taken.
const BATCH_MOST: usize = 40_000;
/// Least: half as many go after each that was not taken, because it may be too much for a slow disk.
const BATCH_LEAST: usize = 1_000;
/// A batch of so many shows that there is much to do. What storing it costs goes by the keys that were used, so fewer and
/// larger batches are cheaper: the next one waits for [`BUSY_PAUSE`].
const BUSY_BATCH: usize = 2_000;
/// That wait. It is part of the time until usage is seen and until other gateways hear of it.
const BUSY_PAUSE: Duration = Duration::from_millis(600);
/// Longest wait for the sink.
const SHIP_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for the last batches at shutdown; what is left is shipped after the next start.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Longest wait for leases to be given back then.
const END_WAIT: Duration = Duration::from_secs(2);

/// Runs until told to stop, and then until everything is shipped or [`LAST_WAIT`] is over.
pub(crate) async fn run(
    shared: Arc<Shared>,
    sink: Arc<dyn UsageSink>,
    shipped: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) {
    let mut shipper = Shipper {
        ledger: Arc::clone(&shared.ledger),
        sink,
        shipped,
        cursor: None,
        size: BATCH,
        size_most: if shared.tables.desk.is_some() {
            BATCH
        } else {
            BATCH_MOST
        },
    };
    let mut retry = RETRY_FIRST;
    let mut pruned = Instant::now();
    loop {
        let pause = match shipper.step().await {
            Ok(step) if step.is_full => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(step) => {
                retry = RETRY_FIRST;
                let is_busy = step.records >= BUSY_BATCH;
                let least = if is_busy { BUSY_PAUSE } else { Duration::ZERO };
                shared.limits.ship_interval.max(least)
            }
            Err(error) => {
                tracing::warn!(%error, "usage cannot be shipped; it stays in the ledger");
                shipper.failed();
                retry = (retry * 2).min(RETRY_MOST);
                retry
            }
        };
        if pruned.elapsed() > PRUNE_EVERY {
            pruned = Instant::now();
            let through = shipper.shipped.load(Ordering::Relaxed);
            shared
                .ledger
                .prune(through, shared.limits.retention, shared.clock.security_now());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => break,
        }
    }
    // Small ones, so that something is through when the time is over.
    (shipper.size, shipper.size_most) = (BATCH.min(shipper.size), BATCH);
    let rest = async { while shipper.step().await.is_ok_and(|step| step.records > 0) {} };
    if timeout(LAST_WAIT, rest).await.is_err() {
        tracing::warn!("usage is left in the ledger for the next start");
    }
    if shared.tables.desk.is_some() {
        // What is not shipped yet is still kept for it.
        let ending = shipper.sink.end_leases(shared.ledger.id(), shared.ledger.committed());
        if !matches!(timeout(END_WAIT, ending).await, Ok(Ok(()))) {
            tracing::warn!("leases cannot be given back: they are kept until the next start on this folder");
        }
    }
}

/// Ships what an ended gateway left behind: how far the ledger is shipped then, and how many records that took.
///
/// # Errors
/// When the ledger cannot be read, or the sink does not take it.
pub(crate) async fn finish(ledger: Arc<Ledger>, sink: Arc<dyn UsageSink>) -> Result<(u64, usize), SourceError> {
    let mut shipper = Shipper::new(ledger, sink, Arc::default(), BATCH_MOST);
    let mut records = 0;
    loop {
        match shipper.step().await?.records {
            0 => return Ok((shipper.shipped.load(Ordering::Relaxed), records)),
            more => records += more,
        }
    }
}

struct Shipper {
    ledger: Arc<Ledger>,
    sink: Arc<dyn UsageSink>,
    shipped: Arc<AtomicU64>,
    cursor: Option<u64>,
    /// Most records in the next batch, and ever.
    size: usize,
    size_most: usize,
}

/// A batch that was taken.
struct Step {
    records: usize,
    /// Whether there may be more to ship.
    is_full: bool,
}

impl Shipper {
    fn new(ledger: Arc<Ledger>, sink: Arc<dyn UsageSink>, shipped: Arc<AtomicU64>, size_most: usize) -> Self {
        Self {
            ledger,
            sink,
            shipped,
            cursor: None,
            size: BATCH,
            size_most,
        }
    }

    /// A batch was not taken, or nobody knows: where to go on from is asked for, and the next one is smaller.
    fn failed(&mut self) {
        self.cursor = None;
        self.size = (self.size / 2).max(BATCH_LEAST);
    }

    /// Ships a batch.
    async fn step(&mut self) -> Result<Step, SourceError> {
        let ledger = &self.ledger;
        let slow = |_| SourceError::new("no answer in time");
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => timeout(SHIP_TIMEOUT, self.sink.shipped_through(ledger.id()))
                .await
                .map_err(slow)??,
        };
        self.cursor = Some(cursor);
        self.shipped.store(cursor, Ordering::Relaxed);
        if cursor > ledger.committed() {
            return Err(SourceError(format!(
                "the control plane has records of ledger {} up to {cursor}, the ledger itself ends at {}: the data \
                 folder was set back; start with an empty one",
                ledger.id(),
                ledger.committed()
            )));
        }
        let records = ledger.read(cursor + 1, self.size).map_err(SourceError::new)?;
        let Some(last) = records.last().map(|r| r.seq) else {
            return Ok(Step {
                records: 0,
                is_full: false,
            });
        };
        let step = Step {
            records: records.len(),
            is_full: records.len() == self.size,
        };
        let batch = UsageBatch {
            ledger: ledger.id().to_owned(),
            records,
        };
        timeout(SHIP_TIMEOUT, self.sink.ship(batch)).await.map_err(slow)??;
        self.cursor = Some(last);
        self.shipped.store(last, Ordering::Relaxed);
        if step.is_full {
            self.size = (self.size * 2).min(self.size_most);
        }
        Ok(step)
    }
}
