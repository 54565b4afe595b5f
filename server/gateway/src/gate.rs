//! A bound on requests in flight, and the order in which those that find it reached are let in.
//!
//! The higher priority of a plan goes first; within one priority consumers take turns, and the requests of one consumer
//! keep their order. The queue is bounded in length and each wait in time. When the queue is full, room is made at the
//! cost of the lowest priority in it, there of the consumer with the most requests waiting, and of that one's newest:
//! so neither a lower plan nor a busy neighbour keeps anybody out. Whoever is not let in is shed: answered 503.
//!
//! A request that is let in holds a [`Pass`] until its answer has ended, and the next in the queue takes its place.

use model::ConsumerId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Most requests waiting at one gate: each costs a connection and some kilobytes.
const WAITING_MOST: usize = 1_024;
/// Priorities are 0 to 9.
const LEVELS: usize = 10;

/// A request was shed: it waited for as long as it may, or had to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shed;

/// What a waiting request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has a place.
    Go,
    /// It made room for another.
    Leave,
}

struct Waiter {
    ticket: u64,
    tell: oneshot::Sender<Turn>,
}

/// Those who wait with one priority.
#[derive(Default)]
struct Level {
    /// Whose turn is next. Each consumer with a request waiting stands here once.
    turns: VecDeque<ConsumerId>,
    waiting: HashMap<ConsumerId, VecDeque<Waiter>>,
    count: usize,
}

struct State {
    most: u32,
    in_flight: u32,
    waiting: usize,
    levels: [Level; LEVELS],
    tickets: u64,
}

/// A bound on requests in flight.
pub(crate) struct Gate {
    state: Mutex<State>,
    waiting_most: usize,
}

/// The right to be in flight. Dropped, it goes to the next in the queue.
pub(crate) struct Pass(Arc<Gate>);

/// Of the upstream and of the thread.
pub(crate) type Passes = [Option<Pass>; 2];

impl Level {
    fn push(&mut self, consumer: ConsumerId, waiter: Waiter) {
        let queue = self.waiting.entry(consumer).or_default();
        if queue.is_empty() {
            self.turns.push_back(consumer);
        }
        queue.push_back(waiter);
        self.count += 1;
    }

    fn next(&mut self) -> Option<Waiter> {
        let consumer = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&consumer)?;
        let waiter = queue.pop_front()?;
        self.count -= 1;
        if queue.is_empty() {
            self.waiting.remove(&consumer);
        } else {
            self.turns.push_back(consumer);
        }
        Some(waiter)
    }

    /// Takes one out of the queue of a consumer, wherever it is.
    fn remove(&mut self, consumer: ConsumerId, which: impl Fn(&Waiter) -> bool) -> Option<Waiter> {
        let queue = self.waiting.get_mut(&consumer)?;
        let place = queue.iter().rposition(which)?;
        let waiter = queue.remove(place)?;
        self.count -= 1;
        if queue.is_empty() {
            self.waiting.remove(&consumer);
            self.turns.retain(|c| *c != consumer);
        }
        Some(waiter)
    }

    fn of(&self, consumer: ConsumerId) -> usize {
        self.waiting.get(&consumer).map_or(0, VecDeque::len)
    }

    /// The consumer with the most requests waiting, and how many those are.
    fn longest(&self) -> Option<(ConsumerId, usize)> {
        let all = self.waiting.iter().map(|(c, q)| (*c, q.len()));
        all.max_by_key(|(_, n)| *n)
    }

    /// Whose newest request gives way to one more of `consumer`, when there is somebody with more of the queue.
    fn gives_way_to(&self, consumer: ConsumerId) -> Option<ConsumerId> {
        let own = self.of(consumer);
        // Looking through all is worth it only when there is somebody to be found.
        let share = self.count / (self.waiting.len() + usize::from(own == 0));
        if own > share || self.count <= self.waiting.len() {
            return None;
        }
        self.longest().filter(|(_, n)| *n > own + 1).map(|(c, _)| c)
    }
}

impl State {
    /// Makes room in a full queue for a request of this priority and consumer; whether there is room now.
    fn make_room(&mut self, priority: usize, consumer: ConsumerId) -> bool {
        let Some(lowest) = self.levels.iter().position(|l| l.count > 0) else {
            return false;
        };
        let level = &mut self.levels[lowest];
        let victim = match lowest.cmp(&priority) {
            std::cmp::Ordering::Less => level.longest().map(|(c, _)| c),
            std::cmp::Ordering::Equal => level.gives_way_to(consumer),
            std::cmp::Ordering::Greater => None,
        };
        let Some(shed) = victim.and_then(|v| level.remove(v, |_| true)) else {
            return false;
        };
        self.waiting -= 1;
        // Who waits looks at this under the lock that is held here, so it is heard.
        let _ = shed.tell.send(Turn::Leave);
        true
    }

    /// Lets in whoever is next, as long as there are places.
    fn let_in(&mut self) {
        while self.in_flight < self.most && self.waiting > 0 {
            let Some(next) = self.levels.iter_mut().rev().find_map(Level::next) else {
                return;
            };
            self.waiting -= 1;
            self.in_flight += 1;
            let _ = next.tell.send(Turn::Go);
        }
    }
}

impl Gate {
    /// Lets `most` be in flight.
    pub(crate) fn new(most: u32) -> Arc<Self> {
        Self::with_queue(most, WAITING_MOST)
    }

    fn with_queue(most: u32, waiting_most: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                most,
                in_flight: 0,
                waiting: 0,
                levels: Default::default(),
                tickets: 0,
            }),
            waiting_most,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bound. Whoever is in flight stays.
    pub(crate) fn set_most(&self, most: u32) {
        let mut state = self.lock();
        state.most = most;
        state.let_in();
    }

    /// Requests in flight and waiting.
    pub(crate) fn counts(&self) -> (u32, usize) {
        let state = self.lock();
        (state.in_flight, state.waiting)
    }

    /// Lets a request in, at once or after a wait of at most `wait`.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        priority: u8,
        consumer: ConsumerId,
        wait: Duration,
    ) -> Result<Pass, Shed> {
        let Some(waiting) = self.begin(priority, consumer)? else {
            return Ok(Pass(Arc::clone(self)));
        };
        waiting.turn(wait).await
    }

    /// Takes a place (none), or one in the queue.
    fn begin(self: &Arc<Self>, priority: u8, consumer: ConsumerId) -> Result<Option<Waiting>, Shed> {
        let level = usize::from(priority).min(LEVELS - 1);
        let mut state = self.lock();
        if state.in_flight < state.most && state.waiting == 0 {
            state.in_flight += 1;
            return Ok(None);
        }
        if state.waiting >= self.waiting_most && !state.make_room(level, consumer) {
            return Err(Shed);
        }
        let (tell, told) = oneshot::channel();
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting += 1;
        state.levels[level].push(consumer, Waiter { ticket, tell });
        drop(state);
        Ok(Some(Waiting {
            gate: Arc::clone(self),
            level,
            consumer,
            ticket,
            told,
        }))
    }

    fn leave(&self) {
        let mut state = self.lock();
        state.in_flight -= 1;
        state.let_in();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A place in the queue. Dropped, it is given up.
struct Waiting {
    gate: Arc<Gate>,
    level: usize,
    consumer: ConsumerId,
    ticket: u64,
    told: oneshot::Receiver<Turn>,
}

impl Waiting {
    async fn turn(mut self, wait: Duration) -> Result<Pass, Shed> {
        match tokio::time::timeout(wait, &mut self.told).await {
            Ok(Ok(Turn::Go)) => Ok(Pass(Arc::clone(&self.gate))),
            // In every other case dropping this finds out what is to be given up.
            _ => Err(Shed),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A turn that was taken up has been received, and is neither in the queue nor here.
        let mut state = self.gate.lock();
        let ticket = self.ticket;
        if state.levels[self.level]
            .remove(self.consumer, |w| w.ticket == ticket)
            .is_some()
        {
            state.waiting -= 1;
        } else if self.told.try_recv() == Ok(Turn::Go) {
            state.in_flight -= 1;
            state.let_in();
        }
    }
}

#[cfg(test)]
mod tests;
