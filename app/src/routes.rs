//! Every address of the portal, in one table, with who may use it.
//!
//! The extractors in the handlers enforce the rights; the table declares them a second time so that the tenant and
//! role matrix test can try every address as everybody, and fails for an address that is missing here.

use crate::session::SignedIn;
use crate::site::Site;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::{Method, StatusCode, Uri};

/// Who may use an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Anybody.
    Anyone,
    /// Any member of the consumer.
    Viewer,
    /// Members who manage keys.
    KeyManager,
    /// Members who manage billing.
    BillingManager,
    /// The provider's people.
    Provider,
    /// Stripe, by signature.
    Signature,
}

/// One address.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Such as `/keys/{id}`.
    pub path: &'static str,
    /// GET or POST.
    pub method: Method,
    /// Who may use it.
    pub who: Who,
}

/// The table while it is put together.
#[derive(Default)]
pub struct Table {
    router: Router<Site>,
    entries: Vec<Entry>,
}

impl Table {
    /// A page: GET.
    #[must_use]
    pub fn page(self, path: &'static str, who: Who, handler: MethodRouter<Site>) -> Self {
        self.add(path, Method::GET, who, handler)
    }
    /// A form: POST.
    #[must_use]
    pub fn form(self, path: &'static str, who: Who, handler: MethodRouter<Site>) -> Self {
        self.add(path, Method::POST, who, handler)
    }
    fn add(mut self, path: &'static str, method: Method, who: Who, handler: MethodRouter<Site>) -> Self {
        self.entries.push(Entry { path, method, who });
        self.router = self.router.route(path, handler);
        self
    }
    /// The router and the list of what is in it.
    pub fn split(self) -> (Router<Site>, Vec<Entry>) {
        (self.router, self.entries)
    }
}

/// The whole table.
pub fn table() -> Table {
    islands(front(billing(consumers(accounts(console(Table::default()))))))
}

/// Keys, usage and money of a consumer, the pages behind refusals, and the provider's overview.
fn console(table: Table) -> Table {
    use crate::{admin, budget, invoices, keys, overview, problems, usage};
    table
        .page("/home", Who::Viewer, get(overview::page))
        .page("/keys", Who::Viewer, get(keys::page))
        .page("/keys/new", Who::KeyManager, get(keys::create_page))
        .form("/keys/new", Who::KeyManager, post(keys::create))
        .page("/keys/{id}/limits", Who::KeyManager, get(keys::limits_page))
        .form("/keys/{id}/limits", Who::KeyManager, post(keys::limits))
        .page("/keys/{id}/rotate", Who::KeyManager, get(keys::rotate_page))
        .form("/keys/{id}/rotate", Who::KeyManager, post(keys::rotate))
        .page("/keys/{id}/revoke", Who::KeyManager, get(keys::revoke_page))
        .form("/keys/{id}/revoke", Who::KeyManager, post(keys::revoke))
        .page("/usage", Who::Viewer, get(usage::page))
        .page("/invoices", Who::Viewer, get(invoices::page))
        .page("/invoices/{id}", Who::Viewer, get(invoices::detail))
        .page("/budget", Who::Viewer, get(budget::page))
        .form("/budget", Who::BillingManager, post(budget::set))
        .page("/problems", Who::Anyone, get(problems::index))
        .page("/problems/{slug}", Who::Anyone, get(problems::page))
        .page("/admin", Who::Provider, get(admin::overview::page))
}

/// Signing up, logging in, the account page.
fn accounts(table: Table) -> Table {
    use crate::accounts::{account, login, outbox, reset, setup, signup, verify};
    table
        .page("/signup", Who::Anyone, get(signup::page))
        .form("/signup", Who::Anyone, post(signup::submit_form))
        .page("/login", Who::Anyone, get(login::page))
        .form("/login", Who::Anyone, post(login::submit_form))
        .form("/logout", Who::Anyone, post(login::leave))
        .page("/verify", Who::Anyone, get(verify::waiting))
        .form("/verify", Who::Anyone, post(verify::resend))
        .page("/verify/{token}", Who::Anyone, get(verify::link))
        .form("/verify/{token}", Who::Anyone, post(verify::confirm))
        .page("/reset", Who::Anyone, get(reset::ask))
        .form("/reset", Who::Anyone, post(reset::send))
        .page("/reset/{token}", Who::Anyone, get(reset::link))
        .form("/reset/{token}", Who::Anyone, post(reset::set))
        .page("/admin/setup", Who::Anyone, get(setup::page))
        .form("/admin/setup", Who::Anyone, post(setup::submit_form))
        .page("/development/mail", Who::Anyone, get(outbox::page))
        .page("/account", Who::Viewer, get(account::page))
        .form("/account/name", Who::BillingManager, post(account::rename))
        .form("/account/password", Who::Viewer, post(account::change_password))
        .form("/account/sessions/end", Who::Viewer, post(account::end_session))
        .form(
            "/account/sessions/end-others",
            Who::Viewer,
            post(account::end_other_sessions),
        )
}

/// The provider's consumers.
fn consumers(table: Table) -> Table {
    use crate::admin::consumers;
    table
        .page("/admin/consumers", Who::Provider, get(consumers::list))
        .page("/admin/consumers/{id}", Who::Provider, get(consumers::page))
        .form("/admin/consumers/{id}/suspend", Who::Provider, post(consumers::suspend))
        .form("/admin/consumers/{id}/restore", Who::Provider, post(consumers::restore))
        .page(
            "/admin/consumers/{id}/features",
            Who::Provider,
            get(consumers::features::page),
        )
        .form(
            "/admin/consumers/{id}/features",
            Who::Provider,
            post(consumers::features::grant),
        )
        .form(
            "/admin/consumers/{id}/features/withdraw",
            Who::Provider,
            post(consumers::features::withdraw),
        )
        .form(
            "/admin/consumers/{id}/overrides",
            Who::Provider,
            post(consumers::overrides::add),
        )
        .form(
            "/admin/consumers/{id}/overrides/end",
            Who::Provider,
            post(consumers::overrides::end),
        )
}

/// What it costs, the plan, Stripe's deliveries, and the provider's side of both.
fn billing(table: Table) -> Table {
    use crate::admin::{cache, inbox, plans};
    use crate::{plan, pricing, stripe};
    let delivery = post(stripe::webhook).layer(DefaultBodyLimit::max(domain::stripe_inbox::MAX_BODY_BYTES));
    // A catalogue file is longer than other forms, and escaping makes it longer still.
    let file = || DefaultBodyLimit::max(2 * domain::catalogue::MAX_FILE_BYTES);
    table
        .page("/pricing", Who::Anyone, get(pricing::page))
        .page("/plan", Who::Viewer, get(plan::page))
        .page("/plan/change", Who::BillingManager, get(plan::preview))
        .form("/plan/change", Who::BillingManager, post(plan::apply))
        .form("/plan/keep", Who::BillingManager, post(plan::keep))
        .page("/plan/cancel", Who::BillingManager, get(plan::cancel_page))
        .form("/plan/cancel", Who::BillingManager, post(plan::cancel))
        .form("/plan/resume", Who::BillingManager, post(plan::resume))
        .form("/plan/portal", Who::BillingManager, post(plan::portal))
        .form("/plan/checkout", Who::BillingManager, post(plan::open))
        .page("/plan/return", Who::Viewer, get(plan::returned))
        .page("/plan/cancelled", Who::Viewer, get(plan::cancelled))
        .form("/stripe/webhook", Who::Signature, delivery)
        .page("/admin/plans", Who::Provider, get(plans::page))
        .page("/admin/plans/publish", Who::Provider, get(plans::publish_page))
        .form(
            "/admin/plans/publish",
            Who::Provider,
            post(plans::publish).layer(file()),
        )
        .form(
            "/admin/plans/preview",
            Who::Provider,
            post(plans::preview).layer(file()),
        )
        .page("/admin/cache", Who::Provider, get(cache::page))
        .form("/admin/cache", Who::Provider, post(cache::purge))
        .page("/admin/inbox", Who::Provider, get(inbox::page))
        .page("/admin/inbox/{id}", Who::Provider, get(inbox::detail))
        .form("/admin/inbox/{id}/replay", Who::Provider, post(inbox::replay))
}

/// What anybody sees first.
fn front(table: Table) -> Table {
    use crate::landing;
    table
        .page("/", Who::Anyone, get(landing::front))
        .page("/docs", Who::Anyone, get(landing::reference))
}

/// The server functions that islands call: reads, each of which finds out for itself who asks.
fn islands(table: Table) -> Table {
    use crate::usage::api::{LiveFigures, LiveLog};
    use crate::usage::arguments;
    server_fn::axum::register_explicit::<LiveFigures>();
    server_fn::axum::register_explicit::<LiveLog>();
    table
        .page(
            "/_pages/usage/figures",
            Who::Viewer,
            get(|_: SignedIn, State(site): State<Site>, asked: Request| {
                server_function(site, asked, arguments::figures)
            }),
        )
        .page(
            "/_pages/usage/log",
            Who::Viewer,
            get(|_: SignedIn, State(site): State<Site>, asked: Request| server_function(site, asked, arguments::log)),
        )
}

/// Answers a server function whose arguments can be read.
async fn server_function(site: Site, request: Request, check: fn(&Uri) -> Result<(), String>) -> Response {
    if let Err(problem) = check(request.uri()) {
        return crate::render::private((StatusCode::BAD_REQUEST, problem).into_response());
    }
    let context = move || leptos::prelude::provide_context(site.clone());
    let answer = leptos_axum::handle_server_fns_with_context(context, request).await;
    crate::render::private(answer.into_response())
}
