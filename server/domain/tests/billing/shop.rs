//! A shop: a fresh database, a published catalogue, an emulator whose clock is everybody's clock, and a portal that
//! takes Stripe's deliveries.

use crate::emulated::{Emulated, KEY};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use domain::catalogue::{parse, publish};
use domain::consumers::{self, NewConsumer};
use domain::jobs::Registry;
use domain::settings::Settings;
use domain::stripe_inbox;
use domain::subscriptions::{self, Opened, Subscription};
use domain::{BillingManager, Domain, Inner, Provider, Viewer, identity, recurring};
use model::access::{Environment, Interval};
use model::snapshot::Entitlement;
use model::{Clock, ConsumerId, Time};
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::sync::Arc;
use stripe_emulator::{Fault, Running};
use testkit::{Database, SeededRandom};

pub(crate) const HOUR: i64 = 3_600;
pub(crate) const DAY: i64 = 24 * HOUR;
/// Longest pause of a transaction where PostgreSQL is impatient: longer than a machine stands still between two statements.
const PAUSE_MS: u64 = 5_500;
pub(crate) const CARD: &str = "4242424242424242";

/// What the shop sells: a free plan, one to grow on, one above it.
pub(crate) const CATALOGUE: &str = r#"
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

[[routes]]
slug = "batch"
path = "/v1/batch"
upstream = "atlas"
meter = "calls"
feature = "batch"

[[plans]]
slug = "free"
name = "Free"
tagline = "Try."
rate_limit = { per_second = 5, burst = 10 }
limits = [{ name = "lookups", methods = ["GET"], requests = 500, per = "minute" }]
month = { flat = "0.00", meters = [{ meter = "calls", included = 1000 }] }

[[plans]]
slug = "pro"
name = "Pro"
tagline = "Grow."
features = ["batch"]
rate_limit = { per_second = 50, burst = 100 }
grace_days = 3
month = { flat = "29.00", meters = [{ meter = "calls", included = 50000, overage = { model = "graduated", tiers = [{ unit = "0.0006" }] } }] }
year = { flat = "290.00", meters = [{ meter = "calls", included = 600000, overage = { model = "graduated", tiers = [{ unit = "0.0006" }] } }] }

[[plans]]
slug = "scale"
name = "Scale"
tagline = "Run."
features = ["batch"]
rate_limit = { per_second = 500, burst = 1000 }
month = { flat = "299.00", meters = [{ meter = "calls", included = 1000000, overage = { model = "volume", tiers = [{ unit = "0.0003" }] } }] }
"#;

/// The emulator's clock, for the domain.
struct StripeClock(Arc<Running>);

impl Clock for StripeClock {
    fn now(&self) -> Time {
        Time::from_unix_s(self.0.now())
    }
}

pub(crate) struct Shop {
    pub(crate) domain: Domain,
    pub(crate) stripe: Emulated,
    pub(crate) random: Arc<SeededRandom>,
    jobs: Registry,
    portal: tokio::task::JoinHandle<()>,
    /// Dropped last: it takes the database away.
    pub(crate) database: Database,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.portal.abort();
    }
}

async fn deliver(State(domain): State<Domain>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get("stripe-signature").unwrap().to_str().unwrap();
    match stripe_inbox::receive(&domain, &body, signature).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

/// The rules, on a database, by the emulator's clock.
fn control_plane(
    pool: &PgPool,
    stripe: &Emulated,
    random: &Arc<SeededRandom>,
    key: &str,
    settings: Settings,
) -> Domain {
    Domain::new(Inner {
        pool: pool.clone(),
        clock: Arc::new(StripeClock(Arc::clone(stripe))),
        random: random.clone(),
        payments: stripe.client(key),
        settings,
    })
}

impl Shop {
    /// Open for business: published, in Stripe, with our address registered there.
    pub(crate) async fn open() -> Self {
        let shop = Self::empty().await;
        shop.publish().await;
        shop
    }

    /// Publishes what it sells, and carries it to Stripe.
    pub(crate) async fn publish(&self) {
        let file = parse(CATALOGUE).unwrap();
        publish(&self.domain, &Provider::console(), &file).await.unwrap();
        self.work().await;
    }

    /// Nothing published yet.
    pub(crate) async fn empty() -> Self {
        Self::start(KEY).await
    }

    /// As [`Shop::open`], where the operator set something.
    pub(crate) async fn with_settings(set: impl FnOnce(&mut Settings)) -> Self {
        let mut shop = Self::open().await;
        let mut settings = shop.domain.settings.clone();
        set(&mut settings);
        shop.domain = control_plane(shop.database.pool(), &shop.stripe, &shop.random, KEY, settings);
        shop
    }

    /// Nothing published yet; PostgreSQL ends transactions that pause for longer than [`PAUSE_MS`].
    pub(crate) async fn impatient() -> Self {
        let mut shop = Self::empty().await;
        let pause = [("idle_in_transaction_session_timeout", PAUSE_MS.to_string())];
        let options = shop.database.options().options(pause);
        let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
        let settings = shop.domain.settings.clone();
        shop.domain = control_plane(&pool, &shop.stripe, &shop.random, KEY, settings);
        shop
    }

    /// Stripe's next answer takes longer than an impatient PostgreSQL lets a transaction pause.
    pub(crate) fn slow_once(&self) {
        self.slow_stripe(1, PAUSE_MS + 1_000);
    }

    /// Stripe answers nothing from now on, within the time that anybody waits for it.
    pub(crate) fn silent_stripe(&self) {
        self.slow_stripe(u32::MAX, 600_000);
    }

    /// So many answers of Stripe's take so long, in milliseconds of real time.
    fn slow_stripe(&self, count: u32, delay_ms: u64) {
        self.stripe.fault(Fault {
            kind: "slow".to_owned(),
            status: 0,
            count,
            delay_ms,
        });
    }

    /// Nothing published yet, and no Stripe key: an operator's first start.
    pub(crate) async fn without_key() -> Self {
        Self::start("").await
    }

    /// Starts again, with a key.
    pub(crate) async fn give_key(&mut self) {
        let settings = self.domain.settings.clone();
        self.domain = control_plane(self.database.pool(), &self.stripe, &self.random, KEY, settings);
        recurring::ensure(&self.domain).await.unwrap();
        self.work().await;
    }

    async fn start(key: &str) -> Self {
        let database = Database::new().await;
        let stripe = Emulated::start(7).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = testkit::settings();
        settings.portal_url = format!("http://{}", listener.local_addr().unwrap());
        let random = SeededRandom::new(11);
        let domain = control_plane(database.pool(), &stripe, &random, key, settings);
        let router = axum::Router::new()
            .route(stripe_inbox::PATH, post(deliver))
            .with_state(domain.clone());
        let portal = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let shop = Self {
            domain,
            stripe,
            random,
            jobs: recurring::register(Registry::default()),
            portal,
            database,
        };
        recurring::ensure(&shop.domain).await.unwrap();
        shop.work().await;
        shop
    }

    /// Does all jobs that are due, and takes the deliveries that they lead to.
    pub(crate) async fn work(&self) {
        loop {
            self.stripe.settle().await;
            if self.jobs.run_due(&self.domain).await.unwrap() == 0 {
                return;
            }
        }
    }

    /// Lets time pass, an hour after another where something falls due, and does the work.
    pub(crate) async fn pass(&self, seconds: i64) {
        let end = self.stripe.now() + seconds;
        while self.stripe.now() < end {
            let step = (end - self.stripe.now()).min(12 * HOUR);
            self.stripe.advance(step).await;
            self.work().await;
        }
    }

    /// An account on the free plan, and the right to manage its billing.
    pub(crate) async fn account(&self, name: &str) -> BillingManager {
        let new = NewConsumer {
            name: name.to_owned(),
            email: format!("{name}@example.com"),
            password: None,
        };
        let (consumer, member) = consumers::create(&self.domain, &Provider::console(), new)
            .await
            .unwrap();
        let current = subscriptions::current(&self.domain, &viewer(consumer)).await.unwrap();
        if current.is_none() {
            let mut tx = self.domain.pool.begin().await.unwrap();
            subscriptions::start_free(&self.domain, &mut tx, consumer)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        // As if the link in the mail had been opened.
        sqlx::query("UPDATE members SET verified_at = created_at WHERE id = $1")
            .bind(member.to_string())
            .execute(self.database.pool())
            .await
            .unwrap();
        let person = identity::of_member(&self.domain, member).await.unwrap().unwrap();
        person.billing_manager().unwrap()
    }

    /// Opens a Checkout; gives the page and the session.
    pub(crate) async fn checkout(&self, manager: &BillingManager, plan: &str, interval: Interval) -> (String, String) {
        match subscriptions::open(&self.domain, manager, plan, interval)
            .await
            .unwrap()
        {
            Opened::Pay(url) => {
                let session = url.rsplit('/').next().unwrap().to_owned();
                (url, session)
            }
            Opened::Paid { session } => panic!("{session} is paid already"),
        }
    }

    /// Types a card into a page of Stripe's; gives the status.
    pub(crate) async fn type_card(&self, url: &str, number: &str) -> u16 {
        let form = format!("number={number}&expiry=12%2F34&cvc=123&name=Ada&email=ada%40example.com");
        self.post(url, form).await
    }

    pub(crate) async fn post(&self, url: &str, form: String) -> u16 {
        self.stripe.post(url, form).await
    }

    /// An account that has just paid for a plan.
    pub(crate) async fn subscriber(&self, name: &str, plan: &str) -> BillingManager {
        let manager = self.account(name).await;
        let (url, _) = self.checkout(&manager, plan, Interval::Month).await;
        assert_eq!(self.type_card(&url, CARD).await, 303);
        self.work().await;
        assert_eq!(self.plan(&manager).await, plan);
        manager
    }

    pub(crate) async fn current(&self, viewer: &Viewer) -> Subscription {
        subscriptions::current(&self.domain, viewer).await.unwrap().unwrap()
    }

    /// Slug of the plan in force.
    pub(crate) async fn plan(&self, viewer: &Viewer) -> String {
        self.current(viewer).await.terms.slug
    }

    /// What the gateway is told of the live environment.
    pub(crate) async fn entitlement(&self, viewer: &Viewer, environment: Environment) -> Entitlement {
        let record: serde_json::Value =
            sqlx::query_scalar("SELECT record FROM entitlements WHERE consumer_id = $1 AND environment = $2")
                .bind(viewer.consumer().to_string())
                .bind(environment.to_string())
                .fetch_one(self.database.pool())
                .await
                .unwrap();
        serde_json::from_value(record).unwrap()
    }

    pub(crate) async fn live(&self, viewer: &Viewer) -> Entitlement {
        self.entitlement(viewer, Environment::Live).await
    }

    /// The only number that a query gives.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.unwrap()
    }

    /// Stripe's subscription behind the plan in force.
    pub(crate) async fn stripe_id(&self, viewer: &Viewer) -> String {
        self.current(viewer).await.stripe_subscription.unwrap()
    }

    /// Stripe's newest invoice of the plan in force.
    pub(crate) async fn latest_invoice(&self, viewer: &Viewer) -> String {
        let id = self.stripe_id(viewer).await;
        self.stripe.object(&id)["latest_invoice"].as_str().unwrap().to_owned()
    }

    /// Pays an open invoice on Stripe's page with a good card.
    pub(crate) async fn pay_invoice(&self, invoice: &str) {
        let url = format!("{}i/{invoice}", self.stripe.base_url);
        assert_eq!(self.type_card(&url, CARD).await, 303);
        self.work().await;
    }

    /// A call to Stripe's API as the provider makes it in the dashboard.
    pub(crate) async fn dashboard(&self, method: &str, path: &str, form: &str) -> serde_json::Value {
        self.stripe.dashboard(method, path, form).await
    }
}

fn viewer(consumer: ConsumerId) -> Viewer {
    Provider::console().viewer(consumer)
}
