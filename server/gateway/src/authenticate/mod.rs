//! Phase two: whose request it is. No database and no waiting.
//!
//! A route says what it takes ([`Accepted`]); `present` finds the one credential and takes it out of the request; then a
//! file for each kind says whose it is. Nothing falls back: a wrong key is never an anonymous caller.

mod accepted;
mod anonymous;
mod failures;
mod key;
mod present;
mod query;
mod token;

pub(crate) use accepted::Accepted;
pub(crate) use anonymous::AnonymousPlan;
pub(crate) use failures::network;

use crate::account::{Account, Terms, TokenPlan};
use crate::config::Peppers;
use crate::refusal::{Refusal, Refused};
use crate::tables::{KeyEntry, Tables};
use crate::token::{Granted, Moment};
use anonymous::Strangers;
use failures::Failures;
use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use model::{KeyId, SKEW_MOST_MS, Time};
use present::Presented;
use std::net::IpAddr;
use std::sync::Arc;
use token::{Tokens, Verified};

/// A bit that no lookup has: those are below 62 to the power of eight.
const NO_LOOKUP: u64 = 1 << 63;

/// Whose request it is.
pub(crate) struct Caller {
    /// The key, or for other credentials what stands for one.
    pub(crate) key: KeyEntry,
    pub(crate) hold: Hold,
    /// What the credential adds to the plan.
    pub(crate) granted: Option<Arc<Granted>>,
    /// The plan that it names in place of the consumer's own.
    plan: Option<Arc<TokenPlan>>,
}

/// What a caller came with, to be looked at again while its request is open.
#[derive(Clone)]
pub(crate) enum Hold {
    /// A key, by its lookup.
    Key(u64),
    /// A signed token.
    Token(Arc<Verified>),
    /// Nothing: an account alone.
    Account(Arc<Account>),
}

impl Hold {
    /// The caller again, as it is known now.
    ///
    /// # Errors
    /// When what it came with lets nobody in any more.
    pub(crate) fn caller(&self, tables: &Tables, now: Time, machine_now: Time) -> Result<Caller, Refused> {
        match self {
            Hold::Key(lookup) => {
                let entry = tables.key(*lookup).ok_or_else(key::unknown)?;
                key::alive(Caller::of_key(entry, *lookup), now).map_err(|(_, refused)| refused)
            }
            Hold::Token(verified) => verified.again(tables, machine_now.unix_s()),
            Hold::Account(account) => Ok(Caller::of_account(KeyId::NONE, Arc::clone(account))),
        }
    }
}

impl Caller {
    fn of_key(key: KeyEntry, lookup: u64) -> Self {
        Self {
            key,
            hold: Hold::Key(lookup),
            granted: None,
            plan: None,
        }
    }

    /// The terms that hold for it at `now`.
    pub(crate) fn terms(&self, now: Time) -> Arc<Terms> {
        let account = &self.key.account;
        match &self.plan {
            Some(plan) => account.terms_on(now, plan),
            None => account.terms(now),
        }
    }

    /// Whether the credential grants a feature that the plan may lack.
    pub(crate) fn is_granted(&self, feature: &str) -> bool {
        self.granted.as_ref().is_some_and(|g| g.has(feature))
    }

    /// What limits by key tell it by: the key's lookup, or for a token a number of its issuer and its consumer.
    pub(crate) fn number(&self) -> u64 {
        let fold = |bits: u128| {
            let [low, high] = [bits & u128::from(u64::MAX), bits >> 64];
            u64::try_from(low ^ high).unwrap_or(0)
        };
        match &self.hold {
            Hold::Key(lookup) => *lookup,
            Hold::Token(_) | Hold::Account(_) => {
                fold(self.key.id.to_bits()) ^ fold(self.key.account.consumer.to_bits()).rotate_left(21) | NO_LOOKUP
            }
        }
    }

    /// A caller without a key.
    fn of_account(id: KeyId, account: Arc<Account>) -> Self {
        Self {
            hold: Hold::Account(Arc::clone(&account)),
            key: KeyEntry::standing_in(id, account),
            granted: None,
            plan: None,
        }
    }
}

/// A caller that is known but not let in, so that it can be recorded.
pub(crate) type NotLetIn = (Option<Box<Caller>>, Refused);

/// What is remembered about callers from one request to the next.
pub(crate) struct Callers {
    failures: Failures,
    strangers: Strangers,
    tokens: Tokens,
}

impl Callers {
    /// Nobody came yet.
    pub(crate) fn new() -> Self {
        Self {
            failures: Failures::new(),
            strangers: Strangers::new(),
            tokens: Tokens::new(),
        }
    }
}

/// Where and when a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) client: IpAddr,
    /// Business time, that keys expire by.
    pub(crate) now: Time,
    /// The machine's time, that tokens expire by.
    pub(crate) machine_now: Time,
    /// How far that is ahead of the database's, in milliseconds.
    pub(crate) skew_ms: i64,
    /// Steady time in nanoseconds, that rates are counted in.
    pub(crate) now_ns: u64,
}

/// What knows callers.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) peppers: &'a Peppers,
    pub(crate) callers: &'a Callers,
}

/// Finds the caller and takes the credential out of the request.
pub(crate) fn authenticate(
    known: Known<'_>,
    accepted: &Accepted,
    parts: &mut Parts,
    arrival: Arrival,
) -> Result<Caller, NotLetIn> {
    find(known, accepted, parts, (arrival, Failures::judge))
}

/// The same without counting a failure.
pub(crate) fn peek(
    known: Known<'_>,
    accepted: &Accepted,
    parts: &mut Parts,
    arrival: Arrival,
) -> Result<Caller, NotLetIn> {
    find(known, accepted, parts, (arrival, Failures::peek))
}

/// What is answered in place of a failure, of a client at a steady time.
type Judge = fn(&Failures, Refused, IpAddr, u64) -> Refused;

fn find(
    known: Known<'_>,
    accepted: &Accepted,
    parts: &mut Parts,
    (arrival, judge): (Arrival, Judge),
) -> Result<Caller, NotLetIn> {
    let presented = present::take(parts, accepted).map_err(|r| (None, r));
    let found = presented.and_then(|presented| match presented {
        Presented::Key(text) => key::caller(known.tables, known.peppers, text.as_bytes(), arrival.now),
        Presented::Token(text) => {
            let at = Moment {
                now_s: arrival.machine_now.unix_s(),
                lenient: arrival.skew_ms.abs() <= SKEW_MOST_MS,
            };
            known.callers.tokens.caller(known, text.as_bytes(), at)
        }
        Presented::Nothing => match &accepted.anonymous {
            Some(plan) => {
                let account = known.callers.strangers.account(plan, arrival.client, arrival.now);
                Ok(Caller::of_account(KeyId::NONE, account))
            }
            None => Err((None, present::missing(accepted))),
        },
    });
    found.map_err(|(caller, refused)| {
        let judged = judge(&known.callers.failures, refused, arrival.client, arrival.now_ns);
        (caller, challenge(judged, accepted))
    })
}

/// The caller behind the text of a key, for benches.
#[cfg(feature = "benching")]
pub(crate) fn key_caller(tables: &Tables, peppers: &Peppers, text: &[u8], now: Time) -> Option<Caller> {
    key::caller(tables, peppers, text, now).ok()
}

/// The caller behind the text of a token, for benches.
#[cfg(feature = "benching")]
pub(crate) fn token_caller(known: Known<'_>, text: &[u8], now: Time) -> Option<Caller> {
    let at = Moment {
        now_s: now.unix_s(),
        lenient: true,
    };
    known.callers.tokens.caller(known, text, at).ok()
}

/// The caller behind a key that is named by its id, as if it had sent the key; other credentials are taken out of the
/// request. `None` where there is no such key.
pub(crate) fn by_id(
    known: Known<'_>,
    accepted: &Accepted,
    parts: &mut Parts,
    id: KeyId,
    now: Time,
) -> Option<Result<Caller, NotLetIn>> {
    // What is wrong with them is not the question.
    let _ = present::take(parts, accepted);
    let (lookup, entry) = known.tables.key_by_id(id)?;
    if !accepted.takes_keys() {
        return Some(Err((None, present::missing(accepted))));
    }
    Some(key::alive(Caller::of_key(entry, lookup), now))
}

/// With the schemes that would be taken (RFC 9110, 11.6.1).
fn challenge(refused: Refused, accepted: &Accepted) -> Refused {
    if refused.refusal().status() != StatusCode::UNAUTHORIZED || !accepted.basic {
        return refused;
    }
    let schemes = match (accepted.bearer || accepted.jwt, refused.refusal()) {
        (true, Refusal::TokenInvalid | Refusal::TokenExpired) => return refused,
        (true, _) => "Bearer realm=\"api\", Basic realm=\"api\", charset=\"UTF-8\"",
        (false, _) => "Basic realm=\"api\", charset=\"UTF-8\"",
    };
    refused.with(WWW_AUTHENTICATE, HeaderValue::from_static(schemes))
}
