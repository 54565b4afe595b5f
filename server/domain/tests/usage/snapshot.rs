//! A gateway that follows the versions misses nothing, and its counts fit its ledger.

use super::{Under, batch, consumer, live, manager, record, routes};
use crate::world::World;
use domain::purges;
use domain::snapshot::{changes_since, hint_queue, listen};
use domain::usage::ship;
use domain::{Domain, entitlements, keys};
use model::KeyId;
use model::snapshot::{Changes, KeyRecord};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait for a hint: only a hang reaches it.
const HANG: Duration = Duration::from_secs(30);

fn apply(known: &mut BTreeMap<KeyId, KeyRecord>, changes: Changes) -> i64 {
    known.extend(changes.keys.into_iter().map(|k| (k.id, k)));
    changes.version
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let world = World::new().await;
    routes(&world).await;
    let who = consumer(&world, "ada").await;
    let restricted = keys::NewKey {
        routes: Some(vec!["two".to_owned()]),
        ..live("one route")
    };
    let first = keys::create(&world.domain, &manager(who), restricted).await.unwrap().id;
    keys::create(&world.domain, &manager(who), live("all")).await.unwrap();
    entitlements::recompile_now(&world.domain, who).await.unwrap();
    let all = changes_since(&world.domain, "a", 0).await.unwrap();
    assert_eq!((all.keys.len(), all.entitlements.len(), all.shipped_through), (2, 2, 0));
    let routing = all.routing.unwrap();
    assert_eq!(
        (routing.routes.len(), routing.meters.len(), routing.upstreams.len()),
        (2, 1, 1)
    );
    let limited = all.keys.iter().find(|k| k.id == first).unwrap();
    assert_eq!(limited.routes.as_deref(), Some(&[2][..]));
    let nothing = changes_since(&world.domain, "a", all.version).await.unwrap();
    assert!(nothing.keys.is_empty() && nothing.entitlements.is_empty() && nothing.routing.is_none());
    assert_eq!(nothing.version, all.version);
    keys::revoke(&world.domain, &manager(who), first).await.unwrap();
    let told = changes_since(&world.domain, "a", all.version).await.unwrap();
    assert_eq!(
        told.keys.iter().map(|k| (k.id, k.revoked)).collect::<Vec<_>>(),
        [(first, true)]
    );
    assert!(told.version > all.version);
}

#[tokio::test]
async fn a_key_whose_routes_are_gone_may_use_none() {
    let world = World::new().await;
    routes(&world).await;
    let who = consumer(&world, "ada").await;
    let key = keys::NewKey {
        routes: Some(vec!["one".to_owned()]),
        ..live("k")
    };
    keys::create(&world.domain, &manager(who), key).await.unwrap();
    sqlx::raw_sql("DELETE FROM routes WHERE slug = 'one'")
        .execute(world.database.pool())
        .await
        .unwrap();
    let all = changes_since(&world.domain, "a", 0).await.unwrap();
    assert_eq!(all.keys[0].routes.as_deref(), Some(&[][..]));
}

#[tokio::test]
async fn nothing_is_missed_while_many_commit_at_once() {
    let world = World::new().await;
    let who = consumer(&world, "ada").await;
    let mut writers = Vec::new();
    for n in 0..8 {
        let domain = world.domain.clone();
        writers.push(tokio::spawn(async move {
            for k in 0..12 {
                let mut tx = domain.pool.begin().await.unwrap();
                // Versions drawn, then held back for a while: the order of commits is not that of beginnings.
                sqlx::query(
                    "INSERT INTO keys (id, consumer_id, environment, name, lookup, mac, pepper, shown_prefix, last4, created_at)
                     VALUES ($1, $2, 'live', 'k', $3, decode(repeat('00', 32), 'hex'), 1, 'x', 'y', now())",
                )
                .bind(KeyId::from_bits(n * 100 + k + 1))
                .bind(who)
                .bind(i64::try_from(n * 100 + k).unwrap())
                .execute(&mut *tx)
                .await
                .unwrap();
                tokio::time::sleep(Duration::from_millis(u64::try_from((n * 7 + k * 3) % 5).unwrap())).await;
                tx.commit().await.unwrap();
            }
        }));
    }
    let (mut known, mut version) = (BTreeMap::new(), 0);
    let mut writers: Vec<_> = writers.into_iter().collect();
    while writers.iter().any(|w| !w.is_finished()) {
        let changes = changes_since(&world.domain, "a", version).await.unwrap();
        assert!(changes.version >= version, "versions go back");
        version = apply(&mut known, changes);
    }
    for writer in writers.drain(..) {
        writer.await.unwrap();
    }
    apply(&mut known, changes_since(&world.domain, "a", version).await.unwrap());
    assert_eq!(known.len(), 96, "a change was passed over");
}

async fn used_and_shipped(domain: &Domain) -> (u64, u64) {
    let changes = changes_since(domain, "a", 0).await.unwrap();
    let live = changes.entitlements.iter().find(|e| !e.meters.is_empty()).unwrap();
    (live.meters[0].used, changes.shipped_through)
}

#[tokio::test]
async fn what_is_used_fits_the_cursor_at_every_instant() {
    let world = World::new().await;
    routes(&world).await;
    let who = consumer(&world, "ada").await;
    let key = keys::create(&world.domain, &manager(who), live("k")).await.unwrap().id;
    let now = world.domain.clock.now();
    entitlements::recompile_now(&world.domain, who).await.unwrap();
    // A meter in the compiled row, as a plan would put it there.
    sqlx::raw_sql(
        r#"UPDATE entitlements SET record = jsonb_set(record, '{meters}',
           '[{"meter": 1, "terms": {"meter": "calls", "included": 5, "overage": null}, "used": 0}]') WHERE environment = 'live'"#,
    )
    .execute(world.database.pool())
    .await
    .unwrap();
    let changes = changes_since(&world.domain, "a", 0).await.unwrap();
    let period = changes
        .entitlements
        .iter()
        .find(|e| !e.meters.is_empty())
        .unwrap()
        .period;
    let under = Under {
        consumer: who,
        key,
        subscription: None,
        version: None,
        period_start: period.start,
    };
    let shipper = {
        let domain = world.domain.clone();
        tokio::spawn(async move {
            for seq in 1..=60 {
                ship(&domain, &batch("a", vec![record(under, seq, now, 1)]))
                    .await
                    .unwrap();
            }
        })
    };
    while !shipper.is_finished() {
        let (used, shipped) = used_and_shipped(&world.domain).await;
        assert_eq!(used, shipped);
    }
    shipper.await.unwrap();
    assert_eq!(used_and_shipped(&world.domain).await, (60, 60));
    let next = period.end.plus_s(5);
    world.clock.set(next);
    assert_eq!(
        used_and_shipped(&world.domain).await.0,
        0,
        "the next period begins at zero by itself"
    );
    let later = Under {
        period_start: period.end,
        ..under
    };
    ship(&world.domain, &batch("a", vec![record(later, 61, next, 1)]))
        .await
        .unwrap();
    assert_eq!(
        used_and_shipped(&world.domain).await,
        (1, 61),
        "and counts what the gateway rolled into it"
    );
}

#[tokio::test]
async fn a_change_is_hinted() {
    let world = World::new().await;
    let who = consumer(&world, "ada").await;
    let mut hints = listen(&world.domain).await.unwrap();
    keys::create(&world.domain, &manager(who), live("k")).await.unwrap();
    tokio::time::timeout(HANG, hints.next()).await.expect("a hint");
    assert_eq!(changes_since(&world.domain, "a", 0).await.unwrap().keys.len(), 1);
}

/// Every gateway hears of it once, however often the same is purged, and one that starts later forgets nothing it has not.
#[tokio::test]
async fn a_purge_is_told_to_gateways_and_written_down() {
    let world = World::new().await;
    let provider = domain::Provider::console();
    let purge = async |route: Option<&str>, path: &str| purges::purge(&world.domain, &provider, route, path).await;
    let before = changes_since(&world.domain, "a", 0).await.unwrap();
    assert!(before.purges.is_empty());
    for _ in 0..2 {
        purge(None, "/v1/countries").await.unwrap();
    }
    purge(None, "").await.unwrap();
    let told = changes_since(&world.domain, "a", before.version).await.unwrap();
    let prefixes: Vec<_> = told.purges.iter().map(|p| (p.route, p.path_prefix.as_str())).collect();
    assert!(prefixes.len() == 2 && prefixes.contains(&(None, "")) && prefixes.contains(&(None, "/v1/countries")));
    assert!(told.routing.is_none(), "routes are not told anew");
    let after = changes_since(&world.domain, "a", told.version).await.unwrap();
    assert!(after.purges.is_empty() && after.version == told.version);
    purge(None, "/v1/countries").await.unwrap();
    let again = changes_since(&world.domain, "a", told.version).await.unwrap();
    assert_eq!(again.purges.len(), 1);
    assert!(purge(Some("nowhere"), "").await.is_err() && purge(None, "v1").await.is_err());
    assert_eq!(
        world
            .count("SELECT count(*) FROM audit_log WHERE action = 'cache.purge'")
            .await,
        4
    );
}

/// F29: a listener that stays in a transaction holds up the queue of hints; it is seen before the queue is full, and
/// hints arrive meanwhile.
#[tokio::test]
async fn a_transaction_that_stays_open_is_seen_in_the_queue_of_hints() {
    let world = World::new().await;
    let mut stuck = world.domain.pool.acquire().await.unwrap();
    for statement in ["LISTEN snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"] {
        sqlx::query(statement).execute(&mut *stuck).await.unwrap();
    }
    let mut hints = listen(&world.domain).await.unwrap();
    let before = hint_queue(&world.domain).await.unwrap();
    for _ in 0..300 {
        // A page of the queue each.
        let hint = sqlx::query("SELECT pg_notify('snapshot', repeat('x', 7900))");
        hint.execute(&world.domain.pool).await.unwrap();
    }
    hints.next().await;
    let then = hint_queue(&world.domain).await.unwrap();
    assert!(before < then && then < 0.1, "{before} {then}");
}
