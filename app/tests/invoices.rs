//! What the invoices page says of the next invoice.

use crate::browser::Portal;

const CATALOGUE: &str = r#"
[product]
slug = "echo"
name = "Echo"
summary = "Says what it hears."
currency = "usd"

[[upstreams]]
slug = "echo"
url = "http://127.0.0.1:1"

[[meters]]
slug = "calls"
name = "API calls"
unit = "call"

[[routes]]
slug = "data"
path = "/v1/data"
upstream = "echo"
meter = "calls"

[[plans]]
slug = "small"
name = "Small"
tagline = "To begin with."
rate_limit = { per_second = 10, burst = 10 }
month = { flat = "29.00", meters = [{ meter = "calls", included = 1000, overage = { model = "graduated", tiers = [{ unit = "0.01" }] } }] }
"#;

#[tokio::test]
async fn usage_that_came_late_is_named_on_the_next_invoice() {
    let portal = Portal::selling(CATALOGUE).await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let subscribed = "INSERT INTO subscriptions (id, consumer_id, plan_version_id, interval, status, settlement, period_start,
                                                 period_end, anchor, stripe_subscription, created_at)
        SELECT $1, c.id, v.id, 'month', 'active', 'stripe', v.published_at,
               v.published_at + interval '1 month', v.published_at, 'sub_1', v.published_at FROM consumers c, plan_versions v";
    let used = "INSERT INTO usage_periods (consumer_id, environment, meter, period_start, plan_version_id, subscription_id, units,
                                           late_units)
        SELECT consumer_id, 'live', 1, period_start, plan_version_id, id, 3500, 1500 FROM subscriptions";
    let id = model::SubscriptionId::from_bits(77).to_string();
    sqlx::query(subscribed)
        .bind(id)
        .execute(portal.database.pool())
        .await
        .unwrap();
    sqlx::query(used).execute(portal.database.pool()).await.unwrap();
    let page = mara.get("/invoices").await;
    let words =
        "API calls: 1,500 calls of these were used in an earlier period and counted after its invoice was final.";
    assert!(page.text.contains(words), "{}", page.text);
    assert!(page.text.contains("$54.00"), "{}", page.text);
}
