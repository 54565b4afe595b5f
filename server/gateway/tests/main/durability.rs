//! Restarts, torn tails and a control plane that is away: nothing is lost, nothing counts twice, nothing is forgotten.

use crate::support::*;
use gateway::{Gateway, Peppers};
use model::access::Environment;
use model::key::PlainKey;
use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn away(world: &World, away: bool) {
    world.plane.away.store(away, Ordering::SeqCst);
}

async fn passed(world: &World, count: usize) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        passed += usize::from(world.get("/v1/ok").await.status == 200);
    }
    passed
}

/// The newest copy of the snapshot. There is none for a moment while one takes the place of the one before.
async fn read(world: &World) -> Vec<u8> {
    let path = world.folder.0.join("snapshot");
    let mut copy = Vec::new();
    until(|| std::fs::read(&path).map(|read| copy = read).is_ok()).await;
    copy
}

/// Kept until the next copy of the snapshot surely holds what was applied.
async fn stored(world: &World) {
    let path = world.folder.0.join("snapshot");
    until(|| path.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_control_plane_remembers_what_was_used() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 10, None)]).await;
    assert_eq!(passed(&world, 3).await, 3);
    world.shipped().await;
    away(&world, true);
    assert_eq!(passed(&world, 4).await, 4, "known keys go on");
    world.stop().await;
    world.start();
    assert!(world.gateway.as_ref().unwrap().ready());
    assert_eq!(passed(&world, 5).await, 3, "7 of 10 were used");
    away(&world, false);
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 10);
    assert_eq!(passed(&world, 2).await, 0);
    world.stop().await;
    world.start();
    world.synced().await;
    assert_eq!(passed(&world, 2).await, 0, "and with the control plane as well");
}

/// The copy on disk is lost: what the control plane counted and what our ledger still holds add up.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_stored_snapshot_the_ledger_completes_the_control_plane() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 10, None)]).await;
    assert_eq!(passed(&world, 2).await, 2);
    world.shipped().await;
    away(&world, true);
    assert_eq!(passed(&world, 5).await, 5);
    world.stop().await;
    for name in ["snapshot", "snapshot.previous"] {
        let _ = std::fs::remove_file(world.folder.0.join(name));
    }
    world.start();
    away(&world, false);
    until(|| world.gateway.as_ref().unwrap().ready()).await;
    world.synced().await;
    assert_eq!(passed(&world, 5).await, 3);
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 10);
}

/// A copy from before most of what was counted, beside a ledger that has forgotten what it shipped: as after `kill -9`, when
/// nothing but counts had changed for longer than segments are kept.
async fn set_back(world: &mut World) {
    stored(world).await;
    let copy = world.folder.0.join("snapshot");
    let old = read(world).await;
    assert_eq!(passed(world, 70).await, 70);
    world.shipped().await;
    world.stop().await;
    std::fs::write(&copy, old).unwrap();
    let _ = std::fs::remove_file(world.folder.0.join("snapshot.previous"));
    let ledger = std::fs::read_dir(world.folder.0.join("ledger")).unwrap();
    let mut segments: Vec<_> = ledger.map(|e| e.unwrap().path()).collect();
    segments.retain(|p| p.extension().is_some_and(|e| e == "ledger"));
    segments.sort();
    std::fs::remove_file(&segments[0]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_makes_no_count_begin_too_low() {
    let quota = |e: &mut model::snapshot::Entitlement| e.meters = vec![meter(1, 100, None)];
    for is_away in [false, true] {
        let mut world = World::with(quota).await;
        set_back(&mut world).await;
        away(&world, is_away);
        world.start();
        if is_away {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(world.get("/v1/ok").await.status, 503, "nothing is counted from nothing");
            away(&world, false);
        }
        until(|| world.gateway.as_ref().unwrap().informed()).await;
        assert_eq!(passed(&world, 40).await, 30, "70 of 100 were used");
    }
}

/// What nobody knows any more keeps nobody from being served.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_control_plane_and_the_ledger_both_lack_is_done_without() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 100, None)]).await;
    set_back(&mut world).await;
    world.plane.lose_usage();
    world.start();
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    assert_eq!(passed(&world, 100).await, 94, "the last six are in the ledger still");
}

/// Nor when the ledger still has everything that the copy lacks, whoever counted beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_asks_for_counts_that_no_change_tells() {
    let mut world = World::with(|e| e.meters = vec![meter(1, 10, None)]).await;
    stored(&world).await;
    assert_eq!(passed(&world, 2).await, 2);
    world.shipped().await;
    world.stop().await;
    world.plane.count_elsewhere(world.consumer, 5);
    world.start();
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    assert_eq!(passed(&world, 5).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_follows_the_counts() {
    let world = World::new().await;
    stored(&world).await;
    assert_eq!(passed(&world, 3).await, 3);
    world.shipped().await;
    let before = read(&world).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(read(&world).await, before, "no copy is made for nothing");
    world.clock.advance(3_600_000);
    let path = world.folder.0.join("snapshot");
    until(|| std::fs::read(&path).is_ok_and(|copy| copy != before)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_not_judged_while_the_control_plane_is_away() {
    let mut world = World::new().await;
    stored(&world).await;
    world.stop().await;
    away(&world, true);
    world.start();
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let fresh = PlainKey::generate("tp", Environment::Live, &*world.random);
    let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", fresh.reveal());
    let reply = world.send(&head, "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "keys-unavailable"));
    assert!(reply.header("retry-after").is_some());
    let mistyped = world
        .send("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: tp_live_x\r\n", "")
        .await;
    assert_eq!(mistyped.status, 401, "a wrong checksum needs no control plane");
    world.plane.put_key(key_record(&fresh, world.consumer));
    away(&world, false);
    world.synced().await;
    assert_eq!(world.send(&head, "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_gives_way_to_the_one_before() {
    let mut world = World::new().await;
    world.stop().await;
    world.start();
    world.stop().await;
    assert!(world.folder.0.join("snapshot.previous").exists());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(world.folder.0.join("snapshot"))
        .unwrap();
    file.write_all_at(b"!", 200).unwrap();
    away(&world, true);
    world.start();
    assert_eq!(world.get("/v1/ok").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_stays_revoked_through_a_restart() {
    let mut world = World::new().await;
    world.plane.edit_key(world.key.lookup().0, |k| k.revoked = true);
    world.synced().await;
    world.stop().await;
    away(&world, true);
    world.start();
    assert_eq!(world.get("/v1/ok").await.problem(), "key-revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_sink_that_is_lost_counts_nothing_twice() {
    let world = World::new().await;
    for _ in 0..10 {
        world.plane.lose_answers.store(true, Ordering::SeqCst);
        assert_eq!(passed(&world, 3).await, 3);
        world.shipped().await;
    }
    let rows = world.shipped().await;
    let ids: HashSet<_> = rows.iter().map(|r| r.request).collect();
    assert_eq!((rows.len(), ids.len()), (30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn known_keys_never_notice_that_the_control_plane_is_away() {
    let world = World::new().await;
    away(&world, true);
    assert_eq!(passed(&world, 200).await, 200);
    away(&world, false);
    until(|| world.plane.rows().len() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_record_is_given_up_and_its_place_used_again() {
    let mut world = World::new().await;
    stored(&world).await;
    away(&world, true);
    assert_eq!(passed(&world, 5).await, 5);
    world.stop().await;
    let segment = world.folder.0.join("ledger").join(format!("{:020}.ledger", 1));
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(&[0u8; 40], 128 * 5 + 88).unwrap();
    away(&world, false);
    world.start();
    until(|| world.plane.rows().len() == 4).await;
    assert_eq!(passed(&world, 2).await, 2);
    until(|| world.plane.rows().len() == 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_cannot_have_the_same_folder_or_port() {
    let world = World::new().await;
    let start = |config| {
        Gateway::start(
            config,
            Arc::clone(&world.plane) as _,
            Arc::clone(&world.plane) as _,
            Arc::clone(&world.clock) as _,
            Arc::clone(&world.random) as _,
            Peppers::new([(1, PEPPER)]),
        )
    };
    assert!(start(config(&world.folder.0)).is_err());
    let other = Folder::new();
    let mut taken = config(&other.0);
    taken.listen = world.addr;
    assert!(start(taken).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_open_requests_finish() {
    let mut world = World::new().await;
    let (addr, key) = (world.addr, world.key.reveal().to_owned());
    let slow = tokio::spawn(async move {
        let text = format!("GET /v1/sse HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
        Reply::parse(&raw(addr, text.as_bytes()).await)
    });
    until(|| world.upstream.tick.receiver_count() == 1).await;
    let tick = Arc::clone(&world.upstream.tick);
    let ending = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tick.send("last".to_owned()).unwrap();
        tick.send("end".to_owned()).unwrap();
    });
    // Far longer than the stream, so that nothing else than the stream can end it.
    let gateway = world.gateway.take().unwrap();
    gateway.shutdown(Duration::from_secs(60)).await;
    ending.await.unwrap();
    let reply = slow.await.unwrap();
    assert!(
        reply.status == 200 && String::from_utf8_lossy(&reply.body).contains("last"),
        "{reply:?}"
    );
    assert_eq!(world.plane.rows().len(), 1, "the ledger was shipped before the end");
}
