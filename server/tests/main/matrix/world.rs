//! A portal in this process, over a database and a Stripe of its own, and accounts to try it with.

use app::routes::Entry;
use app::site::{Assets, Site};
use axum::Router;
use axum::body::{Body, to_bytes};
use domain::jobs::Registry;
use domain::keys::NewKey;
use domain::settings::Secret;
use domain::{Domain, Provider, catalogue, recurring, sessions, subscriptions};
use http::{HeaderMap, Method, Request, StatusCode, header};
use model::access::{Environment, Role};
use model::{ConsumerId, InvoiceId, KeyId, MemberId};
use payments::{Config, Stripe};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use stripe_emulator::Emulator;
use testkit::{Database, FixedClock, SeededRandom};
use tower::ServiceExt as _;
use tower_sessions::Session;

/// Everybody's password.
pub(crate) const PASSWORD: &str = "seven umbrellas under one bridge";
/// An event in the provider's inbox.
pub(crate) const EVENT: &str = "evt_1";
/// Longest page, in bytes.
const MAX_PAGE: usize = 4 << 20;

/// The portal and what is behind it.
pub(crate) struct World {
    pub(crate) domain: Domain,
    pub(crate) entries: Vec<Entry>,
    pub(crate) provider: MemberId,
    database: Database,
    router: Router,
    password_hash: String,
    tenants: AtomicU32,
    _stripe: stripe_emulator::Running,
}

/// An account with a member of each role, a key, an invoice, and names found nowhere else.
pub(crate) struct Tenant {
    pub(crate) consumer: ConsumerId,
    pub(crate) members: BTreeMap<Role, MemberId>,
    pub(crate) unverified: MemberId,
    pub(crate) key: KeyId,
    pub(crate) invoice: InvoiceId,
    /// A word in all its names.
    pub(crate) mark: String,
}

/// A page or whatever else was answered.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
    /// Where it leads.
    pub(crate) fn to(&self) -> &str {
        self.header("location")
    }
    /// The text without what differs between two answers that are the same: the nonce, and the id asked for.
    pub(crate) fn without(&self, asked: &[String]) -> String {
        let csp = self.header("content-security-policy");
        let nonce = csp
            .split("'nonce-")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
            .unwrap_or("-");
        let mut text = self.text.replace(nonce, "NONCE");
        for id in asked.iter().filter(|id| !id.is_empty()) {
            text = text.replace(id.as_str(), "ASKED");
        }
        text
    }
}

/// A request to the portal.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) session: Option<&'a str>,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) content_type: &'a str,
    pub(crate) body: String,
}

impl World {
    /// With a free and a paid plan on sale.
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        let config = stripe_emulator::Config::for_tests(Arc::new(|| FixedClock::START_S), 23);
        let stripe = Emulator::start(config).await.unwrap();
        let client = Config {
            secret_key: Secret::new("sk_test_emulator"),
            base_url: Some(stripe.base_url.clone()),
        };
        let payments = Arc::new(Stripe::new(&client).unwrap());
        let domain = testkit::domain(&database, &FixedClock::start(), &SeededRandom::new(23), payments);
        let text = crate::support::catalogue(SocketAddr::from(([127, 0, 0, 1], 9)));
        catalogue::publish(&domain, &Provider::console(), &catalogue::parse(&text).unwrap())
            .await
            .unwrap();
        catalogue::register(Registry::default()).run_due(&domain).await.unwrap();
        let password = Secret::new(PASSWORD);
        let provider = domain::bootstrap::create_admin(&domain, &Provider::console(), "p@provider.example", &password)
            .await
            .unwrap();
        let (router, entries) = app::routes::table().split();
        let site = Site {
            domain: domain.clone(),
            brand: "Echo".into(),
            assets: Arc::new(Assets::default()),
        };
        let payment_pages = [app::security::origin_of(&stripe.base_url)];
        let world = Self {
            router: app::security::protect(router.with_state(site.clone()), &site, &payment_pages),
            entries,
            provider,
            password_hash: domain::passwords::hash(&domain, &password).await.unwrap(),
            database,
            domain,
            tenants: AtomicU32::new(0),
            _stripe: stripe,
        };
        world.run("INSERT INTO stripe_events (id, type, livemode, raw, received_at, state) VALUES ($1, 'invoice.paid', false, '{}', now(), 'dead')", &[EVENT]).await;
        world
    }

    async fn run(&self, sql: &'static str, values: &[&str]) {
        let mut query = sqlx::query(sql);
        for value in values {
            query = query.bind((*value).to_owned());
        }
        query.execute(self.database.pool()).await.unwrap();
    }

    /// Does the work that requests left behind.
    pub(crate) async fn work(&self) {
        recurring::register(Registry::default())
            .run_due(&self.domain)
            .await
            .unwrap();
    }

    async fn member(&self, email: &str, verified: bool) -> MemberId {
        let id = MemberId::new(self.domain.clock.now(), &*self.domain.random);
        self.run(
            "INSERT INTO members (id, email, email_key, password_hash, verified_at, created_at)
             VALUES ($1, $2, $2, $3, CASE WHEN $4 = 'yes' THEN now() END, now())",
            &[
                &id.to_string(),
                email,
                &self.password_hash,
                if verified { "yes" } else { "no" },
            ],
        )
        .await;
        id
    }

    /// A new account on the free plan.
    pub(crate) async fn tenant(&self) -> Tenant {
        let mark = format!("markof{}", self.tenants.fetch_add(1, Ordering::SeqCst));
        let (now, random) = (self.domain.clock.now(), &*self.domain.random);
        let consumer = ConsumerId::new(now, random);
        let id = consumer.to_string();
        self.run(
            "INSERT INTO consumers (id, name, billing_email, created_at) VALUES ($1, $2, $2 || '@example.com', now())",
            &[&id, &mark],
        )
        .await;
        let mut members = BTreeMap::new();
        for role in Role::ALL {
            let member = self.member(&format!("{role}.{mark}@example.com"), true).await;
            self.join(consumer, member, *role).await;
            members.insert(*role, member);
        }
        let unverified = self.member(&format!("new.{mark}@example.com"), false).await;
        self.join(consumer, unverified, Role::Owner).await;
        let mut connection = self.database.pool().acquire().await.unwrap();
        subscriptions::start_free(&self.domain, &mut connection, consumer)
            .await
            .unwrap();
        let new = NewKey {
            name: format!("{mark} key"),
            environment: Environment::Live,
            expires_at: None,
            routes: None,
        };
        let manager = Provider::console().key_manager(consumer);
        let key = domain::keys::create(&self.domain, &manager, new).await.unwrap().id;
        let invoice = InvoiceId::new(now, random);
        self.run(
            "INSERT INTO invoices (id, consumer_id, stripe_invoice, number, status, currency, total_minor, amount_due_minor,
                                   amount_paid_minor, period_start, period_end, created_at)
             VALUES ($1, $2, 'in_' || $3, $3, 'paid', 'usd', 1900, 0, 1900, now() - interval '30 days', now(), now())",
            &[&invoice.to_string(), &id, &mark],
        )
        .await;
        Tenant {
            consumer,
            members,
            unverified,
            key,
            invoice,
            mark,
        }
    }

    async fn join(&self, consumer: ConsumerId, member: MemberId, role: Role) {
        self.run(
            "INSERT INTO memberships (consumer_id, member_id, role, created_at) VALUES ($1, $2, $3, now())",
            &[&consumer.to_string(), &member.to_string(), role.word()],
        )
        .await;
    }

    /// A session of the member, by its id as the cookie has it.
    pub(crate) async fn session(&self, member: MemberId) -> String {
        let session = Session::new(None, Arc::new(sessions::Store::new(&self.domain)), None);
        session.insert(sessions::MEMBER, member.to_string()).await.unwrap();
        session.save().await.unwrap();
        session.id().unwrap().to_string()
    }

    /// Sends a request.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Page {
        let mut request = Request::builder().method(ask.method).uri(ask.path);
        if let Some(session) = ask.session {
            request = request.header(header::COOKIE, format!("__Host-sid={session}"));
        }
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        if ask.method == Method::POST {
            request = request.header(header::CONTENT_TYPE, ask.content_type);
        }
        let request = request.body(Body::from(ask.body)).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8_lossy(&to_bytes(body, MAX_PAGE).await.unwrap()).into_owned();
        Page {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }

    /// Gets a page.
    pub(crate) async fn get(&self, path: &str, session: Option<&str>) -> Page {
        self.ask(Ask {
            method: &Method::GET,
            path,
            session,
            headers: &[],
            content_type: "",
            body: String::new(),
        })
        .await
    }

    /// A checksum of each table's rows; of those rows alone that hold one of the words, when there are any.
    pub(crate) async fn rows(&self, holding: &[String]) -> BTreeMap<String, String> {
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
                .fetch_all(self.database.pool())
                .await
                .unwrap();
        let part = |table: &String| {
            format!(
                "SELECT '{table}', count(*) || ' rows ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '')
                 FROM \"{table}\" t WHERE cardinality($1::text[]) = 0 OR t::text LIKE ANY ($1)"
            )
        };
        let sql = tables.iter().map(part).collect::<Vec<_>>().join(" UNION ALL ");
        let patterns: Vec<String> = holding.iter().map(|word| format!("%{word}%")).collect();
        sqlx::query_as::<_, (String, String)>(sqlx::AssertSqlSafe(sql))
            .bind(patterns)
            .fetch_all(self.database.pool())
            .await
            .unwrap()
            .into_iter()
            .collect()
    }

    /// One number.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.unwrap()
    }
}

impl Tenant {
    /// A member by role.
    pub(crate) fn member(&self, role: Role) -> MemberId {
        self.members[&role]
    }
    /// Ids and words that only its own rows hold.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces = vec![
            self.consumer.to_string(),
            self.key.to_string(),
            self.invoice.to_string(),
        ];
        traces.extend(self.members.values().map(ToString::to_string));
        traces.push(format!("{}@", self.mark));
        traces
    }
}

impl World {
    /// Stripe's session of the consumer's open Checkout.
    pub(crate) async fn open_checkout(&self, consumer: ConsumerId) -> String {
        sqlx::query_scalar("SELECT stripe_session FROM checkouts WHERE consumer_id = $1 AND state = 'open'")
            .bind(consumer.to_string())
            .fetch_one(self.database.pool())
            .await
            .unwrap()
    }
}
