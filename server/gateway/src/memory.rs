//! Memory that callers make the gateway hold: bounded in all, and for each account by what is left for the others.
//!
//! An account may hold as much as is free. One alone gets half of the room; however many fill it, there is always some
//! left for one that holds nothing yet.

use crate::account::Account;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an account holds, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Bodies of requests that are read whole.
    bodies: AtomicUsize,
    /// Answers on their way that are to be kept.
    answers: AtomicUsize,
}

/// A bound on bytes.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    taken: AtomicUsize,
    own: fn(&Held) -> &AtomicUsize,
}

impl Room {
    /// For bodies of requests that are read whole: at most `bytes` in all.
    pub(crate) fn for_bodies(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            most: bytes,
            taken: AtomicUsize::new(0),
            own: |held| &held.bodies,
        })
    }

    /// For answers on their way that are to be kept.
    pub(crate) fn for_answers(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            most: bytes,
            taken: AtomicUsize::new(0),
            own: |held| &held.answers,
        })
    }

    /// Bytes in use.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self, account: &Account, bytes: usize) -> bool {
        let own = (self.own)(&account.held);
        let then = self.taken.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let own_then = own.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let fits = own_then <= self.most.saturating_sub(then);
        if !fits {
            self.give_back(account, bytes);
        }
        fits
    }

    fn give_back(&self, account: &Account, bytes: usize) {
        (self.own)(&account.held).fetch_sub(bytes, Ordering::Relaxed);
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a room, for an account. Dropped, they are given back.
pub(crate) struct Taken {
    room: Arc<Room>,
    account: Arc<Account>,
    bytes: usize,
}

impl Taken {
    /// Nothing yet.
    pub(crate) fn nothing(room: &Arc<Room>, account: &Arc<Account>) -> Self {
        Self {
            room: Arc::clone(room),
            account: Arc::clone(account),
            bytes: 0,
        }
    }

    /// Makes it so many bytes, where they are fewer; whether there was room.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.room.take(&self.account, more);
        if fits {
            self.bytes += more;
        }
        fits
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.give_back(&self.account, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ConsumerId;
    use model::access::Environment;

    #[test]
    fn an_account_holds_what_is_free_and_no_more() {
        let room = Room::for_bodies(1_200);
        let account = |n| Arc::new(Account::unknown(ConsumerId::from_bits(n), Environment::Live));
        let taken = |n| Taken::nothing(&room, &account(n));
        let mut greedy = taken(1);
        assert!(greedy.grow(600) && greedy.grow(10) && !greedy.grow(601));
        let mut others = Vec::new();
        for (n, (most, fits)) in (2..).zip([(300, true), (151, false), (150, true), (75, true)]) {
            let mut other = taken(n);
            assert_eq!(other.grow(most), fits, "{n}");
            others.push(other);
        }
        drop(greedy);
        assert_eq!(room.taken(), 525);
        drop(others);
        assert_eq!(room.taken(), 0);
    }
}
