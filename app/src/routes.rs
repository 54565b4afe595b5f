//! Every address of the portal, in one table, with who may use it.
//!
//! The extractors in the handlers enforce the rights; the table declares them a second time so that the tenant and
//! role matrix test can try every address as everybody, and fails for an address that is missing here.

use crate::site::Site;
use axum::Router;
use axum::routing::MethodRouter;
use http::Method;

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
    Table::default()
}
