//! The provider's consumers.

use super::*;
use domain::consumers::{self, NewConsumer};
use domain::{Provider, identity, mail};
use model::ConsumerId;

async fn consumer_of(world: &World, member: MemberId) -> ConsumerId {
    let identity = identity::of_member(&world.domain, member).await.unwrap().unwrap();
    identity.membership().unwrap().consumer()
}

fn new(name: &str, email: &str, password: Option<&str>) -> NewConsumer {
    NewConsumer {
        name: name.to_owned(),
        email: email.to_owned(),
        password: password.map(secret),
    }
}

#[tokio::test]
async fn a_suspension_says_why_reaches_the_entitlements_and_can_be_undone() {
    let world = World::new().await;
    let (console, mara) = (Provider::console(), member(&world, "mara@lumen.dev").await);
    let consumer = consumer_of(&world, mara).await;
    let suspended = "SELECT count(*) FROM entitlements WHERE record::text LIKE '%\"provider\"%'";
    assert_eq!(world.count(suspended).await, 0);
    let without_reason = consumers::suspend(&world.domain, &console, consumer, "  ").await;
    assert!(matches!(
        without_reason,
        Err(DomainError::Invalid { field: "reason", .. })
    ));

    let version = world.count("SELECT max(version) FROM entitlements").await;
    consumers::suspend(&world.domain, &console, consumer, "Scraped the whole atlas.")
        .await
        .unwrap();
    assert_eq!(world.count(suspended).await, 2);
    assert!(
        world.count("SELECT min(version) FROM entitlements").await > version,
        "gateways hear of it"
    );
    assert!(is_conflict(
        &consumers::suspend(&world.domain, &console, consumer, "Again.").await
    ));
    let identity = identity::of_member(&world.domain, mara).await.unwrap().unwrap();
    assert_eq!(
        identity.membership().unwrap().suspended_reason(),
        Some("Scraped the whole atlas.")
    );

    consumers::restore(&world.domain, &console, consumer).await.unwrap();
    assert_eq!(world.count(suspended).await, 0);
    assert!(is_conflict(
        &consumers::restore(&world.domain, &console, consumer).await
    ));
    let detail = consumers::detail(&world.domain, &console, consumer).await.unwrap();
    let actions: Vec<_> = detail.history.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions[..2], ["consumer.restore", "consumer.suspend"]);
    assert_eq!(
        (detail.history[0].actor.as_str(), detail.members[0].email.as_str()),
        ("console", "mara@lumen.dev")
    );
}

#[tokio::test]
async fn nobody_suspends_who_is_not_there() {
    let world = World::new().await;
    let nobody = ConsumerId::new(world.domain.clock.now(), &*world.domain.random);
    let console = Provider::console();
    assert!(matches!(
        consumers::suspend(&world.domain, &console, nobody, "x").await,
        Err(DomainError::NotFound)
    ));
    assert!(matches!(
        consumers::detail(&world.domain, &console, nobody).await,
        Err(DomainError::NotFound)
    ));
}

#[tokio::test]
async fn the_list_has_pages_and_a_search_that_takes_signs_as_they_are() {
    let world = World::new().await;
    let console = Provider::console();
    // Ids of one millisecond sort by chance, so the clock moves.
    for i in 0..53 {
        world.clock.advance_s(1);
        let name = if i == 7 {
            "100% Maps_Ltd".to_owned()
        } else {
            format!("Account {i}")
        };
        consumers::create(
            &world.domain,
            &console,
            new(&name, &format!("owner{i}@lumen.dev"), None),
        )
        .await
        .unwrap();
    }
    let first = consumers::list(&world.domain, &console, "", None).await.unwrap();
    assert_eq!((first.lines.len(), first.lines[0].name.as_str()), (50, "Account 52"));
    let second = consumers::list(&world.domain, &console, "", first.next).await.unwrap();
    let names: Vec<_> = second.lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(
        (names, second.next),
        (vec!["Account 2", "Account 1", "Account 0"], None)
    );
    for (search, found) in [
        ("100%", 1),
        ("maps_", 1),
        ("%", 1),
        ("_", 1),
        ("OWNER7@", 1),
        ("account 5", 4),
        ("\\", 0),
        ("'", 0),
    ] {
        let page = consumers::list(&world.domain, &console, search, None).await.unwrap();
        assert_eq!(page.lines.len(), found, "{search}");
    }
    let id = second.lines[0].id.to_string();
    assert_eq!(
        consumers::list(&world.domain, &console, &id, None)
            .await
            .unwrap()
            .lines
            .len(),
        1
    );
}

#[tokio::test]
async fn the_provider_makes_accounts_with_and_without_a_password() {
    let world = World::new().await;
    let console = Provider::console();
    let (_, owner) = consumers::create(&world.domain, &console, new("Lumen", "mara@lumen.dev", Some(PASSWORD)))
        .await
        .unwrap();
    assert_eq!(
        members::log_in(&world.domain, None, "mara@lumen.dev", &secret(PASSWORD))
            .await
            .unwrap(),
        owner
    );
    assert!(
        identity::of_member(&world.domain, owner)
            .await
            .unwrap()
            .unwrap()
            .key_manager()
            .is_some()
    );
    let taken = consumers::create(&world.domain, &console, new("Lumen", "MARA@lumen.dev", None)).await;
    assert!(is_conflict(&taken));

    let name = "<script>alert(1)</script> & Co";
    consumers::create(&world.domain, &console, new(name, "li@lumen.dev", None))
        .await
        .unwrap();
    for guess in ["", "x", PASSWORD] {
        assert!(is_conflict(
            &members::log_in(&world.domain, None, "li@lumen.dev", &secret(guess)).await
        ));
    }
    let (text, html): (String, String) =
        sqlx::query_as("SELECT body_text, body_html FROM mails WHERE recipient = 'li@lumen.dev'")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
    assert!(text.contains(name) && !html.contains("<script>"));
    assert!(html.contains("href=\"http://127.0.0.1:3000/reset\""));
    for name in ["", " ", "a\nb", &"x".repeat(101)] {
        let refused = consumers::create(&world.domain, &console, new(name, "no@lumen.dev", None)).await;
        assert!(matches!(refused, Err(DomainError::Invalid { field: "name", .. })));
    }
}

#[tokio::test]
async fn an_owner_renames_the_account() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let identity = identity::of_member(&world.domain, mara).await.unwrap().unwrap();
    consumers::rename(&world.domain, &identity.billing_manager().unwrap(), " Lumen Ltd ")
        .await
        .unwrap();
    let renamed = identity::of_member(&world.domain, mara).await.unwrap().unwrap();
    assert_eq!(renamed.membership().unwrap().name(), "Lumen Ltd");
}

#[tokio::test]
async fn the_outbox_is_for_development_only() {
    let world = World::new().await;
    newcomer(&world, "mara@lumen.dev").await;
    assert!(matches!(mail::outbox(&world.domain).await, Err(DomainError::NotFound)));
}
