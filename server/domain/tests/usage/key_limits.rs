//! Limits of keys: who may set them, and what gateways are told.

use super::{Under, batch, consumer, live, manager, record, routes};
use crate::world::World;
use domain::key_limits::{self, Limits};
use domain::keys::{self, Overlap};
use domain::usage::ship;
use domain::{DomainError, Provider, snapshot};
use model::KeyId;
use model::snapshot::{KeyLimits, KeyUse};

const LIMITS: Limits = Limits {
    quota_units: Some(100),
    budget_minor: Some(2_000),
};

async fn told(world: &World, key: KeyId) -> Option<KeyLimits> {
    let changes = snapshot::changes_since(&world.domain, "gateway", 0).await.unwrap();
    changes.keys.into_iter().find(|k| k.id == key).unwrap().limits
}

#[tokio::test]
async fn gateways_are_told_the_limits_and_what_is_used() {
    let world = World::new().await;
    routes(&world).await;
    let ada = consumer(&world, "ada").await;
    let mut tx = world.domain.pool.begin().await.unwrap();
    domain::entitlements::recompile(&world.domain, &mut tx, ada)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let viewer = Provider::console().viewer(ada);
    let key = keys::create(&world.domain, &manager(ada), live("k")).await.unwrap().id;
    assert_eq!(told(&world, key).await, None);
    let before = snapshot::changes_since(&world.domain, "gateway", 0)
        .await
        .unwrap()
        .version;
    key_limits::set(&world.domain, &manager(ada), key, LIMITS)
        .await
        .unwrap();
    let after = snapshot::changes_since(&world.domain, "gateway", before).await.unwrap();
    assert_eq!(after.keys.len(), 1, "gateways hear of it");
    let start = after.keys[0].limits.clone().unwrap().period_start;
    let under = |period_start| Under {
        consumer: ada,
        key,
        subscription: None,
        version: None,
        period_start,
    };
    let now = world.domain.clock.now();
    let rows = vec![
        record(under(start), 1, now, 30),
        record(under(start), 2, now, 12),
        record(under(start.plus_s(-86_400)), 3, now, 5),
    ];
    ship(&world.domain, &batch("a", rows.clone())).await.unwrap();
    ship(&world.domain, &batch("a", rows)).await.unwrap();
    let wanted = KeyLimits {
        quota: Some(100),
        budget_minor: Some(2_000),
        period_start: start,
        used: vec![KeyUse { meter: 1, units: 42 }],
    };
    assert_eq!(told(&world, key).await, Some(wanted));
    let in_force = key_limits::read(&world.domain, &viewer, key).await.unwrap();
    assert_eq!((in_force.limits, in_force.used), (LIMITS, 42));

    let next = keys::rotate(&world.domain, &manager(ada), key, Overlap::Hour)
        .await
        .unwrap()
        .id;
    let next = told(&world, next).await.unwrap();
    assert_eq!(
        (next.quota, next.used),
        (Some(100), vec![]),
        "its own count begins anew"
    );
    key_limits::set(&world.domain, &manager(ada), key, Limits::default())
        .await
        .unwrap();
    assert_eq!(told(&world, key).await, None);
}

#[tokio::test]
async fn nobody_limits_the_keys_of_others_or_by_nonsense() {
    let world = World::new().await;
    let (ada, eve) = (consumer(&world, "ada").await, consumer(&world, "eve").await);
    let key = keys::create(&world.domain, &manager(ada), live("k")).await.unwrap().id;
    let foreign = key_limits::set(&world.domain, &manager(eve), key, LIMITS).await;
    assert!(matches!(foreign, Err(DomainError::NotFound)), "{foreign:?}");
    let viewer = Provider::console().viewer(eve);
    assert!(key_limits::read(&world.domain, &viewer, key).await.is_err());
    for (limits, field) in [
        (
            Limits {
                quota_units: Some(-1),
                ..LIMITS
            },
            "quota",
        ),
        (
            Limits {
                budget_minor: Some(-1),
                ..LIMITS
            },
            "budget",
        ),
    ] {
        match key_limits::set(&world.domain, &manager(ada), key, limits).await {
            Err(DomainError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        world
            .count("SELECT count(*) FROM keys WHERE quota_units IS NOT NULL")
            .await,
        0
    );
}
