//! The OpenAPI document against the router, both ways: every route is in it, and every example in it is the truth.

use crate::schema::check;
use crate::{Answer, get, post};
use serde_json::Value;
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::from_str(atlas::OPENAPI).unwrap()
}

struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    spec: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .iter()
                .map(move |(method, spec)| Operation { method, path, spec })
        })
        .collect()
}

impl Operation<'_> {
    /// The request that the examples of the parameters make.
    fn example_address(&self) -> String {
        let mut path = self.path.to_owned();
        let mut query = Vec::new();
        for parameter in self.spec["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let example = match &parameter["example"] {
                Value::String(text) => text.clone(),
                Value::Null => panic!("{} {}: {name} has no example", self.method, self.path),
                other => other.to_string(),
            };
            match parameter["in"].as_str() {
                Some("path") => path = path.replace(&format!("{{{name}}}"), &example),
                _ => query.push(format!("{name}={}", example.replace('+', "%2B"))),
            }
        }
        format!("{path}?{}", query.join("&")).trim_end_matches('?').to_owned()
    }

    async fn send_example(&self) -> Answer {
        let address = self.example_address();
        match self.method {
            "post" => {
                let body = &self.spec["requestBody"]["content"]["application/json"]["example"];
                post(&address, body.to_string()).await
            }
            _ => get(&address).await,
        }
    }
}

#[test]
fn document_and_router_have_the_same_paths() {
    let document = document();
    let documented: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let routed: BTreeSet<&str> = atlas::routes().into_iter().map(|(path, _)| path).collect();
    assert_eq!(documented, routed);
}

#[tokio::test]
async fn the_document_is_served_as_committed() {
    let answer = get("/openapi.json").await;
    assert_eq!(answer.json, document());
    assert_eq!(answer.json["openapi"], "3.1.0");
}

/// A documented method must exist, and no other may: the methods of a path are those that its 405 allows.
#[tokio::test]
async fn document_and_router_have_the_same_methods() {
    let document = document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let address = path.replace("{code}", "CH");
        let request = axum::http::Request::builder().method("TRACE").uri(&address);
        let refusal = crate::send(request.body(axum::body::Body::empty()).unwrap()).await;
        let allowed = refusal.headers[axum::http::header::ALLOW].to_str().unwrap();
        let allowed: BTreeSet<String> = allowed
            .split(',')
            .filter(|m| *m != "HEAD")
            .map(str::to_lowercase)
            .collect();
        let documented: BTreeSet<String> = methods.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, documented, "{path}");
    }
}

/// The clock's answer lasts an hour; its example has a test of its own.
#[tokio::test]
async fn examples_are_what_the_router_answers() {
    let document = document();
    for operation in operations(&document) {
        if operation.path == "/v1/clock" {
            continue;
        }
        let place = format!("{} {}", operation.method, operation.path);
        let answer = operation.send_example().await;
        assert_eq!(answer.status, 200, "{place}: {}", answer.json);
        let content = &operation.spec["responses"]["200"]["content"]["application/json"];
        check(&document, &content["schema"], &answer.json).unwrap_or_else(|e| panic!("{place}: {e}"));
        if operation.path != "/openapi.json" {
            assert_eq!(content["example"], answer.json, "{place}");
        }
    }
}

#[tokio::test]
async fn the_example_of_the_stream_is_a_tick() {
    let document = document();
    let example = document["paths"]["/v1/clock"]["get"]["responses"]["200"]["content"]["text/event-stream"]["example"]
        .as_str()
        .unwrap()
        .to_owned();
    let (id, data) = crate::streams::tick(example.as_bytes());
    check(&document, &document["components"]["schemas"]["LocalTime"], &data).unwrap();
    let at = data["at"].as_str().unwrap();
    assert_eq!(id, at.parse::<jiff::Timestamp>().unwrap().as_second().to_string());
    assert_eq!(
        crate::found(&format!("/v1/time?zone=Europe/Zurich&at={at}")).await,
        data
    );
}

#[test]
fn every_other_example_fits_its_schema() {
    let document = document();
    for operation in operations(&document) {
        let place = format!("{} {}", operation.method, operation.path);
        for parameter in operation.spec["parameters"].as_array().into_iter().flatten() {
            check(&document, &parameter["schema"], &parameter["example"]).unwrap_or_else(|e| panic!("{place}: {e}"));
        }
        if let Some(body) = operation.spec["requestBody"]["content"].get("application/json") {
            check(&document, &body["schema"], &body["example"]).unwrap_or_else(|e| panic!("{place}: {e}"));
        }
        for (status, response) in operation.spec["responses"].as_object().unwrap() {
            let Some(content) = response["content"].get("application/problem+json") else {
                continue;
            };
            let Some(example) = content.get("example") else {
                continue;
            };
            check(&document, &content["schema"], example).unwrap_or_else(|e| panic!("{place} {status}: {e}"));
            assert_eq!(example["status"].to_string(), *status, "{place}");
        }
    }
}

/// The whole data set, not only the examples, has the documented form.
#[tokio::test]
async fn every_country_and_its_currencies_fit_their_schemas() {
    let document = document();
    let schema = |name: &str| &document["components"]["schemas"][name];
    let page = crate::found("/v1/countries?limit=250").await;
    check(&document, schema("CountryPage"), &page).unwrap();
    for country in page["items"].as_array().unwrap() {
        let code = country["alpha3"].as_str().unwrap();
        let detail = crate::found(&format!("/v1/countries/{code}")).await;
        check(&document, schema("CountryDetail"), &detail).unwrap_or_else(|e| panic!("{code}: {e}"));
        for currency in country["currencies"].as_array().unwrap() {
            let currency = crate::found(&format!("/v1/currencies/{}", currency.as_str().unwrap())).await;
            check(&document, schema("Currency"), &currency).unwrap_or_else(|e| panic!("{code}: {e}"));
            assert!(
                currency["used_by"].as_array().unwrap().contains(&country["alpha2"]),
                "{code}"
            );
        }
    }
}
