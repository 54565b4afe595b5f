//! The order at a gate, its bounds, and that no place is lost.

use super::*;
use proptest::prelude::*;

fn consumer(n: u128) -> ConsumerId {
    ConsumerId::from_bits(n)
}

/// Waits as `enter` does, without a clock.
fn queue(gate: &Arc<Gate>, priority: u8, who: u128) -> Option<Waiting> {
    gate.begin(priority, consumer(who))
        .unwrap_or_else(|Shed| panic!("shed"))
}

/// Frees one place after another; who gets it, by their index.
fn order(gate: &Arc<Gate>, pass: Pass, mut waiting: Vec<Option<Waiting>>) -> Vec<usize> {
    let mut order = Vec::new();
    let mut pass = Some(pass);
    while pass.take().is_some() {
        for (i, place) in waiting.iter_mut().enumerate() {
            if place.as_mut().is_some_and(|w| w.told.try_recv() == Ok(Turn::Go)) {
                order.push(i);
                *place = None;
                pass = Some(Pass(Arc::clone(gate)));
                break;
            }
        }
    }
    assert_eq!(gate.counts(), (0, 0));
    order
}

#[test]
fn the_higher_priority_goes_first_and_consumers_take_turns() {
    let gate = Gate::new(1);
    assert!(queue(&gate, 0, 1).is_none());
    let pass = Pass(Arc::clone(&gate));
    let asked = [(0, 1), (0, 1), (0, 1), (0, 2), (5, 3), (5, 3), (9, 1), (5, 4), (0, 2)];
    let waiting = asked.iter().map(|(p, who)| queue(&gate, *p, *who)).collect();
    assert_eq!(gate.counts(), (1, 9));
    assert_eq!(order(&gate, pass, waiting), [6, 4, 7, 5, 0, 3, 1, 8, 2]);
}

#[test]
fn a_full_queue_sheds_the_lower_plan_and_the_busier_consumer() {
    let gate = Gate::with_queue(1, 6);
    assert!(queue(&gate, 0, 1).is_none());
    let pass = Pass(Arc::clone(&gate));
    let mut waiting: Vec<_> = (0..6).map(|_| queue(&gate, 3, 1)).collect();
    assert!(
        gate.begin(3, consumer(1)).is_err(),
        "the busiest makes no room for itself"
    );
    assert!(gate.begin(2, consumer(2)).is_err(), "a lower plan gets no room");
    let left = |w: &mut Option<Waiting>| w.as_mut().is_some_and(|w| w.told.try_recv() == Ok(Turn::Leave));
    // Another consumer of the plan gets half of the queue, not more.
    for place in [5, 4, 3] {
        waiting.push(queue(&gate, 3, 2));
        assert!(left(&mut waiting[place]), "the newest of the busiest leaves");
    }
    assert!(gate.begin(3, consumer(2)).is_err());
    // A higher plan gets all it needs.
    for _ in 0..6 {
        waiting.push(queue(&gate, 4, 1));
    }
    assert!(gate.begin(3, consumer(3)).is_err());
    assert_eq!(gate.counts(), (1, 6));
    assert_eq!(order(&gate, pass, waiting), [9, 10, 11, 12, 13, 14]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_has_an_end_and_leaves_nothing_behind() {
    let gate = Gate::new(1);
    let wait = Duration::from_secs(1);
    let pass = gate
        .enter(0, consumer(1), wait)
        .await
        .unwrap_or_else(|Shed| panic!("shed"));
    let begun = tokio::time::Instant::now();
    assert!(gate.enter(0, consumer(1), wait).await.is_err());
    assert_eq!(begun.elapsed(), wait);
    assert_eq!(gate.counts(), (1, 0));
    drop(pass);
    assert_eq!(gate.counts(), (0, 0));
}

#[tokio::test]
async fn whoever_gives_up_in_the_instant_of_its_turn_passes_it_on() {
    let gate = Gate::new(1);
    let wait = Duration::from_secs(60);
    let pass = gate
        .enter(0, consumer(1), wait)
        .await
        .unwrap_or_else(|Shed| panic!("shed"));
    let (first, second) = (queue(&gate, 0, 1), queue(&gate, 0, 2));
    drop(pass);
    drop(first);
    let second = second.unwrap_or_else(|| panic!("it had to wait")).turn(wait).await;
    assert!(second.is_ok());
    drop(second);
    assert_eq!(gate.counts(), (0, 0));
}

#[test]
fn a_wider_bound_lets_in_who_waits_and_a_narrower_one_nobody() {
    let gate = Gate::new(0);
    let mut waiting: Vec<_> = (0..4).map(|n| queue(&gate, 0, n)).collect();
    gate.set_most(3);
    assert_eq!(gate.counts(), (3, 1));
    gate.set_most(1);
    let mut passes = Vec::new();
    for place in waiting.iter_mut().take(3).flatten() {
        assert_eq!(place.told.try_recv(), Ok(Turn::Go));
        passes.push(Pass(Arc::clone(&gate)));
    }
    assert_eq!(passes.len(), 3);
    for (pass, left) in passes.into_iter().zip([(2, 1), (1, 1), (1, 0)]) {
        drop(pass);
        assert_eq!(gate.counts(), left);
    }
    drop(waiting);
    assert_eq!(gate.counts(), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Enter(u8, u128),
    Leave(usize),
    GiveUp(usize),
    Bound(u32),
}

proptest! {
    /// Whatever happens in whatever order: never more in flight than the bound (unless it was narrowed), nobody waits
    /// beside a free place, nobody is let in before somebody with a higher priority, and nothing is lost.
    #[test]
    fn places_are_neither_lost_nor_made(steps in proptest::collection::vec(
        prop_oneof![
            4 => (0u8..10, 0u128..4).prop_map(|(p, c)| Step::Enter(p, c)),
            3 => (0usize..8).prop_map(Step::Leave),
            1 => (0usize..8).prop_map(Step::GiveUp),
            1 => (0u32..4).prop_map(Step::Bound),
        ], 1..200)) {
        let gate = Gate::with_queue(2, 5);
        let mut most = 2;
        let mut passes: Vec<Pass> = Vec::new();
        let mut waiting: Vec<(u8, Waiting)> = Vec::new();
        for step in steps {
            let before = passes.len();
            match step {
                Step::Enter(priority, who) => match gate.begin(priority, consumer(who)) {
                    Ok(None) => passes.push(Pass(Arc::clone(&gate))),
                    Ok(Some(w)) => waiting.push((priority, w)),
                    Err(Shed) => prop_assert!(waiting.len() >= 5 && waiting.iter().all(|w| w.0 >= priority)),
                },
                Step::Leave(i) if i < passes.len() => drop(passes.swap_remove(i)),
                Step::GiveUp(i) if i < waiting.len() => drop(waiting.remove(i)),
                Step::Bound(n) => { most = n; gate.set_most(n); }
                _ => {}
            }
            let mut still = Vec::new();
            let mut went = Vec::new();
            for (priority, mut w) in waiting {
                match w.told.try_recv() {
                    Ok(Turn::Go) => { went.push(priority); passes.push(Pass(Arc::clone(&gate))); }
                    Ok(Turn::Leave) => {}
                    Err(_) => still.push((priority, w)),
                }
            }
            waiting = still;
            let highest = waiting.iter().map(|w| w.0).max().unwrap_or(0);
            prop_assert!(went.iter().all(|p| *p >= highest));
            let in_flight = u32::try_from(passes.len()).unwrap();
            prop_assert_eq!(gate.counts(), (in_flight, waiting.len()));
            prop_assert!(waiting.len() <= 5);
            prop_assert!(waiting.is_empty() || in_flight >= most);
            prop_assert!(in_flight <= most || passes.len() <= before);
        }
        drop((passes, waiting));
        prop_assert_eq!(gate.counts(), (0, 0));
    }
}
