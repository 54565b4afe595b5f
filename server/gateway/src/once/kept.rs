//! Which keys are claimed, and the answers that are kept for them, within a bound in bytes.
//!
//! When the bound is reached the oldest answers go first, and leave behind that there was one: a repeat is then refused,
//! not done again. Only when nothing but such traces is left, the oldest of them go, too.

use super::Saved;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks: requests seldom meet.
const SHARDS: usize = 8;
/// Bytes of a key beside its text and its answer.
const OVERHEAD_BYTES: usize = 512;

type Key = Arc<[u8]>;

enum State {
    Running,
    Answered(Arc<Saved>),
    /// It was done; its answer is gone.
    Lost,
}

struct Slot {
    print: [u8; 32],
    state: State,
    until_ns: u64,
    order: u64,
    bytes: usize,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<Key, Slot>,
    answered: BTreeMap<u64, Key>,
    lost: BTreeMap<u64, Key>,
    bytes: usize,
    clock: u64,
}

/// All keys of a gateway.
pub(crate) struct Once {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes in each shard.
    most: usize,
    hasher: RandomState,
}

/// What there is for a request with a key.
pub(crate) enum Claimed {
    /// It is the first.
    Mine(Claim),
    /// The first is under way.
    Running,
    Answered(Arc<Saved>),
    /// The key was used for another request.
    Other,
    /// It was done, and the answer is not kept.
    Lost,
}

/// The right to do what a key stands for. Dropped without an end it leaves the key free.
pub(crate) struct Claim {
    once: Arc<Once>,
    key: Key,
    keep_ns: u64,
    ended: bool,
}

impl Once {
    /// Keeps at most `bytes` in all.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            most: bytes / SHARDS,
            hasher: RandomState::new(),
        })
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key).to_le_bytes()[0];
        let shard = &self.shards[usize::from(hash) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |s: &Mutex<Shard>| s.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        self.shards.iter().map(bytes).sum()
    }

    /// Claims a key for a request, or says what became of it. It is kept for `keep_s` after its end.
    pub(crate) fn claim(self: &Arc<Self>, key: Key, print: [u8; 32], keep_s: u32, now_ns: u64) -> Claimed {
        let mut shard = self.shard(&key);
        shard.expire(now_ns);
        if let Some(slot) = shard.slots.get(&key) {
            let over = !matches!(slot.state, State::Running) && now_ns >= slot.until_ns;
            if !over {
                return match &slot.state {
                    _ if slot.print != print => Claimed::Other,
                    State::Running => Claimed::Running,
                    State::Answered(saved) => Claimed::Answered(Arc::clone(saved)),
                    State::Lost => Claimed::Lost,
                };
            }
            shard.remove(&key);
        }
        let slot = Slot {
            print,
            state: State::Running,
            until_ns: 0,
            order: 0,
            bytes: OVERHEAD_BYTES + key.len(),
        };
        shard.bytes += slot.bytes;
        shard.slots.insert(Arc::clone(&key), slot);
        shard.make_room(self.most);
        Claimed::Mine(Claim {
            once: Arc::clone(self),
            key: Arc::clone(&key),
            keep_ns: u64::from(keep_s) * 1_000_000_000,
            ended: false,
        })
    }
}

impl Claim {
    /// It was done, and repeats get this answer; none keeps only that it was done.
    pub(crate) fn end(mut self, saved: Option<Arc<Saved>>, now_ns: u64) {
        self.ended = true;
        let mut shard = self.once.shard(&self.key);
        shard.end(&self.key, saved, now_ns.saturating_add(self.keep_ns));
        shard.make_room(self.once.most);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.ended {
            self.once.shard(&self.key).remove(&self.key);
        }
    }
}

impl Shard {
    fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            self.answered.remove(&slot.order);
            self.lost.remove(&slot.order);
            self.bytes -= slot.bytes;
        }
    }

    fn end(&mut self, key: &Key, saved: Option<Arc<Saved>>, until_ns: u64) {
        self.clock += 1;
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.until_ns = until_ns;
        slot.order = self.clock;
        let kept = match saved {
            Some(saved) => {
                let lines = saved.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64);
                let more = saved.body.len() + lines.sum::<usize>();
                slot.bytes += more;
                self.bytes += more;
                slot.state = State::Answered(saved);
                &mut self.answered
            }
            None => {
                slot.state = State::Lost;
                &mut self.lost
            }
        };
        kept.insert(self.clock, Arc::clone(key));
    }

    /// Drops the oldest when their time is over.
    fn expire(&mut self, now_ns: u64) {
        for _ in 0..2 {
            let oldest = [&self.answered, &self.lost].map(|all| all.first_key_value().map(|(_, key)| Arc::clone(key)));
            for key in oldest.into_iter().flatten() {
                if self.slots.get(&key).is_some_and(|s| now_ns >= s.until_ns) {
                    self.remove(&key);
                }
            }
        }
    }

    fn make_room(&mut self, most: usize) {
        while self.bytes > most {
            if let Some((order, key)) = self.answered.pop_first() {
                if let Some(slot) = self.slots.get_mut(&key) {
                    let bare = OVERHEAD_BYTES + key.len();
                    self.bytes -= slot.bytes - bare;
                    slot.bytes = bare;
                    slot.state = State::Lost;
                    self.lost.insert(order, key);
                }
            } else if let Some((_, key)) = self.lost.first_key_value() {
                let key = Arc::clone(key);
                self.remove(&key);
            } else {
                // What is under way is bounded by the requests in flight.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    const PRINT: [u8; 32] = [1; 32];
    const SECOND: u64 = 1_000_000_000;

    fn saved(bytes: usize) -> Option<Arc<Saved>> {
        Some(Arc::new(Saved {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![0; bytes]),
        }))
    }

    fn claim(once: &Arc<Once>, n: u32, now_ns: u64) -> Claimed {
        once.claim(Arc::from(n.to_le_bytes()), PRINT, 10, now_ns)
    }

    fn done(once: &Arc<Once>, n: u32, bytes: usize) {
        let Claimed::Mine(claim) = claim(once, n, 0) else {
            panic!("{n} is taken")
        };
        claim.end(saved(bytes), 0);
    }

    #[test]
    fn a_key_is_free_again_when_nothing_came_of_it_or_its_time_is_over() {
        let once = Once::new(1 << 20);
        let first = claim(&once, 1, 0);
        assert!(matches!(first, Claimed::Mine(_)));
        assert!(matches!(claim(&once, 1, 0), Claimed::Running));
        drop(first);
        done(&once, 1, 5);
        assert!(matches!(claim(&once, 1, 10 * SECOND - 1), Claimed::Answered(_)));
        let other = once.claim(Arc::from(1u32.to_le_bytes()), [2; 32], 10, 0);
        assert!(matches!(other, Claimed::Other));
        drop(claim(&once, 1, 10 * SECOND));
        assert_eq!(once.bytes(), 0);
    }

    /// A flood costs answers before it costs the knowledge that something was done.
    #[test]
    fn memory_is_bounded_and_what_was_done_is_not_done_again() {
        const BYTES: usize = 1 << 20;
        let once = Once::new(BYTES);
        for n in 0..1_000 {
            done(&once, n, 5_000);
            assert!(once.bytes() <= BYTES, "{} after {n}", once.bytes());
        }
        let (mut answered, mut lost) = (0, 0);
        for n in 0..1_000 {
            match claim(&once, n, 0) {
                Claimed::Answered(_) => answered += 1,
                Claimed::Lost => lost += 1,
                _ => panic!("{n} would be done again"),
            }
        }
        assert!(answered > 50 && lost > 500, "{answered} {lost}");
        for n in 0..100_000 {
            drop(claim(&once, n, 0));
        }
        assert!(once.bytes() <= BYTES);
    }
}
