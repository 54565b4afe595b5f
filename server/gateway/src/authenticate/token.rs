//! A signed token: checked once, then remembered for a while.

use super::{Caller, Hold, Known, NotLetIn};
use crate::account::{Account, TokenPlan};
use crate::bounded::Bounded;
use crate::refusal::{Refusal, Refused};
use crate::tables::{KeyEntry, Tables};
use crate::token::{Denied, Granted, Moment, PlanClaim, Proven, check_length, verify};
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use model::access::ConsumerName;
use model::{ConsumerId, KeyId};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Tokens remembered; each takes about 200 bytes.
const TOKENS_MOST: usize = 65_536;
/// How long a token is remembered, in seconds.
const REMEMBERED_S: i64 = 60;
/// Seconds after which a token may be tried again whose issuer's keys are not here.
const RETRY_AFTER_S: u64 = 1;

/// The plan that a token puts its caller on.
enum Plan {
    /// The consumer's own.
    Own,
    On(Arc<TokenPlan>),
    /// None that it may name.
    Refused(String),
}

/// A token that proved good.
pub(crate) struct Verified {
    key: KeyId,
    account: Arc<Account>,
    granted: Option<Arc<Granted>>,
    plan: Plan,
    /// It is not proven again before, in seconds since 1970.
    until_s: i64,
    /// When its time is over, in seconds since 1970.
    ends_s: i64,
    /// What was known of issuers, keys and names then ([`Tables::trust`]).
    trust: u64,
}

/// Tokens that proved good lately, by their SHA-256.
pub(super) struct Tokens(Bounded<[u8; 32], Arc<Verified>>);

impl Tokens {
    pub(super) fn new() -> Self {
        Self(Bounded::new(TOKENS_MOST))
    }

    /// The caller that a token names.
    pub(super) fn caller(&self, known: Known<'_>, text: &[u8], at: Moment) -> Result<Caller, NotLetIn> {
        let now_s = at.now_s;
        check_length(text).map_err(|denied| (None, refused(denied)))?;
        let hash: [u8; 32] = Sha256::digest(text).into();
        let trust = known.tables.trust();
        let remembered = self.0.get(&hash);
        if let Some(verified) = remembered.filter(|v| v.trust == trust && now_s < v.until_s) {
            return verified.caller();
        }
        let issuers = known.tables.issuers.load();
        let proven = verify(text, &issuers, at).map_err(|denied| (None, refused(denied)))?;
        let account = account(known.tables, &proven).map_err(|r| (None, r))?;
        let verified = Arc::new(Verified {
            key: proven.key,
            account,
            granted: Granted::new(proven.features),
            plan: match proven.plan {
                PlanClaim::Absent => Plan::Own,
                PlanClaim::Named(slug) => issuers.plan(&slug).map_or(Plan::Refused(slug), Plan::On),
                PlanClaim::Refused(slug) => Plan::Refused(slug),
            },
            until_s: proven.until_s.min(now_s + REMEMBERED_S),
            ends_s: proven.until_s,
            trust,
        });
        self.0.put(hash, Arc::clone(&verified));
        verified.caller()
    }
}

impl Verified {
    fn caller(self: &Arc<Self>) -> Result<Caller, NotLetIn> {
        let caller = |plan| Caller {
            key: KeyEntry::standing_in(self.key, Arc::clone(&self.account)),
            hold: Hold::Token(Arc::clone(self)),
            granted: self.granted.clone(),
            plan,
        };
        match &self.plan {
            Plan::Own => Ok(caller(None)),
            Plan::On(plan) => Ok(caller(Some(Arc::clone(plan)))),
            Plan::Refused(slug) => Err((Some(Box::new(caller(None))), plan_refused(slug))),
        }
    }

    /// Its caller later, while a request of it is open: as long as its time is not over, its issuer trusted, and the plan
    /// that it names one that tokens may name.
    pub(super) fn again(self: &Arc<Self>, tables: &Tables, now_s: i64) -> Result<Caller, Refused> {
        if now_s >= self.ends_s {
            return Err(refused(Denied::Expired));
        }
        let issuers = tables.issuers.load();
        if !issuers.has(self.key) {
            return Err(refused(Denied::Invalid("Its issuer is trusted no more.")));
        }
        let mut caller = self.caller().map_err(|(_, refused)| refused)?;
        if let Plan::On(plan) = &self.plan {
            let slug = &plan.profile.plan;
            caller.plan = Some(issuers.plan(slug).ok_or_else(|| plan_refused(slug))?);
        }
        Ok(caller)
    }
}

fn plan_refused(slug: &str) -> Refused {
    let detail = format!("The token names the plan {slug}, which its issuer may not name here.");
    Refused::new(Refusal::TokenPlanRefused, detail)
}

fn account(tables: &Tables, proven: &Proven) -> Result<Arc<Account>, Refused> {
    let (by, name) = &proven.consumer;
    let consumer: Option<ConsumerId> = match by {
        ConsumerName::Id => name.parse().ok(),
        ConsumerName::ExternalId => tables.named(name),
    };
    let account = consumer.and_then(|c| tables.known_account(c, proven.environment));
    account.ok_or_else(|| {
        if tables.connected() {
            return Refused::new(
                Refusal::TokenUnknownConsumer,
                "The token is good, but the account that it names does not exist here.",
            );
        }
        let detail = "The account that the token names is new to the gateway, and the account store is away.";
        Refused::new(Refusal::KeysUnavailable, detail).retry_after(RETRY_AFTER_S)
    })
}

fn refused(denied: Denied) -> Refused {
    let invalid = HeaderValue::from_static("Bearer realm=\"api\", error=\"invalid_token\"");
    match denied {
        Denied::Invalid(why) => Refused::new(Refusal::TokenInvalid, why).with(WWW_AUTHENTICATE, invalid),
        Denied::Expired => {
            Refused::new(Refusal::TokenExpired, "Its time is over. Ask for a new one.").with(WWW_AUTHENTICATE, invalid)
        }
        Denied::NoKeys => {
            let detail = "The keys that could tell whether the token is good are not here. Try again in a moment.";
            Refused::new(Refusal::IssuerUnavailable, detail).retry_after(RETRY_AFTER_S)
        }
    }
}
