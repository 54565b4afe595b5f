//! What a route takes as a credential, ready to be looked for.

use super::anonymous::AnonymousPlan;
use http::HeaderName;
use model::access::Credential;
use model::policy::AuthPolicy;
use std::collections::HashMap;
use std::sync::Arc;

/// What a route takes as a credential.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(super) jwt: bool,
    pub(super) basic: bool,
    /// The plan of callers without a credential.
    pub(super) anonymous: Option<Arc<AnonymousPlan>>,
    pub(super) key_headers: Vec<HeaderName>,
    pub(super) bearer: bool,
    pub(super) query: Option<String>,
}

impl Accepted {
    /// From what the control plane says. A plan that it does not know lets nobody in.
    pub(crate) fn compile(policy: &AuthPolicy, plans: &HashMap<&str, Arc<AnonymousPlan>>) -> Self {
        let key = policy.accepts(Credential::Key);
        let names = policy.key_headers.iter().filter(|_| key);
        let anonymous = policy.anonymous_plan.as_deref();
        let anonymous = anonymous.filter(|_| policy.accepts(Credential::Anonymous));
        Self {
            jwt: policy.accepts(Credential::Jwt),
            basic: policy.accepts(Credential::Basic),
            anonymous: anonymous.and_then(|slug| plans.get(slug).cloned()),
            key_headers: names.filter_map(|n| HeaderName::try_from(n).ok()).collect(),
            bearer: key && policy.bearer,
            query: policy.query.clone().filter(|_| key),
        }
    }

    /// Whether browsers send the credential by themselves, once a person gave it to them.
    pub(crate) fn is_sent_unasked(&self) -> bool {
        self.basic
    }

    /// Whether there is a place for a key.
    pub(super) fn takes_keys(&self) -> bool {
        self.bearer || self.basic || self.query.is_some() || !self.key_headers.is_empty()
    }

    /// Whether `Authorization` is read here; otherwise it is the upstream's.
    pub(super) fn reads_authorization(&self) -> bool {
        self.bearer || self.jwt || self.basic
    }

    /// Where a credential belongs, for people.
    pub(crate) fn places(&self) -> String {
        let mut places = Vec::new();
        let headers = self.key_headers.iter().map(HeaderName::as_str).map(spelled);
        places.extend(headers.map(|name| format!("your key in the header {name}")));
        if self.bearer {
            places.push("your key as Authorization: Bearer".to_owned());
        }
        if self.jwt {
            places.push("a token as Authorization: Bearer".to_owned());
        }
        if self.basic {
            places.push("your key as the user name of basic authentication".to_owned());
        }
        if let Some(name) = &self.query {
            places.push(format!("your key in the query parameter {name}"));
        }
        format!("Send {}.", places.join(", or "))
    }
}

/// A header's name as people write it: `X-API-Key`.
fn spelled(name: &str) -> String {
    let part = |part: &str| match part {
        "api" | "id" => part.to_ascii_uppercase(),
        _ => {
            let mut letters = part.chars();
            let first = letters.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(letters).collect()
        }
    };
    name.split('-').map(part).collect::<Vec<String>>().join("-")
}
