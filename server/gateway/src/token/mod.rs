//! Signed tokens (JWT, RFC 7519) of the issuers that the catalogue trusts, read as RFC 8725 says.
//!
//! A token is looked at in this order, and the first thing wrong ends it: its size; three parts; a header and claims
//! that are plain JSON objects without a name twice; the issuer, by `iss`; an algorithm that this issuer uses; a key of
//! that issuer which is for that very algorithm; the signature; then audience and times. Nothing in the header leads
//! anywhere: `jwk`, `jku`, `x5u` and `x5c` are not read, `kid` only chooses among keys already known.
//!
//! Keys are fetched in the background (`keeper`), never while a request waits. A key that is not known yet makes the keeper
//! ask once a minute at most; meanwhile the request is answered 503. Keys are kept for an hour while the issuer is away;
//! then nobody is let in by them.
//!
//! A token that proved good is remembered by its SHA-256 for a minute, so that a caller costs one signature a minute. What
//! was remembered counts for nothing as soon as issuers, keys or names change; whether the consumer is suspended is asked
//! at every request.

mod address;
mod claims;
mod compact;
mod fetch;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod granted;
mod issuer;
mod keeper;
mod keys;
mod verify;

pub(crate) use compact::check_length;
pub(crate) use granted::Granted;
pub(crate) use issuer::Issuers;
pub(crate) use keeper::run as keep;
pub(crate) use verify::{Denied, Moment, PlanClaim, Proven, verify};
