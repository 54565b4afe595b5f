//! A consumer with a paid plan, at the emulated Stripe.

use super::{Under, batch, live, manager, record};
use crate::emulated::{Emulated, KEY};
use crate::world::World;
use domain::jobs::{Job, Registry};
use domain::subscriptions::{self, Reconcile, Subscription};
use domain::{Domain, Provider, Viewer, catalogue, keys};
use model::usage::UsageRecord;
use model::{ConsumerId, SubscriptionId, Time};
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use testkit::{FixedClock, SeededRandom};

/// A small plan rated by graduated tiers, a large one by volume, both with prices that must be rounded.
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

[[meters]]
slug = "reports"
name = "Reports"
unit = "report"

[[routes]]
slug = "data"
path = "/v1/data"
upstream = "echo"
meter = "calls"

[[plans]]
slug = "free"
name = "Free"
tagline = "To try it."
rate_limit = { per_second = 10, burst = 10 }
month = { flat = "0.00", meters = [{ meter = "calls", included = 100 }] }

[[plans]]
slug = "small"
name = "Small"
tagline = "Graduated."
rate_limit = { per_second = 10, burst = 10 }
month = { flat = "29.00", meters = [{ meter = "calls", included = 1000, overage = { model = "graduated", tiers = [
    { up_to = 5000, unit = "0.0035" }, { up_to = 20000, unit = "0.00333" }, { unit = "0.001" } ] } },
    { meter = "reports", included = 50 }] }

[[plans]]
slug = "large"
name = "Large"
tagline = "Volume."
rate_limit = { per_second = 10, burst = 10 }
month = { flat = "99.00", meters = [{ meter = "calls", included = 2000, overage = { model = "volume", tiers = [
    { up_to = 10000, unit = "0.00217" }, { unit = "0.00143" } ] } }] }
"#;

pub(super) struct Paid {
    pub(super) domain: Domain,
    pub(super) stripe: Emulated,
    pub(super) consumer: ConsumerId,
    pub(super) key: model::KeyId,
    sequence: AtomicU64,
    pub(super) world: World,
}

impl Paid {
    /// A consumer that pays for a plan since the world's first instant.
    pub(super) async fn new(plan: &str) -> Self {
        let world = World::new().await;
        let stripe = Emulated::start(3).await;
        let domain = testkit::domain(&world.database, &world.clock, &SeededRandom::new(5), stripe.client(KEY));
        let file = catalogue::parse(CATALOGUE).unwrap();
        catalogue::publish(&domain, &Provider::console(), &file).await.unwrap();
        catalogue::register(Registry::default()).run_due(&domain).await.unwrap();
        let consumer = super::consumer(&world, "ada").await;
        let key = keys::create(&domain, &manager(consumer), live("k")).await.unwrap().id;
        let paid = Self {
            domain,
            stripe,
            consumer,
            key,
            sequence: AtomicU64::new(0),
            world,
        };
        paid.subscribe(plan).await;
        paid
    }

    async fn post(&self, path: &str, form: String) -> Value {
        self.stripe.dashboard("POST", path, &form).await
    }

    /// What Checkout would end in: a customer with a card, a subscription, and its row here.
    async fn subscribe(&self, plan: &str) {
        let text = |v: &Value, key: &str| v[key].as_str().unwrap().to_owned();
        let customer = text(
            &self.post("customers", "email=ada%40example.com".to_owned()).await,
            "id",
        );
        let method = self
            .post("payment_methods/pm_card_visa/attach", format!("customer={customer}"))
            .await;
        let default = format!("invoice_settings[default_payment_method]={}", text(&method, "id"));
        self.post(&format!("customers/{customer}"), default).await;
        let prices: Vec<(String, String)> = sqlx::query_as(
            "SELECT pp.stripe_price, pp.part FROM plan_prices pp JOIN plan_versions v ON v.id = pp.plan_version_id
             JOIN plans p ON p.id = v.plan_id WHERE p.slug = $1 AND pp.interval = 'month' ORDER BY pp.part",
        )
        .bind(plan)
        .fetch_all(&self.domain.pool)
        .await
        .unwrap();
        let items: Vec<String> = (0..)
            .zip(&prices)
            .map(|(i, p)| format!("items[{i}][price]={}", p.0))
            .collect();
        let made = self
            .post("subscriptions", format!("customer={customer}&{}", items.join("&")))
            .await;
        let now = self.domain.clock.now();
        sqlx::query("UPDATE consumers SET stripe_customer = $2 WHERE id = $1")
            .bind(self.consumer)
            .bind(&customer)
            .execute(&self.domain.pool)
            .await
            .unwrap();
        sqlx::query("UPDATE subscriptions SET ended_at = $2, status = 'cancelled' WHERE consumer_id = $1")
            .bind(self.consumer)
            .bind(now)
            .execute(&self.domain.pool)
            .await
            .unwrap();
        sqlx::query(
            "INSERT INTO subscriptions (id, consumer_id, plan_version_id, interval, status, settlement, period_start,
                                        period_end, anchor, stripe_subscription, created_at)
             SELECT $1, $2, v.id, 'month', 'active', 'stripe', $3, $4, $3, $5, $3
             FROM plan_versions v JOIN plans p ON p.id = v.plan_id WHERE p.slug = $6",
        )
        .bind(SubscriptionId::from_bits(77))
        .bind(self.consumer)
        .bind(now)
        .bind(now.plus_s(86_400))
        .bind(text(&made, "id"))
        .bind(plan)
        .execute(&self.domain.pool)
        .await
        .unwrap();
        self.sync().await;
    }

    /// Reads the subscription from Stripe, as a webhook would have us do.
    pub(super) async fn sync(&self) {
        Reconcile { after: None }.run(&self.domain).await.unwrap();
    }

    /// Moves both clocks on, and at Stripe does what falls due.
    pub(super) async fn advance_to(&self, time: Time) {
        self.stripe.advance_to(time.unix_s()).await;
        self.world.clock.set(time);
    }

    pub(super) fn viewer(&self) -> Viewer {
        Provider::console().viewer(self.consumer)
    }

    pub(super) async fn subscription(&self) -> Subscription {
        subscriptions::current(&self.domain, &self.viewer())
            .await
            .unwrap()
            .unwrap()
    }

    /// Under what a gateway counts that knows of everything.
    pub(super) async fn under(&self) -> Under {
        let subscription = self.subscription().await;
        Under {
            consumer: self.consumer,
            key: self.key,
            subscription: Some(subscription.id),
            version: Some(subscription.version),
            period_start: subscription.period.start,
        }
    }

    /// Ships one record of `units` used at `at`.
    pub(super) async fn ship(&self, under: Under, at: Time, units: u32) {
        self.ship_of(1, under, at, units).await;
    }

    /// As [`Paid::ship`], of a meter by its number.
    pub(super) async fn ship_of(&self, meter: u16, under: Under, at: Time, units: u32) {
        let seq = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let records = vec![UsageRecord {
            meter,
            ..record(under, seq, at, units)
        }];
        domain::usage::ship(&self.domain, &batch("a", records)).await.unwrap();
    }

    /// Uses `units` now, as a gateway counts that knows of everything.
    pub(super) async fn uses(&self, units: u32) {
        self.ship(self.under().await, self.domain.clock.now(), units).await;
    }

    /// Units that Stripe has for the consumer, of all time.
    pub(super) async fn at_stripe(&self) -> u64 {
        self.stripe.settle().await;
        let (meter, customer): (String, String) = sqlx::query_as(
            "SELECT m.stripe_meter, c.stripe_customer FROM meters m, consumers c WHERE c.id = $1 AND m.slug = 'calls'",
        )
        .bind(self.consumer)
        .fetch_one(&self.domain.pool)
        .await
        .unwrap();
        let start = Time::from_unix_s(FixedClock::START_S - 60 * 86_400);
        let end = self.domain.clock.now().plus_s(3_600);
        let minute = |t: Time| Time::from_unix_s(t.unix_s() / 60 * 60);
        self.domain
            .payments
            .meter_total(&meter, &customer, minute(start), minute(end))
            .await
            .unwrap()
    }

    /// States of all meter events, in order.
    pub(super) async fn states(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT state FROM meter_events ORDER BY id")
            .fetch_all(&self.domain.pool)
            .await
            .unwrap()
    }
}
