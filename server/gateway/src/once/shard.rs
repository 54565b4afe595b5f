//! Keys and answers behind one lock, with what each holder takes of the memory.

use super::Saved;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of a key without its answer: in the table, and in the order of ends.
pub(super) const TRACE_BYTES: usize = 192;
/// Bytes of a holder without its keys.
const HOLDER_BYTES: usize = 256;
/// Most keys that are dropped at a time because their time is over: more than come, and none waits for many.
const EXPIRE_MOST: usize = 16;

/// A key, as the first half of its SHA-256.
pub(super) type Key = [u8; 16];
/// What the requests with a key must be the same in, likewise.
pub(super) type Print = [u8; 16];
/// Whose memory it is.
pub(super) type HolderId = u64;

pub(super) enum State {
    Running,
    Answered(Box<Answered>),
    /// It was done; its answer is gone.
    Lost,
}

pub(super) struct Answered {
    pub(super) saved: Arc<Saved>,
    /// Its place in the order of answers.
    order: u64,
    bytes: usize,
}

pub(super) struct Slot {
    pub(super) print: Print,
    pub(super) state: State,
    holder: HolderId,
    until_ns: u64,
}

impl Slot {
    /// Whether it holds nothing any more.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        !matches!(self.state, State::Running) && now_ns >= self.until_ns
    }
}

/// A caller who holds keys.
#[derive(Default)]
struct Holder {
    keys: usize,
    /// Bytes of its answers.
    answers: usize,
    /// Its answers in the order they came.
    kept: BTreeMap<u64, Key>,
}

impl Holder {
    fn traces(&self) -> usize {
        let own = if self.keys > 0 { HOLDER_BYTES } else { 0 };
        own + self.keys * TRACE_BYTES
    }
}

#[derive(Default)]
pub(super) struct Shard {
    slots: HashMap<Key, Slot>,
    holders: HashMap<HolderId, Holder>,
    /// Holders of answers by their bytes.
    fullest: BTreeSet<(usize, HolderId)>,
    /// Keys that are done, by the end of their time.
    ends: BTreeSet<(u64, Key)>,
    /// Bytes of keys and of their answers.
    traces: usize,
    answers: usize,
    orders: u64,
}

impl Shard {
    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.traces + self.answers
    }

    /// What there is under a key.
    pub(super) fn get(&self, key: &Key) -> Option<&Slot> {
        self.slots.get(key)
    }

    /// Changes what somebody holds, and the sums with it.
    fn hold(&mut self, id: HolderId, change: impl FnOnce(&mut Holder)) {
        let holder = self.holders.entry(id).or_default();
        let (traces, answers) = (holder.traces(), holder.answers);
        change(holder);
        self.traces = self.traces - traces + holder.traces();
        self.answers = self.answers - answers + holder.answers;
        if answers != holder.answers {
            self.fullest.remove(&(answers, id));
            if holder.answers > 0 {
                self.fullest.insert((holder.answers, id));
            }
        }
        if holder.keys == 0 {
            self.holders.remove(&id);
        }
    }

    /// Adds a key that is under way, if its holder has room for one: it may have as much for keys as is left for all
    /// others. Answers give way to it, keys do not.
    pub(super) fn begin(&mut self, key: Key, print: Print, holder: HolderId, most: usize) -> bool {
        let before = self.holders.get(&holder).map_or(0, Holder::traces);
        let own = before.max(HOLDER_BYTES) + TRACE_BYTES;
        let all = self.traces + own - before;
        if own > most.saturating_sub(all) {
            return false;
        }
        self.hold(holder, |h| h.keys += 1);
        let slot = Slot {
            print,
            state: State::Running,
            holder,
            until_ns: 0,
        };
        self.slots.insert(key, slot);
        self.make_room(most);
        true
    }

    /// It was done. Without an answer it is only known that it was.
    pub(super) fn end(&mut self, key: &Key, saved: Option<Arc<Saved>>, until_ns: u64, most: usize) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.until_ns = until_ns;
        slot.state = State::Lost;
        self.ends.insert((until_ns, *key));
        let Some(saved) = saved else { return };
        self.orders += 1;
        let (order, holder) = (self.orders, slot.holder);
        let lines = saved.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64);
        let bytes = saved.body.len() + lines.sum::<usize>();
        slot.state = State::Answered(Box::new(Answered { saved, order, bytes }));
        self.hold(holder, |h| {
            h.answers += bytes;
            h.kept.insert(order, *key);
        });
        self.make_room(most);
    }

    /// Leaves of an answer that there was one.
    fn lose(&mut self, key: &Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let holder = slot.holder;
        if let State::Answered(answered) = std::mem::replace(&mut slot.state, State::Lost) {
            self.hold(holder, |h| {
                h.answers -= answered.bytes;
                h.kept.remove(&answered.order);
            });
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.lose(key);
        if let Some(slot) = self.slots.remove(key) {
            self.ends.remove(&(slot.until_ns, *key));
            self.hold(slot.holder, |h| h.keys -= 1);
        }
    }

    /// Drops keys whose time is over.
    pub(super) fn expire(&mut self, now_ns: u64) {
        for _ in 0..EXPIRE_MOST {
            match self.ends.first() {
                Some((until_ns, key)) if *until_ns <= now_ns => {
                    let key = *key;
                    self.remove(&key);
                }
                _ => return,
            }
        }
    }

    /// Answers go, the oldest of who holds most of them.
    fn make_room(&mut self, most: usize) {
        while self.bytes() > most {
            let fullest = self.fullest.last().and_then(|(_, id)| self.holders.get(id));
            let Some((_, key)) = fullest.and_then(|h| h.kept.first_key_value()) else {
                return;
            };
            let key = *key;
            self.lose(&key);
        }
    }
}
