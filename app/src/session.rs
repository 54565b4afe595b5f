//! Who is in front of the page: the session cookie, and the extractors that turn it into a right.
//!
//! A handler that takes [`SignedInKeys`] cannot run for somebody who may not manage keys. Somebody whose address is
//! not confirmed counts as not signed in and is sent to `/verify` wherever a right is needed.

use crate::error::{AppError, SignedOut};
use crate::render::{self, AdminNav, Chrome, Nav, Nonce, Who};
use crate::site::Site;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::response::{IntoResponse, Redirect, Response};
use domain::identity::{self, Identity};
use domain::sessions::{self, Handle, Store};
use domain::{BillingManager, Domain, DomainError, KeyManager, Provider, Viewer};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
use leptos::prelude::IntoView;
use model::MemberId;
use model::access::Role;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use tower_sessions::cookie::SameSite;
use tower_sessions::cookie::time::Duration;
use tower_sessions::{Expiry, Session, SessionManagerLayer};

/// The prefix makes browsers insist on Secure, Path=/ and no Domain, so that no sibling host can plant one.
const COOKIE: &str = "__Host-sid";
/// Takes the cookie back. The layer's own removal lacks `Secure`, which browsers ignore for this prefix.
const COOKIE_REMOVAL: &str = "__Host-sid=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
/// Longest path that a log-in leads back to, in bytes.
const MAX_NEXT_LEN: usize = 512;

/// The layer that all pages stand behind.
pub fn layer(domain: &Domain) -> SessionManagerLayer<Store> {
    SessionManagerLayer::new(Store::new(domain))
        .with_name(COOKIE)
        .with_secure(true)
        .with_http_only(true)
        .with_same_site(SameSite::Lax)
        .with_path("/")
        .with_expiry(Expiry::OnInactivity(Duration::seconds(sessions::LIFETIME_S)))
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Network address; none for a program on this machine.
    pub ip: Option<IpAddr>,
    /// The browser's name for itself.
    pub user_agent: String,
}

impl Client {
    fn of(parts: &Parts) -> Self {
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|ConnectInfo(address)| address.ip().to_canonical());
        let text = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        Self {
            ip: match peer {
                // A proxy on this machine: the last address is the one it saw itself, the others anybody can write.
                Some(ip) if ip.is_loopback() => forwarded_for(&parts.headers),
                other => other,
            },
            user_agent: text(header::USER_AGENT).unwrap_or_default().to_owned(),
        }
    }
}

fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    let ip: IpAddr = last.rsplit(',').next()?.trim().parse().ok()?;
    Some(ip.to_canonical())
}

/// Anybody, signed in or not.
pub struct Visitor {
    site: Site,
    session: Session,
    identity: Option<Identity>,
    waiting: Option<String>,
    chrome: Chrome,
    client: Client,
}

impl Visitor {
    /// Who it is, when signed in with a confirmed address.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref().filter(|identity| identity.verified())
    }
    /// The address that somebody signed up with and has not confirmed, whether an account was made for it or not.
    pub fn waiting(&self) -> Option<&str> {
        self.waiting.as_deref()
    }
    /// The member behind [`Visitor::waiting`], when there is one. Whether there is must not show.
    pub fn unverified(&self) -> Option<&Identity> {
        self.identity.as_ref().filter(|identity| !identity.verified())
    }
    /// Where the request came from.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// Names the session that the request was made in.
    pub fn session_handle(&self) -> Option<Handle> {
        self.session.id().map(|id| Handle::of(&id))
    }
    /// What every handler can reach.
    pub fn site(&self) -> &Site {
        &self.site
    }
    /// What the frame of a page shows.
    pub(crate) fn chrome(&self) -> &Chrome {
        &self.chrome
    }
    /// A page for anybody.
    pub fn page<V: IntoView + 'static>(&self, title: &str, body: impl FnOnce() -> V) -> Response {
        let response = render::public(&self.site, &self.chrome, title, body);
        if self.identity.is_some() || self.waiting.is_some() {
            render::private(response)
        } else {
            response
        }
    }

    /// Begins a session of the member, with an id that nobody could know before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_in(&self, member: MemberId) -> Result<(), AppError> {
        self.begin(sessions::MEMBER, &member.to_string()).await
    }

    /// Begins a session that has no rights and waits for an address to be confirmed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn wait_for(&self, email: &str) -> Result<(), AppError> {
        self.begin(sessions::WAITING, email).await
    }

    async fn begin(&self, key: &str, value: &str) -> Result<(), AppError> {
        let ip = self.client.ip.map(|ip| ip.to_string()).unwrap_or_default();
        self.session.clear().await;
        self.session.cycle_id().await.map_err(session_error)?;
        for (key, value) in [
            (key, value),
            (sessions::USER_AGENT, self.client.user_agent.as_str()),
            (sessions::IP, ip.as_str()),
        ] {
            self.session.insert(key, value).await.map_err(session_error)?;
        }
        Ok(())
    }

    /// Ends the session and takes the cookie back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_out(&self, to: &'static str) -> Result<Response, AppError> {
        self.session.flush().await.map_err(session_error)?;
        let mut response = Redirect::to(to).into_response();
        response
            .headers_mut()
            .append(header::SET_COOKIE, HeaderValue::from_static(COOKIE_REMOVAL));
        Ok(response)
    }
}

fn session_error(e: tower_sessions::session::Error) -> AppError {
    DomainError::internal(e).into()
}

impl FromRequestParts<Site> for Visitor {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let session = parts.extensions.get::<Session>().cloned().ok_or_else(|| {
            AppError::from(DomainError::internal(
                "the session layer is missing in front of this page",
            ))
        })?;
        let member: Option<MemberId> = session.get(sessions::MEMBER).await.map_err(session_error)?;
        let decoy: Option<String> = session.get(sessions::WAITING).await.map_err(session_error)?;
        let identity = match member {
            Some(member) => identity::of_member(&site.domain, member).await?,
            None => None,
        };
        let waiting = match &identity {
            Some(identity) => (!identity.verified()).then(|| identity.email().to_owned()),
            None => decoy,
        };
        let who = identity.as_ref().filter(|i| i.verified()).map(|identity| Who {
            email: identity.email().to_owned(),
            consumer: identity.membership().map(|m| m.name().to_owned()),
            admin: identity.provider().is_some(),
        });
        let nonce = parts.extensions.get::<Nonce>().cloned().unwrap_or_default();
        Ok(Self {
            site: site.clone(),
            session,
            identity,
            waiting,
            chrome: Chrome { nonce, who },
            client: Client::of(parts),
        })
    }
}

/// A person with a confirmed address, with an account of a consumer or one of the provider's people without.
pub struct Person {
    visitor: Visitor,
    identity: Identity,
}

impl Person {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
    /// A page about the person: in the console, or among the provider's pages for who has no console.
    pub fn page<V: IntoView + 'static>(&self, title: &str, body: impl FnOnce() -> V) -> Response {
        let (site, chrome) = (&self.visitor.site, &self.visitor.chrome);
        match self.identity.membership() {
            Some(_) => render::console(site, chrome, title, Nav::Account, body),
            None => render::admin(site, chrome, title, AdminNav::Account, body),
        }
    }
}

impl Deref for Person {
    type Target = Visitor;
    fn deref(&self) -> &Visitor {
        &self.visitor
    }
}

impl FromRequestParts<Site> for Person {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        let visitor = Visitor::from_request_parts(parts, site)
            .await
            .map_err(IntoResponse::into_response)?;
        match visitor.identity().cloned() {
            Some(identity) => Ok(Self { visitor, identity }),
            None => Err(entrance(&visitor, parts)),
        }
    }
}

/// A member of a consumer.
pub struct SignedIn {
    visitor: Visitor,
    viewer: Viewer,
    role: Role,
}

impl SignedIn {
    /// The right to see the consumer's account.
    pub fn viewer(&self) -> &Viewer {
        &self.viewer
    }
    /// The member's role in the consumer.
    pub fn role(&self) -> Role {
        self.role
    }
    /// A page of the console.
    pub fn console<V: IntoView + 'static>(&self, title: &str, nav: Nav, body: impl FnOnce() -> V) -> Response {
        render::console(&self.visitor.site, &self.visitor.chrome, title, nav, body)
    }
}

impl Deref for SignedIn {
    type Target = Visitor;
    fn deref(&self) -> &Visitor {
        &self.visitor
    }
}

impl FromRequestParts<Site> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        let visitor = Visitor::from_request_parts(parts, site)
            .await
            .map_err(IntoResponse::into_response)?;
        let Some(identity) = visitor.identity() else {
            return Err(entrance(&visitor, parts));
        };
        match (identity.viewer(), identity.membership()) {
            (Some(viewer), Some(membership)) => {
                let role = membership.role();
                Ok(Self { visitor, viewer, role })
            }
            // One of the provider's people, without an account of a consumer.
            _ => Err(Redirect::to("/admin").into_response()),
        }
    }
}

/// Sends somebody who is not signed in to confirm the address, or to log in and back here. What a form held is kept
/// by [`crate::error_page`].
fn entrance(visitor: &Visitor, parts: &Parts) -> Response {
    if visitor.waiting().is_some() {
        return Redirect::to("/verify").into_response();
    }
    if parts.method != Method::GET {
        let mut response = Redirect::to("/login").into_response();
        response.extensions_mut().insert(SignedOut);
        return response;
    }
    let here = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    match own_path(here) {
        Some(next) => Redirect::to(&format!("/login?next={}", escape(next))).into_response(),
        None => Redirect::to("/login").into_response(),
    }
}

/// A member who may manage keys.
pub struct SignedInKeys {
    signed_in: SignedIn,
    manager: KeyManager,
}

impl SignedInKeys {
    /// The right to manage the consumer's keys.
    pub fn key_manager(&self) -> &KeyManager {
        &self.manager
    }
}

impl Deref for SignedInKeys {
    type Target = SignedIn;
    fn deref(&self) -> &SignedIn {
        &self.signed_in
    }
}

impl FromRequestParts<Site> for SignedInKeys {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        let signed_in = SignedIn::from_request_parts(parts, site).await?;
        match signed_in.identity().and_then(Identity::key_manager) {
            Some(manager) => Ok(Self { signed_in, manager }),
            None => {
                let text = "Your role in this account may look at keys but not change them. Ask an owner or admin.";
                Err(AppError::forbidden(text).into_response())
            }
        }
    }
}

/// A member who may manage the plan and the money.
pub struct SignedInBilling {
    signed_in: SignedIn,
    manager: BillingManager,
}

impl SignedInBilling {
    /// The right to manage the consumer's plan and money.
    pub fn billing_manager(&self) -> &BillingManager {
        &self.manager
    }
}

impl Deref for SignedInBilling {
    type Target = SignedIn;
    fn deref(&self) -> &SignedIn {
        &self.signed_in
    }
}

impl FromRequestParts<Site> for SignedInBilling {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        let signed_in = SignedIn::from_request_parts(parts, site).await?;
        match signed_in.identity().and_then(Identity::billing_manager) {
            Some(manager) => Ok(Self { signed_in, manager }),
            None => {
                let text = "Your role in this account may not change its plan or billing. Ask an owner or admin.";
                Err(AppError::forbidden(text).into_response())
            }
        }
    }
}

/// One of the provider's people. For everybody else the admin pages do not exist.
pub struct ProviderAdmin {
    visitor: Visitor,
    provider: Provider,
}

impl ProviderAdmin {
    /// The right to act for the provider.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }
    /// A page of the provider.
    pub fn admin<V: IntoView + 'static>(&self, title: &str, nav: AdminNav, body: impl FnOnce() -> V) -> Response {
        render::admin(&self.visitor.site, &self.visitor.chrome, title, nav, body)
    }
}

impl Deref for ProviderAdmin {
    type Target = Visitor;
    fn deref(&self) -> &Visitor {
        &self.visitor
    }
}

impl FromRequestParts<Site> for ProviderAdmin {
    type Rejection = AppError;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, AppError> {
        let visitor = Visitor::from_request_parts(parts, site).await?;
        match visitor.identity().and_then(Identity::provider) {
            Some(provider) => Ok(Self { visitor, provider }),
            None => Err(AppError::not_found()),
        }
    }
}

/// The text as a path of this portal that is safe to redirect to; nothing when it could lead anywhere else.
pub fn own_path(text: &str) -> Option<&str> {
    // Browsers read `\` as `/` and drop tabs and line breaks, so `/\evil` and `/<tab>/evil` leave the site.
    let safe = text.len() <= MAX_NEXT_LEN
        && text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    safe.then_some(text)
}

/// Escapes a path for the value of a query parameter.
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_.~/".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_to_own_paths_only() {
        for text in [
            "/",
            "/keys",
            "/usage?range=7d&group=route",
            "/verify/0a1b",
            "/a//b",
            "/%0d%0a",
            "/@evil.example",
        ] {
            assert_eq!(own_path(text), Some(text));
        }
        for text in [
            "",
            "keys",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "/\r\nLocation: https://evil.example",
            " //evil.example",
            "\u{a0}//evil.example",
            "https://evil.example",
            "https:evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "?next=/keys",
            "./keys",
            "/k\u{e9}ys",
            "/keys\0",
        ] {
            assert_eq!(own_path(text), None, "{text:?}");
        }
        assert_eq!(own_path(&format!("/{}", "a".repeat(MAX_NEXT_LEN))), None);
    }

    #[test]
    fn takes_the_address_that_the_nearest_proxy_saw() {
        let mut headers = HeaderMap::new();
        assert_eq!(forwarded_for(&headers), None);
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.1, 192.0.2.7"));
        assert_eq!(forwarded_for(&headers), "192.0.2.7".parse().ok());
        headers.append("x-forwarded-for", HeaderValue::from_static("2001:db8::1"));
        assert_eq!(forwarded_for(&headers), "2001:db8::1".parse().ok());
        headers.append("x-forwarded-for", HeaderValue::from_static("unknown"));
        assert_eq!(forwarded_for(&headers), None);
    }

    #[test]
    fn escapes_what_ends_a_parameter() {
        assert_eq!(escape("/usage?a=b&c=d e#f"), "/usage%3Fa%3Db%26c%3Dd%20e%23f");
    }
}
