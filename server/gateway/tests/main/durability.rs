//! Restarts, torn tails and a control plane that is away: nothing is lost, nothing counts twice, nothing is forgotten.

use crate::support::*;
use gateway::{Gateway, Peppers};
use model::access::Environment;
use model::key::PlainKey;
use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        tick.send("last".to_owned()).unwrap();
        tick.send("end".to_owned()).unwrap();
    });
    world.stop().await;
    ending.await.unwrap();
    let reply = slow.await.unwrap();
    assert!(
        reply.status == 200 && String::from_utf8_lossy(&reply.body).contains("last"),
        "{reply:?}"
    );
    assert_eq!(world.plane.rows().len(), 1, "the ledger was shipped before the end");
}
