//! The task that sends what requests tell of themselves.

use super::collector::{Collector, NotTaken};
use super::config::TraceConfig;
use super::part::Part;
use super::{otlp, spans};
use crate::seen::{Entry, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Most requests in a batch: with their attempts about a megabyte, of the 20 that collectors take by default.
const BATCH_MOST: usize = 512;
/// Longest time that a request waits for others to be sent with.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for requests. The task is not woken for each: that would be a system call per request.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pause after a batch that was not taken; it doubles while that goes on.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause, also when the collector wants a longer one.
const PAUSE_MOST: Duration = Duration::from_secs(30);
/// Longest time between two words about a collector that takes nothing.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// A request that is over.
pub(super) type Told = (Arc<Entry>, Outcome);

/// Spans that the collector took, and spans that nobody will ever see.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// Gathers batches and sends them.
pub(super) struct Exporter {
    waiting: Receiver<Told>,
    collector: Collector,
    counts: Arc<Counts>,
    instance: String,
    shows_client: bool,
    batch: Vec<Told>,
    /// By when everything must be sent.
    stop: watch::Receiver<Option<Instant>>,
    pause: Duration,
    complained: Option<Instant>,
}

impl Exporter {
    /// For the gateway of this name; clients' addresses are shown, or not.
    pub(super) fn new(
        config: &TraceConfig,
        waiting: Receiver<Told>,
        counts: Arc<Counts>,
        stop: watch::Receiver<Option<Instant>>,
        (instance, shows_client): (&str, bool),
    ) -> Self {
        Self {
            stop,
            waiting,
            collector: Collector::new(config),
            counts,
            instance: instance.to_owned(),
            shows_client,
            batch: Vec::with_capacity(BATCH_MOST),
            pause: PAUSE_FIRST,
            complained: None,
        }
    }

    /// Runs until told to stop, and then until everything is sent or that time is over.
    pub(super) async fn run(mut self) {
        let mut sent = Instant::now();
        while !self.stops() {
            let count = self.gather();
            let pause = if count >= BATCH_MOST || (count > 0 && sent.elapsed() >= SEND_EVERY) {
                let taken = self.send().await;
                sent = Instant::now();
                taken.err().unwrap_or_default()
            } else {
                LOOK_EVERY
            };
            let _ = tokio::time::timeout(pause, self.stop.changed()).await;
        }
        while self.gather() > 0 && self.send().await.is_ok() {}
        while self.gather() > 0 {
            self.drop_batch();
        }
    }

    /// Whether it is told to stop, or nobody is left who could.
    fn stops(&self) -> bool {
        self.stop.borrow().is_some() || self.stop.has_changed().is_err()
    }

    /// Fills the batch from what waits; how many requests it has.
    fn gather(&mut self) -> usize {
        let room = BATCH_MOST.saturating_sub(self.batch.len());
        self.batch.extend(self.waiting.try_iter().take(room));
        self.batch.len()
    }

    /// Sends the batch, or drops it when it is not taken; then for how long the collector is to be left alone.
    async fn send(&mut self) -> Result<(), Duration> {
        let (body, count) = self.encode();
        let answered = tokio::select! {
            answered = self.collector.send(body) => answered,
            () = overdue(self.stop.clone()) => Err(NotTaken::new("the gateway ended".to_owned())),
        };
        match answered {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                self.counts.sent.fetch_add(count - rejected, Ordering::Relaxed);
                self.counts.dropped.fetch_add(rejected, Ordering::Relaxed);
                self.batch.clear();
                self.pause = PAUSE_FIRST;
                if rejected > 0 {
                    self.complain(&format!("{rejected} of {count} spans were rejected"));
                }
                Ok(())
            }
            Err(NotTaken { why, pause }) => {
                self.drop_batch();
                self.complain(&why);
                let own = self.pause;
                self.pause = (own * 2).min(PAUSE_MOST);
                Err(pause.unwrap_or(own).clamp(own, PAUSE_MOST))
            }
        }
    }

    fn encode(&self) -> (Vec<u8>, u64) {
        let mut all = Vec::with_capacity(2 * self.batch.len());
        for (entry, outcome) in &self.batch {
            spans::add(&mut all, entry, outcome, self.shows_client);
        }
        let count = u64::try_from(all.len()).unwrap_or(u64::MAX);
        (otlp::batch(&self.instance, &all), count)
    }

    fn drop_batch(&mut self) {
        let parts = self.batch.iter().filter_map(|(entry, _)| entry.part());
        let count = parts.map(Part::spans).sum();
        self.counts.dropped.fetch_add(count, Ordering::Relaxed);
        self.batch.clear();
    }

    fn complain(&mut self, why: &str) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            let collector = self.collector.uri();
            tracing::warn!(%collector, why, "the collector of traces does not take everything; spans are dropped");
        }
    }
}

/// Ready when it is told to stop and that time is over.
async fn overdue(mut stop: watch::Receiver<Option<Instant>>) {
    let until = stop.wait_for(Option::is_some).await.ok().and_then(|until| *until);
    if let Some(until) = until {
        tokio::time::sleep_until(until.into()).await;
    }
}
