//! The life of a key.

use super::{consumer, live, manager, routes};
use crate::world::World;
use domain::keys::{self, KeyState, MAX_KEYS, NewKey, Overlap};
use domain::{DomainError, Provider};
use model::access::Environment;
use std::collections::HashSet;

fn conflict<T>(outcome: domain::Result<T>) -> bool {
    matches!(outcome, Err(DomainError::Conflict(_)))
}

fn wrong<T>(outcome: domain::Result<T>, name: &str) -> bool {
    matches!(outcome, Err(DomainError::Invalid { field, .. }) if field == name)
}

#[tokio::test]
async fn a_key_is_stored_as_its_mac_and_nothing_else() {
    let world = World::new().await;
    let who = consumer(&world, "ada").await;
    let made = keys::create(&world.domain, &manager(who), live(" production "))
        .await
        .unwrap();
    assert_eq!(made.name, "production");
    let (_, pepper) = world.domain.settings.newest_pepper().unwrap();
    let row: (Vec<u8>, i64, String) = sqlx::query_as("SELECT mac, lookup, to_jsonb(keys)::text FROM keys")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!(row.0, keys::mac(pepper, &made.plain));
    assert_eq!(u64::try_from(row.1).unwrap(), made.plain.lookup().0);
    let secret = &made.plain.reveal()[made.plain.shown_prefix().len()..];
    assert!(!row.2.contains(&secret[..8]), "a part of the secret is stored");
    assert_eq!(
        world
            .count("SELECT count(*) FROM audit_log WHERE action = 'key.create'")
            .await,
        1
    );
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_at_its_field() {
    let world = World::new().await;
    routes(&world).await;
    let who = consumer(&world, "ada").await;
    let make = async |new: NewKey| keys::create(&world.domain, &manager(who), new).await;
    assert!(wrong(make(live("  ")).await, "name"));
    assert!(wrong(make(live(&"x".repeat(81))).await, "name"));
    let now = world.domain.clock.now();
    assert!(wrong(
        make(NewKey {
            expires_at: Some(now),
            ..live("a")
        })
        .await,
        "expires"
    ));
    let limited = |slugs: &[&str]| NewKey {
        routes: Some(slugs.iter().map(|s| (*s).to_owned()).collect()),
        ..live("a")
    };
    assert!(wrong(make(limited(&[])).await, "routes"));
    assert!(wrong(make(limited(&["one", "three"])).await, "routes"));
    let made = make(limited(&["two", "one", "two"])).await.unwrap();
    assert_eq!(made.routes.unwrap(), ["one", "two"]);
}

#[tokio::test]
async fn twenty_work_in_an_environment_and_revoking_makes_room() {
    let world = World::new().await;
    let who = consumer(&world, "ada").await;
    let mut last = None;
    for n in 0..MAX_KEYS {
        last = Some(
            keys::create(&world.domain, &manager(who), live(&format!("k{n}")))
                .await
                .unwrap()
                .id,
        );
    }
    assert!(conflict(
        keys::create(&world.domain, &manager(who), live("one too many")).await
    ));
    let test = NewKey {
        environment: Environment::Test,
        ..live("apart")
    };
    keys::create(&world.domain, &manager(who), test).await.unwrap();
    keys::revoke(&world.domain, &manager(who), last.unwrap()).await.unwrap();
    keys::create(&world.domain, &manager(who), live("now there is room"))
        .await
        .unwrap();
}

#[tokio::test]
async fn rotation_overlaps_as_chosen_and_never_past_the_own_expiry() {
    let world = World::new().await;
    let (who, now) = (consumer(&world, "ada").await, world.domain.clock.now());
    let new = NewKey {
        expires_at: Some(now.plus_s(2 * 86_400)),
        ..live("production")
    };
    let viewer = Provider::console().viewer(who);
    let old = keys::create(&world.domain, &manager(who), new).await.unwrap().id;
    let next = keys::rotate(&world.domain, &manager(who), old, Overlap::Week)
        .await
        .unwrap();
    let key = keys::get(&world.domain, &viewer, old).await.unwrap();
    assert_eq!(
        key.expires_at,
        Some(now.plus_s(2 * 86_400)),
        "a week would be past its own end"
    );
    assert_eq!((key.replaced_by, key.state(now)), (Some(next.id), KeyState::Rotated));
    assert_eq!(
        (next.name.as_str(), next.expires_at),
        ("production", Some(now.plus_s(2 * 86_400)))
    );
    assert!(
        conflict(keys::rotate(&world.domain, &manager(who), old, Overlap::Hour).await),
        "rotated before"
    );
    let third = keys::rotate(&world.domain, &manager(who), next.id, Overlap::Hour)
        .await
        .unwrap();
    let key = keys::get(&world.domain, &viewer, next.id).await.unwrap();
    assert_eq!(key.expires_at, Some(now.plus_s(3_600)));
    assert!(key.works(now.plus_s(3_599)) && !key.works(now.plus_s(3_600)));
    keys::rotate(&world.domain, &manager(who), third.id, Overlap::None)
        .await
        .unwrap();
    assert_eq!(
        keys::get(&world.domain, &viewer, third.id).await.unwrap().state(now),
        KeyState::Revoked
    );
    assert!(conflict(
        keys::rotate(&world.domain, &manager(who), third.id, Overlap::None).await
    ));
}

#[tokio::test]
async fn nobody_reaches_the_keys_of_another() {
    let world = World::new().await;
    let (ada, bob) = (consumer(&world, "ada").await, consumer(&world, "bob").await);
    let id = keys::create(&world.domain, &manager(ada), live("hers"))
        .await
        .unwrap()
        .id;
    let gone = |outcome: domain::Result<()>| matches!(outcome, Err(DomainError::NotFound));
    assert!(gone(keys::revoke(&world.domain, &manager(bob), id).await));
    assert!(gone(
        keys::rotate(&world.domain, &manager(bob), id, Overlap::None)
            .await
            .map(drop)
    ));
    assert!(gone(
        keys::get(&world.domain, &Provider::console().viewer(bob), id)
            .await
            .map(drop)
    ));
    assert!(
        keys::list(&world.domain, &Provider::console().viewer(bob))
            .await
            .unwrap()
            .is_empty()
    );
    let theirs = keys::list(&world.domain, &Provider::console().viewer(ada))
        .await
        .unwrap();
    assert_eq!(theirs[0].state(world.domain.clock.now()), KeyState::Active);
}

#[tokio::test]
async fn many_are_made_at_once_and_each_is_another() {
    let world = World::new().await;
    let who = consumer(&world, "ada").await;
    let mut texts = HashSet::new();
    keys::create_many(&world.domain, &manager(who), live("load"), 6_000, |key| {
        texts.insert(key.plain.reveal().to_owned());
    })
    .await
    .unwrap();
    assert_eq!(texts.len(), 6_000);
    assert_eq!(
        world.count("SELECT count(DISTINCT (lookup, mac)) FROM keys").await,
        6_000
    );
}
