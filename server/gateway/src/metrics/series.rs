//! Requests by route, plan, class of status and reason: only what was seen has a place, and places are bounded.

use crate::refusal::Refusal;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most combinations counted apart; what comes after them is counted together until the process ends.
pub(super) const SERIES_MOST: usize = 4_096;
/// Twice as many, so that looking one up takes few steps.
const PLACES: usize = 2 * SERIES_MOST;
/// The place of all others.
pub(super) const OTHER: usize = PLACES;
/// Steps after which a look-up gives up: the table is spread well, so this is hardly ever reached.
const STEPS_MOST: usize = 32;
/// Marks a place that is taken.
const TAKEN: u64 = 1 << 63;

/// What a request is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// None: no route was found.
    pub(crate) route: Option<u16>,
    /// Of [`super::plans`]; 0 for nobody known.
    pub(crate) plan: u16,
    pub(crate) status: u16,
    pub(crate) refusal: Option<Refusal>,
}

impl Kind {
    fn bits(self) -> u64 {
        let route = self.route.map_or(0, |r| u64::from(r) + 1);
        let refusal = self.refusal.map_or(0, |r| u64::from(r.number()));
        TAKEN | route << 32 | u64::from(self.plan) << 16 | u64::from(self.class()) << 8 | refusal
    }

    fn of(bits: u64) -> Self {
        let part = |shift: u32, mask: u64| u16::try_from(bits >> shift & mask).unwrap_or(0);
        Self {
            route: u16::try_from((bits >> 32 & 0x1_ffff).wrapping_sub(1)).ok(),
            plan: part(16, 0xffff),
            status: part(8, 0xff) * 100,
            refusal: u8::try_from(part(0, 0xff)).ok().and_then(Refusal::from_number),
        }
    }

    /// The first digit of the status.
    pub(super) fn class(self) -> u16 {
        self.status / 100
    }
}

/// Which combination has which place; shared by all workers, each of which has counters of its own.
pub(crate) struct Series {
    keys: Box<[AtomicU64]>,
    taken: AtomicUsize,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            keys: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            taken: AtomicUsize::new(0),
        }
    }
}

impl Series {
    /// The place of a kind; the same at every call, and no lock is taken.
    pub(super) fn place(&self, kind: Kind) -> usize {
        let wanted = kind.bits();
        let mixed = wanted.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let begin = usize::try_from(mixed >> 40).unwrap_or(0);
        for step in 0..STEPS_MOST {
            let place = (begin + step) % PLACES;
            let Some(key) = self.keys.get(place) else { return OTHER };
            let mut found = key.load(Ordering::Relaxed);
            if found == 0 {
                if self.taken.fetch_add(1, Ordering::Relaxed) >= SERIES_MOST {
                    self.taken.fetch_sub(1, Ordering::Relaxed);
                    return OTHER;
                }
                match key.compare_exchange(0, wanted, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return place,
                    Err(others) => {
                        self.taken.fetch_sub(1, Ordering::Relaxed);
                        found = others;
                    }
                }
            }
            if found == wanted {
                return place;
            }
        }
        OTHER
    }

    /// Every kind seen, with its place.
    pub(super) fn seen(&self) -> impl Iterator<Item = (usize, Kind)> {
        let taken = |(place, key): (usize, &AtomicU64)| match key.load(Ordering::Relaxed) {
            0 => None,
            bits => Some((place, Kind::of(bits))),
        };
        self.keys.iter().enumerate().filter_map(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(route: u16, plan: u16) -> Kind {
        Kind {
            route: Some(route),
            plan,
            status: 200,
            refusal: None,
        }
    }

    #[test]
    fn kinds_keep_their_places_and_what_is_too_much_shares_one() {
        let series = Series::default();
        let places: Vec<usize> = (0..60).map(|i| series.place(kind(i, i % 7))).collect();
        let again: Vec<usize> = (0..60).map(|i| series.place(kind(i, i % 7))).collect();
        assert_eq!(places, again);
        for route in 0..u16::MAX {
            series.place(kind(route, 9));
        }
        assert!(series.seen().count() <= SERIES_MOST);
        assert_eq!(series.place(kind(u16::MAX, 9)), OTHER);
        assert_eq!(series.place(kind(59, 59 % 7)), places[59], "what had a place keeps it");
    }

    #[test]
    fn a_kind_is_read_back_as_it_was() {
        for refusal in [None].into_iter().chain(Refusal::ALL.iter().map(|r| Some(*r))) {
            for route in [None, Some(0), Some(u16::MAX)] {
                let status = refusal.map_or(200, |r| r.status().as_u16() / 100 * 100);
                let kind = Kind {
                    route,
                    plan: 300,
                    status,
                    refusal,
                };
                assert_eq!(Kind::of(kind.bits()), kind);
            }
        }
    }
}
