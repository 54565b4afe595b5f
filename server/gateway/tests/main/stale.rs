//! F03: a control plane that is away for so long that what is known of keys and plans is not certain any more.

use crate::support::*;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CAP_S: i64 = 60;

fn capped(world: &World) -> gateway::Config {
    let mut config = config(&world.folder.0);
    config.limits.stale_after = Some(Duration::from_secs(CAP_S.unsigned_abs()));
    config
}

/// A world whose control plane has gone away, and whose copy on disk is confirmed.
async fn cut_off() -> World {
    let mut world = World::new().await;
    world.stop().await;
    world.start_with(capped(&world));
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    let noted = world.folder.0.join("snapshot.confirmed");
    until(|| noted.exists()).await;
    world.plane.away.store(true, Ordering::SeqCst);
    until(|| !world.gateway.as_ref().unwrap().informed()).await;
    world
}

async fn quote(world: &World) -> serde_json::Value {
    let key = world.key.reveal();
    let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTurnpike-Quote: ?1\r\n");
    let reply = world.send(&head, "").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_slice(&reply.body).unwrap()
}

fn stale(world: &World) -> bool {
    let metrics = world.gateway.as_ref().unwrap().metrics();
    metrics.lines().any(|l| l == "turnpike_gateway_snapshot_stale 1")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paid_for_waits_and_the_rest_goes_on() {
    let world = cut_off().await;
    world.clock.advance((CAP_S - 5) * 1_000);
    assert_eq!(world.get("/v1/ok").await.status, 200, "in time");
    assert!(!stale(&world) && quote(&world).await["would_be_refused"].is_null());
    world.clock.advance(10_000);
    let refused = world.get("/v1/ok").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "snapshot-stale"));
    assert!(refused.header("retry-after").is_some());
    assert!(stale(&world) && world.gateway.as_ref().unwrap().ready());
    assert_eq!(
        world.get("/other").await.status,
        200,
        "a meter that the plan does not mention"
    );
    let quoted = quote(&world).await;
    assert!(
        quoted["would_be_refused"]["type"]
            .as_str()
            .unwrap()
            .ends_with("snapshot-stale")
    );
    world.plane.away.store(false, Ordering::SeqCst);
    until(|| world.gateway.as_ref().unwrap().informed()).await;
    assert_eq!(world.get("/v1/ok").await.status, 200);
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).collect::<Vec<_>>(), [1, 0, 0, 1, 0, 1]);
}

/// Starting anew makes nothing younger.
#[tokio::test(flavor = "multi_thread")]
async fn the_copy_on_disk_is_as_old_as_its_last_confirmation() {
    let mut world = cut_off().await;
    world.stop().await;
    world.clock.advance((CAP_S - 20) * 1_000);
    world.start_with(capped(&world));
    assert_eq!(
        world.get("/v1/ok").await.status,
        200,
        "a cold start without the control plane"
    );
    world.clock.advance(30_000);
    assert_eq!(world.get("/v1/ok").await.problem(), "snapshot-stale");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cap_nothing_is_ever_too_old() {
    let mut world = cut_off().await;
    world.stop().await;
    world.start();
    world.clock.advance(10 * DAY_MS);
    assert_eq!(world.get("/v1/ok").await.status, 200);
}
