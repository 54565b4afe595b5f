//! Asks for leases and gives them back, with one question at a time.
//!
//! An answer that is lost costs nothing: the control plane has granted more than is known here, and hears with the next
//! question of the same subject what is held in fact. A question that comes too late is refused by its turn.

use super::{Desk, Held, own};
use crate::ledger::Ledger;
use crate::limit::Slot;
use crate::source::SnapshotSource;
use crate::worker::Shared;
use model::lease::{LEASES_MOST, LeaseAnswer, LeaseAsk, LeaseItem, LeaseOwner, LeaseSubject, LeaseTold, Rest};
use model::{KeyId, Time};
use std::collections::{HashMap, HashSet};
use std::io;
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
    wanted: Vec<LeaseOwner>,
    turn: Option<i64>,
    /// Whether a question was answered since the start.
    begun: bool,
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
        wanted: Vec::new(),
        turn: None,
        begun: false,
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
            _ = through.changed() => return,
        }
    }
}

impl Keeper {
    fn pause(&self) -> Duration {
        // What is in flight may come back, and nothing else would tell.
        let is_open = |e: &Entry| e.slot.is_in_flight() || e.slot.held().room(e.slot.taken()) > 0;
        match super::lock(&self.desk.queue).is_empty() {
            false => Duration::ZERO,
            true if !self.unsure.is_empty() || self.held.values().any(is_open) => LOOK_EVERY,
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
        }
        for slot in &question.slots {
            slot.held().close(answered.is_err());
        }
        for subject in question.gone.iter().filter(|_| answered.is_ok()) {
            if !self.unsure.contains(subject) {
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
        let mut waiting = HashMap::new();
        {
            let mut queue = super::lock(&self.desk.queue);
            let next: Vec<LeaseSubject> = queue.keys().take(LEASES_MOST).copied().collect();
            for subject in next {
                if let Some(slot) = queue.remove(&subject) {
                    waiting.insert(subject, slot);
                }
            }
        }
        for (subject, slot) in waiting {
            let entry = self.held.entry(subject).or_insert_with(|| Entry::new(&slot));
            if !Arc::ptr_eq(&entry.slot, &slot) {
                // Another counter took its place: what the old one had is given back, and is the new one's to ask for.
                entry.slot.held().shrink(entry.slot.taken_units(), 0);
                *entry = Entry::new(&slot);
            }
            let (ceiling, own, more) = slot.held().open(slot.taken());
            self.unsure.remove(&subject);
            question.items.push(LeaseItem {
                subject,
                holds: ceiling,
                own,
                more,
            });
            question.slots.push(slot);
        }
        self.give_back(&mut question);
        question
    }

    /// Adds what is not used: all of it after a while, and at once where others lack it; of what is in use then half.
    fn give_back(&mut self, question: &mut Question) {
        let (now, idle) = (Instant::now(), self.desk.idle);
        let asked: HashSet<LeaseSubject> = question.items.iter().map(|i| i.subject).collect();
        for (subject, entry) in &mut self.held {
            if asked.contains(subject) {
                continue;
            }
            let in_use = entry.look(now);
            let (held, taken) = (entry.slot.held(), entry.slot.taken());
            let is_wanted = self.wanted.contains(&subject.owner());
            let room = held.room(taken);
            let keep = match (is_wanted, in_use) {
                (true, true) => room / 2,
                (true, false) => 0,
                (false, _) if now - entry.since >= idle => 0,
                _ => room,
            };
            // With requests in flight something may come back yet.
            let is_over = keep == 0 && now - entry.since >= idle && !entry.slot.is_in_flight();
            let is_unsure = self.unsure.contains(subject);
            if question.items.len() >= LEASES_MOST {
                continue;
            }
            if is_over {
                question.gone.push(*subject);
            }
            if keep == room && !is_unsure {
                continue;
            }
            let Some((holds, own)) = held.shrink(entry.slot.taken_units(), keep) else {
                // The first answer of all was lost.
                question.items.push(LeaseItem {
                    subject: *subject,
                    holds: 0,
                    own: 0,
                    more: 0,
                });
                continue;
            };
            question.items.push(LeaseItem {
                subject: *subject,
                holds,
                own,
                more: 0,
            });
        }
        self.unsure.retain(|s| !question.items.iter().any(|i| i.subject == *s));
    }

    async fn take_over(&mut self, question: &Question, answer: LeaseAnswer) -> Result<(), String> {
        self.desk.answered.fetch_add(1, Ordering::Relaxed);
        self.turn = Some(answer.turn);
        self.begun = true;
        self.wanted = answer.wanted;
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
        let install = move || install(&granted, through, &shared);
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
    fn open(&self, taken: u64) -> (u64, u64, u64) {
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

async fn answer(source: &dyn SnapshotSource, ask: &LeaseAsk) -> Result<LeaseAnswer, String> {
    let asked = timeout(ASK_TIMEOUT, source.lease(ask)).await;
    asked
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|e| e.to_string())
}

/// A counter as it was at one instant.
struct Then {
    recorded: u64,
    seq: u64,
    raised: u64,
    /// Units of our records that the answer does not know.
    unshipped: u64,
}

/// Sets the edges by what is told. What our ledger holds beyond `through` is not in what is told as used.
fn install(granted: &[(Arc<Slot>, LeaseTold)], through: u64, shared: &Shared) -> io::Result<()> {
    let ledger: &Ledger = &shared.ledger;
    let mut then: HashMap<LeaseSubject, Then> = HashMap::new();
    let mut chains: HashMap<KeyId, KeyId> = HashMap::new();
    for (slot, told) in granted {
        let state = super::lock(&slot.held().state);
        let (values, seq) = ledger.agreed(&[&slot.recorded]);
        let at = Then {
            recorded: values.first().copied().unwrap_or(0),
            seq,
            raised: state.raised,
            unshipped: 0,
        };
        drop(state);
        then.insert(told.subject, at);
        if let Some(root) = told.subject.root {
            chains.extend(shared.tables.keys_of(root).into_iter().map(|key| (key, root)));
        }
    }
    // Of what is gone from the ledger nothing can be added: it was shipped once, and the control plane lost it.
    let after = through.max(ledger.first().saturating_sub(1));
    ledger.each_counted_after(after, |r| {
        let account = LeaseSubject {
            consumer: r.consumer,
            environment: r.environment,
            root: None,
            meter: r.meter,
            period_start: r.period_start,
        };
        let of_key = chains.get(&r.key).map(|root| LeaseSubject {
            root: Some(*root),
            ..account
        });
        for subject in [Some(account), of_key].into_iter().flatten() {
            if let Some(at) = then.get_mut(&subject).filter(|at| r.seq <= at.seq) {
                at.unshipped = at.unshipped.saturating_add(u64::from(r.units));
            }
        }
    })?;
    for (slot, told) in granted {
        if let Some(at) = then.get(&told.subject) {
            slot.held().install(told, at, slot.taken(), shared.clock.now());
        }
    }
    Ok(())
}

impl Held {
    fn install(&self, told: &LeaseTold, then: &Then, taken: u64, now: Time) {
        let mut state = super::lock(&self.state);
        let own = told.used.saturating_add(then.unshipped);
        let raised = state.raised.saturating_sub(then.raised);
        let edge = then.recorded.saturating_add(raised).saturating_add(told.ceiling);
        let edge = edge.saturating_sub(own);
        self.edge.store(edge, Ordering::SeqCst);
        let until_ms = told.until.map_or(i64::MAX, Time::unix_ms);
        self.until_ms.store(until_ms, Ordering::Relaxed);
        let room = edge.saturating_sub(taken);
        let low = match told.rest {
            // Where nothing is left to be granted, more is asked for once this is used up.
            Rest::Granted if now.unix_ms() < until_ms && Some(told.ceiling) > state.ceiling => edge - room / 2,
            _ => u64::MAX,
        };
        self.low.store(low, Ordering::Relaxed);
        state.ceiling = Some(told.ceiling);
        state.rest = told.rest;
        state.shut_until = match told.rest {
            Rest::UsedUp(_) => Some(Instant::now() + super::USED_UP_FOR),
            Rest::Granted => None,
            Rest::Leased => state.shut_until,
        };
    }
}
