//! A portal on a fresh database, and a browser that keeps its cookie and says where its forms come from.

use app::site::{Assets, Site};
use axum::Router;
use axum::body::{Body, to_bytes};
use domain::settings::Secret;
use domain::{Domain, Provider, catalogue};
use http::{HeaderMap, Method, Request, StatusCode, header};
use payments::{Config, Stripe};
use std::sync::Arc;
use testkit::{Database, FixedClock, SeededRandom};
use tower::ServiceExt as _;

/// Good enough for everybody here.
pub(crate) const PASSWORD: &str = "three green kites";

pub(crate) struct Portal {
    pub(crate) domain: Domain,
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) database: Database,
    router: Router,
}

impl Portal {
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        let clock = FixedClock::start();
        let nowhere = Config {
            secret_key: Secret::new("sk_test_nobody"),
            base_url: Some("http://127.0.0.1:9".to_owned()),
        };
        let stripe = Arc::new(Stripe::new(&nowhere).unwrap());
        let domain = testkit::domain(&database, &clock, &SeededRandom::new(7), stripe);
        let site = Site {
            domain: domain.clone(),
            brand: "Atlas".into(),
            assets: Arc::new(Assets::default()),
        };
        let pages = app::routes::table().split().0.with_state(site.clone());
        let pages = pages.route("/panic", axum::routing::get(panics));
        let router = app::security::protect(pages, &site, &["https://checkout.stripe.com".to_owned()]);
        Self {
            domain,
            clock,
            database,
            router,
        }
    }

    /// One that sells what this catalogue says.
    pub(crate) async fn selling(text: &str) -> Self {
        let portal = Self::new().await;
        let file = catalogue::parse(text).unwrap();
        catalogue::publish(&portal.domain, &Provider::console(), &file)
            .await
            .unwrap();
        portal
    }

    pub(crate) fn browser(&self) -> Browser<'_> {
        Browser {
            portal: self,
            cookie: None,
        }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> Page {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 10_000_000).await.unwrap();
        Page {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// Does what is due after a request, and gives the path of the link in the last mail to an address.
    pub(crate) async fn mailed_link(&self, recipient: &str) -> String {
        let jobs = domain::members::register(domain::jobs::Registry::default());
        jobs.run_due(&self.domain).await.unwrap();
        let text: String =
            sqlx::query_scalar("SELECT body_text FROM mails WHERE recipient = $1 ORDER BY id DESC LIMIT 1")
                .bind(recipient)
                .fetch_one(self.database.pool())
                .await
                .unwrap();
        let link = text.lines().find(|line| line.starts_with("http")).unwrap();
        link.strip_prefix(&self.domain.settings.portal_url).unwrap().to_owned()
    }
}

async fn panics() -> &'static str {
    panic!("on purpose")
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
    /// Where it leads, when it is a redirect after a form.
    pub(crate) fn to(&self) -> &str {
        assert_eq!(self.status, StatusCode::SEE_OTHER, "{}", self.text);
        self.header("location")
    }
}

/// One person's browser.
#[derive(Clone)]
pub(crate) struct Browser<'a> {
    portal: &'a Portal,
    pub(crate) cookie: Option<String>,
}

impl Browser<'_> {
    pub(crate) async fn get(&mut self, path: &str) -> Page {
        let request = Request::builder().method(Method::GET).uri(path);
        self.send(request, Body::empty()).await
    }

    /// Sends a form from one of the portal's own pages.
    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let body: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", app::session::escape(value)))
            .collect();
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request, body.join("&").into()).await
    }

    async fn send(&mut self, mut request: http::request::Builder, body: Body) -> Page {
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, format!("__Host-sid={cookie}"));
        }
        let page = self.portal.send(request.body(body).unwrap()).await;
        for set in page.headers.get_all(header::SET_COOKIE) {
            let set = set.to_str().unwrap();
            let value = set.strip_prefix("__Host-sid=").unwrap().split(';').next().unwrap();
            // A browser takes this name with these marks only.
            let accepted = set.contains("; Secure") && set.contains("; Path=/") && !set.contains("Domain");
            if accepted {
                assert!(set.contains("; HttpOnly") && set.contains("; SameSite=Lax"), "{set}");
                self.cookie = Some(value.to_owned()).filter(|value| !value.is_empty());
            }
        }
        page
    }

    /// Signs up and confirms the address.
    pub(crate) async fn sign_up(&mut self, email: &str) {
        let page = self.post("/signup", &[("email", email), ("password", PASSWORD)]).await;
        assert_eq!(page.to(), "/verify");
        let link = self.portal.mailed_link(email).await;
        assert_eq!(self.post(&link, &[]).await.to(), "/home");
    }

    pub(crate) async fn log_in(&mut self, email: &str, next: &str) -> Page {
        self.post("/login", &[("email", email), ("password", PASSWORD), ("next", next)])
            .await
    }
}
