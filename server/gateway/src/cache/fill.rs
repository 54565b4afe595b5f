//! An answer on its way through that is to be kept: gathered beside the client, and published only when it came whole.
//!
//! Its bytes are held for as long as the client takes. So one caller's have a bound, and one that gets nowhere, or takes
//! long, loses them as soon as somebody else needs the room.

use super::object::{Keeping, Object, Origin};
use super::{Cache, Ticket};
use crate::account::Account;
use crate::memory::{Room, Taken};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use model::Time;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest time without another part, in nanoseconds, after which an answer gives way to others: 5 s.
const STUCK_NS: u64 = 5_000_000_000;
/// Longest time in all, in nanoseconds, after which it gives way: a minute.
const LONG_NS: u64 = 60_000_000_000;
/// Shortest time between two searches for those that must give way, in nanoseconds: looking at all of them costs.
const SEARCH_EVERY_NS: u64 = 1_000_000_000;

/// What there is of an answer.
struct Gathered {
    /// None once it gave way.
    body: Mutex<Option<(BytesMut, Taken)>>,
    began_ns: u64,
    last_ns: AtomicU64,
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Gathered,
    TooLarge,
    NoRoom,
}

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, Option<(BytesMut, Taken)>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, data: &Bytes, most: usize, now_ns: u64) -> Pushed {
        let mut held = self.lock();
        let Some((body, taken)) = held.as_mut() else {
            return Pushed::NoRoom;
        };
        let then = body.len() + data.len();
        if then > most {
            return Pushed::TooLarge;
        }
        if !taken.grow(then) {
            return Pushed::NoRoom;
        }
        body.extend_from_slice(data);
        self.last_ns.store(now_ns, Ordering::Relaxed);
        Pushed::Gathered
    }

    fn gives_way(&self, now_ns: u64) -> bool {
        let since = |ns: u64| now_ns.saturating_sub(ns);
        since(self.last_ns.load(Ordering::Relaxed)) >= STUCK_NS || since(self.began_ns) >= LONG_NS
    }
}

/// The answers on their way, and the room for them.
pub(super) struct Gathering {
    room: Arc<Room>,
    /// Those whose clients are waited for.
    all: Mutex<HashMap<u64, Arc<Gathered>>>,
    next: AtomicU64,
    searched_ns: AtomicU64,
}

impl Gathering {
    /// At most `bytes` in all.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            room: Room::for_answers(bytes),
            all: Mutex::default(),
            next: AtomicU64::new(0),
            searched_ns: AtomicU64::new(0),
        }
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.room.taken()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Gathered>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, gathered: &Arc<Gathered>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(gathered));
        number
    }

    /// Takes away what must give way; whether it was looked for.
    fn make_room(&self, now_ns: u64) -> bool {
        let last = self.searched_ns.load(Ordering::Relaxed);
        if now_ns.saturating_sub(last) < SEARCH_EVERY_NS {
            return false;
        }
        self.searched_ns.store(now_ns, Ordering::Relaxed);
        for gathered in self.lock().values().filter(|g| g.gives_way(now_ns)) {
            *gathered.lock() = None;
        }
        true
    }
}

/// Dropped before [`Fill::finish`], it keeps nothing, and those who wait go themselves.
pub(crate) struct Fill {
    ticket: Ticket,
    head: Option<(Keeping, StatusCode, HeaderMap)>,
    origin: Option<Origin>,
    gathered: Arc<Gathered>,
    /// Its number among those whose clients are waited for.
    number: Option<u64>,
    most: usize,
    now: Time,
    failed: bool,
}

impl Fill {
    /// For an answer that somebody asked for; `now` is steady and machine's time.
    pub(super) fn new(
        ticket: Ticket,
        account: &Arc<Account>,
        head: (Keeping, StatusCode, HeaderMap),
        origin: Origin,
        most: usize,
        now: (u64, Time),
    ) -> Self {
        let taken = Taken::nothing(&ticket.cache.gathering.room, account);
        Self {
            ticket,
            head: Some(head),
            origin: Some(origin),
            gathered: Arc::new(Gathered {
                body: Mutex::new(Some((BytesMut::new(), taken))),
                began_ns: now.0,
                last_ns: AtomicU64::new(now.0),
            }),
            number: None,
            most,
            now: now.1,
            failed: false,
        }
    }

    fn cache(&self) -> &Arc<Cache> {
        &self.ticket.cache
    }

    /// From now on the client is waited for.
    pub(crate) fn follow(&mut self) {
        if !self.failed {
            self.number = Some(self.cache().gathering.follow(&self.gathered));
        }
    }

    /// Another part of the body. `now_ns` is steady time.
    pub(crate) fn push(&mut self, data: &Bytes, now_ns: u64) {
        if self.failed {
            return;
        }
        let mut pushed = self.gathered.push(data, self.most, now_ns);
        if pushed == Pushed::NoRoom && self.cache().gathering.make_room(now_ns) {
            pushed = self.gathered.push(data, self.most, now_ns);
        }
        match pushed {
            Pushed::Gathered => return,
            Pushed::TooLarge => self.ticket.not_kept(),
            // That says nothing about the next one.
            Pushed::NoRoom => self.ticket.no_room(),
        }
        self.failed = true;
        *self.gathered.lock() = None;
    }

    /// The body came whole.
    pub(crate) fn finish(mut self) {
        let (Some((keeping, status, headers)), Some(origin)) = (self.head.take(), self.origin.take()) else {
            return;
        };
        let Some((body, _taken)) = self.gathered.lock().take() else {
            return;
        };
        let object = Object::new(keeping, status, &headers, &body, origin, self.now);
        self.ticket.keep(Arc::new(object));
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.cache().gathering.lock().remove(&number);
        }
    }
}
