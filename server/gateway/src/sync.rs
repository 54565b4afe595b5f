//! Keeps the snapshot up to date: asks for what changed at every hint and from time to time, and copies it to disk. Every
//! question is also one for what other gateways counted.

use crate::disk;
use crate::others::{Answer, Others};
use crate::source::SnapshotSource;
use crate::stop::Stop;
use crate::worker::Shared;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait for an answer of the source.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait after a failure; it doubles up to the poll interval.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Shortest time between two questions, whatever the hints say.
const ASK_SPACING: Duration = Duration::from_millis(10);
/// Shortest time between two copies on disk.
const SAVE_SPACING: Duration = Duration::from_secs(1);
/// A copy may take this part of the time at most: one that takes long is made seldom.
const SAVE_SHARE: u32 = 20;

/// Runs until the requests are through, so that a key revoked while they drain ends what it still has open; makes a last
/// copy then.
pub(crate) async fn run(
    shared: Arc<Shared>,
    source: Arc<dyn SnapshotSource>,
    dir: PathBuf,
    mut stop: watch::Receiver<Option<Stop>>,
    mut through: watch::Receiver<bool>,
) {
    let mut copy = Copy::new(dir);
    let mut others = Others::default();
    let mut retry = RETRY_FIRST;
    loop {
        let asked = Instant::now();
        let pause = match ask(&shared, &*source, &mut others).await {
            Ok(changed) => {
                copy.dirty |= changed;
                retry = RETRY_FIRST;
                others.pause(&shared.limits, shared.clock.now(), ASK_SPACING)
            }
            Err(error) => {
                tracing::warn!(%error, "the snapshot cannot be brought up to date");
                shared.tables.set_connected(false);
                retry = (retry * 2).min(shared.limits.poll_interval.max(RETRY_FIRST));
                retry
            }
        };
        let pause = copy.save_if_due(&shared).await.map_or(pause, |due| due.min(pause));
        tokio::select! {
            () = source.hint() => tokio::time::sleep(ASK_SPACING.saturating_sub(asked.elapsed())).await,
            () = tokio::time::sleep(pause) => {}
            Ok(()) = stop.changed() => {
                if stop.borrow().is_some_and(|stop| stop.handed_over) {
                    copy.give_up();
                }
            }
            _ = through.changed() => break,
        }
    }
    copy.dirty = true;
    copy.due = Instant::now();
    copy.save_if_due(&shared).await;
}

/// Asks once for what changed, and for what others counted; whether anything changed.
async fn ask(shared: &Arc<Shared>, source: &dyn SnapshotSource, others: &mut Others) -> Result<bool, String> {
    let version = shared.tables.version_known();
    let asked = timeout(ASK_TIMEOUT, source.changes_since(shared.ledger.id(), version)).await;
    let mut changes = asked
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|e| e.to_string())?;
    let changed = changes.version != version || changes.routing.is_some();
    for purge in &changes.purges {
        shared.cache.forget(purge.route, &purge.path_prefix);
    }
    let answer = Answer::take_from(&mut changes, version == 0);
    let now = shared.clock.now();
    let applying = Arc::clone(shared);
    let apply = move || applying.tables.apply(changes, &applying.ledger, now);
    // A first load of a million keys takes long; other tasks of this runtime go on meanwhile.
    let applied = tokio::task::spawn_blocking(apply).await.map_err(|e| e.to_string())?;
    applied.map_err(|e| e.to_string())?;
    if version == 0 {
        shared.tables.ask_all_anew(false);
    }
    let now_ms = shared.clock.security_now().unix_ms();
    shared.tables.synced_ms.store(now_ms, Ordering::Relaxed);
    shared.tables.set_connected(true);
    if let Err(error) = others.follow(shared, source, answer).await {
        tracing::warn!(%error, "what other gateways count is not known; it is asked for again");
    }
    Ok(changed)
}

struct Copy {
    dir: PathBuf,
    /// Not where another process took over.
    wanted: bool,
    dirty: bool,
    due: Instant,
}

impl Copy {
    fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            wanted: true,
            dirty: false,
            due: Instant::now(),
        }
    }

    /// Saves when it is time; how long until it is, when it is not yet.
    async fn save_if_due(&mut self, shared: &Arc<Shared>) -> Option<Duration> {
        if !self.dirty || !self.wanted {
            return None;
        }
        let begun = Instant::now();
        if begun < self.due {
            return Some(self.due - begun);
        }
        let (dir, saving) = (self.dir.clone(), Arc::clone(shared));
        let saved = tokio::task::spawn_blocking(move || disk::save(&dir, &saving.tables, &saving.ledger)).await;
        match saved {
            Ok(Ok(())) => self.dirty = false,
            Ok(Err(error)) => tracing::error!(%error, "the snapshot cannot be copied to disk"),
            Err(error) => tracing::error!(%error, "the copy of the snapshot broke off"),
        }
        self.due = Instant::now() + SAVE_SPACING.max(begun.elapsed() * SAVE_SHARE);
        None
    }

    /// Another process took over, and knows more from now on.
    fn give_up(&mut self) {
        self.wanted = false;
        if let Err(error) = disk::forget(&self.dir) {
            tracing::error!(%error, "the stored snapshot cannot be removed");
        }
    }
}
