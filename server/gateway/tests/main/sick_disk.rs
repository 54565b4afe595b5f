//! F13: a disk whose syncs fail or are slow.

use crate::support::*;
use gateway::BeforeSync;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The error of a disk that is broken.
const EIO: i32 = 5;

async fn world(before: BeforeSync) -> World {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.segment_records = 64;
    config.before_sync = Some(before);
    world.start_with(config);
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_synced_is_written_down_elsewhere_and_billed_once() {
    let sick = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&sick);
    let mut world = world(BeforeSync::new(move || match told.load(Ordering::SeqCst) {
        true => Err(std::io::Error::from_raw_os_error(EIO)),
        false => Ok(()),
    }))
    .await;
    let mut passed = 0;
    for _ in 0..3 {
        for _ in 0..50 {
            assert_eq!(world.get("/v1/ok").await.status, 200);
            passed += 1;
        }
        sick.store(true, Ordering::SeqCst);
        let refused = loop {
            let reply = world.get("/v1/ok").await;
            if reply.status != 200 {
                break reply;
            }
            passed += 1;
        };
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (503, "ledger-unavailable")
        );
        for _ in 0..10 {
            assert_eq!(world.get("/other").await.status, 200, "what costs nothing goes on");
        }
        let metrics = world.gateway.as_ref().unwrap().metrics();
        let unrecorded = metrics
            .lines()
            .find(|l| l.starts_with("turnpike_gateway_ledger_unrecorded_total"));
        assert!(unrecorded.is_some_and(|l| !l.ends_with(" 0")), "{unrecorded:?}");
        sick.store(false, Ordering::SeqCst);
        until(|| world.gateway.as_ref().unwrap().ready()).await;
    }
    world.shipped().await;
    world.stop().await;
    world.start();
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let rows = world.shipped().await;
    assert_eq!(
        rows.iter().filter(|r| r.route == 1).map(|r| r.units).sum::<u32>(),
        passed + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_slows_no_request() {
    const SYNC: Duration = Duration::from_millis(500);
    let world = world(BeforeSync::new(|| {
        std::thread::sleep(SYNC);
        Ok(())
    }))
    .await;
    let (begun, mut count) = (Instant::now(), 0u32);
    // Time for several syncs, and fewer records than a segment has.
    while begun.elapsed() < SYNC * 4 && count < 50 {
        assert_eq!(world.get("/v1/ok").await.status, 200);
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(count > 20, "{count} requests in the time of four syncs");
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), count);
}
