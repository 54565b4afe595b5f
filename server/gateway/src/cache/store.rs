//! Where answers are kept: in shards, each with a bound in bytes, from which what was not used for longest goes first.
//!
//! Beside them stand the requests that are out to fetch an answer, so that others can wait for it.

use super::object::Object;
use http::HeaderMap;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Locks: threads that ask for different answers seldom meet.
const SHARDS: usize = 8;
/// Most answers to the same request that differ by what `Vary` names; the oldest goes.
const VARIANTS_MOST: usize = 16;
/// Most requests that wait for one that fetches; the next ones go themselves.
const WAITERS_MOST: usize = 256;
/// Bytes of an entry beside its answers.
const ENTRY_BYTES: usize = 256;
/// How long requests do not wait for each other where an answer turned out not to be kept.
const PASS_NS: u64 = 10_000_000_000;

/// What an answer is found by.
pub(super) type Key = Arc<[u8]>;

/// What became of a request that others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is under way.
    Open,
    /// Its answer is kept.
    Kept,
    /// Its answer is not one to be kept.
    NotKept,
}

#[derive(Default)]
struct Entry {
    variants: Vec<Arc<Object>>,
    /// Until then nobody waits.
    pass_until_ns: u64,
    bytes: usize,
    used: u64,
}

struct Flight {
    id: u64,
    outcome: watch::Sender<Outcome>,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    /// Keys by when they were used.
    order: BTreeMap<u64, Key>,
    flights: HashMap<Key, Flight>,
    bytes: usize,
    /// Of them those that are counted in the sum of all shards.
    counted: usize,
    clock: u64,
}

/// All answers that are kept.
pub(super) struct Store {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes in each shard.
    most: usize,
    bytes: AtomicUsize,
    flights: AtomicU64,
    /// Keyed at random, so that nobody can choose requests that all fall into one shard.
    hasher: RandomState,
}

/// What is there for a request.
pub(super) enum Found {
    Answer(Arc<Object>),
    /// Answers to it, which vary by what it has not.
    Others,
    Nothing,
}

/// What a request that found nothing does.
pub(super) enum Turn {
    /// It goes, and others wait for it.
    Lead(u64),
    /// It waits.
    Wait(watch::Receiver<Outcome>, u64),
    /// It goes, and nobody waits.
    Go,
}

impl Store {
    /// At most `bytes` in all.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            most: bytes / SHARDS,
            bytes: AtomicUsize::new(0),
            flights: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key).to_le_bytes()[0];
        let shard = &self.shards[usize::from(hash) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The answer to a request; those that `valid` refuses go.
    pub(super) fn find(&self, key: &Key, asked: &HeaderMap, valid: impl Fn(&Object) -> bool) -> Found {
        let mut shard = self.shard(key);
        let found = shard.find(key, asked, valid);
        self.count(&mut shard);
        found
    }

    /// Whether a request that found nothing goes or waits.
    pub(super) fn turn(&self, key: &Key, now_ns: u64) -> Turn {
        let mut shard = self.shard(key);
        if shard.entries.get(key).is_some_and(|e| now_ns < e.pass_until_ns) {
            return Turn::Go;
        }
        if let Some(flight) = shard.flights.get(key) {
            if flight.outcome.receiver_count() >= WAITERS_MOST {
                return Turn::Go;
            }
            return Turn::Wait(flight.outcome.subscribe(), flight.id);
        }
        Turn::Lead(self.lead(&mut shard, key))
    }

    /// One that waited too long for a flight goes itself, and others wait for it from now on.
    pub(super) fn take_over(&self, key: &Key, waited_for: u64) -> Option<u64> {
        let mut shard = self.shard(key);
        let still = shard.flights.get(key).is_none_or(|f| f.id == waited_for);
        still.then(|| self.lead(&mut shard, key))
    }

    fn lead(&self, shard: &mut Shard, key: &Key) -> u64 {
        let id = self.flights.fetch_add(1, Ordering::Relaxed);
        let outcome = watch::Sender::new(Outcome::Open);
        shard.flights.insert(Arc::clone(key), Flight { id, outcome });
        id
    }

    /// The end of a flight, unless somebody took it over. An open outcome says that it failed. From
    /// `uncollapsed_ns` on requests like it do not wait for each other.
    pub(super) fn landed(&self, key: &Key, id: u64, outcome: Outcome, uncollapsed_ns: Option<u64>) {
        let mut shard = self.shard(key);
        if let Some(from_ns) = uncollapsed_ns {
            shard.pass(key, from_ns.saturating_add(PASS_NS), self.most);
        }
        if shard.flights.get(key).is_some_and(|f| f.id == id)
            && let Some(flight) = shard.flights.remove(key)
        {
            flight.outcome.send_replace(outcome);
        }
        self.count(&mut shard);
    }

    /// Keeps an answer, in place of one that it replaces, if `valid` says so while nobody can forget answers. Whether it
    /// is kept.
    pub(super) fn put(&self, key: &Key, object: Arc<Object>, valid: impl Fn(&Object) -> bool) -> bool {
        let mut shard = self.shard(key);
        let kept = valid(&object) && shard.put(key, object, self.most);
        self.count(&mut shard);
        kept
    }

    /// Forgets one answer.
    pub(super) fn drop_one(&self, key: &Key, object: &Arc<Object>) {
        let mut shard = self.shard(key);
        shard.retain(key, |known| !std::ptr::eq(known, Arc::as_ptr(object)));
        self.count(&mut shard);
    }

    /// Forgets answers.
    pub(super) fn forget(&self, which: impl Fn(&Object) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<Key> = shard.entries.keys().cloned().collect();
            for key in keys {
                shard.retain(&key, |object| !which(object));
            }
            self.count(&mut shard);
        }
    }

    /// Adds up what a change of a shard made of its bytes.
    fn count(&self, shard: &mut Shard) {
        let (before, now) = (std::mem::replace(&mut shard.counted, shard.bytes), shard.bytes);
        self.bytes.fetch_add(now, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Shard {
    fn touch(&mut self, key: &Key) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            self.order.remove(&entry.used);
            entry.used = self.clock;
            self.order.insert(self.clock, Arc::clone(key));
        }
    }

    fn find(&mut self, key: &Key, asked: &HeaderMap, valid: impl Fn(&Object) -> bool) -> Found {
        self.retain(key, valid);
        let Some(entry) = self.entries.get(key) else {
            return Found::Nothing;
        };
        // The youngest stands last.
        let fits = entry.variants.iter().rev().find(|o| o.fits(asked)).cloned();
        let others = !entry.variants.is_empty();
        match fits {
            Some(object) => {
                self.touch(key);
                Found::Answer(object)
            }
            None if others => Found::Others,
            None => Found::Nothing,
        }
    }

    /// Keeps only some answers of an entry.
    fn retain(&mut self, key: &Key, valid: impl Fn(&Object) -> bool) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.variants.iter().all(|o| valid(o)) {
            return;
        }
        entry.variants.retain(|o| valid(o));
        self.weigh(key);
        if self.entries.get(key).is_some_and(|e| e.variants.is_empty()) {
            self.remove(key);
        }
    }

    /// Counts the bytes of an entry anew.
    fn weigh(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            let bytes = ENTRY_BYTES + key.len() + entry.variants.iter().map(|o| o.bytes()).sum::<usize>();
            self.bytes = self.bytes + bytes - entry.bytes;
            entry.bytes = bytes;
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    fn put(&mut self, key: &Key, object: Arc<Object>, most: usize) -> bool {
        if object.bytes() + key.len() + ENTRY_BYTES > most {
            return false;
        }
        let entry = self.entries.entry(Arc::clone(key)).or_default();
        entry.pass_until_ns = 0;
        entry.variants.retain(|known| !object.replaces(known));
        if entry.variants.len() >= VARIANTS_MOST {
            entry.variants.remove(0);
        }
        entry.variants.push(object);
        // All variants together must leave room for others.
        loop {
            self.weigh(key);
            match self.entries.get_mut(key) {
                Some(entry) if entry.bytes > most && entry.variants.len() > 1 => drop(entry.variants.remove(0)),
                _ => break,
            }
        }
        self.touch(key);
        self.make_room(most);
        true
    }

    fn pass(&mut self, key: &Key, until_ns: u64, most: usize) {
        let entry = self.entries.entry(Arc::clone(key)).or_default();
        entry.pass_until_ns = until_ns;
        self.weigh(key);
        self.touch(key);
        self.make_room(most);
    }

    fn make_room(&mut self, most: usize) {
        while self.bytes > most {
            let Some(oldest) = self.order.first_key_value().map(|(_, key)| Arc::clone(key)) else {
                return;
            };
            self.remove(&oldest);
        }
    }
}
