//! Changes of plan to the second, month ends, tiers.

use crate::support::{World, amounts, at, id};

async fn subscribed(world: &World, prices: &str) -> (String, String) {
    let customer = world.customer("pm_card_visa").await;
    let sub = world
        .post("subscriptions", &format!("customer={customer}&{prices}"))
        .await;
    (customer, id(&sub, "id"))
}

fn item(sub: &serde_json::Value, place: usize) -> String {
    id(&sub["items"]["data"][place], "id")
}

#[tokio::test]
async fn an_upgrade_is_prorated_to_the_second_and_the_preview_agrees() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (small, large) = (world.monthly(1000).await, world.monthly(3000).await);
    let (_, sub) = subscribed(&world, &format!("items[0][price]={small}")).await;
    let when = at("2026-04-11T06:30:07Z");
    world.emulator.advance_to(when).await;
    let of = item(&world.get(&format!("subscriptions/{sub}")).await, 0);
    let details =
        format!("items[0][id]={of}&items[0][price]={large}&proration_behavior=always_invoice&proration_date={when}");
    let nested: Vec<String> = details
        .split('&')
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            let (head, rest) = name
                .split_once('[')
                .map_or((name, String::new()), |(head, rest)| (head, format!("[{rest}")));
            format!("subscription_details[{head}]{rest}={value}")
        })
        .collect();
    let preview = world
        .post(
            "invoices/create_preview",
            &format!("subscription={sub}&{}", nested.join("&")),
        )
        .await;
    let (left, whole) = (
        at("2026-05-01T00:00:00Z") - when,
        at("2026-05-01T00:00:00Z") - at("2026-04-01T00:00:00Z"),
    );
    let share = |cents: i64| (2 * cents * left + whole) / (2 * whole);
    assert_eq!(amounts(&preview), [-share(1000), share(3000)]);
    let updated = world.post(&format!("subscriptions/{sub}"), &details).await;
    let invoice = world.get(&format!("invoices/{}", id(&updated, "latest_invoice"))).await;
    assert_eq!(
        (&invoice["total"], &invoice["status"]),
        (&preview["total"], &serde_json::json!("paid"))
    );
    assert_eq!(
        updated["items"]["data"][0]["current_period_end"],
        at("2026-05-01T00:00:00Z"),
        "the anchor stays"
    );
}

#[tokio::test]
async fn a_second_change_credits_what_the_first_one_charged() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let (small, large) = (world.monthly(1000).await, world.monthly(3000).await);
    let (_, sub) = subscribed(&world, &format!("items[0][price]={small}")).await;
    let of = item(&world.get(&format!("subscriptions/{sub}")).await, 0);
    world.emulator.advance_to(at("2026-04-16T00:00:00Z")).await;
    world
        .post(
            &format!("subscriptions/{sub}"),
            &format!("items[0][id]={of}&items[0][price]={large}"),
        )
        .await;
    world
        .post(
            &format!("subscriptions/{sub}"),
            &format!("items[0][id]={of}&items[0][price]={small}"),
        )
        .await;
    let preview = world
        .post("invoices/create_preview", &format!("subscription={sub}"))
        .await;
    assert_eq!(amounts(&preview), [1000, -500, 1500, -1500, 500]);
    world.emulator.advance_to(at("2026-05-01T02:00:00Z")).await;
    assert_eq!(world.get("invoices").await["data"][0]["total"], 1000);
}

#[tokio::test]
async fn a_changed_interval_begins_a_new_period_at_once() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let month = world.monthly(3000).await;
    let form = "currency=usd&unit_amount=30000&recurring[interval]=year&product_data[name]=Year";
    let year = id(&world.post("prices", form).await, "id");
    let (_, sub) = subscribed(&world, &format!("items[0][price]={month}")).await;
    world.emulator.advance_to(at("2026-04-16T00:00:00Z")).await;
    let of = item(&world.get(&format!("subscriptions/{sub}")).await, 0);
    let updated = world
        .post(
            &format!("subscriptions/{sub}"),
            &format!("items[0][id]={of}&items[0][price]={year}"),
        )
        .await;
    assert_eq!(
        updated["items"]["data"][0]["current_period_end"],
        at("2027-04-16T00:00:00Z")
    );
    assert_eq!(
        world.get(&format!("invoices/{}", id(&updated, "latest_invoice"))).await["total"],
        28_500
    );
}

#[tokio::test]
async fn usage_is_billed_at_the_price_in_force_when_it_happened() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let meter = world.meter().await;
    let a = world.metered(&meter, "unit_amount_decimal=0.1").await;
    let b = world.metered(&meter, "unit_amount_decimal=0.15").await;
    let (customer, sub) = subscribed(&world, &format!("items[0][price]={a}")).await;
    world.report(&customer, 1000, at("2026-04-01T00:00:00Z")).await;
    world.emulator.advance_to(at("2026-04-11T00:00:00Z")).await;
    let of = item(&world.get(&format!("subscriptions/{sub}")).await, 0);
    world
        .post(
            &format!("subscriptions/{sub}"),
            &format!("items[0][id]={of}&items[0][price]={b}"),
        )
        .await;
    world.report(&customer, 500, at("2026-04-11T00:00:00Z")).await;
    world.emulator.advance_to(at("2026-05-01T00:30:00Z")).await;
    // Late usage of the period joins the draft, usage of the next one does not.
    world.report(&customer, 100, at("2026-04-30T23:59:59Z")).await;
    world.report(&customer, 9999, at("2026-05-01T00:00:00Z")).await;
    world.emulator.advance_to(at("2026-05-01T01:00:00Z")).await;
    let invoice = &world.get("invoices").await["data"][0];
    assert_eq!(amounts(invoice), [100, 90]);
    assert_eq!(
        world
            .post("invoices/create_preview", &format!("subscription={sub}"))
            .await["total"],
        1500
    );
}

#[tokio::test]
async fn a_month_end_anchor_clamps_and_comes_back() {
    let world = World::at("2026-01-31T10:00:00Z").await;
    let price = world.monthly(1000).await;
    let (_, sub) = subscribed(&world, &format!("items[0][price]={price}")).await;
    let mut ends = Vec::new();
    for _ in 0..3 {
        let end = world.get(&format!("subscriptions/{sub}")).await["items"]["data"][0]["current_period_end"]
            .as_i64()
            .unwrap();
        ends.push(end);
        world.emulator.advance_to(end).await;
    }
    assert_eq!(
        ends,
        ["2026-02-28T10:00:00Z", "2026-03-31T10:00:00Z", "2026-04-30T10:00:00Z"].map(at)
    );
}

#[tokio::test]
async fn tiers_and_packages_are_exact() {
    let world = World::at("2026-04-01T00:00:00Z").await;
    let meter = world.meter().await;
    let tiers = "billing_scheme=tiered&tiers[0][up_to]=1000&tiers[0][unit_amount_decimal]=0&tiers[1][up_to]=5000\
                 &tiers[1][unit_amount_decimal]=0.333333333333&tiers[2][up_to]=inf&tiers[2][unit_amount_decimal]=0.2&tiers[2][flat_amount]=500";
    let cases = [
        (format!("{tiers}&tiers_mode=graduated"), vec![0, 1333, 501]),
        (format!("{tiers}&tiers_mode=volume"), vec![1501]),
        (
            "unit_amount=250&transform_quantity[divide_by]=1000&transform_quantity[round]=up".to_owned(),
            vec![1500],
        ),
        ("unit_amount_decimal=0.000000000001".to_owned(), vec![0]),
    ];
    for (terms, wanted) in cases {
        let price = world.metered(&meter, &terms).await;
        let (customer, sub) = subscribed(&world, &format!("items[0][price]={price}")).await;
        world.report(&customer, 5004, world.emulator.now()).await;
        world.emulator.settle().await;
        let preview = world
            .post("invoices/create_preview", &format!("subscription={sub}"))
            .await;
        assert_eq!(amounts(&preview), wanted, "{terms}");
    }
}
