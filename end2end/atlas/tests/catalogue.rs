//! The catalogue files that this API and the benchmarks are sold with, and the one that shows every key.

use model::access::{Interval, Method};
use model::catalogue::{CatalogueFile, MeterTerms, PlanTerms};
use model::{Currency, price};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ATLAS: &str = include_str!("../catalogue.toml");
const BENCH: &str = include_str!("../../bench/catalogue.toml");
const REFERENCE: &str = include_str!("../../catalogues/gateway.toml");
/// A key that no table of a catalogue has.
const STRANGE: &str = "?";

fn parse(text: &str) -> (CatalogueFile, Vec<PlanTerms>) {
    let file: CatalogueFile = toml::from_str(text).unwrap();
    let plans = file.check().unwrap();
    (file, plans)
}

/// The terms of the one meter of an offer.
fn terms(plan: &PlanTerms, interval: Interval) -> &MeterTerms {
    let offer = plan.offer(interval).unwrap();
    assert_eq!(offer.meters.len(), 1);
    &offer.meters[0]
}

/// Cents for so many calls, without the flat price.
fn usage_cents(plan: &PlanTerms, interval: Interval, calls: u64) -> i64 {
    price::cost(terms(plan, interval), calls, Currency::USD).unwrap().minor
}

#[test]
fn every_documented_operation_is_sold_and_nothing_else() {
    let (file, _) = parse(ATLAS);
    let method = |m: &Method| match m {
        Method::Get => "get",
        Method::Post => "post",
        other => panic!("Atlas does not answer {other:?}"),
    };
    let sold: BTreeSet<(String, String)> = file
        .routes
        .iter()
        .flat_map(|r| r.methods.iter().map(move |m| (method(m).to_owned(), r.path.clone())))
        .collect();
    let document: Value = serde_json::from_str(atlas::OPENAPI).unwrap();
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.starts_with("/v1/"))
        .flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(move |m| (m.clone(), path.clone()))
        })
        .collect();
    assert_eq!(sold, documented);
}

#[test]
fn free_is_free_and_ends_hard() {
    let (_, plans) = parse(ATLAS);
    let free = &plans[0];
    assert_eq!((free.slug.as_str(), free.is_free()), ("free", true));
    assert_eq!(terms(free, Interval::Month).included, 1000);
    assert_eq!(terms(free, Interval::Month).overage, None);
    assert!(free.features.is_empty() && free.offer(Interval::Year).is_none());
    assert_eq!(free.rate_limit.per_second, 5);
}

#[test]
fn pro_is_graduated() {
    let (_, plans) = parse(ATLAS);
    let pro = &plans[1];
    assert_eq!(
        pro.limits[0].words(str::to_owned),
        "60 requests a minute to answer-batch"
    );
    assert_eq!(pro.slug, "pro");
    assert_eq!(pro.offer(Interval::Month).unwrap().flat.to_string(), "$29.00");
    assert_eq!(pro.offer(Interval::Year).unwrap().flat.to_string(), "$290.00");
    assert_eq!(usage_cents(pro, Interval::Month, 50_000), 0);
    assert_eq!(usage_cents(pro, Interval::Month, 51_000), 60);
    assert_eq!(usage_cents(pro, Interval::Month, 500_000), 450 * 60);
    assert_eq!(usage_cents(pro, Interval::Month, 600_000), 450 * 60 + 100 * 45);
    assert_eq!(usage_cents(pro, Interval::Year, 600_000), 0);
    assert_eq!(usage_cents(pro, Interval::Year, 601_000), 60);
}

#[test]
fn scale_is_volume() {
    let (_, plans) = parse(ATLAS);
    let scale = &plans[2];
    assert_eq!(scale.slug, "scale");
    assert_eq!(scale.offer(Interval::Month).unwrap().flat.to_string(), "$299.00");
    assert_eq!(scale.offer(Interval::Year).unwrap().flat.to_string(), "$2,990.00");
    assert_eq!(usage_cents(scale, Interval::Month, 1_000_000), 0);
    assert_eq!(
        usage_cents(scale, Interval::Month, 1_100_000),
        1100 * 30,
        "every call, not only those above"
    );
    assert_eq!(usage_cents(scale, Interval::Year, 12_000_000), 0);
}

#[test]
fn scale_grants_everything_and_pro_the_premium_routes() {
    let (file, plans) = parse(ATLAS);
    let all: Vec<&str> = file.features.iter().map(|f| f.slug.as_str()).collect();
    assert_eq!(plans[2].features, all);
    assert!(plans[1].features.contains(&"transitions".to_owned()));
    let used: BTreeSet<&str> = file.routes.iter().filter_map(|r| r.feature.as_deref()).collect();
    assert_eq!(
        used,
        all.into_iter().collect(),
        "a feature that opens no route is not worth paying for"
    );
}

#[test]
fn the_bench_plan_refuses_nothing_and_prices_everything() {
    let (file, plans) = parse(BENCH);
    assert_eq!(file.upstreams[0].url, "http://127.0.0.1:9000");
    assert_eq!((file.routes.len(), file.routes[0].path.as_str()), (1, "/v1/data"));
    assert_eq!(plans[0].rate_limit.burst, 1_000_000);
    let terms = terms(&plans[0], Interval::Month);
    assert_eq!(terms.included, 1_000_000_000);
    assert!(terms.overage.is_some(), "a soft quota");
    assert_eq!(usage_cents(&plans[0], Interval::Month, 1_000_000_000), 0);
}

#[test]
fn the_reference_can_be_published() {
    let (file, plans) = parse(REFERENCE);
    assert_eq!(
        (file.product.slug, file.product.currency),
        ("atlas".to_owned(), Currency::USD),
        "it can take the place of the demo's catalogue"
    );
    let (free, pro) = (&plans[0], &plans[1]);
    assert!(free.is_free(), "callers without a credential are on it");
    assert_eq!(
        pro.limits[1].words(str::to_owned),
        "60 requests an hour to answer-batch, 5 at once, for each key and address"
    );
    let batches = &pro.offer(Interval::Month).unwrap().meters[1];
    let cents = |units| price::cost(batches, units, Currency::USD).unwrap().minor;
    assert_eq!(
        (cents(0), cents(1), cents(1000), cents(1001)),
        (0, 150, 150, 300),
        "whole packages"
    );
}

/// Where the tables of a document are.
fn tables(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.push(pointer.to_owned());
            for (name, member) in members {
                tables(member, &format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(elements) => {
            for (place, element) in elements.iter().enumerate() {
                tables(element, &format!("{pointer}/{place}"), found);
            }
        }
        _ => {}
    }
}

/// The keys that a table may have, as they are named when a strange one is refused; none where keys are names of headers.
fn accepted(file: &Value, pointer: &str) -> BTreeSet<String> {
    let mut file = file.clone();
    file.pointer_mut(pointer).unwrap()[STRANGE] = Value::Null;
    let refusal = serde_json::from_value::<CatalogueFile>(file).unwrap_err().to_string();
    let named = refusal.strip_prefix("unknown field `?`, expected ");
    let named = named.unwrap_or_default().split('`').skip(1).step_by(2);
    named.map(str::to_owned).collect()
}

/// Whoever adds a key to the catalogue explains it there, too.
#[test]
fn the_reference_shows_every_key() {
    let file: Value = toml::from_str(REFERENCE).unwrap();
    let mut pointers = Vec::new();
    tables(&file, "", &mut pointers);
    // Tables that accept the same keys, such as those of the month and of the year, are of one kind.
    let mut shown: BTreeMap<BTreeSet<String>, BTreeSet<String>> = BTreeMap::new();
    for pointer in &pointers {
        let table = file.pointer(pointer).unwrap().as_object().unwrap();
        let keys = table.keys().cloned();
        shown.entry(accepted(&file, pointer)).or_default().extend(keys);
    }
    shown.remove(&BTreeSet::new());
    assert!(shown.len() > 20, "the kinds of tables are told apart: {shown:?}");
    for (accepted, shown) in shown {
        let missing: Vec<&String> = accepted.difference(&shown).collect();
        assert!(
            missing.is_empty(),
            "end2end/catalogues/gateway.toml does not show {missing:?}"
        );
    }
}
