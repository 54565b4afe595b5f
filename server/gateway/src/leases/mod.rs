//! Leases: what this gateway may use of a hard limit without asking ([`model::lease`]).
//!
//! A counter that is leased has an *edge*: it may come so far. The edge follows from the ceiling that was granted to our
//! ledger: it is as far beyond the counter as the ceiling is beyond what our ledger recorded of it. So a request costs one
//! more comparison, and what others count moves counter and edge alike. Beyond [`Held::low`] more is asked for while there
//! is some; a request that finds none waits for the answer. One task asks, with one question at a time ([`keeper`]).

mod install;
pub(crate) mod keeper;

use crate::limit::Slot;
use model::lease::{LeaseSubject, Limiting, Rest};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long nothing is asked for after it was used up: requests beyond a quota are no reason to ask each time.
const USED_UP_FOR: Duration = Duration::from_millis(300);
/// The same after a request waited in vain for what others have.
const LEASED_FOR: Duration = Duration::from_secs(1);

/// Pause before units are asked for again that others have: they give back what they do not need.
pub(crate) const TRY_EVERY: Duration = Duration::from_millis(50);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a counter has of a lease.
pub(crate) struct Held {
    /// How far the counter may come.
    edge: AtomicU64,
    /// The count beyond which more is asked for.
    low: AtomicU64,
    /// The first instant at which the edge does not hold any more, in milliseconds since 1970.
    until_ms: AtomicI64,
    /// An answer came.
    told: Notify,
    state: Mutex<State>,
}

struct State {
    /// As our ledger's count; what the edge stands for. None before the first answer.
    ceiling: Option<u64>,
    /// What others counted so far, as far as the counter was raised by it.
    raised: u64,
    /// Units that are asked for next.
    more: u64,
    queued: bool,
    /// Questions sent, and how many of them are answered or given up.
    sent: u64,
    answered: u64,
    rest: Rest,
    /// Units that the last question was for.
    asked: u64,
    /// So many are not asked for before.
    shut_until: Option<Instant>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            edge: AtomicU64::new(0),
            low: AtomicU64::new(u64::MAX),
            until_ms: AtomicI64::new(i64::MAX),
            told: Notify::new(),
            state: Mutex::new(State {
                ceiling: None,
                raised: 0,
                more: 0,
                queued: false,
                sent: 0,
                answered: 0,
                rest: Rest::Granted,
                asked: 0,
                shut_until: None,
            }),
        }
    }
}

/// What a request that lacks units is told at once.
pub(crate) enum Asked {
    /// The answer with this number is for it.
    Wait(u64),
    /// It was asked for a moment ago.
    Known(Rest),
}

impl Held {
    /// Whether the counter may come so far.
    pub(crate) fn covers(&self, then: u64, now_ms: i64) -> bool {
        then <= self.edge.load(Ordering::SeqCst) && now_ms < self.until_ms.load(Ordering::Relaxed)
    }

    /// Whether it is time to ask for more; said once.
    fn is_low(&self, then: u64) -> bool {
        then > self.low.load(Ordering::Relaxed) && self.low.swap(u64::MAX, Ordering::Relaxed) != u64::MAX
    }

    /// Units left at a count.
    pub(crate) fn room(&self, taken: u64) -> u64 {
        self.edge.load(Ordering::SeqCst).saturating_sub(taken)
    }

    /// Others counted so many units more. Until the edge has moved, too, less is given than could be, never more.
    pub(crate) fn raise(&self, units: u64, counters: [&AtomicU64; 2]) {
        let mut state = lock(&self.state);
        for counter in counters {
            counter.fetch_add(units, Ordering::SeqCst);
        }
        state.raised = state.raised.saturating_add(units);
        if state.ceiling.is_some() {
            self.edge.fetch_add(units, Ordering::SeqCst);
        }
        let low = self.low.load(Ordering::Relaxed);
        self.low.store(low.saturating_add(units), Ordering::Relaxed);
    }

    /// What the last answer said, where the one with this number came. That more was used up than these units says nothing
    /// of them.
    pub(crate) fn answer(&self, number: u64, units: u64) -> Option<Rest> {
        let state = lock(&self.state);
        let rest = match state.rest {
            Rest::UsedUp(_) if units < state.asked => Rest::Leased,
            rest => rest,
        };
        (state.answered >= number).then_some(rest)
    }

    /// Tells when an answer comes.
    pub(crate) fn told(&self) -> &Notify {
        &self.told
    }

    /// A request waited in vain: those that follow need not, for a while. One that was turned away meanwhile makes it no
    /// longer, or under load it would never be asked again.
    pub(crate) fn shut(&self) {
        let (now, mut state) = (Instant::now(), lock(&self.state));
        if state.shut_until.is_none_or(|until| until <= now) {
            state.shut_until = Some(now + LEASED_FOR);
        }
    }

    /// What is left of the counter goes down to `room`; the ceiling from then on, and units of ours in it. Requests go on
    /// meanwhile: what one takes in this moment stays its own, or is given back by it.
    fn shrink(&self, taken: &AtomicU64, room: u64) -> Option<(u64, u64)> {
        let mut state = lock(&self.state);
        let ceiling = state.ceiling?;
        let edge = self.edge.load(Ordering::SeqCst);
        let lower = taken.load(Ordering::SeqCst).saturating_add(room).min(edge);
        self.edge.store(lower, Ordering::SeqCst);
        let count = taken.load(Ordering::SeqCst);
        let kept = lower.max(count.min(edge));
        self.edge.store(kept, Ordering::SeqCst);
        let ceiling = ceiling.saturating_sub(edge - kept);
        state.ceiling = Some(ceiling);
        let low = if kept > count {
            kept - (kept - count) / 2
        } else {
            u64::MAX
        };
        self.low.store(low, Ordering::Relaxed);
        Some((ceiling, own(ceiling, kept, count)))
    }
}

/// Units of ours, in flight or recorded, where the counter may go from `taken` to `edge`.
fn own(ceiling: u64, edge: u64, taken: u64) -> u64 {
    ceiling.saturating_add(taken).saturating_sub(edge)
}

/// Where requests say what they lack.
pub(crate) struct Desk {
    /// In the order of asking, each counter once.
    queue: Mutex<VecDeque<(LeaseSubject, Arc<Slot>)>>,
    wake: Notify,
    /// The last record of the ledger from before this process.
    begins_after: u64,
    /// Longest wait of a request.
    pub(crate) wait: Duration,
    /// Time after which what is not used is given back.
    idle: Duration,
    /// For the metrics: what is held, and questions by what became of them.
    pub(crate) held: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Desk {
    /// With the last record that is in the ledger, and two bounds on time.
    pub(crate) fn new(begins_after: u64, wait: Duration, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            begins_after,
            wait,
            idle,
            held: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// A request took units up to this count: asks for more while there are some.
    pub(crate) fn took(&self, subject: LeaseSubject, slot: &Arc<Slot>, then: u64) {
        if slot.held().is_low(then) {
            self.push(subject, slot, 1);
        }
    }

    /// Asks for units that a request lacks.
    pub(crate) fn ask(&self, subject: LeaseSubject, slot: &Arc<Slot>, units: u64) -> Asked {
        let state = lock(&slot.held().state);
        if units >= state.asked && state.shut_until.is_some_and(|until| Instant::now() < until) {
            return Asked::Known(state.rest);
        }
        let number = state.sent + 1;
        drop(state);
        self.push(subject, slot, units);
        Asked::Wait(number)
    }

    /// Limits changed: what was used up may not be any more, and what is held may be too much.
    pub(crate) fn look_again(&self, subject: LeaseSubject, slot: &Arc<Slot>) {
        let Some(held) = slot.held_so_far() else { return };
        lock(&held.state).shut_until = None;
        if held.room(slot.taken()) > 0 {
            self.push(subject, slot, 1);
        }
    }

    /// Takes so many from the queue, in its order: each of another subject, because an answer is about a subject.
    fn next(&self, most: usize) -> Vec<(LeaseSubject, Arc<Slot>)> {
        let mut queue = lock(&self.queue);
        let (mut taken, mut later) = (Vec::new(), Vec::new());
        let mut subjects = HashSet::new();
        while taken.len() < most {
            let Some(next) = queue.pop_front() else { break };
            if subjects.insert(next.0) {
                taken.push(next);
            } else {
                later.push(next);
            }
        }
        for next in later.into_iter().rev() {
            queue.push_front(next);
        }
        taken
    }

    fn push(&self, subject: LeaseSubject, slot: &Arc<Slot>, units: u64) {
        let mut state = lock(&slot.held().state);
        state.more = state.more.max(units);
        let queued = std::mem::replace(&mut state.queued, true);
        drop(state);
        if !queued {
            lock(&self.queue).push_back((subject, Arc::clone(slot)));
            self.wake.notify_one();
        }
    }
}

/// Which limit an answer names, where it is used up.
pub(crate) fn limiting(rest: Rest) -> Option<Limiting> {
    match rest {
        Rest::UsedUp(by) => Some(by),
        Rest::Granted | Rest::Leased => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::access::Environment;
    use model::{ConsumerId, Time};

    fn subject(n: u128) -> LeaseSubject {
        LeaseSubject {
            consumer: ConsumerId::from_bits(n),
            environment: Environment::Live,
            root: None,
            meter: 1,
            period_start: Time::from_unix_s(0),
        }
    }

    /// Whoever asks again and again waits behind those that asked before.
    #[test]
    fn who_asks_first_is_served_first() {
        let desk = Desk::new(0, Duration::ZERO, Duration::ZERO);
        let slots: Vec<_> = (0..5).map(|_| Slot::starting_at(0)).collect();
        let ask = |n: usize, subject| desk.push(subject, &slots[n], 1);
        for n in 0..3 {
            ask(n, subject(n as u128));
        }
        // A counter that took the place of another is asked for in a question of its own.
        ask(3, subject(0));
        ask(0, subject(0));
        let next = |most| -> Vec<(LeaseSubject, usize)> {
            let place = |slot: &Arc<Slot>| slots.iter().position(|s| Arc::ptr_eq(s, slot)).unwrap();
            let begun = desk.next(most).into_iter().map(|(subject, slot)| {
                slot.held().open(0);
                (subject, place(&slot))
            });
            begun.collect()
        };
        assert_eq!(next(2), [(subject(0), 0), (subject(1), 1)]);
        ask(0, subject(0));
        ask(4, subject(4));
        assert_eq!(next(9), [(subject(2), 2), (subject(0), 3), (subject(4), 4)]);
        assert_eq!(next(9), [(subject(0), 0)]);
        assert_eq!(next(9), []);
    }
}
