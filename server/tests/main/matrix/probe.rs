//! What is sent to an address so that it would do its work: ids for its path, a query, a form. An address without a
//! sample fails the test, so that a new one cannot be forgotten.

use super::world::{Ask, EVENT, PASSWORD, Page, Tenant, World};
use app::routes::{Entry, Who};
use domain::Provider;
use domain::overrides::{self, NewOverride, State};
use http::Method;
use model::MemberId;
use model::access::{Interval, Role};
use model::overrides::{Change, OVERALL};

/// A request that would succeed for who may, about one tenant.
pub(crate) struct Probe {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) fields: Vec<(&'static str, String)>,
    file: Option<(&'static str, String)>,
    /// Ids of the tenant's that are in it; another tenant gets the same answer as for ids that do not exist.
    pub(crate) owned: Vec<String>,
}

const NO_KEY: &str = "key_000000000000000000000000";
const NO_INVOICE: &str = "inv_000000000000000000000000";
const NO_CONSUMER: &str = "con_000000000000000000000000";
const NO_OVERRIDE: &str = "ovr_000000000000000000000000";
const NO_TOKEN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const FORM: &str = "application/x-www-form-urlencoded";

impl Probe {
    /// For an address, about the tenant; `member` is who will send it. Without `exists` all ids are nobody's.
    pub(crate) async fn new(
        world: &World,
        entry: &Entry,
        tenant: &Tenant,
        member: Option<MemberId>,
        exists: bool,
    ) -> Self {
        let mut probe = Self {
            method: entry.method.clone(),
            path: entry.path.to_owned(),
            fields: Vec::new(),
            file: None,
            owned: Vec::new(),
        };
        probe.fill_path(entry, tenant, exists);
        probe.fill_query(world, entry, tenant, exists).await;
        if entry.method == Method::POST {
            probe.fill_form(world, entry, tenant, member, exists).await;
        }
        probe
    }

    fn own(&mut self, id: String, absent: &str, exists: bool) -> String {
        let id = if exists { id } else { absent.to_owned() };
        self.owned.push(id.clone());
        id
    }

    fn fill_path(&mut self, entry: &Entry, tenant: &Tenant, exists: bool) {
        let Some((start, _)) = entry.path.split_once('{') else {
            return;
        };
        let value = match start {
            "/keys/" => self.own(tenant.key.to_string(), NO_KEY, exists),
            "/invoices/" => self.own(tenant.invoice.to_string(), NO_INVOICE, exists),
            "/admin/consumers/" => self.own(tenant.consumer.to_string(), NO_CONSUMER, exists),
            "/admin/inbox/" => EVENT.to_owned(),
            "/problems/" => "quota-exceeded".to_owned(),
            "/verify/" | "/reset/" => NO_TOKEN.to_owned(),
            _ => panic!(
                "{} has a parameter that the matrix has no sample for: add one",
                entry.path
            ),
        };
        let end = entry.path.find('}').unwrap() + 1;
        self.path = format!("{start}{value}{}", &entry.path[end..]);
        assert!(
            !self.path.contains('{'),
            "{} has two parameters: teach the matrix",
            entry.path
        );
    }

    async fn fill_query(&mut self, world: &World, entry: &Entry, tenant: &Tenant, exists: bool) {
        if entry.method != Method::GET {
            return;
        }
        let query = match entry.path {
            "/plan/change" => "plan=free&interval=month".to_owned(),
            "/plan/return" => {
                let session = if exists {
                    checkout(world, tenant).await
                } else {
                    String::new()
                };
                format!("session_id={}", self.own(session, "cs_test_nobodys", exists))
            }
            "/_pages/usage/figures" => "environment=live".to_owned(),
            "/_pages/usage/log" => "filter=".to_owned(),
            _ => return,
        };
        self.path = format!("{}?{query}", self.path);
    }

    async fn fill_form(
        &mut self,
        world: &World,
        entry: &Entry,
        tenant: &Tenant,
        member: Option<MemberId>,
        exists: bool,
    ) {
        let plan = |name: &str| vec![("plan", name.to_owned()), ("interval", "month".to_owned())];
        let one = |name: &'static str, value: &str| vec![(name, value.to_owned())];
        let account = |email: &str| vec![("email", email.to_owned()), ("password", PASSWORD.to_owned())];
        self.fields = match entry.path {
            "/keys/new" => [
                ("name", "made by a form"),
                ("environment", "live"),
                ("expires", "never"),
                ("routes", "all"),
            ]
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
            "/keys/{id}/limits" => [one("quota", "1000"), one("budget", "5.00")].concat(),
            "/keys/{id}/rotate" => one("overlap", "24h"),
            "/budget" => one("cap", "60.00"),
            "/signup" => account("stranger@example.org"),
            "/login" => [
                account(&format!("owner.{}@example.com", tenant.mark)),
                one("next", "/keys"),
            ]
            .concat(),
            "/reset" => one("email", "stranger@example.org"),
            "/reset/{token}" => one("password", "four teapots on a wire"),
            "/admin/setup" => [account("stranger@example.org"), one("token", NO_TOKEN)].concat(),
            "/account/name" => one("name", "Renamed"),
            "/account/password" => [("current", PASSWORD), ("password", "four teapots on a wire")]
                .map(|(name, value)| (name, value.to_owned()))
                .into(),
            "/account/sessions/end" => {
                let owner = member.unwrap_or(tenant.member(Role::Owner));
                let handle = if exists {
                    handle(world, owner).await
                } else {
                    String::new()
                };
                one("session", &self.own(handle, NO_TOKEN, exists))
            }
            path if path.starts_with("/admin/consumers/") => self.provider_fields(world, path, tenant, exists).await,
            "/plan/change" => [plan("free"), one("at", &world.domain.clock.now().unix_ms().to_string())].concat(),
            "/plan/checkout" => plan("open"),
            "/plan/cancel" => one("name", "Free"),
            "/admin/cache" => [one("route", ""), one("path", "/v1")].concat(),
            "/admin/plans/publish" => one("text", &crate::support::catalogue(([127, 0, 0, 1], 9).into())),
            "/admin/plans/preview" => {
                self.file = Some(("file", crate::support::catalogue(([127, 0, 0, 1], 9).into())));
                Vec::new()
            }
            "/keys/{id}/revoke"
            | "/logout"
            | "/verify"
            | "/verify/{token}"
            | "/account/sessions/end-others"
            | "/admin/inbox/{id}/replay"
            | "/plan/keep"
            | "/plan/resume"
            | "/plan/portal"
            | "/stripe/webhook" => Vec::new(),
            other => panic!("POST {other} has no form that the matrix knows: add one"),
        };
    }

    /// Of the forms about a consumer.
    async fn provider_fields(
        &mut self,
        world: &World,
        path: &str,
        tenant: &Tenant,
        exists: bool,
    ) -> Vec<(&'static str, String)> {
        let one = |name: &'static str, value: &str| vec![(name, value.to_owned())];
        match path {
            "/admin/consumers/{id}/features" => [one("feature", "none"), one("until", "")].concat(),
            "/admin/consumers/{id}/features/withdraw" => one("feature", "none"),
            "/admin/consumers/{id}/overrides" => [
                ("target", "limit:rate"),
                ("amount", "7"),
                ("burst", ""),
                ("past", ""),
                ("from", ""),
                ("until", ""),
                ("why", "It is a test."),
            ]
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
            "/admin/consumers/{id}/overrides/end" => {
                let id = if exists {
                    overridden(world, tenant).await
                } else {
                    String::new()
                };
                one("id", &self.own(id, NO_OVERRIDE, exists))
            }
            "/admin/consumers/{id}/suspend" => one("reason", "It is a test."),
            "/admin/consumers/{id}/restore" => Vec::new(),
            other => panic!("POST {other} has no form that the matrix knows: add one"),
        }
    }

    /// Sends it with these headers.
    pub(crate) async fn send(&self, world: &World, session: Option<&str>, headers: &[(&str, &str)]) -> Page {
        let (content_type, body) = match &self.file {
            Some((name, text)) => (
                "multipart/form-data; boundary=EDGE",
                format!(
                    "--EDGE\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"c.toml\"\r\n\r\n{text}\r\n--EDGE--\r\n"
                ),
            ),
            None => (FORM, encoded(&self.fields)),
        };
        world
            .ask(Ask {
                method: &self.method,
                path: &self.path,
                session,
                headers,
                content_type,
                body,
            })
            .await
    }

    /// Sends it as one of our own pages would.
    pub(crate) async fn send_from_here(&self, world: &World, session: Option<&str>) -> Page {
        let origin = world.domain.settings.portal_url.clone();
        self.send(
            world,
            session,
            &[("origin", &origin), ("sec-fetch-site", "same-origin")],
        )
        .await
    }
}

/// Whether the address is for anybody who comes.
pub(crate) fn is_open(entry: &Entry) -> bool {
    matches!(entry.who, Who::Anyone | Who::Signature)
}

fn encoded(fields: &[(&'static str, String)]) -> String {
    fields
        .iter()
        .map(|(name, value)| format!("{name}={}", app::session::escape(value).replace('/', "%2F")))
        .collect::<Vec<_>>()
        .join("&")
}

/// Names a session that works, as the account page does.
async fn handle(world: &World, member: MemberId) -> String {
    world.session(member).await;
    let lines = domain::sessions::list(&world.domain, member).await.unwrap();
    lines.last().unwrap().handle.to_string()
}

/// A Checkout of the tenant's that is open.
async fn checkout(world: &World, tenant: &Tenant) -> String {
    let manager = Provider::console()
        .viewer(tenant.consumer)
        .billing_manager(Role::Owner)
        .unwrap();
    match domain::subscriptions::open(&world.domain, &manager, "open", Interval::Month)
        .await
        .unwrap()
    {
        domain::subscriptions::Opened::Pay(_) => {}
        domain::subscriptions::Opened::Paid { .. } => panic!("nobody has paid"),
    }
    world.open_checkout(tenant.consumer).await
}

/// An override of the tenant's that holds: the one there is, or a new one.
async fn overridden(world: &World, tenant: &Tenant) -> String {
    let (domain, provider, now) = (&world.domain, Provider::console(), world.domain.clock.now());
    let lines = overrides::list(domain, &provider, tenant.consumer).await.unwrap();
    if let Some(line) = lines.iter().find(|l| l.state(now) == State::Active) {
        return line.id.to_string();
    }
    let new = NewOverride {
        change: Change::Limit {
            name: OVERALL.to_owned(),
            count: 7,
            burst: None,
        },
        reason: "It is a test.".to_owned(),
        starts_at: None,
        ends_at: None,
    };
    let added = overrides::add(domain, &provider, tenant.consumer, new).await;
    added.unwrap().to_string()
}
