//! The control plane's rules: one file a noun, its SQL beside the rule that needs it.
//!
//! A function here takes the [`Domain`] and, where it touches a consumer's rows, a value of [`access`] that proves
//! the right to. A transaction holds the rows **and** the job; mail and calls to Stripe happen in the job, after
//! commit. Time and randomness come from the [`Domain`], never from the machine.

pub mod access;
pub mod audit;
pub mod bootstrap;
pub mod budget;
pub mod catalogue;
pub mod cluster;
pub mod consumers;
mod copy;
pub mod cost;
pub mod email;
pub mod entitlements;
pub mod error;
pub mod features;
pub mod identity;
pub mod invoices;
pub mod jobs;
pub mod key_limits;
pub mod keys;
pub mod letters;
pub mod links;
mod locks;
pub mod login_limits;
pub mod mail;
pub mod members;
pub mod meter_events;
pub mod metrics;
pub mod overrides;
pub mod passwords;
pub mod payments;
pub mod provision;
pub mod purges;
pub mod recurring;
pub mod sessions;
pub mod settings;
pub mod skew;
pub mod snapshot;
pub mod stripe_inbox;
pub mod subscriptions;
pub mod usage;

pub use access::{Actor, BillingManager, KeyManager, Provider, Viewer};
pub use error::{DomainError, Result};
pub use settings::Settings;

use model::{Clock, Random};
use payments::Payments;
use sqlx::PgPool;
use std::sync::Arc;

/// The schema, applied by `turnpike migrate` and at start.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// All that a rule needs from outside. Cheap to clone.
#[derive(Clone)]
pub struct Domain(Arc<Inner>);

/// The parts of a [`Domain`].
pub struct Inner {
    /// PostgreSQL.
    pub pool: PgPool,
    /// Business time and security time.
    pub clock: Arc<dyn Clock>,
    /// Randomness fit for secrets.
    pub random: Arc<dyn Random>,
    /// Stripe.
    pub payments: Arc<dyn Payments>,
    /// What the operator set.
    pub settings: Settings,
}

impl Domain {
    /// Puts the parts together.
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl std::ops::Deref for Domain {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
