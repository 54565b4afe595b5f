//! Which target gets a request.

use super::circuit::Gate;
use super::dice::{self, Dice};
use super::window::Window;
use super::{Retry, Target, Trip};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use model::ConsumerId;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Up to so many targets all are looked at; among more, two drawn by lot are, which is nearly as good and costs the same
/// for any number.
const SCAN_MOST: usize = 16;

/// A target with its share of the requests.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) target: Arc<Target>,
    pub(crate) weight: u32,
}

/// Who goes to the canary.
#[derive(Debug)]
pub(crate) struct CanaryRule {
    pub(crate) percent: u64,
    pub(crate) header: Option<(HeaderName, Option<HeaderValue>)>,
}

/// What survives a new routing table beside the targets.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) budget: Window,
    pub(crate) dice: Dice,
    /// Held for the decision to leave a target out, which looks at the others.
    ejecting: Mutex<()>,
}

impl Memory {
    /// Nothing happened yet; chances come from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            budget: Window::default(),
            dice: Dice::new(seed),
            ejecting: Mutex::new(()),
        }
    }
}

/// No target may take a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// All are left out after failures, the first for so many milliseconds.
    Open(u64),
    /// All were tried.
    Tried,
}

/// The targets of an upstream: the usual ones first, then those of its canary.
#[derive(Debug)]
pub(crate) struct Balance {
    pub(crate) members: Box<[Member]>,
    /// How many are the usual ones.
    pub(crate) usual: usize,
    pub(crate) canary: Option<CanaryRule>,
    pub(crate) trip: Option<Trip>,
    /// Whether the breaker is the catalogue's own.
    pub(crate) trip_asked: bool,
    /// Whether targets are checked.
    pub(crate) checked: bool,
    pub(crate) retry: Option<Retry>,
    pub(crate) memory: Arc<Memory>,
}

/// A target, and whether the request is the one that tries it after it failed.
pub(crate) type Chosen = (usize, bool);

impl Balance {
    /// Whether this request of a consumer goes to the canary.
    pub(crate) fn wants_canary(&self, upstream: u16, headers: &HeaderMap, consumer: ConsumerId) -> bool {
        let Some(rule) = &self.canary else { return false };
        if let Some((name, value)) = &rule.header {
            let mut given = headers.get_all(name).iter();
            let asked = match value {
                None => given.next().is_some(),
                Some(value) => given.any(|v| v == value),
            };
            if asked {
                return true;
            }
        }
        let bits = consumer.to_bits();
        let folded = u64::try_from(bits >> 64).unwrap_or(0) ^ u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
        dice::mix(folded ^ dice::mix(u64::from(upstream) + 1)) % 100 < rule.percent
    }

    /// Picks one that was not tried yet. `tried` has a bit for each.
    pub(crate) fn choose(&self, canary: bool, tried: u128, now: Instant) -> Result<Chosen, Unavailable> {
        let all = self.members.len();
        if all == 1 && self.trip.is_none() {
            return Ok((0, false));
        }
        let tried = if all == 1 { 0 } else { tried };
        if canary && let Ok(chosen) = self.choose_in(self.usual..all, tried, now) {
            return Ok(chosen);
        }
        self.choose_in(0..self.usual, tried, now)
    }

    /// Refuses when no target would take a request just now.
    pub(crate) fn peek(&self, canary: bool, now: Instant) -> Result<(), Unavailable> {
        let all = self.members.len();
        if (all == 1 && self.trip.is_none()) || (canary && self.peek_in(self.usual..all, now).is_ok()) {
            return Ok(());
        }
        self.peek_in(0..self.usual, now)
    }

    fn peek_in(&self, group: Range<usize>, now: Instant) -> Result<(), Unavailable> {
        let mut wait = u64::MAX;
        if group.is_empty() {
            return Err(Unavailable::Tried);
        }
        if self.least(&group, 0, now, &mut wait).is_none() && self.is_closed(&group, wait) {
            return Err(Unavailable::Open(wait));
        }
        Ok(())
    }

    /// Whether a group of which no target takes requests takes none as a whole, rather than all.
    fn is_closed(&self, group: &Range<usize>, wait: u64) -> bool {
        wait < u64::MAX && self.may_go_whole(group)
    }

    fn choose_in(&self, group: Range<usize>, tried: u128, now: Instant) -> Result<Chosen, Unavailable> {
        let mut skipped = tried;
        let mut wait = u64::MAX;
        if group.len() > SCAN_MOST
            && let Some(place) = self.of_two(&group, tried, now)
        {
            return Ok((place, false));
        }
        while let Some((place, gate)) = self.least(&group, skipped, now, &mut wait) {
            if gate == Gate::Closed {
                return Ok((place, false));
            }
            let target = &self.members[place].target;
            if target.circuit.probe(target.ms(now)) {
                return Ok((place, true));
            }
            skipped |= 1 << place;
        }
        if self.is_closed(&group, wait) {
            return Err(Unavailable::Open(wait));
        }
        // Rather a target that may fail than none: they may all look ill for a reason that is not theirs.
        let left = group.filter(|i| tried & 1 << i == 0);
        self.by_load(left).map(|place| (place, false)).ok_or(Unavailable::Tried)
    }

    fn gate(&self, member: &Member, now: Instant) -> Gate {
        if self.checked && !member.target.healthy.load(Ordering::Relaxed) {
            return Gate::Open(u64::MAX);
        }
        match self.trip {
            Some(_) => member.target.circuit.gate(member.target.ms(now)),
            None => Gate::Closed,
        }
    }

    /// The least loaded that takes requests. `wait` becomes the shortest time until an open circuit lets one through.
    fn least(&self, group: &Range<usize>, skipped: u128, now: Instant, wait: &mut u64) -> Option<(usize, Gate)> {
        let takes = |place: &usize| {
            if skipped & 1 << place != 0 {
                return false;
            }
            match self.gate(&self.members[*place], now) {
                Gate::Open(left) => {
                    *wait = left.min(*wait);
                    false
                }
                Gate::Closed | Gate::HalfOpen => true,
            }
        };
        let place = self.by_load(group.clone().filter(takes))?;
        Some((place, self.gate(&self.members[place], now)))
    }

    /// The one with the fewest open requests for its weight; among equals by lot, heavier ones more often.
    fn by_load(&self, places: impl Iterator<Item = usize>) -> Option<usize> {
        let mut best: Option<(usize, u64, u64)> = None;
        let mut equals = 0;
        for place in places {
            let member = &self.members[place];
            let weight = u64::from(member.weight);
            let open = u64::from(member.target.in_flight.load(Ordering::Relaxed));
            let order = best.map_or(std::cmp::Ordering::Less, |(_, o, w)| (open * w).cmp(&(o * weight)));
            equals = if order.is_lt() { weight } else { equals + weight };
            let drawn = order.is_lt() || (order.is_eq() && self.memory.dice.below(equals) < weight);
            if drawn {
                best = Some((place, open, weight));
            } else if order.is_gt() {
                equals -= weight;
            }
        }
        best.map(|b| b.0)
    }

    /// The better of two drawn by weight, when both take requests.
    fn of_two(&self, group: &Range<usize>, tried: u128, now: Instant) -> Option<usize> {
        let total: u64 = self.members[group.clone()].iter().map(|m| u64::from(m.weight)).sum();
        let draw = || {
            let mut left = self.memory.dice.below(total);
            group.clone().find(|i| {
                let weight = u64::from(self.members[*i].weight);
                let here = left < weight;
                left = left.saturating_sub(weight);
                here
            })
        };
        let pair = [draw()?, draw()?];
        let takes = |i: usize| tried & 1 << i == 0 && self.gate(&self.members[i], now) == Gate::Closed;
        (takes(pair[0]) && takes(pair[1])).then(|| self.by_load(pair.into_iter()))?
    }

    fn group_of(&self, place: usize) -> Range<usize> {
        if place < self.usual {
            0..self.usual
        } else {
            self.usual..self.members.len()
        }
    }

    /// Whether all of a group may be left out at a time: a canary, whose requests the others take; a target that is
    /// alone with a breaker of its own; and where the catalogue says so.
    fn may_go_whole(&self, group: &Range<usize>) -> bool {
        let Some(trip) = &self.trip else { return false };
        group.start > 0 || trip.ejected_percent >= 100 || (group.len() == 1 && self.trip_asked)
    }

    /// Leaves a target out that failed, unless too many are left out already.
    pub(crate) fn eject(&self, place: usize, now: Instant) {
        let Some(trip) = &self.trip else { return };
        let _deciding = self.memory.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let target = &self.members[place].target;
        let group = self.group_of(place);
        let closed = |m: &Member| m.target.circuit.gate(m.target.ms(now)) == Gate::Closed;
        let out = group
            .clone()
            .filter(|i| *i != place && !closed(&self.members[*i]))
            .count();
        let share = (group.len() * trip.ejected_percent / 100).max(1);
        let last = out + 1 == group.len();
        let is_out = !closed(&self.members[place]);
        if is_out || (out < share && (!last || self.may_go_whole(&group))) {
            target.circuit.open(trip, target.ms(now), &self.memory.dice);
            target.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                upstream = target.identity.upstream,
                target = target.identity.url.as_str(),
                "left out after failures"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;
    use model::policy::{Breaker, Protocol};

    fn balance(weights: &[u32], canary: usize, breaker: Option<&Breaker>) -> Balance {
        let member = |(i, weight): (usize, &u32)| Member {
            target: Arc::new(Target::new(Identity {
                upstream: 1,
                canary: false,
                url: format!("http://10.0.0.{}", i + 1).parse().unwrap(),
                protocol: Protocol::Http1,
                tls: None,
            })),
            weight: *weight,
        };
        Balance {
            members: weights.iter().enumerate().map(member).collect(),
            usual: weights.len() - canary,
            canary: None,
            trip: breaker.map(Trip::compile),
            trip_asked: true,
            checked: true,
            retry: None,
            memory: Arc::new(Memory::new(42)),
        }
    }

    fn open(balance: &Balance, place: usize) -> &std::sync::atomic::AtomicU32 {
        &balance.members[place].target.in_flight
    }

    #[test]
    fn open_requests_are_spread_by_weight() {
        for count in [3, 40] {
            let weights: Vec<u32> = (0..count).map(|i| if i == 1 { 4 } else { 2 }).collect();
            let balance = balance(&weights, 0, None);
            let total: u32 = weights.iter().sum();
            for _ in 0..total * 50 {
                let (place, _) = balance.choose(false, 0, Instant::now()).unwrap();
                open(&balance, place).fetch_add(1, Ordering::Relaxed);
            }
            for (i, weight) in weights.iter().enumerate() {
                let got = open(&balance, i).load(Ordering::Relaxed);
                let (least, most) = if count > SCAN_MOST { (40, 60) } else { (50, 50) };
                assert!(
                    got >= weight * least && got <= weight * most,
                    "{got} at {i} of {count}, seed 42"
                );
            }
        }
    }

    #[test]
    fn idle_targets_take_turns_by_weight() {
        let balance = balance(&[1, 3], 0, None);
        let second = (0..4000)
            .filter(|_| balance.choose(false, 0, Instant::now()).unwrap().0 == 1)
            .count();
        assert!((2800..3200).contains(&second), "{second} of 4000, seed 42");
    }

    #[test]
    fn what_is_ill_or_tried_is_passed_over_until_nothing_else_is_left() {
        let balance = balance(&[1, 1], 0, None);
        let pick = |tried| balance.choose(false, tried, Instant::now()).map(|c| c.0);
        balance.members[0].target.healthy.store(false, Ordering::Relaxed);
        assert!((0..50).all(|_| pick(0) == Ok(1)));
        assert_eq!(pick(0b10), Ok(0), "rather an ill one than none");
        assert_eq!(pick(0b11), Err(Unavailable::Tried));
        balance.members[1].target.healthy.store(false, Ordering::Relaxed);
        assert!((0..50).map(|_| pick(0)).any(|p| p == Ok(0)) && (0..50).map(|_| pick(0)).any(|p| p == Ok(1)));
    }

    #[test]
    fn not_all_are_left_out_unless_that_is_asked_for() {
        let now = Instant::now();
        for (percent, out) in [(50, 2), (100, 4), (0, 1), (99, 3)] {
            let policy = Breaker {
                max_ejected_percent: percent,
                ..Breaker::default()
            };
            let balance = balance(&[1; 4], 0, Some(&policy));
            (0..4).for_each(|i| balance.eject(i, now));
            let gone = balance
                .members
                .iter()
                .filter(|m| balance.gate(m, now) != Gate::Closed)
                .count();
            assert_eq!(gone, out, "{percent} %");
            let none = matches!(balance.choose(false, 0, now), Err(Unavailable::Open(_)));
            assert_eq!(none, out == 4);
        }
    }

    #[test]
    fn a_canary_that_fails_leaves_its_requests_to_the_others() {
        let now = Instant::now();
        let balance = balance(&[1, 1, 1], 1, Some(&Breaker::default()));
        assert_eq!(balance.choose(true, 0, now), Ok((2, false)));
        assert!((0..50).all(|_| balance.choose(false, 0, now).unwrap().0 < 2));
        balance.eject(2, now);
        assert!((0..50).all(|_| balance.choose(true, 0, now).unwrap().0 < 2));
    }
}
