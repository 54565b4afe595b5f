//! Which keys are claimed, and the answers that are kept for them, within a bound in bytes.
//!
//! When the bound is reached answers go, the oldest of the caller who holds most, and leave behind that there was one: a
//! repeat is then refused, not done again. That much is kept for its whole time. A caller may hold as many keys as there
//! is room for those of all others; who has no room for another is refused, and nobody else's key is forgotten for it.

use super::shard::{Key, Print, Shard, State};
use super::{Place, Saved};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks: requests seldom meet.
const SHARDS: usize = 8;

/// All keys of a gateway.
pub(crate) struct Once {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes in each shard.
    most: usize,
    /// Keyed at random, so that nobody can choose keys that all fall into one shard.
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
    /// The caller holds as many keys as there is room for.
    Full,
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
        let bytes = |s: &Mutex<Shard>| s.lock().unwrap_or_else(PoisonError::into_inner).bytes();
        self.shards.iter().map(bytes).sum()
    }

    /// Claims a key for a request, or says what became of it. It is kept for `keep_s` after its end.
    pub(crate) fn claim(self: &Arc<Self>, place: Place, print: Print, keep_s: u32, now_ns: u64) -> Claimed {
        let Place { holder, key } = place;
        let mut shard = self.shard(&key);
        shard.expire(now_ns);
        match shard.get(&key) {
            Some(slot) if slot.is_over(now_ns) => shard.remove(&key),
            Some(slot) => {
                return match &slot.state {
                    _ if slot.print != print => Claimed::Other,
                    State::Running => Claimed::Running,
                    State::Answered(answered) => Claimed::Answered(Arc::clone(&answered.saved)),
                    State::Lost => Claimed::Lost,
                };
            }
            None => {}
        }
        if !shard.begin(key, print, holder, self.most) {
            return Claimed::Full;
        }
        Claimed::Mine(Claim {
            once: Arc::clone(self),
            key,
            keep_ns: u64::from(keep_s) * 1_000_000_000,
            ended: false,
        })
    }
}

impl Claim {
    /// It was done, and repeats get this answer; none keeps only that it was done.
    pub(crate) fn end(mut self, saved: Option<Arc<Saved>>, now_ns: u64) {
        self.ended = true;
        let until_ns = now_ns.saturating_add(self.keep_ns);
        self.once
            .shard(&self.key)
            .end(&self.key, saved, until_ns, self.once.most);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.ended {
            self.once.shard(&self.key).remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    const PRINT: Print = [1; 16];
    const SECOND: u64 = 1_000_000_000;

    fn saved(bytes: usize) -> Option<Arc<Saved>> {
        Some(Arc::new(Saved {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![0; bytes]),
        }))
    }

    /// A key of a caller.
    fn place(holder: u64, n: u32) -> Place {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&n.to_le_bytes());
        key[4..12].copy_from_slice(&holder.to_le_bytes());
        Place { holder, key }
    }

    fn claim(once: &Arc<Once>, n: u32, now_ns: u64) -> Claimed {
        once.claim(place(1, n), PRINT, 10, now_ns)
    }

    /// Whether there was room.
    fn done(once: &Arc<Once>, place: Place, bytes: usize, now_ns: u64) -> bool {
        match once.claim(place, PRINT, 10, now_ns) {
            Claimed::Mine(claim) => claim.end(saved(bytes), now_ns),
            Claimed::Full => return false,
            _ => panic!("it is taken"),
        }
        true
    }

    #[test]
    fn a_key_is_free_again_when_nothing_came_of_it_or_its_time_is_over() {
        let once = Once::new(1 << 20);
        let first = claim(&once, 1, 0);
        assert!(matches!(first, Claimed::Mine(_)));
        assert!(matches!(claim(&once, 1, 0), Claimed::Running));
        drop(first);
        assert!(done(&once, place(1, 1), 5, 0));
        assert!(matches!(claim(&once, 1, 10 * SECOND - 1), Claimed::Answered(_)));
        let other = once.claim(place(1, 1), [2; 16], 10, 0);
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
            assert!(done(&once, place(1, n), 5_000, 0));
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

    /// One who fills the memory loses answers of its own, and then gets no further key.
    #[test]
    fn a_flood_is_at_the_cost_of_who_makes_it() {
        const BYTES: usize = 1 << 20;
        let once = Once::new(BYTES);
        for n in 0..50 {
            assert!(done(&once, place(2, n), 2_000, 0));
        }
        let flood = |from_ns: u64| (0..20_000).filter(|n| done(&once, place(1, *n), 500, from_ns)).count();
        let held = flood(0);
        assert!((2_000..4_000).contains(&held), "{held}");
        assert!(once.bytes() <= BYTES);
        for n in 0..50 {
            let again = once.claim(place(2, n), PRINT, 10, 0);
            assert!(matches!(again, Claimed::Answered(_)), "{n}");
            assert!(done(&once, place(2, 100 + n), 2_000, 0), "{n}");
        }
        assert!(flood(10 * SECOND) >= held, "when its time is over there is room again");
    }
}
