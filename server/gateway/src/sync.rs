//! Keeps the snapshot up to date: asks for what changed at every hint and from time to time, and copies it to disk.
//!
//! Much is told in parts, each with the version that it leads to, so a part that does not come in time costs itself alone.
//! Whoever knows nothing yet serves nothing before the last part: the routes are held back until then. Everything is
//! told again part by part, too, and news go first.
//!
//! Every question is also one for what other gateways counted (`others`).

use crate::disk;
use crate::others::{self, Others};
use crate::source::SnapshotSource;
use crate::stop::Stop;
use crate::worker::Shared;
use model::Time;
use model::snapshot::Routing;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait for an answer of the source. It doubles with each that does not come in time, so that a slow source gets
/// through, up to [`ASK_TIMEOUT_MOST`]; once all is told it is this again.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const ASK_TIMEOUT_MOST: Duration = Duration::from_secs(60);
/// Shortest time between two words on how far a long answer is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// First wait after a failure; it doubles up to the poll interval.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Shortest time between two questions, whatever the hints say.
const ASK_SPACING: Duration = Duration::from_millis(10);
/// Shortest time between two copies on disk.
const SAVE_SPACING: Duration = Duration::from_secs(1);
/// Longest time between two copies, in nanoseconds of steady time, whether anything changed or not: an hour. What is counted
/// goes on, and a copy must not hold less than what the ledger still completes.
const SAVE_AT_LEAST_NS: u64 = 3_600_000_000_000;
/// How often it is noted that the copy is all there is: a gateway that starts without the control plane counts from then.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// A copy may take this part of the time at most: one that takes long is made seldom.
const SAVE_SHARE: u32 = 20;

/// A clock that went back by more than this, in milliseconds, was set: one that is kept right moves by less. What it said
/// before may have begun periods that have not begun.
const SET_BACK_MS: i64 = 60_000;

/// Runs until the requests are through, so that a key revoked while they drain ends what it still has open; makes a last
/// copy then.
pub(crate) async fn run(
    shared: Arc<Shared>,
    source: Arc<dyn SnapshotSource>,
    dir: PathBuf,
    mut stop: watch::Receiver<Option<Stop>>,
    mut through: watch::Receiver<bool>,
) {
    let mut copy = Copy::new(dir, shared.clock.steady_ns());
    let mut course = Course::new(&shared);
    let mut retry = RETRY_FIRST;
    loop {
        let asked = Instant::now();
        let pause = match step(&shared, &*source, &mut course).await {
            Ok(Step { changed, more }) => {
                copy.dirty |= changed;
                retry = RETRY_FIRST;
                if more {
                    Duration::ZERO
                } else {
                    course.others.pause(&shared.limits, shared.clock.now(), ASK_SPACING)
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the snapshot cannot be brought up to date");
                shared.tables.set_connected(false);
                let stale = shared.stale_ns(shared.clock.steady_ns()).is_some();
                if stale && !course.stale {
                    tracing::error!(
                        "the control plane was not heard for too long: calls that are paid for are refused"
                    );
                }
                course.stale = stale;
                retry = (retry * 2).min(shared.limits.poll_interval.max(RETRY_FIRST));
                retry
            }
        };
        let pause = if course.first {
            // What is held back would be missing in a copy.
            pause
        } else {
            let due = copy.save_if_due(&shared).await;
            copy.confirm_if_due(&shared).await;
            due.map_or(pause, |due| due.min(pause))
        };
        tokio::select! {
            () = source.hint() => tokio::time::sleep(ASK_SPACING.min(pause).saturating_sub(asked.elapsed())).await,
            () = tokio::time::sleep(pause) => {}
            Ok(()) = stop.changed() => {
                if stop.borrow().is_some_and(|stop| stop.handed_over) {
                    copy.give_up();
                }
            }
            _ = through.changed() => break,
        }
    }
    if course.first {
        return;
    }
    copy.dirty = true;
    copy.due = Instant::now();
    copy.save_if_due(&shared).await;
}

/// What is asked for, and how far that is.
struct Course {
    /// Nothing was known at the start, and not everything is told yet.
    first: bool,
    /// The routes, where they are held back.
    routing: Option<Routing>,
    /// Everything is told again.
    again: Option<Again>,
    /// The control plane was not heard for too long, and that is told.
    stale: bool,
    /// Longest wait for the next answer.
    patience: Duration,
    long: Option<Long>,
    others: Others,
    /// What the clock said last, and at which steady time.
    clock: (Time, u64),
}

/// Everything is told again, up to what was known when that began; what is newer is news.
struct Again {
    reached: i64,
    until: i64,
}

/// An answer of many parts.
struct Long {
    begun: Instant,
    told: Instant,
    keys: usize,
    entitlements: usize,
}

/// What came of a step.
struct Step {
    changed: bool,
    /// There is more to ask for at once.
    more: bool,
}

impl Course {
    fn new(shared: &Shared) -> Self {
        Self {
            first: shared.tables.version() == 0,
            routing: None,
            again: None,
            stale: false,
            patience: ASK_TIMEOUT,
            long: None,
            others: Others::default(),
            clock: (shared.clock.now(), shared.clock.steady_ns()),
        }
    }

    /// By how much the clock was set back since the last time this was asked, in milliseconds; none where it was not.
    fn set_back_ms(&mut self, shared: &Shared) -> Option<i64> {
        let (then, then_ns) = std::mem::replace(&mut self.clock, (shared.clock.now(), shared.clock.steady_ns()));
        let passed_ms = i64::try_from(self.clock.1.saturating_sub(then_ns) / 1_000_000).unwrap_or(i64::MAX);
        let back_ms = passed_ms.saturating_sub(then.ms_until(self.clock.0));
        (back_ms > SET_BACK_MS).then_some(back_ms)
    }

    /// Begins to ask for everything again, where that is wanted. At the first time everything is asked for as it is.
    fn look_for_wishes(&mut self, shared: &Shared) {
        if let Some(ms) = self.set_back_ms(shared) {
            tracing::warn!(ms, "the machine's clock was set back: everything is asked for again");
            shared.tables.ask_all_anew(true);
        }
        if !self.first && shared.tables.all_anew() {
            shared.tables.ask_all_anew(false);
            self.again = Some(Again {
                reached: 0,
                until: shared.tables.version(),
            });
        }
    }

    /// Says how far a long answer is.
    fn note(&mut self, answer: &Answer, more: bool) {
        if !more && self.long.is_none() {
            return;
        }
        let now = Instant::now();
        let long = self.long.get_or_insert(Long {
            begun: now,
            told: now,
            keys: 0,
            entitlements: 0,
        });
        long.keys += answer.keys;
        long.entitlements += answer.entitlements;
        let (keys, entitlements) = (long.keys, long.entitlements);
        if !more {
            let took_ms = long.begun.elapsed().as_millis();
            tracing::info!(keys, entitlements, took_ms, "the control plane has told all it knows");
            self.long = None;
        } else if long.told.elapsed() > TELL_EVERY {
            long.told = now;
            tracing::info!(keys, entitlements, "the control plane is telling what it knows");
        }
    }
}

/// Asks for news, and, when there are none left, for the next part of everything where that is told again.
async fn step(shared: &Arc<Shared>, source: &dyn SnapshotSource, course: &mut Course) -> Result<Step, String> {
    course.look_for_wishes(shared);
    let version = shared.tables.version();
    let news = ask(shared, source, course, version).await?;
    let changed = news.version != version || news.routing;
    if course.again.is_none() || news.more {
        course.note(&news, news.more);
    }
    if news.more {
        // What it does not know may be in the next part.
        shared.tables.set_connected(false);
        return Ok(Step { changed, more: true });
    }
    course.first = false;
    course.stale = false;
    shared
        .tables
        .heard_ns
        .store(shared.clock.steady_ns(), Ordering::Relaxed);
    shared.tables.set_connected(true);
    let Some(Again { reached, until }) = course.again else {
        course.patience = ASK_TIMEOUT;
        return Ok(Step { changed, more: false });
    };
    let part = ask(shared, source, course, reached).await?;
    let more = part.more && part.version < until;
    course.note(&part, more);
    course.again = more.then_some(Again {
        reached: part.version,
        until,
    });
    Ok(Step { changed: true, more })
}

/// What an answer was.
struct Answer {
    version: i64,
    routing: bool,
    more: bool,
    keys: usize,
    entitlements: usize,
}

/// Asks once and takes the answer over.
async fn ask(
    shared: &Arc<Shared>,
    source: &dyn SnapshotSource,
    course: &mut Course,
    version: i64,
) -> Result<Answer, String> {
    let first = shared.ledger.first();
    let asked = timeout(course.patience, source.changes_since(shared.ledger.id(), version)).await;
    let Ok(answered) = asked else {
        course.patience = (course.patience * 2).min(ASK_TIMEOUT_MOST);
        return Err("no answer in time".to_owned());
    };
    let mut changes = answered.map_err(|e| e.to_string())?;
    if changes.shipped_through + 1 < first {
        // Of what was gone before the question nothing can be added: it was shipped once, and the control plane lost it.
        let known = changes.shipped_through;
        tracing::error!(
            known,
            first,
            "the control plane lacks usage that is gone from the ledger"
        );
        changes.shipped_through = first - 1;
    }
    let others = others::Answer::take_from(&mut changes, version == 0);
    let answer = Answer {
        version: changes.version,
        routing: changes.routing.is_some(),
        more: changes.more,
        keys: changes.keys.len(),
        entitlements: changes.entitlements.len(),
    };
    for purge in &changes.purges {
        shared.cache.forget(purge.route, &purge.path_prefix);
    }
    if course.first {
        course.routing = changes.routing.take().or(course.routing.take());
        if !changes.more {
            changes.routing = course.routing.clone();
        }
    }
    let now = shared.clock.now();
    let applying = Arc::clone(shared);
    let apply = move || applying.tables.apply(changes, &applying.ledger, now);
    // Many keys take long; other tasks of this runtime go on meanwhile.
    let applied = tokio::task::spawn_blocking(apply).await.map_err(|e| e.to_string())?;
    applied.map_err(|e| e.to_string())?;
    if let Err(error) = course.others.follow(shared, source, others).await {
        tracing::warn!(%error, "what other gateways count is not known; it is asked for again");
    }
    Ok(answer)
}

struct Copy {
    dir: PathBuf,
    /// Not where another process took over.
    wanted: bool,
    dirty: bool,
    due: Instant,
    /// When the last one was made, in steady time.
    saved_ns: u64,
    /// When it was last noted that it is all there is.
    confirmed: Option<Instant>,
}

impl Copy {
    fn new(dir: PathBuf, now_ns: u64) -> Self {
        Self {
            dir,
            wanted: true,
            dirty: false,
            due: Instant::now(),
            saved_ns: now_ns,
            confirmed: None,
        }
    }

    /// Notes that the copy is all there is, where it is.
    async fn confirm_if_due(&mut self, shared: &Arc<Shared>) {
        let lately = self.confirmed.is_some_and(|then| then.elapsed() < CONFIRM_EVERY);
        if lately || self.dirty || !self.wanted || !shared.tables.connected() {
            return;
        }
        self.confirmed = Some(Instant::now());
        let (dir, now) = (self.dir.clone(), shared.clock.security_now());
        let noted = tokio::task::spawn_blocking(move || disk::confirm(&dir, now)).await;
        if let Ok(Err(error)) = noted {
            tracing::warn!(%error, "it cannot be noted how old the copy of the snapshot is");
        }
    }

    /// Saves when it is time; how long until it is, when it is not yet.
    async fn save_if_due(&mut self, shared: &Arc<Shared>) -> Option<Duration> {
        let now_ns = shared.clock.steady_ns();
        let is_old = now_ns.saturating_sub(self.saved_ns) >= SAVE_AT_LEAST_NS;
        if !self.wanted || !(self.dirty || is_old) {
            return None;
        }
        let begun = Instant::now();
        if begun < self.due {
            return Some(self.due - begun);
        }
        let (dir, saving) = (self.dir.clone(), Arc::clone(shared));
        let saved = tokio::task::spawn_blocking(move || disk::save(&dir, &saving.tables, &saving.ledger)).await;
        match saved {
            Ok(Ok(())) => (self.dirty, self.saved_ns) = (false, now_ns),
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
