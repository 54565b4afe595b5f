//! Whether a token is what it says.

use super::issuer::Issuers;
use super::{claims, compact};
use model::KeyId;
use model::access::{ConsumerName, Environment, Grant};
use serde_json::Value;

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It is none of ours; what is wrong, for people.
    Invalid(&'static str),
    /// Its time is over.
    Expired,
    /// The keys that could tell are not here; they may be in a moment.
    NoKeys,
}

/// What a good token says of its caller's plan.
#[derive(Debug, PartialEq)]
pub(crate) enum PlanClaim {
    /// Nothing.
    Absent,
    /// One that its issuer may name.
    Named(String),
    /// Another.
    Refused(String),
}

/// What a good token says.
#[derive(Debug, PartialEq)]
pub(crate) struct Proven {
    /// Stands for the key that its caller does not have.
    pub(crate) key: KeyId,
    /// What it calls the consumer, and by which name that is.
    pub(crate) consumer: (ConsumerName, String),
    pub(crate) environment: Environment,
    /// Features beyond the plan's.
    pub(crate) features: Vec<String>,
    pub(crate) plan: PlanClaim,
    /// It counts until then, in seconds since 1970.
    pub(crate) until_s: i64,
}

/// When a token is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The machine's time, in seconds since 1970.
    pub(crate) now_s: i64,
    /// Whether issuers' leeway holds: it is for clocks that differ a little, not for one of ours that is wrong.
    pub(crate) lenient: bool,
}

/// Checks a token.
pub(crate) fn verify(text: &[u8], issuers: &Issuers, at: Moment) -> Result<Proven, Denied> {
    let now_s = at.now_s;
    let token = compact::parse(text)?;
    let named = token.claims.get("iss").and_then(Value::as_str);
    let issuer = named.and_then(|name| issuers.get(name));
    let issuer = issuer.ok_or(Denied::Invalid("Its issuer is none that this API trusts."))?;
    let file = &issuer.told.file;
    if !file.algorithms.contains(&token.algorithm) {
        return Err(Denied::Invalid("Its algorithm is none that its issuer uses."));
    }
    let Some(held) = issuer.keys(now_s) else {
        issuer.want(now_s);
        return Err(Denied::NoKeys);
    };
    let Some(key) = held.keys.find(token.kid.as_deref(), token.algorithm) else {
        return Err(if issuer.want(now_s) {
            Denied::NoKeys
        } else {
            Denied::Invalid("Its issuer has no such key.")
        });
    };
    if !key.made(token.signature, token.signed) {
        return Err(Denied::Invalid("Its signature is wrong."));
    }
    let until_s = claims::check(&token.claims, file, at)?;
    let features = if file.may_grant.contains(&Grant::Features) {
        claims::features(&token.claims, file)?
    } else {
        Vec::new()
    };
    Ok(Proven {
        key: issuer.told.key,
        consumer: (file.consumer_is, claims::consumer(&token.claims, file)?.to_owned()),
        environment: file.environment,
        features,
        plan: claims::plan(&token.claims, file)?,
        until_s,
    })
}
