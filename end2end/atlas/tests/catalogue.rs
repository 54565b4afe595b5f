//! The catalogue files that this API and the benchmarks are sold with.

use model::access::{Interval, Method};
use model::catalogue::{CatalogueFile, MeterTerms, PlanTerms};
use model::{Currency, price};
use serde_json::Value;
use std::collections::BTreeSet;

const ATLAS: &str = include_str!("../catalogue.toml");
const BENCH: &str = include_str!("../../bench/catalogue.toml");

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
