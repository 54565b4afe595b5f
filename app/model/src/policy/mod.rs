//! How the gateway treats the requests of a route and calls an upstream, beyond where they go.
//!
//! Policies are written in the catalogue file under `[routes.policy]` and `[upstreams.policy]`, stored as JSON beside
//! the row, and handed to gateways unchanged: one form from the file to the request path. What is left out has its
//! default, so a policy stored by an older program reads the same in a newer one.

mod address;
mod auth;
mod cache;
mod cors;
mod edits;
mod field_path;
mod gate;
mod idempotency;
mod identity;
mod matching;
mod rate;
mod resilience;
mod rewrite;
mod route;
mod target;
mod transport;
mod upstream;
mod websocket;

pub use address::AddressRange;
pub use auth::AuthPolicy;
pub use cache::{CachePolicy, ObjectBytes, SharedBy};
pub use cors::Cors;
pub use edits::HeaderEdits;
pub use field_path::{FieldPath, FieldPathError, FieldStep};
pub use gate::{GATES_MOST, Gate, check_gates};
pub use idempotency::Idempotency;
pub use identity::IdentityForm;
pub use matching::{HostPattern, PatternError, Segment, segments, shape};
pub(crate) use rate::COUNT_MOST;
pub use rate::{MAX_RATE_RULES, RateRule, check_rate_rules};
pub use resilience::{Breaker, Health, Retries};
pub use rewrite::{Part, Rewrite, parts};
pub use route::RoutePolicy;
pub use target::{Canary, ServiceUrl, ServiceUrlError, TARGETS_MOST, Target};
pub use transport::{Protocol, UpstreamTls};
pub use upstream::UpstreamPolicy;
pub use websocket::{WebSocketCount, WebSocketPolicy};

/// What is wrong with a policy: the field, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// Such as `match_headers`.
    pub field: &'static str,
    /// What to do about it.
    pub problem: String,
}

fn wrong<T>(field: &'static str, problem: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError {
        field,
        problem: problem.into(),
    })
}

/// Most requests in flight that a bound may name: a million, far above what one gateway can hold open.
const IN_FLIGHT_MOST: u32 = 1_000_000;

/// Checks a bound on requests in flight.
///
/// # Errors
/// When it would let nothing in, or hold nothing back.
pub(crate) fn check_in_flight(field: &'static str, bound: Option<u32>) -> Result<(), PolicyError> {
    match bound {
        Some(0) => wrong(field, "must be at least 1; leave it out for no bound"),
        Some(most) if most > IN_FLIGHT_MOST => {
            wrong(field, format!("at most {IN_FLIGHT_MOST}; leave it out for no bound"))
        }
        _ => Ok(()),
    }
}

/// Whether `name` can be the name of a header field (RFC 9110, 5.1), written in lower case.
fn is_header_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(token)
}
