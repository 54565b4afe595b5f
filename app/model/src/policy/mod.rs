//! How the gateway treats the requests of a route and calls an upstream, beyond where they go.
//!
//! Policies are written in the catalogue file under `[routes.policy]` and `[upstreams.policy]`, stored as JSON beside
//! the row, and handed to gateways unchanged: one form from the file to the request path. What is left out has its
//! default, so a policy stored by an older program reads the same in a newer one.

mod address;
mod auth;
mod cors;
mod edits;
mod matching;
mod resilience;
mod rewrite;
mod route;
mod target;
mod transport;
mod upstream;

pub use address::AddressRange;
pub use auth::AuthPolicy;
pub use cors::Cors;
pub use edits::HeaderEdits;
pub use matching::{HostPattern, PatternError, Segment, segments, shape};
pub use resilience::{Breaker, Health, Retries};
pub use rewrite::{Part, Rewrite, parts};
pub use route::RoutePolicy;
pub use target::{Canary, ServiceUrl, ServiceUrlError, TARGETS_MOST, Target};
pub use transport::{Protocol, UpstreamTls};
pub use upstream::UpstreamPolicy;

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

/// Whether `name` can be the name of a header field (RFC 9110, 5.1), written in lower case.
fn is_header_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(token)
}
