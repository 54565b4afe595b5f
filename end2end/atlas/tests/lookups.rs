//! What the data says.

use crate::{NOW, found, get, post};
use serde_json::{Value, json};

#[tokio::test]
async fn a_country_is_found_by_each_of_its_codes() {
    let swiss = found("/v1/countries/CH").await;
    assert_eq!(swiss["name"], "Switzerland");
    assert_eq!(swiss["flag"], "🇨🇭");
    assert_eq!(swiss["currencies"], json!(["CHF"]));
    assert_eq!(swiss["subdivisions"].as_array().unwrap().len(), 26, "cantons");
    for code in ["ch", "CHE", "che", "756"] {
        assert_eq!(found(&format!("/v1/countries/{code}")).await, swiss, "{code}");
    }
}

#[tokio::test]
async fn replaced_money_is_no_currency_of_a_country() {
    assert_eq!(found("/v1/countries/HR").await["currencies"], json!(["EUR"]));
    assert_eq!(found("/v1/countries/AQ").await["currencies"], json!([]));
}

#[tokio::test]
async fn pages_give_every_country_once_in_order() {
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = found(&format!("/v1/countries?limit=40{after}")).await;
        assert_eq!(page["total"], 249);
        let codes = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["alpha2"].as_str().unwrap().to_owned());
        seen.extend(codes);
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(seen.last().unwrap(), next);
        after = format!("&after={next}");
    }
    assert_eq!(seen.len(), 249);
    assert!(seen.is_sorted_by(|a, b| a < b), "ascending, none twice");
}

#[tokio::test]
async fn a_page_that_holds_exactly_the_rest_is_the_last() {
    let page = found("/v1/countries?limit=249").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 249);
    assert_eq!(page["next"], Value::Null);
}

#[tokio::test]
async fn search_takes_parts_of_names_and_whole_codes() {
    let codes = async |q: &str| {
        let page = found(&format!("/v1/countries?q={q}&limit=250")).await;
        let items = page["items"].as_array().unwrap().clone();
        assert_eq!(page["total"], items.len());
        items
            .iter()
            .map(|c| c["alpha2"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(codes("SWITZ").await, ["CH"]);
    assert_eq!(codes("756").await, ["CH"]);
    assert_eq!(codes("%C3%85land").await, ["AX"]);
    assert_eq!(
        codes("%C3%A5LAND").await,
        ["AX"],
        "case does not matter beyond ASCII either"
    );
    assert_eq!(codes("guinea").await, ["GN", "GQ", "GW", "PG"]);
    assert!(codes("atlantis").await.is_empty());
}

#[tokio::test]
async fn a_currency_is_found_by_letters_and_digits() {
    let franc = found("/v1/currencies/CHF").await;
    assert_eq!(franc["name"], "Swiss franc");
    assert_eq!(franc["used_by"], json!(["CH", "LI"]));
    assert_eq!(found("/v1/currencies/chf").await, franc);
    assert_eq!(found("/v1/currencies/756").await, franc);
    assert_eq!(found("/v1/currencies/008").await["code"], "ALL", "leading zeros count");
}

#[tokio::test]
async fn currencies_say_how_they_stand() {
    let exponent = async |code: &str| found(&format!("/v1/currencies/{code}")).await["exponent"].clone();
    assert_eq!(exponent("JPY").await, 0);
    assert_eq!(exponent("USD").await, 2);
    assert_eq!(exponent("KWD").await, 3);
    assert_eq!(exponent("XAU").await, Value::Null);

    let standing = async |code: &str| found(&format!("/v1/currencies/{code}")).await["standing"].clone();
    assert_eq!(standing("USD").await, "current");
    assert_eq!(standing("BOV").await, "fund");
    assert_eq!(standing("XAU").await, "special");
    assert_eq!(standing("HRK").await, "superseded");
    assert_eq!(found("/v1/currencies/HRK").await["superseded_by"], "EUR");
}

#[tokio::test]
async fn local_time_follows_the_zone() {
    let summer = found("/v1/time?zone=europe/zurich&at=2026-07-01T14:00:00%2B02:00").await;
    assert_eq!(
        summer,
        json!({
            "zone": "Europe/Zurich", "at": "2026-07-01T12:00:00Z", "local": "2026-07-01T14:00:00+02:00",
            "offset": "+02:00", "offset_seconds": 7200, "abbreviation": "CEST", "dst": true,
        })
    );
    let nepal = found("/v1/time?zone=Asia/Kathmandu&at=2026-07-01T12:00:00Z").await;
    assert_eq!(nepal["offset"], "+05:45");
    let before_telegraphs = found("/v1/time?zone=Europe/Amsterdam&at=1880-01-01T00:00:00Z").await;
    assert_eq!(
        before_telegraphs["offset"], "+00:17:30",
        "a local mean time, to the second"
    );
    let west = found("/v1/time?zone=America/St_Johns&at=2026-01-01T00:00:00Z").await;
    assert_eq!(
        (&west["offset"], &west["offset_seconds"]),
        (&json!("-03:30"), &json!(-12600))
    );
}

#[tokio::test]
async fn without_at_the_clock_is_asked() {
    assert_eq!(found("/v1/time?zone=UTC").await["at"], NOW);
}

#[tokio::test]
async fn transitions_are_those_of_the_year() {
    let zurich = found("/v1/transitions?zone=Europe/Zurich&year=2026").await;
    let at: Vec<_> = zurich["transitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["at"])
        .collect();
    assert_eq!(at, ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"]);
    let spring = &zurich["transitions"][0];
    assert_eq!(spring["shift_seconds"], 3600);
    assert_eq!(
        (&spring["before"]["abbreviation"], &spring["after"]["abbreviation"]),
        (&json!("CET"), &json!("CEST"))
    );

    assert_eq!(
        found("/v1/transitions?zone=UTC&year=2026").await["transitions"],
        json!([])
    );
    assert_eq!(
        found("/v1/transitions?zone=Asia/Tokyo&year=2026").await["transitions"],
        json!([])
    );
    let samoa = found("/v1/transitions?zone=Pacific/Apia&year=2011").await;
    let jump = samoa["transitions"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(jump["shift_seconds"], 86_400, "Samoa left out 30 December 2011");
}

/// A change at the first instant of a year belongs to that year, not to the one before.
#[tokio::test]
async fn the_year_is_half_open() {
    // Kiribati's Line Islands left out 1 January 1995 (31 December 1994 in some releases of the database).
    let count = async |year: u16| {
        let answer = found(&format!("/v1/transitions?zone=Pacific/Kiritimati&year={year}")).await;
        answer["transitions"].as_array().unwrap().len()
    };
    assert_eq!(count(1994).await + count(1995).await, 1);
    // Singapore's clocks and name changed at midnight of 1982-01-01 local, which is 1981 in UTC.
    let singapore = found("/v1/transitions?zone=Asia/Singapore&year=1981").await;
    assert_eq!(singapore["transitions"][0]["at"], "1981-12-31T16:00:00Z");
}

#[tokio::test]
async fn a_batch_answers_in_order_what_each_endpoint_would() {
    let lookups = json!({"lookups": [
        {"currency": "CHF"}, {"country": "ZZ"}, {"country": "SG"}, {"time": {"zone": "UTC"}}, {"planet": "Mars"}, 3,
        {"time": {"zone": "UTC", "when": "now"}}, {"country": "SG", "currency": "SGD"},
    ]});
    let answer = post("/v1/batch", lookups.to_string()).await;
    assert_eq!(answer.status, 200);
    let results = answer.json["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|r| r["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 404, 200, 200, 400, 400, 400, 400]);
    let alone = [
        "/v1/currencies/CHF",
        "/v1/countries/ZZ",
        "/v1/countries/SG",
        "/v1/time?zone=UTC",
    ];
    for (result, path) in results.iter().zip(alone) {
        assert_eq!(result["body"], get(path).await.json, "{path}");
    }
}

#[tokio::test]
async fn a_batch_has_a_hundred_lookups_at_most() {
    let batch = |count: usize| json!({"lookups": vec![json!({"currency": "CHF"}); count]}).to_string();
    assert_eq!(
        post("/v1/batch", batch(100)).await.json["results"]
            .as_array()
            .unwrap()
            .len(),
        100
    );
    for count in [0, 101] {
        let answer = post("/v1/batch", batch(count)).await;
        assert_eq!(answer.status, 400);
        assert!(
            answer.json["detail"].as_str().unwrap().contains("1 to 100"),
            "{}",
            answer.json
        );
    }
}
