//! Logging in, and how guessing slows down.

use super::*;
use std::net::IpAddr;

async fn log_in(world: &World, email: &str, password: &str) -> domain::Result<MemberId> {
    members::log_in(&world.domain, None, email, &secret(password)).await
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_sound_alike() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let wrong = log_in(&world, "mara@lumen.dev", "three green kite")
        .await
        .unwrap_err()
        .to_string();
    for (email, password) in [
        ("nobody@lumen.dev", PASSWORD),
        ("not an address", PASSWORD),
        ("mara@lumen.dev", ""),
        ("mara@lumen.dev", &"x".repeat(1_000_000)),
    ] {
        assert_eq!(log_in(&world, email, password).await.unwrap_err().to_string(), wrong);
    }
    assert_eq!(log_in(&world, " MARA@lumen.dev", PASSWORD).await.unwrap(), mara);
}

#[tokio::test]
async fn a_disabled_member_is_as_unknown() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    sqlx::query("UPDATE members SET disabled_at = now()")
        .execute(world.database.pool())
        .await
        .unwrap();
    assert!(is_conflict(&log_in(&world, "mara@lumen.dev", PASSWORD).await));
    // Also with a session that runs: every request asks.
    assert!(
        domain::identity::of_member(&world.domain, mara)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn after_five_tries_each_costs_twice_the_wait_and_the_right_password_forgets_them() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    for _ in 0..5 {
        assert!(is_conflict(
            &log_in(&world, "mara@lumen.dev", "wrong wrong wrong").await
        ));
    }
    for wait_s in [1, 2, 4] {
        let barred = log_in(&world, "mara@lumen.dev", PASSWORD).await;
        assert!(matches!(barred, Err(DomainError::TooMany { retry_after_s }) if retry_after_s == wait_s));
        world.clock.advance_s(i64::try_from(wait_s).unwrap());
        assert!(is_conflict(
            &log_in(&world, "mara@lumen.dev", "wrong wrong wrong").await
        ));
    }
    // An unknown address is slowed down in the same way, or the delay would tell.
    for _ in 0..5 {
        assert!(is_conflict(&log_in(&world, "nobody@lumen.dev", PASSWORD).await));
    }
    assert!(is_too_many(&log_in(&world, "nobody@lumen.dev", PASSWORD).await));

    world.clock.advance_s(8);
    log_in(&world, "mara@lumen.dev", PASSWORD).await.unwrap();
    for _ in 0..5 {
        assert!(
            is_conflict(&log_in(&world, "mara@lumen.dev", "wrong wrong wrong").await),
            "counted from one again"
        );
    }
}

#[tokio::test]
async fn tries_side_by_side_count_one_by_one() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    let tries = (0..16).map(|_| log_in(&world, "mara@lumen.dev", "wrong wrong wrong"));
    let outcomes = futures::future::join_all(tries).await;
    assert_eq!(
        outcomes.iter().filter(|o| is_conflict(o)).count(),
        5,
        "passwords looked at"
    );
    assert_eq!(outcomes.iter().filter(|o| is_too_many(o)).count(), 11);
}

#[tokio::test]
async fn somebody_elses_tries_leave_the_way_to_a_reset_open() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    for _ in 0..6 {
        let _ = log_in(&world, "mara@lumen.dev", "wrong wrong wrong").await;
    }
    members::ask_reset(&world.domain, None, "mara@lumen.dev").await.unwrap();
    work(&world).await;
    let token = last_token(&world, "mara@lumen.dev").await;
    members::reset(&world.domain, &token, &secret("seven slow herons"))
        .await
        .unwrap();
    log_in(&world, "mara@lumen.dev", "seven slow herons").await.unwrap();
}

#[tokio::test]
async fn a_network_has_thirty_tries_a_minute_at_any_accounts() {
    let world = World::new().await;
    for i in 0..30 {
        let from = ip(&format!("2001:db8:0:1::{i:x}"));
        let email = format!("user{i}@lumen.dev");
        members::ask_reset(&world.domain, from, &email).await.unwrap();
    }
    let from = ip("2001:db8:0:1:ffff::1");
    assert!(is_too_many(
        &members::ask_reset(&world.domain, from, "more@lumen.dev").await
    ));
    assert!(is_too_many(
        &members::sign_up(&world.domain, from, request("more@lumen.dev")).await
    ));
    assert!(is_too_many(
        &members::log_in(&world.domain, from, "more@lumen.dev", &secret(PASSWORD)).await
    ));
    members::ask_reset(&world.domain, ip("2001:db8:0:2::1"), "more@lumen.dev")
        .await
        .unwrap();
    world.clock.advance_s(60);
    members::ask_reset(&world.domain, from, "yet-more@lumen.dev")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_weaker_hash_is_replaced_at_log_in() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    // argon2id of the same password with 8 KiB and one pass.
    let weak = {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        hasher
            .hash_password_with_salt(PASSWORD.as_bytes(), &[1; 16])
            .unwrap()
            .to_string()
    };
    sqlx::query("UPDATE members SET password_hash = $1")
        .bind(weak)
        .execute(world.database.pool())
        .await
        .unwrap();
    log_in(&world, "mara@lumen.dev", PASSWORD).await.unwrap();
    let strong = "SELECT count(*) FROM members WHERE password_hash LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'";
    assert_eq!(world.count(strong).await, 1);
    log_in(&world, "mara@lumen.dev", PASSWORD).await.unwrap();
}
