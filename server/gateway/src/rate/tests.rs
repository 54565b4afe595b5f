//! Sets of limits against their definition.

use super::*;
use proptest::prelude::*;

const NS_PER_S: u64 = 1_000_000_000;

fn held<'a>(limit: Gcra, arrival: &'a AtomicU64, now_ns: u64) -> Held<'a> {
    Held {
        rule: None,
        limit,
        place: Place::Own(arrival),
        rate: limit.peek(arrival, now_ns),
    }
}

/// A bucket of the definition: drained at a steady rate, with room for `burst`.
struct Bucket {
    every: u128,
    most: u128,
    level: u128,
}

proptest! {
    /// A request passes when every bucket that holds for it has room; one that does not pass goes into none. The wait
    /// that is told is exact: then it passes, and a nanosecond earlier it does not.
    #[test]
    fn a_set_agrees_with_leaking_buckets(
        limits in proptest::collection::vec((1u32..1_000, 1u32..20, 1u32..20), 1..5),
        steps in proptest::collection::vec((0u64..300_000_000, 1u32..32), 1..200),
    ) {
        let mut buckets: Vec<Bucket> = limits.iter().map(|(requests, window_s, burst)| {
            let every = u128::from((u64::from(*window_s) * NS_PER_S).div_ceil(u64::from(*requests)));
            Bucket { every, most: every * u128::from(*burst), level: 0 }
        }).collect();
        let set: Vec<(Gcra, AtomicU64)> =
            limits.iter().map(|(r, w, b)| (Gcra::new(*r, *w, *b), AtomicU64::new(0))).collect();
        let mut now = 1_000_000_000_000u64;
        for (gap, chosen) in steps {
            now += gap;
            for b in &mut buckets {
                b.level = b.level.saturating_sub(u128::from(gap));
            }
            let holds = |i: &usize| chosen & (1 << i) != 0 || *i == 0;
            let holding: Vec<usize> = (0..set.len()).filter(holds).collect();
            let fits = holding.iter().all(|i| buckets[*i].level + buckets[*i].every <= buckets[*i].most);
            let at = |now: u64| -> Vec<Held<'_>> { holding.iter().map(|i| held(set[*i].0, &set[*i].1, now)).collect() };
            let mut all = at(now);
            prop_assert_eq!(take_all(&mut all, now).is_ok(), fits);
            if fits {
                for i in &holding {
                    buckets[*i].level += buckets[*i].every;
                }
            } else {
                let wait = all.iter().filter(|h| !h.rate.allowed).map(|h| h.rate.wait_ns).max().unwrap();
                prop_assert!(at(now + wait).iter().all(|h| h.rate.allowed));
                prop_assert!(!at(now + wait - 1).iter().all(|h| h.rate.allowed));
            }
            for ((limit, arrival), b) in set.iter().zip(&buckets) {
                let room = u128::from(limit.peek(arrival, now).remaining)
                    + u128::from(limit.peek(arrival, now).allowed);
                prop_assert_eq!(room, (b.most - b.level) / b.every);
            }
        }
    }
}

#[test]
fn a_race_for_the_last_places_takes_nothing_from_the_others() {
    let now = 1_000_000_000_000;
    for _ in 0..20 {
        let (wide, narrow) = (Gcra::new(1, 1, 1_000), Gcra::new(1, 1, 100));
        let (a, b) = (AtomicU64::new(0), AtomicU64::new(0));
        let passed: usize = std::thread::scope(|s| {
            let one = || {
                let try_once = |_: &i32| take_all(&mut [held(wide, &a, now), held(narrow, &b, now)], now).is_ok();
                (0..200).filter(try_once).count()
            };
            let threads: Vec<_> = (0..4).map(|_| s.spawn(one)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(passed, 100);
        assert_eq!(wide.peek(&a, now).remaining, 899, "only what passed was taken");
    }
}
