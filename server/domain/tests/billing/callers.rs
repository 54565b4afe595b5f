//! Who may call, from the catalogue file to what gateways are told: issuers, names for consumers, callers without a
//! credential.

use super::shop::{CATALOGUE, Shop};
use domain::catalogue::{ChangeKind, parse, preview, publish};
use domain::consumers::set_external_id;
use domain::snapshot::changes_since;
use domain::{DomainError, Provider};
use model::ConsumerId;
use model::snapshot::Routing;

const ISSUER: &str = r#"
[[issuers]]
slug = "login"
issuer = "https://login.example"
audiences = ["https://api.example"]
algorithms = ["ES256"]
jwks_url = "https://login.example/keys"
"#;

async fn told(shop: &Shop) -> Routing {
    changes_since(&shop.domain, "a", 0).await.unwrap().routing.unwrap()
}

async fn publish_text(shop: &Shop, text: &str) {
    publish(&shop.domain, &Provider::console(), &parse(text).unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn issuers_are_published_changed_retired_and_come_back_as_who_they_were() {
    let shop = Shop::open().await;
    let provider = Provider::console();
    assert!(told(&shop).await.issuers.is_empty());
    let with = format!("{CATALOGUE}{ISSUER}");
    let changes = preview(&shop.domain, &provider, &parse(&with).unwrap()).await.unwrap();
    assert_eq!(
        (changes[0].kind, changes[0].subject.as_str()),
        (ChangeKind::Added, "Issuer login")
    );
    let before = changes_since(&shop.domain, "a", 0).await.unwrap().version;
    publish_text(&shop, &with).await;
    let news = changes_since(&shop.domain, "a", before).await.unwrap();
    let first = news.routing.unwrap().issuers;
    assert_eq!(
        (first.len(), first[0].file.issuer.as_str()),
        (1, "https://login.example")
    );
    assert!(
        preview(&shop.domain, &provider, &parse(&with).unwrap())
            .await
            .unwrap()
            .is_empty()
    );
    let other = with.replace("ES256", "EdDSA");
    let changes = preview(&shop.domain, &provider, &parse(&other).unwrap()).await.unwrap();
    assert_eq!(changes[0].kind, ChangeKind::Changed);
    publish_text(&shop, CATALOGUE).await;
    assert!(told(&shop).await.issuers.is_empty());
    publish_text(&shop, &other).await;
    let again = told(&shop).await.issuers;
    assert_eq!(again[0].key, first[0].key, "usage of before is still its own");
    assert_ne!(again[0].file, first[0].file);
}

#[tokio::test]
async fn plans_that_tokens_may_name_are_told_and_must_exist() {
    let shop = Shop::open().await;
    let slug = parse(CATALOGUE).unwrap().plans[0].slug.clone();
    let with = |plan: &str| format!("{CATALOGUE}{ISSUER}plan_claim = \"plan\"\nplans = [\"{plan}\"]\n");
    let problem = format!("{:?}", parse(&with("nowhere")).unwrap_err());
    assert!(problem.contains("issuers.login.plans"), "{problem}");
    publish_text(&shop, &with(&slug)).await;
    let plans = told(&shop).await.token_plans;
    assert_eq!(
        plans.iter().map(|p| p.plan.as_str()).collect::<Vec<_>>(),
        [slug.as_str()]
    );
    assert_eq!(
        (plans[0].consumer, plans[0].subscription),
        (ConsumerId::ANONYMOUS, None)
    );
}

/// A rollout reaches consumers one by one; a token's plan is nobody's in particular.
#[tokio::test]
async fn a_token_gets_no_feature_that_is_still_being_rolled_out() {
    let shop = Shop::open().await;
    for (percent, has) in [(0, false), (99, false), (100, true)] {
        let rollout = format!("name = \"Batch lookups\"\nrollout = {{ percent = {percent} }}");
        let text = CATALOGUE.replace("name = \"Batch lookups\"", &rollout);
        publish_text(
            &shop,
            &format!("{text}{ISSUER}plan_claim = \"plan\"\nplans = [\"pro\"]\n"),
        )
        .await;
        let plans = told(&shop).await.token_plans;
        assert_eq!(plans[0].features.contains(&"batch".to_owned()), has, "{percent} %");
    }
}

#[tokio::test]
async fn a_wrong_issuer_is_refused_with_its_place() {
    let wrong = format!(
        "{CATALOGUE}{}",
        ISSUER.replace("https://login.example/keys", "http://login.example/keys")
    );
    let told = format!("{:?}", parse(&wrong).unwrap_err());
    assert!(told.contains("issuers.login.jwks_url"), "{told}");
}

#[tokio::test]
async fn a_consumer_has_one_name_of_the_providers_own() {
    let shop = Shop::open().await;
    let provider = Provider::console();
    let ada = shop.account("ada").await;
    let bob = shop.account("bob").await;
    let name = |who: ConsumerId, name: Option<&'static str>| set_external_id(&shop.domain, &provider, who, name);
    name(ada.consumer(), Some("acme-17")).await.unwrap();
    assert!(matches!(
        name(bob.consumer(), Some("acme-17")).await,
        Err(DomainError::Conflict(_))
    ));
    for wrong in ["", "with space", "\u{e9}"] {
        assert!(
            matches!(
                name(bob.consumer(), Some(wrong)).await,
                Err(DomainError::Invalid { .. })
            ),
            "{wrong}"
        );
    }
    assert!(matches!(
        name(ConsumerId::from_bits(1), Some("x")).await,
        Err(DomainError::NotFound)
    ));
    let names = async || {
        let told = changes_since(&shop.domain, "a", 0).await.unwrap().entitlements;
        let mut names: Vec<_> = told
            .into_iter()
            .filter_map(|e| Some((e.consumer, e.external_id?)))
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(names().await, [(ada.consumer(), "acme-17".to_owned())]);
    name(ada.consumer(), None).await.unwrap();
    name(bob.consumer(), Some("acme-17")).await.unwrap();
    assert_eq!(names().await, [(bob.consumer(), "acme-17".to_owned())]);
}

#[tokio::test]
async fn gateways_are_told_the_plan_of_callers_without_a_credential() {
    let shop = Shop::open().await;
    assert!(told(&shop).await.anonymous_plans.is_empty());
    let open = CATALOGUE.replacen(
        "path = \"/v1/countries\"",
        "path = \"/v1/countries\"\npolicy = { auth = { accept = [\"key\", \"anonymous\"], anonymous_plan = \"free\" } }",
        1,
    );
    publish_text(&shop, &open).await;
    let plans = told(&shop).await.anonymous_plans;
    let [plan] = &plans[..] else { panic!("{plans:?}") };
    assert_eq!(
        (plan.consumer, plan.plan.as_str(), plan.suspended),
        (ConsumerId::ANONYMOUS, "free", None)
    );
    assert_eq!((plan.subscription, plan.plan_version), (None, None));
    assert_eq!((plan.rate_limit.burst, plan.meters[0].terms.included), (10, 1000));
    let paid = open.replace("anonymous_plan = \"free\"", "anonymous_plan = \"pro\"");
    assert!(parse(&paid).is_err());
}
