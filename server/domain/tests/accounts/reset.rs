//! Lost and changed passwords.

use super::sessions::begin;
use super::*;
use domain::links::{self, Purpose};
use domain::sessions as session_rules;

const NEW_PASSWORD: &str = "seven slow herons";

async fn ask(world: &World, email: &str) {
    members::ask_reset(&world.domain, None, email).await.unwrap();
    work(world).await;
}

async fn log_in(world: &World, password: &str) -> domain::Result<MemberId> {
    members::log_in(&world.domain, None, "mara@lumen.dev", &secret(password)).await
}

#[tokio::test]
async fn an_unknown_address_gets_no_mail_and_the_same_answer() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    ask(&world, "nobody@lumen.dev").await;
    ask(&world, "mara@lumen.dev").await;
    ask(&world, "mara@lumen.dev").await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM mails WHERE recipient = 'nobody@lumen.dev'")
            .await,
        0
    );
    assert_eq!(
        subjects(&world, "mara@lumen.dev").await[1..],
        ["Set a new password"],
        "one a minute"
    );
}

#[tokio::test]
async fn a_reset_sets_the_password_once_and_ends_every_session() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    begin(&world, mara).await;
    begin(&world, mara).await;
    ask(&world, "mara@lumen.dev").await;
    let token = last_token(&world, "mara@lumen.dev").await;
    // What a mail scanner does.
    for _ in 0..3 {
        assert_eq!(
            links::owner(&world.domain, &token, Purpose::Reset).await.unwrap(),
            Some(mara)
        );
    }
    assert!(
        links::owner(&world.domain, &token, Purpose::Verify)
            .await
            .unwrap()
            .is_none()
    );
    let weak = members::reset(&world.domain, &token, &secret("short")).await;
    assert!(
        matches!(weak, Err(DomainError::Invalid { field: "password", .. })),
        "and the link stays good"
    );

    assert_eq!(
        members::reset(&world.domain, &token, &secret(NEW_PASSWORD))
            .await
            .unwrap(),
        mara
    );
    assert!(is_conflict(
        &members::reset(&world.domain, &token, &secret("another new one")).await
    ));
    assert!(session_rules::list(&world.domain, mara).await.unwrap().is_empty());
    assert!(is_conflict(&log_in(&world, PASSWORD).await));
    assert_eq!(log_in(&world, NEW_PASSWORD).await.unwrap(), mara);
    assert_eq!(
        subjects(&world, "mara@lumen.dev").await.last().unwrap(),
        "Your password was changed"
    );
}

#[tokio::test]
async fn of_two_resets_at_once_one_wins() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    ask(&world, "mara@lumen.dev").await;
    let token = last_token(&world, "mara@lumen.dev").await;
    let (one, other) = (secret("seven slow herons"), secret("eight slow herons"));
    let (a, b) = tokio::join!(
        members::reset(&world.domain, &token, &one),
        members::reset(&world.domain, &token, &other),
    );
    assert!(a.is_ok() != b.is_ok());
    let winner = if a.is_ok() {
        "seven slow herons"
    } else {
        "eight slow herons"
    };
    log_in(&world, winner).await.unwrap();
}

#[tokio::test]
async fn a_link_ends_after_half_an_hour_and_with_a_newer_one() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    ask(&world, "mara@lumen.dev").await;
    let first = last_token(&world, "mara@lumen.dev").await;
    world.clock.advance_s(members::MAIL_EVERY_S);
    ask(&world, "mara@lumen.dev").await;
    let second = last_token(&world, "mara@lumen.dev").await;
    assert!(is_conflict(
        &members::reset(&world.domain, &first, &secret(NEW_PASSWORD)).await
    ));
    world.clock.advance_s(30 * 60);
    assert!(is_conflict(
        &members::reset(&world.domain, &second, &secret(NEW_PASSWORD)).await
    ));
    for guess in ["", "0", &"0".repeat(64), "../../admin"] {
        assert!(is_conflict(
            &members::reset(&world.domain, &Token::given(guess), &secret(NEW_PASSWORD)).await
        ));
    }
}

#[tokio::test]
async fn who_signed_up_with_somebody_elses_address_loses_it_to_the_mailbox() {
    let world = World::new().await;
    // Eve signs up with Mara's address and waits, with a session.
    let account = newcomer(&world, "mara@lumen.dev").await;
    begin(&world, account).await;
    let eves_link = last_token(&world, "mara@lumen.dev").await;
    // Mara resets the password of the account she never made.
    ask(&world, "mara@lumen.dev").await;
    let token = last_token(&world, "mara@lumen.dev").await;
    members::reset(&world.domain, &token, &secret(NEW_PASSWORD))
        .await
        .unwrap();
    assert!(session_rules::list(&world.domain, account).await.unwrap().is_empty());
    assert!(is_conflict(&log_in(&world, PASSWORD).await));
    assert!(is_conflict(&members::verify(&world.domain, account, &eves_link).await));
    let identity = domain::identity::of_member(&world.domain, account)
        .await
        .unwrap()
        .unwrap();
    assert!(
        identity.key_manager().is_some(),
        "owning the mailbox confirms the address"
    );
}

#[tokio::test]
async fn a_change_asks_for_the_present_password_and_keeps_one_session() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let keep = begin(&world, mara).await;
    begin(&world, mara).await;
    ask(&world, "mara@lumen.dev").await;
    let link = last_token(&world, "mara@lumen.dev").await;
    let change = |current: &'static str, new: &'static str| {
        let (domain, keep) = (world.domain.clone(), keep.clone());
        async move { members::change_password(&domain, mara, &secret(current), &secret(new), Some(&keep)).await }
    };
    let wrong = change("three green kite", NEW_PASSWORD).await;
    assert!(matches!(wrong, Err(DomainError::Invalid { field: "current", .. })));
    let weak = change(PASSWORD, "mara@lumen.dev").await;
    assert!(matches!(weak, Err(DomainError::Invalid { field: "password", .. })));
    change(PASSWORD, NEW_PASSWORD).await.unwrap();
    let left = session_rules::list(&world.domain, mara).await.unwrap();
    assert_eq!(left.iter().map(|line| &line.handle).collect::<Vec<_>>(), [&keep]);
    // A link that was on its way would undo the change.
    assert!(is_conflict(
        &members::reset(&world.domain, &link, &secret("another new one")).await
    ));
    for _ in 0..5 {
        let _ = change("three green kite", "yet another new one").await;
    }
    assert!(
        is_too_many(&change(NEW_PASSWORD, "yet another new one").await),
        "no way to guess from inside"
    );
}
