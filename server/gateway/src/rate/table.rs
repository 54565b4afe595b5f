//! Where each subject of a limit stands: arrival times by what is counted together.
//!
//! A table is bounded, and forgetting is exact as long as it can be: an arrival time that is past says as much as none,
//! so those go first, whenever a shard has doubled. Only when a full shard holds none that is past do the earliest go,
//! which are the ones that give away the least. Addresses have a table of their own: whoever commands many cannot push
//! out what is known of consumers.

use crate::tables::LookupHasher;
use model::ConsumerId;
use model::access::{Environment, Method};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Shards of a table: looking a full one through takes well under a millisecond, and only its own readers wait.
const SHARDS: usize = 256;
/// Most subjects with a consumer in them: about 300 MB.
const CALLERS_MOST: usize = 1 << 22;
/// Most subjects that are addresses: about 75 MB.
const ADDRESSES_MOST: usize = 1 << 20;
/// A shard with fewer subjects than this is not looked through.
const SWEEP_FIRST: usize = 64;
/// When a full shard holds nothing that is past, one in so many goes, so that the work is spread over many arrivals.
const EVICTED_SHARE: usize = 8;

/// What is counted together. Parts that do not tell subjects apart are none.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct Subject<'a> {
    /// The route whose limit it is; none for a plan's.
    pub(crate) owner: Option<u16>,
    pub(crate) limit: &'a str,
    pub(crate) account: Option<(ConsumerId, Environment)>,
    pub(crate) key: Option<u64>,
    pub(crate) route: Option<u16>,
    pub(crate) method: Option<Method>,
    pub(crate) address: Option<u64>,
}

/// An address as it is counted: whole for IPv4, the first 64 bits for IPv6.
pub(crate) fn address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        // Below 2000::/3 and so apart from every address that comes over IPv6.
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).unwrap_or(u64::MAX),
    }
}

/// A subject as it is kept: 128 bits under keys of this process. That two of a billion subjects fall together is less
/// likely than one in 10^20, and nobody outside can bring it about.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Print(u64, u64);

impl Hash for Print {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

struct Shard {
    known: HashMap<Print, Arc<AtomicU64>, BuildHasherDefault<LookupHasher>>,
    /// The number of subjects at which it is looked through next.
    sweep_at: usize,
}

struct Table {
    shards: Vec<RwLock<Shard>>,
    /// Most subjects in a shard.
    most: usize,
    keys: (RandomState, RandomState),
}

impl Table {
    fn new(most: usize) -> Self {
        let shard = || {
            RwLock::new(Shard {
                known: HashMap::default(),
                sweep_at: SWEEP_FIRST,
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            most: (most / SHARDS).max(EVICTED_SHARE),
            keys: (RandomState::new(), RandomState::new()),
        }
    }

    fn at(&self, subject: &Subject<'_>, now_ns: u64) -> Arc<AtomicU64> {
        let print = Print(self.keys.0.hash_one(subject), self.keys.1.hash_one(subject));
        let place = usize::try_from(print.1 % (SHARDS as u64)).unwrap_or(0);
        let shard = &self.shards[place];
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(arrival) = known.known.get(&print) {
            return Arc::clone(arrival);
        }
        drop(known);
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.known.len() >= shard.sweep_at {
            shard.sweep(self.most, now_ns);
        }
        Arc::clone(shard.known.entry(print).or_default())
    }

    fn len(&self) -> usize {
        let count = |s: &RwLock<Shard>| s.read().unwrap_or_else(PoisonError::into_inner).known.len();
        self.shards.iter().map(count).sum()
    }
}

impl Shard {
    /// Makes room. An arrival time that a request holds just now stays: what it takes must not be forgotten.
    fn sweep(&mut self, most: usize, now_ns: u64) {
        let held = |arrival: &Arc<AtomicU64>| Arc::strong_count(arrival) > 1;
        self.known.retain(|_, a| held(a) || a.load(Ordering::Relaxed) > now_ns);
        if self.known.len() >= most {
            let mut arrivals: Vec<u64> = self.known.values().map(|a| a.load(Ordering::Relaxed)).collect();
            let mut going = arrivals.len() / EVICTED_SHARE;
            let (_, last, _) = arrivals.select_nth_unstable(going);
            let last = *last;
            self.known.retain(|_, a| {
                let goes = going > 0 && !held(a) && a.load(Ordering::Relaxed) <= last;
                going -= usize::from(goes);
                !goes
            });
        }
        self.sweep_at = (self.known.len() * 2).clamp(SWEEP_FIRST.min(most), most);
    }
}

/// The arrival times of all subjects that no account keeps itself.
pub(crate) struct Arrivals {
    callers: Table,
    addresses: Table,
}

impl Arrivals {
    /// Nothing known.
    pub(crate) fn new() -> Self {
        Self {
            callers: Table::new(CALLERS_MOST),
            addresses: Table::new(ADDRESSES_MOST),
        }
    }

    /// The arrival time of a subject, as long as it is held.
    pub(crate) fn at(&self, subject: &Subject<'_>, now_ns: u64) -> Arc<AtomicU64> {
        let table = if subject.address.is_some() {
            &self.addresses
        } else {
            &self.callers
        };
        table.at(subject, now_ns)
    }

    /// Subjects known.
    pub(crate) fn len(&self) -> usize {
        self.callers.len() + self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Gcra;

    fn subject(address: u64) -> Subject<'static> {
        Subject {
            owner: Some(1),
            limit: "x",
            account: None,
            key: None,
            route: None,
            method: None,
            address: Some(address),
        }
    }

    const NOW: u64 = 1_700_000_000_000_000_000;

    #[test]
    fn what_is_past_goes_first_and_nothing_that_counts_is_forgotten() {
        let table = Table::new(SHARDS * 200);
        let limit = Gcra::new(1, 60, 1);
        for n in 0..5_000 {
            assert!(limit.take(&table.at(&subject(n), NOW), NOW).allowed);
        }
        // A hundred thousand others come and go, each gone by the time the next comes.
        let short = Gcra::new(1_000_000_000, 1, 1);
        for n in 0..100_000 {
            assert!(short.take(&table.at(&subject(1_000_000 + n), NOW + n), NOW + n).allowed);
        }
        for n in 0..5_000 {
            assert!(
                !limit.take(&table.at(&subject(n), NOW), NOW).allowed,
                "{n} was forgotten"
            );
        }
        assert!(table.len() <= SHARDS * 200);
    }

    #[test]
    fn a_table_is_bounded_and_when_full_the_earliest_go() {
        let most = SHARDS * 32;
        let table = Table::new(most);
        let minute = Gcra::new(1, 60, 1);
        for n in 0..100_000u64 {
            assert!(minute.take(&table.at(&subject(n), NOW + n), NOW + n).allowed);
        }
        assert!(table.len() <= most, "{}", table.len());
        let newest = (98_000..100_000u64).filter(|n| {
            let kept = !minute.peek(&table.at(&subject(*n), NOW), NOW + 100_000).allowed;
            assert!(table.len() <= most);
            kept
        });
        assert!(newest.count() > 1_800, "the newest are the last to go");
    }

    #[test]
    fn what_a_request_holds_is_not_forgotten() {
        let table = Table::new(SHARDS * EVICTED_SHARE);
        let held = table.at(&subject(0), NOW);
        for n in 1..100_000 {
            table.at(&subject(n), NOW);
        }
        assert!(Gcra::new(1, 60, 1).take(&held, NOW).allowed);
        assert!(Arc::ptr_eq(&held, &table.at(&subject(0), NOW)));
    }

    #[test]
    fn an_ipv6_network_is_one_subject_and_no_ipv4_address() {
        let of = |text: &str| address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
