//! Asks for leases and gives them back, with one question at a time.
//!
//! An answer that is lost costs nothing: the control plane has granted more than is known here, and hears with the next
//! question of the same subject what is held in fact. A question that comes too late is refused by its turn.

use super::{Desk, Held, install, own};
use crate::limit::Slot;
use crate::source::SnapshotSource;
use crate::worker::Shared;
use model::lease::{LEASES_MOST, LeaseAnswer, LeaseAsk, LeaseItem, LeaseOwner, LeaseSubject, LeaseTold, Rest};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait for an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Wait after a failure; it doubles up to a second, so that leases come back soon after the control plane does.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// While something is held that is not used, or may not be used in the end, it is asked so often whether others lack it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Otherwise so often, to say that this gateway leases.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Longest time in which everything is given back at the end, so that other gateways need not wait for the last shipping.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);
/// Least that a question is about, however many failed. A part of it is for what is given back: other gateways wait for it.
const SIZE_LEAST: usize = 4;
/// Which part, as a divisor.
const GIVES_BACK: usize = 4;

/// A counter that something is leased for.
struct Entry {
    slot: Arc<Slot>,
    /// Its own part when it was last looked at, which it still is since then.
    seen: u64,
    since: Instant,
}

/// What is asked for, and what is given back with it.
#[derive(Default)]
struct Question {
    items: Vec<LeaseItem>,
    slots: Vec<Arc<Slot>>,
    /// Of these nothing is held any more, once the answer is there.
    gone: Vec<LeaseSubject>,
}

struct Keeper {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    held: HashMap<LeaseSubject, Entry>,
    /// The control plane may think that more is held of these than is.
    unsure: HashSet<LeaseSubject>,
    wanted: HashSet<LeaseOwner>,
    turn: Option<i64>,
    /// Whether a question was answered since the start.
    begun: bool,
    /// Most subjects of a question: fewer after each that failed, because a slow database answers those.
    size: usize,
    /// There was more to give back than the last question had room for.
    full: bool,
}

/// Runs until the last request is over.
pub(crate) async fn run(
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    source: Arc<dyn SnapshotSource>,
    mut through: watch::Receiver<bool>,
) {
    let mut keeper = Keeper {
        shared,
        desk: Arc::clone(&desk),
        held: HashMap::new(),
        unsure: HashSet::new(),
        wanted: HashSet::new(),
        turn: None,
        begun: false,
        size: LEASES_MOST,
        full: false,
    };
    let mut retry = RETRY_FIRST;
    loop {
        let pause = match keeper.step(&*source).await {
            Ok(()) => {
                retry = RETRY_FIRST;
                keeper.pause()
            }
            Err(error) => {
                tracing::warn!(%error, "leases cannot be asked for: calls go on with those in hand");
                desk.failed.fetch_add(1, Ordering::Relaxed);
                retry = (retry * 2).min(RETRY_MOST);
                retry
            }
        };
        let failed = retry > RETRY_FIRST;
        tokio::select! {
            () = desk.wake.notified(), if !failed => {}
            () = tokio::time::sleep(pause) => {}
            _ = through.changed() => break,
        }
    }
    let left = timeout(LEAVES_WITHIN, keeper.leave(&*source)).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::warn!("what is leased was not given back: it is free once the last usage is shipped");
    }
}

impl Keeper {
    fn pause(&self) -> Duration {
        match super::lock(&self.desk.queue).is_empty() && !self.full {
            false => Duration::ZERO,
            true if !self.unsure.is_empty() || self.held.values().any(Entry::is_open) => LOOK_EVERY,
            true => SAY_EVERY,
        }
    }

    /// Asks once.
    async fn step(&mut self, source: &dyn SnapshotSource) -> Result<(), String> {
        let ledger = self.shared.ledger.id().to_owned();
        let mut ask = LeaseAsk {
            ledger,
            turn: self.turn,
            begins_after: None,
            items: Vec::new(),
        };
        if ask.turn.is_none() {
            ask.turn = Some(answer(source, &ask).await?.turn);
        }
        let question = self.question();
        ask.begins_after = (!self.begun).then_some(self.desk.begins_after);
        ask.items.clone_from(&question.items);
        let answered = match answer(source, &ask).await {
            Ok(answered) => self.take_over(&question, answered).await,
            Err(error) => Err(error),
        };
        if answered.is_err() {
            self.turn = None;
            self.unsure.extend(question.items.iter().map(|i| i.subject));
            self.size = (self.size / 2).max(SIZE_LEAST);
        } else {
            self.size = (self.size * 2).min(LEASES_MOST);
        }
        for slot in &question.slots {
            slot.held().close(answered.is_err());
        }
        for subject in question.gone.iter().filter(|_| answered.is_ok()) {
            // A call may have taken a unit before the rest was given back.
            let is_over = self.held.get(subject).is_none_or(|e| !e.is_open());
            if is_over && !self.unsure.contains(subject) {
                self.held.remove(subject);
            }
        }
        self.desk
            .held
            .store(u64::try_from(self.held.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        answered
    }

    /// What to ask for, and what to give back.
    fn question(&mut self) -> Question {
        let mut question = Question::default();
        for (subject, slot) in self.desk.next(self.size - self.size / GIVES_BACK) {
            let entry = self.held.entry(subject).or_insert_with(|| Entry::new(&slot));
            if !Arc::ptr_eq(&entry.slot, &slot) {
                // Another counter took its place: what the old one had is given back, and is the new one's to ask for.
                entry.slot.held().shrink(entry.slot.taken_units(), 0);
                *entry = Entry::new(&slot);
            }
            let (ceiling, own, more) = slot.held().open(slot.taken());
            self.unsure.remove(&subject);
            question.items.push(item(subject, (ceiling, own), more));
            question.slots.push(slot);
        }
        self.give_back(&mut question);
        question
    }

    /// Adds what is not used: all of it after a while, and at once where others lack it; of what is in use then half. What
    /// others wait for comes first.
    fn give_back(&mut self, question: &mut Question) {
        let asked: HashSet<LeaseSubject> = question.items.iter().map(|i| i.subject).collect();
        let waited_for = |s: &LeaseSubject| self.wanted.contains(&s.owner());
        let (first, then): (Vec<_>, Vec<_>) = self.held.keys().copied().partition(waited_for);
        let others = first.into_iter().chain(then);
        let others: Vec<LeaseSubject> = others.filter(|s| !asked.contains(s)).collect();
        let now = Instant::now();
        self.full = false;
        for subject in others {
            if question.items.len() >= self.size {
                self.full = true;
                break;
            }
            self.give_back_of(subject, now, question);
        }
        self.unsure.retain(|s| !question.items.iter().any(|i| i.subject == *s));
    }

    /// Adds what is not used of one subject, if it is time.
    fn give_back_of(&mut self, subject: LeaseSubject, now: Instant, question: &mut Question) {
        let Some(entry) = self.held.get_mut(&subject) else {
            return;
        };
        let in_use = entry.look(now);
        let (held, taken) = (entry.slot.held(), entry.slot.taken());
        let is_wanted = self.wanted.contains(&subject.owner());
        let room = held.room(taken);
        let is_idle = now - entry.since >= self.desk.idle;
        let keep = match (is_wanted, in_use) {
            (true, true) => room / 2,
            (true, false) => 0,
            (false, _) if is_idle => 0,
            _ => room,
        };
        // With requests in flight something may come back yet.
        if keep == 0 && is_idle && !entry.slot.is_in_flight() {
            question.gone.push(subject);
        }
        if keep != room || self.unsure.contains(&subject) {
            // Nothing is held where the first answer of all was lost.
            let shrunk = held.shrink(entry.slot.taken_units(), keep);
            question.items.push(item(subject, shrunk.unwrap_or_default(), 0));
        }
    }

    /// Gives everything back at the end, when nothing is in flight any more. With the turn of the last answer alone: another
    /// process may speak for this ledger by now.
    async fn leave(&mut self, source: &dyn SnapshotSource) -> Result<(), String> {
        let items: Vec<LeaseItem> = self
            .held
            .iter()
            .map(|(subject, entry)| {
                let shrunk = entry.slot.held().shrink(entry.slot.taken_units(), 0);
                item(*subject, shrunk.unwrap_or_default(), 0)
            })
            .collect();
        for items in items.chunks(LEASES_MOST) {
            let ask = LeaseAsk {
                ledger: self.shared.ledger.id().to_owned(),
                turn: Some(self.turn.ok_or("the last question failed")?),
                begins_after: None,
                items: items.to_vec(),
            };
            self.turn = Some(answer(source, &ask).await?.turn);
        }
        Ok(())
    }

    async fn take_over(&mut self, question: &Question, answer: LeaseAnswer) -> Result<(), String> {
        self.desk.answered.fetch_add(1, Ordering::Relaxed);
        self.turn = Some(answer.turn);
        self.begun = true;
        self.wanted = answer.wanted.into_iter().collect();
        let asked: HashSet<LeaseSubject> = question
            .items
            .iter()
            .filter(|i| i.more > 0)
            .map(|i| i.subject)
            .collect();
        for (item, told) in question.items.iter().zip(&answer.told) {
            if item.more == 0 && told.ceiling > item.holds {
                // It cannot be taken back yet: what was recorded before a start is not known whole.
                self.unsure.insert(item.subject);
            }
        }
        let granted: Vec<(Arc<Slot>, LeaseTold)> = answer
            .told
            .into_iter()
            .filter(|told| asked.contains(&told.subject))
            .filter_map(|told| Some((Arc::clone(&self.held.get(&told.subject)?.slot), told)))
            .collect();
        if granted.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let through = answer.shipped_through;
        let used_up: Vec<LeaseSubject> = granted
            .iter()
            .filter(|(_, told)| matches!(told.rest, Rest::UsedUp(_)))
            .map(|(_, told)| told.subject)
            .collect();
        let install = move || install::install(&granted, through, &shared);
        let installed = tokio::task::spawn_blocking(install).await.map_err(|e| e.to_string())?;
        installed.map_err(|e| e.to_string())?;
        for subject in used_up {
            // What is in hand may be beyond a limit that was lowered.
            if let Some(entry) = self.held.get(&subject)
                && entry.slot.held().room(entry.slot.taken()) > 0
            {
                entry.slot.held().shrink(entry.slot.taken_units(), 0);
                self.unsure.insert(subject);
            }
        }
        Ok(())
    }
}

impl Entry {
    fn new(slot: &Arc<Slot>) -> Self {
        Self {
            slot: Arc::clone(slot),
            seen: slot.held().own_part(slot.taken()),
            since: Instant::now(),
        }
    }

    /// Whether something is held that is not used, or may not be used in the end: what is in flight may come back, and
    /// nothing else would tell.
    fn is_open(&self) -> bool {
        self.slot.is_in_flight() || self.slot.held().room(self.slot.taken()) > 0
    }

    /// Whether it was used since it was last looked at.
    fn look(&mut self, now: Instant) -> bool {
        let part = self.slot.held().own_part(self.slot.taken());
        let in_use = part != self.seen;
        if in_use {
            (self.seen, self.since) = (part, now);
        }
        in_use
    }
}

impl Held {
    /// Begins a question: the ceiling, units of ours in it, and how many more are lacking.
    pub(super) fn open(&self, taken: u64) -> (u64, u64, u64) {
        let mut state = super::lock(&self.state);
        state.queued = false;
        state.sent += 1;
        let more = std::mem::take(&mut state.more).max(1);
        state.asked = more;
        let Some(ceiling) = state.ceiling else {
            return (0, 0, more);
        };
        (ceiling, own(ceiling, self.edge.load(Ordering::SeqCst), taken), more)
    }

    /// Ends a question.
    fn close(&self, failed: bool) {
        let mut state = super::lock(&self.state);
        state.answered = state.sent;
        if failed {
            state.rest = Rest::Leased;
            // What is low is asked for again by the next request.
            self.low.store(0, Ordering::Relaxed);
        }
        drop(state);
        self.told.notify_waiters();
    }

    /// Changes when this gateway uses units, and not when others do.
    fn own_part(&self, taken: u64) -> u64 {
        taken.wrapping_sub(super::lock(&self.state).raised)
    }
}

/// `(holds, own)` units of a subject, and so many more to be had.
fn item(subject: LeaseSubject, (holds, own): (u64, u64), more: u64) -> LeaseItem {
    LeaseItem {
        subject,
        holds,
        own,
        more,
    }
}

async fn answer(source: &dyn SnapshotSource, ask: &LeaseAsk) -> Result<LeaseAnswer, String> {
    let asked = timeout(ASK_TIMEOUT, source.lease(ask)).await;
    asked
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|e| e.to_string())
}
