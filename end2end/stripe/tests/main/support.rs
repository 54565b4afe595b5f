//! An emulator on a fixed clock, the client for it, and short ways to say common requests.

use std::sync::Arc;

use serde_json::Value;
use stripe::{Client, ClientBuilder};
use stripe_emulator::{API_VERSION, Config, Emulator, Running};

/// A moment as unix seconds.
pub(crate) fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_second()
}

/// A running emulator with a client.
pub(crate) struct World {
    pub(crate) emulator: Running,
    pub(crate) client: Client,
    http: reqwest::Client,
}

impl World {
    /// Starts an emulator whose real time stands still at an instant.
    pub(crate) async fn at(instant: &str) -> Self {
        let now = at(instant);
        // What these tests ask for on purpose is not what the product asks for.
        let config = Config {
            record: None,
            ..Config::for_tests(Arc::new(move || now), 7)
        };
        let emulator = Emulator::start(config).await.unwrap();
        let client = ClientBuilder::new("sk_test_emulator")
            .url(emulator.base_url.as_str())
            .build()
            .unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { emulator, client, http }
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let request = request
            .header("Authorization", "Bearer sk_test_x")
            .header("Stripe-Version", API_VERSION);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.emulator.base_url)
    }

    /// `POST /v1/{path}` with a form; the status and the answer.
    pub(crate) async fn try_post(&self, path: &str, form: &str) -> (u16, Value) {
        let request = self.http.post(self.url(&format!("v1/{path}"))).body(form.to_owned());
        self.call(request.header("Content-Type", "application/x-www-form-urlencoded"))
            .await
    }

    /// As [`Self::try_post`], with an idempotency key.
    pub(crate) async fn post_with_key(&self, path: &str, form: &str, key: &str) -> (u16, Value) {
        self.call(
            self.http
                .post(self.url(&format!("v1/{path}")))
                .header("Idempotency-Key", key)
                .body(form.to_owned()),
        )
        .await
    }

    /// `POST /v1/{path}` that must succeed.
    pub(crate) async fn post(&self, path: &str, form: &str) -> Value {
        let (status, answer) = self.try_post(path, form).await;
        assert_eq!(status, 200, "{path} {form}: {answer}");
        answer
    }

    /// `GET /v1/{path}`, which must succeed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(self.http.get(self.url(&format!("v1/{path}")))).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// `GET` of a whole path; the status and the answer.
    pub(crate) async fn try_get(&self, path: &str) -> (u16, Value) {
        self.call(self.http.get(self.url(path))).await
    }

    /// `DELETE /v1/{path}`, which must succeed.
    pub(crate) async fn delete(&self, path: &str, form: &str) -> Value {
        let (status, answer) = self
            .call(self.http.delete(self.url(&format!("v1/{path}"))).body(form.to_owned()))
            .await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// A page of the emulator: status, `Location`, text. With a form it is posted.
    pub(crate) async fn page(&self, path: &str, form: Option<&str>) -> (u16, String, String) {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            self.url(path.trim_start_matches('/'))
        };
        let request = match form {
            Some(form) => self.http.post(url).body(form.to_owned()),
            None => self.http.get(url),
        };
        let answer = request.send().await.unwrap();
        let location = answer
            .headers()
            .get("location")
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default();
        (answer.status().as_u16(), location, answer.text().await.unwrap())
    }

    /// The types of all events, oldest first.
    pub(crate) fn events(&self) -> Vec<String> {
        self.emulator.events().iter().map(|event| id(event, "type")).collect()
    }

    /// A customer whose card pays, or does what its number says.
    pub(crate) async fn customer(&self, card: &str) -> String {
        let customer = id(&self.post("customers", "email=ada%40example.com&name=Ada").await, "id");
        let method = id(
            &self
                .post(
                    &format!("payment_methods/{card}/attach"),
                    &format!("customer={customer}"),
                )
                .await,
            "id",
        );
        self.post(
            &format!("customers/{customer}"),
            &format!("invoice_settings[default_payment_method]={method}"),
        )
        .await;
        customer
    }

    /// A monthly licensed price in cents.
    pub(crate) async fn monthly(&self, cents: i64) -> String {
        let form =
            format!("currency=usd&unit_amount={cents}&recurring[interval]=month&product_data[name]=Plan%20{cents}");
        id(&self.post("prices", &form).await, "id")
    }

    /// A meter that sums `calls`.
    pub(crate) async fn meter(&self) -> String {
        let form = "display_name=Calls&event_name=calls&default_aggregation[formula]=sum&customer_mapping[event_payload_key]=stripe_customer_id\
                    &customer_mapping[type]=by_id&value_settings[event_payload_key]=value";
        id(&self.post("billing/meters", form).await, "id")
    }

    /// A monthly metered price; `terms` says how it is rated.
    pub(crate) async fn metered(&self, meter: &str, terms: &str) -> String {
        let form = format!(
            "currency=usd&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}&product_data[name]=Calls&{terms}"
        );
        id(&self.post("prices", &form).await, "id")
    }

    /// Reports usage.
    pub(crate) async fn report(&self, customer: &str, value: i64, instant: i64) {
        let form = format!(
            "event_name=calls&timestamp={instant}&payload[stripe_customer_id]={customer}&payload[value]={value}"
        );
        self.post("billing/meter_events", &form).await;
    }
}

/// A text field.
pub(crate) fn id(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_default().to_owned()
}

/// The amounts of an invoice's lines.
pub(crate) fn amounts(invoice: &Value) -> Vec<i64> {
    invoice["lines"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["amount"].as_i64().unwrap())
        .collect()
}

/// A card form.
pub(crate) fn card(number: &str) -> String {
    format!("email=ada%40example.com&number={number}&expiry=12+%2F+40&cvc=123&name=Ada")
}
