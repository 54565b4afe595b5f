//! Publishing: once is enough, again is nothing, and who subscribed keeps what they agreed to.

use super::shop::{CATALOGUE, Shop};
use domain::catalogue::{ChangeKind, current, overview, parse, preview, publish};
use domain::{DomainError, Provider, meter_events};
use model::access::{Environment, Interval};

fn provider() -> Provider {
    Provider::console()
}

#[tokio::test]
async fn a_published_plan_is_on_sale_once_stripe_has_its_prices() {
    let shop = Shop::empty().await;
    let file = parse(CATALOGUE).unwrap();
    let published = publish(&shop.domain, &provider(), &file).await.unwrap();
    let ready: Vec<_> = published.versions.iter().map(|v| (v.plan.as_str(), v.ready)).collect();
    assert_eq!(ready, [("free", true), ("pro", false), ("scale", false)]);
    let on_sale = current(&shop.domain).await.unwrap().unwrap();
    assert_eq!(on_sale.plans.len(), 1, "nothing that Stripe cannot charge is sold");
    shop.work().await;
    let on_sale = current(&shop.domain).await.unwrap().unwrap();
    let names: Vec<_> = on_sale.plans.iter().map(|p| p.terms.name.as_str()).collect();
    assert_eq!(names, ["Free", "Pro", "Scale"]);
    // Flat and metered of Pro by month and year, and of Scale by month.
    assert_eq!(shop.count("SELECT count(*) FROM plan_prices").await, 6);
    assert_eq!(
        shop.count("SELECT count(*) FROM meters WHERE stripe_meter IS NOT NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn a_slow_stripe_does_not_fail_publishing() {
    let shop = Shop::impatient().await;
    shop.slow_once();
    shop.publish().await;
    assert_eq!(
        shop.count("SELECT count(*) FROM jobs WHERE last_error IS NOT NULL")
            .await,
        0
    );
    let ready = "SELECT count(*) FROM plan_versions WHERE ready_at IS NULL";
    assert_eq!(shop.count(ready).await, 0);
}

#[tokio::test]
async fn usage_does_not_wait_while_prices_are_carried_to_stripe() {
    let shop = Shop::empty().await;
    shop.silent_stripe();
    let carried = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database(), jobs j
                   WHERE l.locktype = 'advisory' AND l.granted AND j.kind = 'catalogue.publish_to_stripe' AND j.attempts > 0";
    let collected = async {
        while shop.count(carried).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        meter_events::collect(&shop.domain, None).await.unwrap();
        // Stripe has answered nothing: had usage waited, what carries the prices would have given up.
        assert!(shop.count(carried).await > 0, "usage waited");
        // The free plan needs nothing of Stripe.
        let ready = "SELECT count(*) FROM plan_versions WHERE ready_at IS NOT NULL";
        assert_eq!(shop.count(ready).await, 1);
    };
    tokio::select! {
        () = shop.publish() => panic!("published before it was looked at"),
        () = collected => {}
    }
}

#[tokio::test]
async fn publishing_the_same_file_again_changes_nothing() {
    let shop = Shop::open().await;
    let file = parse(CATALOGUE).unwrap();
    let before = shop.stripe.events().len();
    assert!(preview(&shop.domain, &provider(), &file).await.unwrap().is_empty());
    assert!(
        publish(&shop.domain, &provider(), &file)
            .await
            .unwrap()
            .versions
            .is_empty()
    );
    shop.work().await;
    assert_eq!(shop.stripe.events().len(), before, "Stripe is not asked again");
    assert_eq!(shop.count("SELECT count(*) FROM plan_versions").await, 3);
    assert_eq!(shop.count("SELECT max(number)::bigint FROM meters").await, 1);
}

#[tokio::test]
async fn a_lost_answer_while_publishing_makes_nothing_twice() {
    let shop = Shop::empty().await;
    shop.stripe.fault(stripe_emulator::Fault {
        kind: "drop_after_commit".to_owned(),
        status: 0,
        count: 2,
        delay_ms: 0,
    });
    publish(&shop.domain, &provider(), &parse(CATALOGUE).unwrap())
        .await
        .unwrap();
    shop.work().await;
    shop.pass(60).await;
    let made = |kind: &str| shop.stripe.events().iter().filter(|e| e["type"] == kind).count();
    assert_eq!((made("product.created"), made("price.created")), (2, 6));
    assert_eq!(
        shop.count("SELECT count(*) FROM plan_versions WHERE ready_at IS NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn subscribers_keep_their_version_when_the_price_changes() {
    let shop = Shop::open().await;
    let early = shop.subscriber("early", "pro").await;
    let dearer = parse(&CATALOGUE.replace("\"29.00\"", "\"35.00\"")).unwrap();
    let changes = preview(&shop.domain, &provider(), &dearer).await.unwrap();
    assert_eq!((changes.len(), changes[0].kind), (1, ChangeKind::Changed));
    let words = changes[0].details.join(" ");
    assert!(
        words.contains("$29.00") && words.contains("$35.00") && words.contains("1 subscribed"),
        "{words}"
    );
    publish(&shop.domain, &provider(), &dearer).await.unwrap();
    shop.work().await;
    let late = shop.subscriber("late", "pro").await;
    let flat = |s: &domain::subscriptions::Subscription| s.offer().unwrap().flat.minor;
    assert_eq!(flat(&shop.current(&early).await), 2_900);
    assert_eq!(flat(&shop.current(&late).await), 3_500);
    let pro = overview(&shop.domain, &provider()).await.unwrap();
    let pro = pro.iter().find(|p| p.slug == "pro").unwrap();
    let counts: Vec<_> = pro.versions.iter().map(|v| (v.number, v.subscribers)).collect();
    assert_eq!(counts, [(2, 1), (1, 1)]);
}

#[tokio::test]
async fn what_the_file_no_longer_has_is_retired_and_may_come_back() {
    let shop = Shop::open().await;
    let cut = CATALOGUE.split("[[plans]]\nslug = \"scale\"").next().unwrap();
    let smaller = parse(&cut.replace("slug = \"countries\"", "slug = \"lands\"")).unwrap();
    let changes = preview(&shop.domain, &provider(), &smaller).await.unwrap();
    let kinds: Vec<_> = changes.iter().map(|c| (c.kind, c.subject.as_str())).collect();
    assert_eq!(
        kinds,
        [
            (ChangeKind::Added, "Route lands"),
            (ChangeKind::Retired, "Route countries"),
            (ChangeKind::Retired, "Plan Scale")
        ]
    );
    publish(&shop.domain, &provider(), &smaller).await.unwrap();
    assert!(current(&shop.domain).await.unwrap().unwrap().plan("scale").is_none());
    assert_eq!(
        shop.count("SELECT count(*) FROM routes WHERE retired_at IS NULL").await,
        2
    );
    let again = publish(&shop.domain, &provider(), &parse(CATALOGUE).unwrap())
        .await
        .unwrap();
    assert!(again.versions.is_empty(), "the same terms are the same version");
    assert!(current(&shop.domain).await.unwrap().unwrap().plan("scale").is_some());
}

#[tokio::test]
async fn another_product_or_currency_is_refused() {
    let shop = Shop::open().await;
    for (from, to) in [
        ("slug = \"atlas\"\nname", "slug = \"other\"\nname"),
        ("\"usd\"", "\"eur\""),
    ] {
        let file = parse(&CATALOGUE.replacen(from, to, 1)).unwrap();
        let refused = publish(&shop.domain, &provider(), &file).await;
        assert!(
            matches!(refused, Err(DomainError::Invalid { field: "file", .. })),
            "{to}"
        );
    }
}

#[tokio::test]
async fn the_free_plan_and_test_keys_follow_the_calendar() {
    let shop = Shop::open().await;
    let account = shop.account("free").await;
    let begun = shop.live(&account).await;
    assert_eq!(
        (begun.plan.as_str(), begun.suspended, begun.rate_limit.per_second),
        ("free", None, 5)
    );
    assert_eq!(begun.meters[0].terms.included, 1_000);
    assert_eq!(
        (begun.limits[0].name.as_str(), begun.limits[0].burst()),
        ("lookups", 500)
    );
    assert_eq!(shop.current(&account).await.interval, Interval::Month);
    shop.pass(31 * 86_400).await;
    let next = shop.live(&account).await;
    assert_eq!(next.period.start, begun.period.end);
    let test = shop.entitlement(&account, Environment::Test).await;
    assert_eq!((test.plan.as_str(), test.subscription), ("free", None));
    assert!(test.period.contains(shop.domain.clock.now()));
}

#[tokio::test]
async fn compiling_again_tells_the_gateways_nothing() {
    let shop = Shop::open().await;
    let account = shop.account("still").await;
    let versions = "SELECT sum(version)::bigint FROM entitlements";
    let before = shop.count(versions).await;
    domain::entitlements::recompile_now(&shop.domain, account.consumer())
        .await
        .unwrap();
    publish(&shop.domain, &provider(), &parse(CATALOGUE).unwrap())
        .await
        .unwrap();
    shop.work().await;
    assert_eq!(shop.count(versions).await, before);
}

/// What differs in upstreams, routes and their policies is said before it is published, and once it is, nothing is.
#[tokio::test]
async fn a_preview_names_what_changes_in_upstreams_and_policies() {
    let shop = Shop::open().await;
    let text = CATALOGUE
        .replacen(":4010\"", ":4010\"\nfirst_byte_timeout_ms = 4000", 1)
        .replacen(
            "path = \"/v1/countries\"\n",
            "path = \"/v1/countries\"\npolicy = { hosts = [\"api.example.com\"] }\n",
            1,
        );
    let file = parse(&text).unwrap();
    let changes = preview(&shop.domain, &provider(), &file).await.unwrap();
    let said: Vec<_> = changes.iter().map(|c| (c.subject.as_str(), c.kind)).collect();
    assert_eq!(
        said,
        [
            ("Upstream atlas", ChangeKind::Changed),
            ("Route countries", ChangeKind::Changed)
        ]
    );
    assert!(changes[0].details[0].contains("30000 ms") && changes[0].details[0].contains("4000 ms"));
    assert_eq!(changes[1].details, ["Policy hosts is set to [\"api.example.com\"]."]);
    publish(&shop.domain, &provider(), &file).await.unwrap();
    assert!(preview(&shop.domain, &provider(), &file).await.unwrap().is_empty());
    let back = preview(&shop.domain, &provider(), &parse(CATALOGUE).unwrap())
        .await
        .unwrap();
    assert_eq!(
        back[1].details,
        ["Policy hosts is removed; it was [\"api.example.com\"]."]
    );
}
