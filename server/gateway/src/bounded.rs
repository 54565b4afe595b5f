//! A map that forgets: what is kept per caller must not grow with the callers.
//!
//! Each shard has two generations. What is asked for moves into the young one; when that is full it becomes the old
//! one and the old one goes. So what was used lately stays, and a flood of new names costs a bounded amount of memory
//! and makes nobody wait.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks: threads that ask for different names seldom meet.
const SHARDS: usize = 16;

struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

/// A map of bounded size, shared between threads.
pub(crate) struct Bounded<K, V> {
    shards: [Mutex<Generations<K, V>>; SHARDS],
    /// Entries of a young generation.
    room: usize,
    /// Keyed at random, so that nobody can choose names that all fall into one shard.
    hasher: RandomState,
}

impl<K: Eq + Hash, V: Clone> Bounded<K, V> {
    /// Keeps at most about `most` entries, and at least the half of them that was used last.
    pub(crate) fn new(most: usize) -> Self {
        let empty = || Generations {
            young: HashMap::new(),
            old: HashMap::new(),
        };
        Self {
            shards: std::array::from_fn(|_| Mutex::new(empty())),
            room: (most / SHARDS / 2).max(1),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Generations<K, V>> {
        let hash = self.hasher.hash_one(key).to_le_bytes()[0];
        let shard = &self.shards[usize::from(hash) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept under a name.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.shard(key).get(key, self.room)
    }

    /// Keeps a value, in place of the one that was there.
    pub(crate) fn put(&self, key: K, value: V) {
        let mut shard = self.shard(&key);
        shard.old.remove(&key);
        shard.put(key, value, self.room);
    }

    /// What is kept under a name; made when there is nothing.
    pub(crate) fn get_or_put(&self, key: K, make: impl FnOnce() -> V) -> V {
        let mut shard = self.shard(&key);
        if let Some(known) = shard.get(&key, self.room) {
            return known;
        }
        let made = make();
        shard.put(key, made.clone(), self.room);
        made
    }

    /// Entries kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let count = |s: &Mutex<Generations<K, V>>| {
            let shard = s.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.len() + shard.old.len()
        };
        self.shards.iter().map(count).sum()
    }
}

impl<K: Eq + Hash, V: Clone> Generations<K, V> {
    fn get(&mut self, key: &K, room: usize) -> Option<V> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone(), room);
        Some(value)
    }

    fn put(&mut self, key: K, value: V, room: usize) {
        if self.young.len() >= room && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_stays_bounded_and_what_is_used_stays() {
        let map = Bounded::new(1_024);
        map.put(u64::MAX, 1);
        for n in 0..100_000u64 {
            map.put(n, 0);
            assert_eq!(map.get(&u64::MAX), Some(1), "after {n}");
        }
        assert!(map.len() <= 1_024, "{}", map.len());
        assert_eq!(map.get(&0), None);
    }

    #[test]
    fn there_is_one_value_a_name() {
        let map = Bounded::new(64);
        assert_eq!(map.get_or_put("a", || 1), 1);
        assert_eq!(map.get_or_put("a", || 2), 1);
        for n in 0..1_000 {
            map.put("a", n);
            assert_eq!(map.get(&"a"), Some(n));
        }
    }
}
