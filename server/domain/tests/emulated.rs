//! A Stripe that runs here, our client for it, and what the provider does in Stripe's dashboard.

use payments::{Config, Stripe};
use serde_json::Value;
use std::sync::Arc;
use stripe_emulator::{API_VERSION, Emulator, Running};
use testkit::FixedClock;

/// What the control plane calls the emulator with.
pub(crate) const KEY: &str = "sk_test_emulator";

pub(crate) struct Emulated {
    running: Arc<Running>,
    http: reqwest::Client,
}

impl std::ops::Deref for Emulated {
    type Target = Arc<Running>;
    fn deref(&self) -> &Arc<Running> {
        &self.running
    }
}

impl Emulated {
    /// From the first instant of every test; `seed` decides its ids.
    pub(crate) async fn start(seed: u64) -> Self {
        let config = stripe_emulator::Config::for_tests(Arc::new(|| FixedClock::START_S), seed);
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            running: Arc::new(Emulator::start(config).await.unwrap()),
            http: http.no_proxy().build().unwrap(),
        }
    }

    /// Our client for it.
    pub(crate) fn client(&self, key: &str) -> Arc<Stripe> {
        let config = Config {
            secret_key: domain::settings::Secret::new(key),
            base_url: Some(self.base_url.clone()),
        };
        Arc::new(Stripe::new(&config).unwrap())
    }

    /// A form sent to one of its pages; gives the status.
    pub(crate) async fn post(&self, url: &str, form: String) -> u16 {
        let request = self.http.post(url).body(form);
        request.send().await.unwrap().status().as_u16()
    }

    /// A call to the API as the provider makes it in the dashboard.
    pub(crate) async fn dashboard(&self, method: &str, path: &str, form: &str) -> Value {
        let url = format!("{}v1/{path}", self.base_url);
        let request = self.http.request(method.parse().unwrap(), url).body(form.to_owned());
        let answer = request
            .header("authorization", format!("Bearer {KEY}"))
            .header("stripe-version", API_VERSION)
            .header("content-type", "application/x-www-form-urlencoded")
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["error"].is_null(), "{method} {path}: {text}");
        value
    }
}
