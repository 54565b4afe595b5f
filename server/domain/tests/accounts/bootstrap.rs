//! The first admin.

use super::sessions::begin;
use super::*;
use domain::{Provider, bootstrap, identity};

async fn setup_token(world: &World) -> Token {
    let address = bootstrap::setup_address(&world.domain).await.unwrap().unwrap();
    let (page, token) = address.split_once("?token=").unwrap();
    assert_eq!(page, "http://127.0.0.1:3000/admin/setup");
    Token::given(token)
}

#[tokio::test]
async fn of_eight_at_once_one_becomes_the_first_admin() {
    let world = World::new().await;
    let token = setup_token(&world).await;
    let password = secret(PASSWORD);
    let emails: Vec<String> = (0..8).map(|i| format!("admin{i}@atlas.example")).collect();
    let tries = emails
        .iter()
        .map(|email| bootstrap::first_admin(&world.domain, &token, email, &password));
    let outcomes = futures::future::join_all(tries).await;
    let winners: Vec<_> = outcomes.iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(world.count("SELECT count(*) FROM members").await, 1);
    let admin = identity::of_member(&world.domain, *winners[0]).await.unwrap().unwrap();
    assert!(admin.provider().is_some() && admin.viewer().is_none());
    assert!(!bootstrap::is_open(&world.domain).await.unwrap());
    assert!(bootstrap::setup_address(&world.domain).await.unwrap().is_none());
    let late = bootstrap::first_admin(&world.domain, &token, "late@atlas.example", &password).await;
    assert!(matches!(late, Err(DomainError::NotFound)));
}

#[tokio::test]
async fn only_the_token_of_the_last_start_works() {
    let world = World::new().await;
    let (first, second) = (setup_token(&world).await, setup_token(&world).await);
    let password = secret(PASSWORD);
    for wrong in [first, Token::given(""), Token::given("admin")] {
        let outcome = bootstrap::first_admin(&world.domain, &wrong, "ada@atlas.example", &password).await;
        assert!(matches!(outcome, Err(DomainError::Invalid { field: "token", .. })));
    }
    // A refused password does not use it up.
    let weak = bootstrap::first_admin(&world.domain, &second, "ada@atlas.example", &secret("admin")).await;
    assert!(matches!(weak, Err(DomainError::Invalid { field: "password", .. })));
    bootstrap::first_admin(&world.domain, &second, "ada@atlas.example", &password)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_console_makes_admins_and_promotes_members() {
    let world = World::new().await;
    let (console, password) = (Provider::console(), secret("seven slow herons"));
    bootstrap::create_admin(&world.domain, &console, "ada@atlas.example", &password)
        .await
        .unwrap();
    let mara = member(&world, "mara@lumen.dev").await;
    begin(&world, mara).await;
    let promoted = bootstrap::create_admin(&world.domain, &console, "Mara@lumen.dev", &password)
        .await
        .unwrap();
    assert_eq!(promoted, mara);
    let identity = identity::of_member(&world.domain, mara).await.unwrap().unwrap();
    assert!(identity.provider().is_some() && identity.viewer().is_some());
    assert_eq!(world.count("SELECT count(*) FROM sessions").await, 0);
    let in_again = members::log_in(&world.domain, None, "mara@lumen.dev", &password).await;
    assert_eq!(in_again.unwrap(), mara);
}

#[tokio::test]
async fn nobody_who_signs_up_is_an_admin() {
    let world = World::new().await;
    let mara = member(&world, "admin@atlas.example").await;
    let identity = identity::of_member(&world.domain, mara).await.unwrap().unwrap();
    assert!(identity.provider().is_none());
    assert!(bootstrap::is_open(&world.domain).await.unwrap());
}
