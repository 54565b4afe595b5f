//! Limits of keys: who may set them, and what gateways are told.

use super::paid::Paid;
use super::{Under, batch, consumer, live, manager, record, routes};
use crate::world::World;
use domain::key_limits::{self, Limits};
use domain::keys::{self, Overlap};
use domain::usage::ship;
use domain::{DomainError, Provider, snapshot};
use model::snapshot::{KeyLimits, KeyUse};
use model::{ConsumerId, KeyId};
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    quota_units: Some(100),
    budget_minor: Some(2_000),
};

async fn told(world: &World, key: KeyId) -> Option<KeyLimits> {
    let changes = snapshot::changes_since(&world.domain, "gateway", 0).await.unwrap();
    changes.keys.into_iter().find(|k| k.id == key).unwrap().limits
}

/// A consumer that gateways know, with routes to call.
async fn entitled(world: &World) -> ConsumerId {
    routes(world).await;
    let ada = consumer(world, "ada").await;
    let mut tx = world.domain.pool.begin().await.unwrap();
    domain::entitlements::recompile(&world.domain, &mut tx, ada)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    ada
}

#[tokio::test]
async fn gateways_are_told_the_limits_and_what_is_used() {
    let world = World::new().await;
    let ada = entitled(&world).await;
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
        root: None,
        quota: Some(100),
        budget_minor: Some(2_000),
        period_start: start,
        used: vec![KeyUse { meter: 1, units: 42 }],
    };
    assert_eq!(told(&world, key).await, Some(wanted));
    let in_force = key_limits::read(&world.domain, &viewer, key).await.unwrap();
    assert_eq!((in_force.limits, in_force.used), (LIMITS, 42));

    key_limits::set(&world.domain, &manager(ada), key, Limits::default())
        .await
        .unwrap();
    assert_eq!(told(&world, key).await, None);
}

#[tokio::test]
async fn a_rotation_renews_nothing() {
    let world = World::new().await;
    let ada = entitled(&world).await;
    let viewer = Provider::console().viewer(ada);
    let first = keys::create(&world.domain, &manager(ada), live("k")).await.unwrap().id;
    let other = keys::create(&world.domain, &manager(ada), live("o")).await.unwrap().id;
    key_limits::set(&world.domain, &manager(ada), first, LIMITS)
        .await
        .unwrap();
    let start = told(&world, first).await.unwrap().period_start;
    let now = world.domain.clock.now();
    let uses = |key, seq, units| {
        let under = Under {
            consumer: ada,
            key,
            subscription: None,
            version: None,
            period_start: start,
        };
        record(under, seq, now, units)
    };
    ship(&world.domain, &batch("a", vec![uses(first, 1, 30), uses(other, 2, 7)]))
        .await
        .unwrap();

    let rotate = async |key| {
        let rotated = keys::rotate(&world.domain, &manager(ada), key, Overlap::Hour).await;
        rotated.unwrap().id
    };
    let second = rotate(first).await;
    let next = told(&world, second).await.unwrap();
    assert_eq!(
        (next.root, next.quota, next.budget_minor),
        (Some(first), Some(100), Some(2_000))
    );
    assert_eq!(next.used, [KeyUse { meter: 1, units: 30 }], "what the first has used");
    let third = rotate(second).await;
    ship(&world.domain, &batch("a", vec![uses(second, 3, 10), uses(third, 4, 2)]))
        .await
        .unwrap();
    let chain = [first, second, third];
    for key in chain {
        assert_eq!(told(&world, key).await.unwrap().used, [KeyUse { meter: 1, units: 42 }]);
        let in_force = key_limits::read(&world.domain, &viewer, key).await.unwrap();
        assert_eq!((in_force.limits, in_force.keys, in_force.used), (LIMITS, 3, 42));
    }
    let apart = key_limits::read(&world.domain, &viewer, other).await.unwrap();
    assert_eq!((apart.limits, apart.keys, apart.used), (Limits::default(), 1, 7));

    // Set for one, they are set for all: the old key has no limits of its own to go on with.
    let version = snapshot::changes_since(&world.domain, "gateway", 0)
        .await
        .unwrap()
        .version;
    let less = Limits {
        quota_units: Some(50),
        budget_minor: None,
    };
    key_limits::set(&world.domain, &manager(ada), second, less)
        .await
        .unwrap();
    let changes = snapshot::changes_since(&world.domain, "gateway", version)
        .await
        .unwrap();
    let heard: BTreeSet<_> = changes.keys.iter().map(|k| k.id).collect();
    assert_eq!(heard, BTreeSet::from(chain));
    for key in changes.keys {
        let limits = key.limits.unwrap();
        assert_eq!((limits.quota, limits.budget_minor), (Some(50), None));
    }
}

#[tokio::test]
async fn what_a_chain_has_spent_is_its_part_of_the_charges() {
    let paid = Paid::new("small").await;
    let manager = manager(paid.consumer);
    let (under, now) = (paid.under().await, paid.domain.clock.now());
    let other = keys::create(&paid.domain, &manager, live("o")).await.unwrap().id;
    let next = keys::rotate(&paid.domain, &manager, paid.key, Overlap::Day)
        .await
        .unwrap()
        .id;
    for (key, units) in [(paid.key, 3_000), (next, 2_000), (other, 5_000)] {
        paid.ship(Under { key, ..under }, now, units).await;
    }
    // 4,000 calls at 0.35 cents and 5,000 at 0.333 cost 30.65: half of that, rounded down.
    for key in [paid.key, next, other] {
        let in_force = key_limits::read(&paid.domain, &paid.viewer(), key).await.unwrap();
        assert_eq!((in_force.used, in_force.spent.to_string().as_str()), (5_000, "$15.32"));
    }
}

#[tokio::test]
async fn limits_that_are_set_during_a_rotation_hold_for_its_new_key() {
    let world = World::new().await;
    routes(&world).await;
    let ada = consumer(&world, "ada").await;
    let mut key = keys::create(&world.domain, &manager(ada), live("k")).await.unwrap().id;
    for round in 1..=8 {
        let limits = Limits {
            quota_units: Some(round),
            budget_minor: None,
        };
        let manager = manager(ada);
        let (rotated, set) = tokio::join!(
            keys::rotate(&world.domain, &manager, key, Overlap::None),
            key_limits::set(&world.domain, &manager, key, limits)
        );
        set.unwrap();
        key = rotated.unwrap().id;
        let other = world
            .count("SELECT count(DISTINCT quota_units) FROM keys WHERE quota_units IS NOT NULL")
            .await;
        assert_eq!(other, 1, "in round {round}");
    }
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
