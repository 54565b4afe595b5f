//! Signing up and confirming the address.

use super::*;
use domain::email::Email;
use domain::identity;
use model::access::Role;
use proptest::prelude::*;

#[tokio::test]
async fn a_sign_up_makes_a_consumer_whose_owner_has_no_rights_until_the_address_is_confirmed() {
    let world = World::new().await;
    let member = newcomer(&world, "mara@lumen.dev").await;
    let before = identity::of_member(&world.domain, member).await.unwrap().unwrap();
    assert_eq!(before.membership().unwrap().role(), Role::Owner);
    assert!(before.viewer().is_none() && before.key_manager().is_none() && before.billing_manager().is_none());

    let token = last_token(&world, "mara@lumen.dev").await;
    members::verify(&world.domain, member, &token).await.unwrap();
    let after = identity::of_member(&world.domain, member).await.unwrap().unwrap();
    assert!(after.key_manager().is_some() && after.billing_manager().is_some());
    assert!(after.provider().is_none());
    // Compiled even though no plan is published: the gateway knows the consumer and why it is refused.
    assert_eq!(world.count("SELECT count(*) FROM entitlements").await, 2);
}

#[tokio::test]
async fn a_known_address_gets_a_mail_and_nothing_else_changes() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    world.clock.advance_s(members::MAIL_EVERY_S);
    for spelling in ["mara@lumen.dev", " MARA@LUMEN.DEV. ", "Mara@Lumen.dev"] {
        let outcome = members::sign_up(&world.domain, None, request(spelling)).await.unwrap();
        assert!(matches!(outcome, SignedUp::Known(_)), "{spelling}");
    }
    assert_eq!(world.count("SELECT count(*) FROM members").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM consumers").await, 1);
    // Three tries, one mail: nobody can fill somebody's mailbox.
    let subjects = subjects(&world, "mara@lumen.dev").await;
    assert_eq!(subjects, ["Confirm your e-mail address", "You already have an account"]);
}

#[tokio::test]
async fn of_sign_ups_at_once_with_one_address_one_makes_the_account() {
    let world = World::new().await;
    let tries = ["mara@lumen.dev", "Mara@lumen.dev", "MARA@lumen.dev", "mara@LUMEN.dev"];
    let outcomes =
        futures::future::join_all(tries.map(|email| members::sign_up(&world.domain, None, request(email)))).await;
    let made = outcomes.iter().filter(|o| matches!(o, Ok(SignedUp::Member(_)))).count();
    assert_eq!(made, 1);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(world.count("SELECT count(*) FROM consumers").await, 1);
}

#[tokio::test]
async fn a_link_confirms_its_own_member_once() {
    let world = World::new().await;
    let mara = newcomer(&world, "mara@lumen.dev").await;
    let eve = newcomer(&world, "eve@evil.dev").await;
    let token = last_token(&world, "mara@lumen.dev").await;
    // Somebody else's link does nothing, and is not used up by the try.
    assert!(is_conflict(&members::verify(&world.domain, eve, &token).await));
    members::verify(&world.domain, mara, &token).await.unwrap();
    assert!(is_conflict(&members::verify(&world.domain, mara, &token).await));
    let eve = identity::of_member(&world.domain, eve).await.unwrap().unwrap();
    assert!(!eve.verified());
}

#[tokio::test]
async fn a_link_ends_after_a_day_or_with_a_newer_one() {
    let world = World::new().await;
    let mara = newcomer(&world, "mara@lumen.dev").await;
    let first = last_token(&world, "mara@lumen.dev").await;
    // Within the minute nothing is sent, so the first link stays good.
    members::resend(&world.domain, None, Some(mara), "mara@lumen.dev")
        .await
        .unwrap();
    assert_eq!(subjects(&world, "mara@lumen.dev").await.len(), 1);
    world.clock.advance_s(members::MAIL_EVERY_S);
    members::resend(&world.domain, None, Some(mara), "mara@lumen.dev")
        .await
        .unwrap();
    let second = last_token(&world, "mara@lumen.dev").await;
    assert!(is_conflict(&members::verify(&world.domain, mara, &first).await));

    world.clock.advance_s(24 * 3_600);
    assert!(
        is_conflict(&members::verify(&world.domain, mara, &second).await),
        "at its last second it is over"
    );
    members::resend(&world.domain, None, Some(mara), "mara@lumen.dev")
        .await
        .unwrap();
    let third = last_token(&world, "mara@lumen.dev").await;
    world.clock.advance_s(24 * 3_600 - 1);
    members::verify(&world.domain, mara, &third).await.unwrap();
}

#[tokio::test]
async fn resending_answers_alike_whether_there_is_an_account() {
    let world = World::new().await;
    member(&world, "mara@lumen.dev").await;
    world.clock.advance_s(members::MAIL_EVERY_S);
    members::resend(&world.domain, None, None, "mara@lumen.dev")
        .await
        .unwrap();
    assert_eq!(
        subjects(&world, "mara@lumen.dev").await[1..],
        ["You already have an account"]
    );
}

#[tokio::test]
async fn only_hashes_of_links_and_passwords_are_kept() {
    let world = World::new().await;
    newcomer(&world, "mara@lumen.dev").await;
    let kept: String = sqlx::query_scalar("SELECT password_hash FROM members")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
    let text: String = sqlx::query_scalar("SELECT body_text FROM mails")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    let token = text.lines().find_map(|line| line.split_once("/verify/")).unwrap().1;
    let hash: String = sqlx::query_scalar("SELECT encode(token_hash, 'hex') FROM link_tokens")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!((token.len(), hash.len()), (64, 64));
    assert_ne!(token, hash);
    // What a dump holds is no token.
    let member = MemberId::new(domain_now(&world), &*world.domain.random);
    assert!(is_conflict(
        &members::verify(&world.domain, member, &Token::given(&hash)).await
    ));
}

fn domain_now(world: &World) -> model::Time {
    world.domain.clock.now()
}

proptest! {
    #[test]
    fn every_spelling_of_an_address_is_one_account(
        local in "[a-z0-9]{1,12}(\\.[a-z0-9+_-]{1,12}){0,2}",
        domain in "[a-z0-9]{1,10}(-[a-z0-9]{1,5})?\\.[a-z]{2,6}",
        upper in any::<u64>(),
        before in " {0,3}",
        after in "\\.? {0,3}",
    ) {
        let plain = format!("{local}@{domain}");
        let mixed: String = plain
            .chars()
            .enumerate()
            .map(|(i, c)| if upper >> (i % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        let one = Email::parse(&plain).unwrap();
        let other = Email::parse(&format!("{before}{mixed}{after}")).unwrap();
        prop_assert_eq!(one.key(), other.key());
        prop_assert!(other.address().eq_ignore_ascii_case(&plain));
    }

    #[test]
    fn no_address_holds_what_could_end_a_header(text in any::<String>()) {
        if let Ok(email) = Email::parse(&text) {
            prop_assert!(email.address().bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(email.address().matches('@').count(), 1);
            prop_assert!(email.address().len() <= 254);
        }
    }
}
