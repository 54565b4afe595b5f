//! Callers without a credential: an account per client address, on the plan that the route names.

use super::failures::network;
use crate::account::{Account, Later, Profile, Profiles};
use crate::bounded::Bounded;
use http::HeaderValue;
use model::Time;
use model::snapshot::Entitlement;
use std::net::IpAddr;
use std::sync::Arc;

/// Client addresses remembered; each takes about 700 bytes. One that is forgotten begins anew.
const ADDRESSES_MOST: usize = 32_768;

/// The plan of callers without a credential.
pub(crate) struct AnonymousPlan {
    entitlement: Entitlement,
    profile: Arc<Profile>,
}

impl std::fmt::Debug for AnonymousPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AnonymousPlan").field(&self.entitlement.plan).finish()
    }
}

impl AnonymousPlan {
    /// From what the control plane says. Whatever that is, nobody is billed.
    pub(crate) fn compile(told: &Entitlement) -> Self {
        let entitlement = Entitlement {
            consumer: model::ConsumerId::ANONYMOUS,
            subscription: None,
            plan_version: None,
            ..told.clone()
        };
        let profile = Arc::new(Profile::of(&entitlement));
        Self { entitlement, profile }
    }
}

/// An account, and the plan that its terms are of.
#[derive(Clone)]
struct Known {
    account: Arc<Account>,
    plan: Arc<AnonymousPlan>,
}

/// Accounts by client address, and by plan: two routes may let strangers be on two plans.
pub(super) struct Strangers(Bounded<(IpAddr, String), Known>);

impl Strangers {
    pub(super) fn new() -> Self {
        Self(Bounded::new(ADDRESSES_MOST))
    }

    /// The account of a client address.
    pub(super) fn account(&self, plan: &Arc<AnonymousPlan>, client: IpAddr, now: Time) -> Arc<Account> {
        let name = (network(client), plan.entitlement.plan.clone());
        let known = self.0.get_or_put(name.clone(), || Known {
            account: account(plan, now),
            plan: Arc::clone(plan),
        });
        if !Arc::ptr_eq(&known.plan, plan) {
            // The catalogue was published again: the terms may be new, what was used stays used.
            update(&known.account, plan, now);
            let known = Known {
                account: Arc::clone(&known.account),
                plan: Arc::clone(plan),
            };
            self.0.put(name, known);
        }
        known.account
    }
}

fn account(plan: &AnonymousPlan, now: Time) -> Arc<Account> {
    let told = &plan.entitlement;
    let account = Account::named(told.consumer, told.environment, HeaderValue::from_static("anonymous"));
    update(&account, plan, now);
    Arc::new(account)
}

fn update(account: &Account, plan: &AnonymousPlan, now: Time) {
    let profiles = Profiles {
        now: Arc::clone(&plan.profile),
        later: Later::default(),
    };
    account.update(&plan.entitlement, profiles, now, |_, _| 0);
}
