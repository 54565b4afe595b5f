//! The inbox: what Stripe tells us, stored before it is believed.
//!
//! A delivery is verified against the raw body, inserted once by its id, and answered; a job then handles it. Handling
//! means asking Stripe for the object that the event is about and writing what is there now, so a duplicate, an old
//! or a forged order of events comes to the same. Events about one object that wait together are handled together.

mod admin;
mod endpoint;
mod handle;
mod receive;
mod sweep;
pub mod verify;

pub use admin::{Entry, Filter, PAGE, detail, list, replay};
pub use endpoint::{EnsureEndpoint, HANDLED};
pub use handle::HandleEvents;
pub use receive::{MAX_BODY_BYTES, Received, receive};
pub use sweep::Sweep;

use crate::jobs::{self, Registry};
use crate::{Domain, Result};

/// Where Stripe delivers, below the portal's address.
pub const PATH: &str = "/stripe/webhook";

/// The jobs of the inbox.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.with::<HandleEvents>().with::<Sweep>().with::<EnsureEndpoint>()
}

/// Starts the jobs that repeat, and registers our address with Stripe; doing so again changes nothing. Without a Stripe
/// key there is nothing to register with: a later start that has one does it.
///
/// # Errors
/// When the database fails.
pub async fn ensure_recurring(domain: &Domain) -> Result<()> {
    if !domain.payments.is_configured() {
        return Ok(());
    }
    let now = domain.clock.now();
    let mut connection = domain.pool.acquire().await?;
    jobs::enqueue(domain, &mut connection, &EnsureEndpoint {}, now).await?;
    jobs::enqueue(domain, &mut connection, &Sweep {}, now.plus_s(sweep::EVERY_S)).await
}

/// The address that is registered with Stripe.
pub(crate) fn url(domain: &Domain) -> String {
    format!("{}{PATH}", domain.settings.portal_url)
}
