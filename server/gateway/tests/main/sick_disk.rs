//! F13: a disk whose syncs fail or are slow.

use crate::support::*;
use gateway::BeforeSync;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// A disk whose syncs end when they are let.
#[derive(Default)]
struct Slow {
    /// Whether syncs wait at all.
    waits: AtomicBool,
    begun: AtomicUsize,
    may_end: AtomicUsize,
    ended: AtomicUsize,
}

impl Slow {
    /// How long a sync that nobody lets end goes on: longer than a machine stands still.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn sync(&self) {
        let (number, begun) = (self.begun.fetch_add(1, Ordering::SeqCst) + 1, Instant::now());
        let may_end = || !self.waits.load(Ordering::SeqCst) || self.may_end.load(Ordering::SeqCst) >= number;
        while !may_end() && begun.elapsed() < Self::PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_slows_no_request() {
    let disk = Arc::new(Slow::default());
    let syncing = Arc::clone(&disk);
    let world = world(BeforeSync::new(move || {
        syncing.sync();
        Ok(())
    }))
    .await;
    disk.waits.store(true, Ordering::SeqCst);
    let mut count = 0;
    // In all fewer records than a segment has.
    for _ in 0..2 {
        assert_eq!(world.get("/v1/ok").await.status, 200);
        until(|| disk.begun.load(Ordering::SeqCst) > disk.ended.load(Ordering::SeqCst)).await;
        let ended = disk.ended.load(Ordering::SeqCst);
        for _ in 0..20 {
            assert_eq!(world.get("/v1/ok").await.status, 200);
        }
        assert_eq!(disk.ended.load(Ordering::SeqCst), ended, "they waited for a sync");
        disk.may_end.store(ended + 1, Ordering::SeqCst);
        until(|| disk.ended.load(Ordering::SeqCst) > ended).await;
        count += 21;
    }
    disk.waits.store(false, Ordering::SeqCst);
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), count);
}
