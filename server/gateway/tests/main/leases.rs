//! Several gateways that spend hard limits from leases: never more than one would let through, all of it, and soon after
//! whatever went wrong is over.

use crate::calls::{hang, statuses};
use crate::support::*;
use gateway::{Limits, ship_rest};
use model::Time;
use model::access::Environment;
use model::key::PlainKey;
use model::lease::LeaseSubject;
use model::snapshot::{Entitlement, KeyLimits, KeyRecord};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time in which everything is well again after the control plane is heard.
const HEALS_IN: Duration = Duration::from_secs(60);

/// What became of calls of one gateway.
#[derive(Debug, Default)]
struct Calls {
    passed: usize,
    /// The last refusal.
    problem: String,
}

/// How long a gateway may find no lease before it counts as refused for good.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);
/// The same where it cannot get one.
const SOON: Duration = Duration::from_secs(3);

/// Calls, a few at once, until that is refused for good.
async fn use_up(world: &World, paths: &[&str]) -> Calls {
    use_up_within(world, paths, GIVES_UP_AFTER).await
}

/// The same, or until no more is leased for so long.
async fn use_up_within(world: &World, paths: &[&str], gives_up_after: Duration) -> Calls {
    let caller = |n: usize| async move {
        let mut calls = Calls::default();
        let mut lacking: Option<Instant> = None;
        for round in n.. {
            let reply = world.get(paths[round % paths.len()]).await;
            match reply.status {
                200 => {
                    calls.passed += 1;
                    lacking = None;
                }
                // It is given back.
                500 => {}
                503 => {
                    calls.problem = reply.problem();
                    assert_eq!(calls.problem, "limit-leased");
                    assert_eq!(reply.header("retry-after"), Some("1"));
                    if lacking.get_or_insert_with(Instant::now).elapsed() > gives_up_after {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => {
                    calls.problem = reply.problem();
                    break;
                }
            }
        }
        calls
    };
    let all = tokio::join!(caller(0), caller(1), caller(2), caller(3));
    let last = all.3.problem.clone();
    let passed = [all.0, all.1, all.2, all.3].iter().map(|c| c.passed).sum();
    Calls { passed, problem: last }
}

/// What two gateways have by themselves, where one of them is not heard or hears nothing.
async fn use_up_both(first: &World, second: &World) -> (Calls, Calls) {
    tokio::join!(
        use_up_within(first, &["/v1/ok"], SOON),
        use_up_within(second, &["/v1/ok"], SOON)
    )
}

/// So many calls that pass.
async fn pass(world: &World, count: usize) {
    for n in 0..count {
        let reply = world.get("/v1/ok").await;
        assert_eq!(reply.status, 200, "call {n}: {}", String::from_utf8_lossy(&reply.body));
    }
}

fn subject(world: &World) -> LeaseSubject {
    LeaseSubject {
        consumer: world.consumer,
        environment: Environment::Live,
        root: None,
        meter: 1,
        period_start: Time::from_unix_ms(START_MS),
    }
}

fn units(world: &World) -> u32 {
    world.plane.rows().iter().map(|r| r.units).sum()
}

fn ledger(world: &World) -> String {
    world.gateway.as_ref().unwrap().ledger_id().to_owned()
}

fn cut_off(world: &World) {
    world.plane.cut_off.lock().unwrap().insert(ledger(world));
}

fn heal(world: &World) {
    world.plane.cut_off.lock().unwrap().clear();
    world.plane.deaf.lock().unwrap().clear();
}

async fn two(change: impl FnOnce(&mut Entitlement)) -> (World, World) {
    let first = World::leasing(change).await;
    let second = first.beside().await;
    (first, second)
}

fn quota(units: u64) -> impl FnOnce(&mut Entitlement) {
    move |e| e.meters = vec![meter(1, units, None)]
}

/// Nothing is leased to anybody any more, nor in flight.
async fn until_settled(world: &World, used: u32) {
    let subject = subject(world);
    until(|| units(world) == used && world.plane.leased(&subject) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_gateways_share_a_quota_to_the_unit() {
    let (first, second) = two(quota(300)).await;
    let third = first.beside().await;
    let paths = ["/v1/ok", "/v1/status/500", "/v1/ok"];
    let all = tokio::join!(use_up(&first, &paths), use_up(&second, &paths), use_up(&third, &paths));
    let all = [all.0, all.1, all.2];
    assert_eq!(all.iter().map(|c| c.passed).sum::<usize>(), 300, "{all:?}");
    assert!(all.iter().all(|c| c.problem == "quota-exceeded"), "{all:?}");
    until_settled(&first, 300).await;
}

/// Each call takes five units: what is left for one that takes one is there for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_too_little_for_one_call_is_enough_for_others() {
    let (first, second) = two(quota(58)).await;
    let (a, b) = tokio::join!(use_up(&first, &["/heavy"]), use_up(&second, &["/heavy"]));
    assert_eq!(a.passed + b.passed, 11, "{a:?} {b:?}");
    let (a, b) = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(a.passed + b.passed, 3, "{a:?} {b:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_gateways_share_a_cap_over_two_meters() {
    let (first, second) = two(|e| {
        e.meters = vec![meter(1, 10, Some("3")), meter(2, 5, Some("2"))];
        e.spend_cap_minor = Some(150);
    })
    .await;
    let paths = ["/v1/ok", "/other"];
    let (a, b) = tokio::join!(use_up(&first, &paths), use_up(&second, &["/other", "/v1/ok"]));
    assert_eq!(
        (a.problem.as_str(), b.problem.as_str()),
        ("spend-cap-reached", "spend-cap-reached")
    );
    first.shipped().await;
    second.shipped().await;
    let of = |meter: u16| -> i64 {
        let rows = first.plane.rows();
        rows.iter()
            .filter(|r| r.meter == meter)
            .map(|r| i64::from(r.units))
            .sum()
    };
    let cost = (of(1) - 10).max(0) * 3 + (of(2) - 5).max(0) * 2;
    assert!((147..=150).contains(&cost), "{cost} of 150");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_gateways_share_a_keys_quota() {
    let (first, second) = two(quota(1_000)).await;
    let limits = KeyLimits {
        root: None,
        quota: Some(60),
        budget_minor: None,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    };
    first.plane.edit_key(first.key.lookup().0, |k| k.limits = Some(limits));
    first.synced().await;
    second.synced().await;
    let paths = ["/v1/ok", "/other"];
    let (a, b) = tokio::join!(use_up(&first, &paths), use_up(&second, &paths));
    assert_eq!(a.passed + b.passed, 60, "{a:?} {b:?}");
    assert_eq!(
        (a.problem.as_str(), b.problem.as_str()),
        ("key-quota-reached", "key-quota-reached")
    );
}

/// One is not heard by the control plane, and serves what it has; the other gets everything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_lets_nothing_more_through() {
    let (first, second) = two(quota(200)).await;
    pass(&first, 5).await;
    pass(&second, 5).await;
    cut_off(&second);
    let (a, b) = use_up_both(&first, &second).await;
    assert!(a.passed + b.passed + 10 <= 200, "{a:?} {b:?}");
    assert!(b.passed > 0, "it serves what it has");
    assert_eq!(b.problem, "limit-leased");
    heal(&second);
    let healed = Instant::now();
    let (c, d) = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(a.passed + b.passed + c.passed + d.passed + 10, 200);
    assert_eq!(
        (c.problem.as_str(), d.problem.as_str()),
        ("quota-exceeded", "quota-exceeded")
    );
    assert!(healed.elapsed() < HEALS_IN);
    until_settled(&first, 200).await;
}

/// Its questions are heard, and the answers lost: what is granted so is nobody's until it asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lost_answers_let_nothing_more_through() {
    let (first, second) = two(quota(200)).await;
    pass(&second, 5).await;
    second.plane.deaf.lock().unwrap().insert(ledger(&second));
    let (a, b) = use_up_both(&first, &second).await;
    assert!(a.passed + b.passed + 5 <= 200, "{a:?} {b:?}");
    heal(&second);
    let healed = Instant::now();
    let (c, d) = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(a.passed + b.passed + c.passed + d.passed + 5, 200);
    assert!(healed.elapsed() < HEALS_IN);
    until_settled(&first, 200).await;
}

/// As one that died: neither what it recorded nor what it had is known, until a gateway begins on its folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_died_keeps_what_it_had_until_it_is_back() {
    let (first, mut second) = two(quota(100)).await;
    pass(&second, 3).await;
    second.shipped().await;
    cut_off(&second);
    pass(&second, 4).await;
    second.stop().await;
    let a = use_up_within(&first, &["/v1/ok"], SOON).await;
    assert!(a.passed < 93, "{a:?}");
    assert_eq!(a.problem, "limit-leased");
    heal(&first);
    second.start();
    let (c, d) = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(a.passed + c.passed + d.passed + 7, 100);
    until_settled(&first, 100).await;
}

/// The same, where another process ships what it left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_dead_gateway_had_is_free_when_its_ledger_is_shipped() {
    let (first, mut second) = two(quota(100)).await;
    pass(&second, 3).await;
    cut_off(&second);
    pass(&second, 4).await;
    second.stop().await;
    heal(&first);
    let sink = Arc::clone(&first.plane) as Arc<dyn gateway::UsageSink>;
    let shipped = ship_rest(
        &second.folder.0,
        &Limits::default(),
        sink,
        &*first.clock,
        &*first.random,
    )
    .await;
    assert!(shipped.unwrap() >= 4);
    assert_eq!(first.plane.leased(&subject(&first)), 0);
    assert_eq!(use_up(&first, &["/v1/ok"]).await.passed, 93);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_used_comes_back() {
    let (mut first, mut second) = two(quota(100)).await;
    pass(&second, 3).await;
    assert!(first.plane.leased(&subject(&first)) > 3);
    second.stop().await;
    assert_eq!(first.plane.leased(&subject(&first)), 0, "at a stop, all of it");
    first.stop().await;
    first.leases = Some(Duration::from_secs(1));
    first.start();
    first.synced().await;
    pass(&first, 2).await;
    until_settled(&first, 5).await;
    pass(&first, 1).await;
}

/// Without the control plane calls go on with what is leased, and are refused beyond it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_in_hand_needs_nobody() {
    let first = World::leasing(quota(100)).await;
    pass(&first, 1).await;
    first.plane.away.store(true, Ordering::SeqCst);
    pass(&first, 20).await;
    let mut last = first.get("/v1/ok").await;
    while last.status == 200 {
        last = first.get("/v1/ok").await;
    }
    assert_eq!((last.status, last.problem().as_str()), (503, "limit-leased"));
    first.plane.away.store(false, Ordering::SeqCst);
    let rest = use_up(&first, &["/v1/ok"]).await;
    assert_eq!(rest.problem, "quota-exceeded");
    until_settled(&first, 100).await;
}

/// A call in flight keeps its unit where it was taken, whoever wants it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_in_flight_keeps_its_unit() {
    let (first, second) = two(quota(10)).await;
    let hanging = hang(&second, &first).await;
    let mut passed = 0;
    let begun = Instant::now();
    while passed < 9 && begun.elapsed() < HEALS_IN {
        passed += usize::from(first.get("/v1/ok").await.status == 200);
    }
    assert_eq!(passed, 9, "the second gives back all but its own");
    assert_eq!(first.get("/v1/ok").await.problem(), "limit-leased");
    // Nobody calls the second meanwhile: it gives the unit back by itself.
    hanging.abort();
    let first = use_up(&first, &["/v1/ok"]).await;
    assert_eq!((first.passed, first.problem.as_str()), (1, "quota-exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_period_has_leases_of_its_own() {
    let (first, second) = two(quota(20)).await;
    let all = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(all.0.passed + all.1.passed, 20);
    for world in [&first, &second] {
        world.clock.advance(30 * DAY_MS);
    }
    let all = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(all.0.passed + all.1.passed, 20);
}

/// F11: the clock is far ahead for a while. What began meanwhile is over when it is right again, and what was used before is
/// known as ever, of the account as of its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_is_set_back_brings_its_period_back() {
    const AHEAD_MS: i64 = 40 * DAY_MS;
    for world in [World::with(quota(12)).await, World::leasing(quota(12)).await] {
        let limits = KeyLimits {
            root: None,
            quota: Some(8),
            budget_minor: None,
            period_start: Time::from_unix_ms(START_MS),
            used: Vec::new(),
        };
        world.plane.edit_key(world.key.lookup().0, |k| k.limits = Some(limits));
        world.synced().await;
        pass(&world, 3).await;
        world.shipped().await;
        let answers = || world.plane.answers.load(Ordering::SeqCst);
        // The first answer from now on may be to a question from before.
        let polled = async || {
            let before = answers();
            until(|| answers() >= before + 4).await;
        };
        world.clock.jump(AHEAD_MS);
        pass(&world, 1).await;
        polled().await;
        world.clock.jump(-AHEAD_MS);
        polled().await;
        let rest = use_up(&world, &["/v1/ok"]).await;
        assert_eq!((rest.passed, rest.problem.as_str()), (5, "key-quota-reached"));
        let rows = world.shipped().await;
        let of_it = rows.iter().filter(|r| r.period_start == Time::from_unix_ms(START_MS));
        assert_eq!(of_it.map(|r| r.units).sum::<u32>(), 8);
    }
}

/// What is asked for a heavy call that is too much says nothing of a light one that asks with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_light_call_is_not_refused_with_a_heavy_one() {
    let (first, mut second) = two(quota(8)).await;
    let plane = Arc::clone(&first.plane);
    let asked = || plane.leases_asked.load(Ordering::SeqCst);
    // The first does not hear that only three units are left.
    plane.counts_away.store(true, Ordering::SeqCst);
    assert_eq!(second.get("/heavy").await.status, 200);
    second.stop().await;
    plane.leases_held.store(true, Ordering::SeqCst);
    let before = asked();
    let later = async |path: &'static str| {
        until(|| asked() > before).await;
        first.get(path).await
    };
    let release = async {
        until(|| asked() > before).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        plane.leases_held.store(false, Ordering::SeqCst);
    };
    let (heavy, _, light, ()) = tokio::join!(first.get("/heavy"), later("/heavy"), later("/v1/ok"), release);
    assert!(heavy.status != 200);
    assert!(light.status == 200 || light.problem() == "limit-leased", "{light:?}");
    let rest = use_up(&first, &["/v1/ok"]).await;
    assert_eq!(rest.passed + usize::from(light.status == 200), 3);
}

/// A control plane that answers small questions only is asked smaller ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn questions_get_smaller_until_they_are_answered() {
    const KEYS: usize = 40;
    let world = World::leasing(quota(1_000)).await;
    let limits = KeyLimits {
        root: None,
        quota: Some(1),
        budget_minor: None,
        period_start: Time::from_unix_ms(START_MS),
        used: Vec::new(),
    };
    let keys: Vec<PlainKey> = (0..KEYS)
        .map(|_| PlainKey::generate("tp", Environment::Live, &*world.random))
        .collect();
    for key in &keys {
        world.plane.put_key(KeyRecord {
            limits: Some(limits.clone()),
            ..key_record(key, world.consumer)
        });
    }
    world.synced().await;
    world.plane.leases_held.store(true, Ordering::SeqCst);
    let calls = keys.iter().map(|key| {
        let (addr, key) = (world.addr, key.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            loop {
                let status = statuses(addr, "/v1/ok", &key, 1).await[0];
                if status == 200 || begun.elapsed() > HEALS_IN {
                    return status;
                }
                assert_eq!(status, 503);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    });
    let calls: Vec<_> = calls.collect();
    // They wait together, and then are too many for one question.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.plane.leases_most.store(6, Ordering::SeqCst);
    world.plane.leases_held.store(false, Ordering::SeqCst);
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
}

/// What a gateway does not need any more is free before its last usage is shipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_stops_gives_back_before_it_ships() {
    let (first, mut second) = two(quota(100)).await;
    first.plane.ships_held.store(true, Ordering::SeqCst);
    pass(&second, 3).await;
    assert!(first.plane.leased(&subject(&first)) > 3);
    let plane = Arc::clone(&first.plane);
    let asked = subject(&first);
    let given_back = async {
        until(|| plane.leased(&asked) == 3).await;
        plane.ships_held.store(false, Ordering::SeqCst);
    };
    tokio::join!(second.stop(), given_back);
    assert_eq!(use_up(&first, &["/v1/ok"]).await.passed, 97);
}

/// What is leased under a quota that is lowered is given back when that is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leases_follow_the_limit() {
    let (first, second) = two(quota(100)).await;
    pass(&first, 10).await;
    pass(&second, 10).await;
    let set = |units: u64| {
        first
            .plane
            .edit_entitlement(first.consumer, |e| e.meters[0].terms.included = units);
    };
    set(40);
    first.synced().await;
    second.synced().await;
    until(|| first.plane.leased(&subject(&first)) <= 20 + 20).await;
    let (a, b) = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(a.passed + b.passed, 20, "{a:?} {b:?}");
    set(70);
    first.synced().await;
    second.synced().await;
    let (a, b) = tokio::join!(use_up(&first, &["/v1/ok"]), use_up(&second, &["/v1/ok"]));
    assert_eq!(a.passed + b.passed, 30, "{a:?} {b:?}");
}
