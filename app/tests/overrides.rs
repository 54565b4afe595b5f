//! Overrides from the provider's page to the consumer's own, without JavaScript.

use crate::browser::{Browser, PASSWORD, Page, Portal};
use domain::Provider;
use domain::settings::Secret;
use http::StatusCode;
use model::ConsumerId;

const CATALOGUE: &str = r#"
[product]
slug = "atlas"
name = "Atlas"
summary = "Facts."
currency = "usd"

[[upstreams]]
slug = "atlas"
url = "http://127.0.0.1:4010"

[[meters]]
slug = "calls"
name = "API calls"
unit = "call"

[[features]]
slug = "batch"
name = "Batch lookups"

[[routes]]
slug = "countries"
path = "/v1/countries"
upstream = "atlas"
meter = "calls"

[[plans]]
slug = "free"
name = "Free"
tagline = "Try."
rate_limit = { per_second = 5, burst = 10 }
limits = [{ name = "lookups", requests = 500, per = "minute" }]
month = { flat = "0.00", meters = [{ meter = "calls", included = 1000 }] }
"#;

const DAY_S: i64 = 86_400;

async fn shop() -> Portal {
    let portal = Portal::selling(CATALOGUE).await;
    let password = Secret::new(PASSWORD);
    domain::bootstrap::create_admin(&portal.domain, &Provider::console(), "pia@provider.dev", &password)
        .await
        .unwrap();
    portal
}

async fn consumer(portal: &Portal, email: &str) -> ConsumerId {
    let found = domain::provision::consumer_by_email(&portal.domain, email).await;
    found.unwrap().unwrap()
}

/// What the form sends.
fn form<'a>(target: &'a str, amount: &'a str, until: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("target", target),
        ("amount", amount),
        ("burst", ""),
        ("past", ""),
        ("from", ""),
        ("until", until),
        ("why", "Asked by mail <b>."),
    ]
}

/// The page without its tags.
fn text(page: &Page) -> String {
    let parts = page.text.split('<').filter_map(|part| part.split_once('>'));
    let text: String = parts.map(|(_, text)| text).collect::<Vec<_>>().join(" ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn sees(browser: &mut Browser<'_>, path: &str) -> String {
    text(&browser.get(path).await)
}

#[tokio::test]
async fn what_the_provider_gives_is_what_the_developer_sees_until_its_end() {
    let portal = shop().await;
    let (mut mara, mut pia) = (portal.browser(), portal.browser());
    mara.sign_up("mara@lumen.dev").await;
    assert_eq!(pia.log_in("pia@provider.dev", "").await.to(), "/admin");
    let id = consumer(&portal, "mara@lumen.dev").await;
    let address = format!("/admin/consumers/{id}");
    let before = sees(&mut pia, &address).await;
    assert!(before.contains("No overrides") && before.contains("Quota of API calls (the plan: 1,000, hard)"));
    for (target, amount) in [("quota:calls", "5,000"), ("limit:lookups", "2500"), ("on:batch", "")] {
        let page = pia
            .post(&format!("{address}/overrides"), &form(target, amount, "2026-11-20"))
            .await;
        assert_eq!(page.to(), address);
    }
    let page = pia.get(&address).await;
    let shown = text(&page);
    for words in [
        "Quota of API calls: 5,000 units",
        "Limit lookups: 2,500 requests",
        "Feature Batch lookups: on",
        "21 Nov 2026, 00:00 UTC",
        "override.add",
        "never changes an invoice",
    ] {
        assert!(shown.contains(words), "{words} is missing in {shown}");
    }
    assert!(page.text.contains("Asked by mail &lt;b&gt;."), "{}", page.text);

    let plan = sees(&mut mara, "/plan").await;
    for words in [
        "5,000 calls a month, then it stops, for your account until 21 Nov 2026, 00:00 UTC (the plan: 1,000 calls a month, then it stops)",
        "2,500 requests a minute, for your account until 21 Nov 2026, 00:00 UTC (the plan: 500 requests a minute)",
        "Batch lookups, for your account until 21 Nov 2026, 00:00 UTC",
        "5 calls a second, 10 at once",
    ] {
        assert!(plan.contains(words), "{words} is missing in {plan}");
    }
    assert!(!plan.contains("Asked by mail"), "the reason is the provider's own");
    for page in ["/usage", "/home"] {
        let usage = sees(&mut mara, page).await;
        assert!(usage.contains("0 of 5,000 used"), "{usage}");
        assert!(
            usage.contains("for your account until 21 Nov 2026, 00:00 UTC"),
            "{usage}"
        );
    }

    // One is ended early, the others end by themselves.
    let end = page.text.split("name=\"id\" value=\"").skip(1);
    let ids: Vec<&str> = end.filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.len(), 3);
    let lookups = page.text.find("Limit lookups: 2,500").unwrap();
    let of_lookups = page.text[lookups..].find("ovr_").unwrap() + lookups;
    let which = &page.text[of_lookups..of_lookups + ids[0].len()];
    let ending = format!("{address}/overrides/end");
    assert_eq!(pia.post(&ending, &[("id", which)]).await.to(), address);
    let plan = sees(&mut mara, "/plan").await;
    assert!(
        plan.contains("500 requests a minute") && !plan.contains("2,500"),
        "{plan}"
    );
    let again = pia.post(&ending, &[("id", which)]).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.text.contains("It ended on 15 Nov 2026"), "{}", again.text);
    portal.clock.advance_s(6 * DAY_S);
    mara.log_in("mara@lumen.dev", "").await;
    let plan = sees(&mut mara, "/plan").await;
    assert!(
        plan.contains("1,000 calls a month") && !plan.contains("for your account"),
        "{plan}"
    );
    assert!(sees(&mut mara, "/usage").await.contains("0 of 1,000 used"));
}

#[tokio::test]
async fn what_is_wrong_is_said_at_its_field_and_nothing_is_lost() {
    let portal = shop().await;
    let (mut mara, mut pia) = (portal.browser(), portal.browser());
    mara.sign_up("mara@lumen.dev").await;
    pia.log_in("pia@provider.dev", "").await;
    let id = consumer(&portal, "mara@lumen.dev").await;
    let address = format!("/admin/consumers/{id}/overrides");
    let with = |fields: Vec<(&'static str, &'static str)>, name: &str, value: &'static str| {
        let set = move |(n, v): (&'static str, &'static str)| if n == name { (n, value) } else { (n, v) };
        fields.into_iter().map(set).collect::<Vec<_>>()
    };
    let good = form("quota:calls", "5000", "2026-11-20");
    let cases = [
        ("target", with(good.clone(), "target", "")),
        ("target", with(good.clone(), "target", "quota:bytes")),
        ("amount", with(good.clone(), "amount", "")),
        ("amount", with(good.clone(), "amount", "-1")),
        ("amount", with(good.clone(), "amount", "99999999999999999999999")),
        ("amount", form("limit:rate", "0", "")),
        ("amount", form("on:batch", "1", "")),
        ("burst", with(good.clone(), "burst", "5")),
        ("past", with(good.clone(), "past", "often")),
        ("past", with(form("limit:rate", "5", ""), "past", "hard")),
        ("from", with(good.clone(), "from", "2026-11-14")),
        ("from", with(good.clone(), "from", "soon")),
        ("until", with(good.clone(), "until", "2026-11-14")),
        ("until", with(good.clone(), "until", "2026-02-30")),
        ("why", with(good.clone(), "why", "")),
    ];
    for (field, fields) in cases {
        let page = pia.post(&address, &fields).await;
        let what = format!("{field} of {fields:?}");
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {}", page.text);
        assert!(
            page.text.contains(&format!("href=\"#{field}\"")),
            "{what}: {}",
            page.text
        );
        assert!(page.text.contains(&format!("id=\"{field}-error\"")), "{what}");
        for (name, value) in fields
            .iter()
            .filter(|(n, v)| !v.is_empty() && !["target", "past"].contains(n))
        {
            let value = value.replace('<', "&lt;").replace('>', "&gt;");
            let kept = format!("name=\"{name}\" type=\"");
            let input = page.text.find(&kept).unwrap();
            let input = &page.text[input..];
            assert!(
                input[..input.find('>').unwrap()].contains(&value),
                "{what} loses {name}"
            );
        }
        if !["", "quota:bytes"].contains(&fields[0].1) {
            assert!(
                page.text.contains(&format!("value=\"{}\" selected", fields[0].1)),
                "{what} loses what was chosen"
            );
        }
    }
    // Today is now; the same again overlaps, and says with which.
    let today = with(good.clone(), "from", "2026-11-15");
    assert_eq!(pia.post(&address, &today).await.status, StatusCode::SEE_OTHER);
    let page = pia.post(&address, &good).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text(&page).contains("changes the quota calls already"), "{}", page.text);
    // Nobody but the provider; and nobody's override.
    assert_eq!(mara.post(&address, &good).await.status, StatusCode::NOT_FOUND);
    let end = format!("{address}/end");
    for id in ["ovr_000000000000000000000000", "none"] {
        assert_eq!(pia.post(&end, &[("id", id)]).await.status, StatusCode::NOT_FOUND);
    }
}
