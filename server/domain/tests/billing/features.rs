//! Features with a life: who has one, for how long, and what a gateway is told of it.

use super::shop::{CATALOGUE, DAY, Shop};
use domain::catalogue::{current, parse, preview, publish};
use domain::{DomainError, Provider, features, usage};
use model::access::Environment;
use model::feature::{Life, Rollout};
use model::snapshot::Entitlement;
use model::usage::{UsageBatch, UsageRecord};
use model::{ConsumerId, KeyId, RequestId, Time};

fn provider() -> Provider {
    Provider::console()
}

/// The catalogue with more lines for its feature.
async fn with_feature(shop: &Shop, lines: &str) {
    let text = CATALOGUE.replace(
        "name = \"Batch lookups\"",
        &format!("name = \"Batch lookups\"\n{lines}"),
    );
    assert_ne!(text, CATALOGUE);
    publish(&shop.domain, &provider(), &parse(&text).unwrap())
        .await
        .unwrap();
    shop.work().await;
}

fn ends(record: &Entitlement) -> Vec<Time> {
    record.feature_life.later.iter().map(|l| l.from).collect()
}

#[tokio::test]
async fn a_grant_gives_a_feature_until_its_end_and_the_gateway_knows_when() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    let (now, consumer) = (shop.domain.clock.now(), ada.consumer());
    assert!(shop.live(&ada).await.features.is_empty());
    let until = now.plus_s(10 * DAY);
    features::grant(&shop.domain, &provider(), consumer, "batch", Some(until))
        .await
        .unwrap();
    for environment in [Environment::Live, Environment::Test] {
        let record = shop.entitlement(&ada, environment).await;
        assert_eq!(
            (record.features.as_slice(), ends(&record)),
            (&["batch".to_owned()][..], vec![until])
        );
        assert!(record.feature_life.later[0].features.is_empty());
    }
    let granted = features::granted(&shop.domain, &provider(), consumer).await.unwrap();
    assert_eq!(
        (granted.len(), granted[0].name.as_str(), granted[0].until),
        (1, "Batch lookups", Some(until))
    );

    // Granted again it has the new end; taken back it is gone at once.
    features::grant(&shop.domain, &provider(), consumer, "batch", None)
        .await
        .unwrap();
    assert_eq!(ends(&shop.live(&ada).await), []);
    features::withdraw(&shop.domain, &provider(), consumer, "batch")
        .await
        .unwrap();
    assert!(shop.live(&ada).await.features.is_empty());
    let again = features::withdraw(&shop.domain, &provider(), consumer, "batch").await;
    assert!(matches!(again, Err(DomainError::Conflict(_))), "{again:?}");

    // A plan that has it keeps it whatever is granted or taken back.
    let bob = shop.subscriber("bob", "pro").await;
    features::grant(&shop.domain, &provider(), bob.consumer(), "batch", Some(until))
        .await
        .unwrap();
    let record = shop.live(&bob).await;
    assert_eq!((record.features.len(), ends(&record)), (1, vec![]));
}

#[tokio::test]
async fn what_cannot_be_granted_is_said() {
    let shop = Shop::open().await;
    let ada = shop.account("ada").await;
    let now = shop.domain.clock.now();
    let grant =
        async |feature: &str, until| features::grant(&shop.domain, &provider(), ada.consumer(), feature, until).await;
    for (feature, until, field) in [("none", None, "feature"), ("batch", Some(now), "until")] {
        match grant(feature, until).await {
            Err(DomainError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{other:?}"),
        }
    }
    let nobody = ConsumerId::from_bits(1);
    let given = features::grant(&shop.domain, &provider(), nobody, "batch", None).await;
    assert!(matches!(given, Err(DomainError::NotFound)), "{given:?}");
}

#[tokio::test]
async fn a_rollout_reaches_a_part_of_those_whose_plan_lists_it() {
    let shop = Shop::open().await;
    let bob = shop.subscriber("bob", "pro").await;
    let eve = shop.account("eve").await;
    with_feature(&shop, "rollout = { percent = 0 }").await;
    assert!(shop.live(&bob).await.features.is_empty());
    let name = current(&shop.domain).await.unwrap().unwrap().features[0].name.clone();
    assert_eq!(name, "Batch lookups (being introduced)");
    for percent in [30, 60, 100] {
        with_feature(&shop, &format!("rollout = {{ percent = {percent} }}")).await;
        let life = Life {
            rollout: Some(Rollout { percent }),
            ..Life::default()
        };
        let reached = life.reaches("batch", bob.consumer());
        assert_eq!(
            shop.live(&bob).await.features.contains(&"batch".to_owned()),
            reached,
            "{percent} %"
        );
        assert!(shop.live(&eve).await.features.is_empty(), "her plan does not list it");
    }
    with_feature(
        &shop,
        &format!("rollout = {{ percent = 0 }}\nconsumers = [\"{}\"]", eve.consumer()),
    )
    .await;
    assert_eq!(shop.live(&eve).await.features, ["batch"]);
    let words = preview(&shop.domain, &provider(), &parse(CATALOGUE).unwrap())
        .await
        .unwrap();
    let told: Vec<_> = words
        .iter()
        .filter(|c| c.subject == "Feature batch")
        .flat_map(|c| &c.details)
        .collect();
    assert_eq!(
        told,
        ["for 0 % of those whose plan lists it; for 1 by name becomes: for all whose plan lists it"]
    );
    publish(&shop.domain, &provider(), &parse(CATALOGUE).unwrap())
        .await
        .unwrap();
    shop.work().await;
    assert_eq!(
        (
            shop.live(&bob).await.features.len(),
            shop.live(&eve).await.features.len()
        ),
        (1, 0)
    );
}

/// The number in a request's record leads back to the words, also after the experiment.
#[tokio::test]
async fn a_variant_has_a_number_that_usage_can_refer_to() {
    let shop = Shop::open().await;
    let bob = shop.subscriber("bob", "pro").await;
    with_feature(
        &shop,
        "variants = [{ name = \"a\", weight = 0 }, { name = \"b\", weight = 1 }]",
    )
    .await;
    let life = shop.live(&bob).await.feature_life;
    assert_eq!(life.variants.of.get("batch").map(String::as_str), Some("b"));
    let number = life.variants.number;
    with_feature(&shop, "variants = [{ name = \"a\", weight = 1 }]").await;
    assert_ne!(shop.live(&bob).await.feature_life.variants.number, number);
    with_feature(&shop, "variants = [{ name = \"b\", weight = 5 }]").await;
    assert_eq!(shop.live(&bob).await.feature_life.variants.number, number);
    assert_eq!(shop.count("SELECT count(*) FROM variant_sets").await, 2);

    let (now, record) = (shop.domain.clock.now(), shop.live(&bob).await);
    let call = |seq, variants| UsageRecord {
        seq,
        request: RequestId::from_bits(u128::from(seq)),
        continues: false,
        at: now.plus_s(i64::try_from(seq).unwrap()),
        consumer: bob.consumer(),
        environment: Environment::Live,
        subscription: record.subscription,
        plan_version: record.plan_version,
        period_start: record.period.start,
        key: KeyId::from_bits(1),
        route: 1,
        meter: 1,
        units: 1,
        status: 200,
        refusal: 0,
        variants,
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 1,
    };
    let batch = UsageBatch {
        ledger: "one".to_owned(),
        records: vec![call(1, 0), call(2, number)],
    };
    usage::ship(&shop.domain, &batch).await.unwrap();
    let lines = usage::requests(&shop.domain, &bob, &usage::LogFilter::default())
        .await
        .unwrap();
    let words: Vec<_> = lines.iter().map(|l| l.variants.as_deref()).collect();
    assert_eq!(words, [Some("batch=b"), None]);
}
