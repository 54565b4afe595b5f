//! What the count of a limit is called where all gateways keep it.

use super::table::{self, Subject};
use super::{Asked, Rule};
use crate::account::Terms;
use crate::config::Peppers;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::ConsumerId;
use model::overrides::OVERALL;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Every name begins so.
const PREFIX: &str = "turnpike:rate:";
/// Longer names are hashed, in bytes: Redis keeps each of them as long as its limit is not whole.
const NAME_MOST: usize = 160;
/// Bytes of a hash in a name: 128 bits, as the gateway's own table has.
const HASH_BYTES: usize = 16;
/// Bytes of a hash that tell installations apart which share a Redis.
const INSTALLATION_BYTES: usize = 6;

/// Makes names. Those of one installation are the same at all its gateways, because its peppers are.
pub(crate) struct Names {
    peppers: Peppers,
    prefix: String,
}

impl Names {
    /// For an installation with these peppers.
    pub(crate) fn new(peppers: Peppers) -> Self {
        let installation = hash(&peppers, "installation", INSTALLATION_BYTES);
        Self {
            peppers,
            prefix: format!("{PREFIX}{installation}:"),
        }
    }

    /// The name of a limit's count for a request; none is the plan's overall limit.
    pub(super) fn name(&self, rule: Option<(usize, &Rule)>, asked: &Asked<'_>, terms: &Terms) -> String {
        let subject = match rule {
            Some((_, rule)) => rule.subject(asked),
            None => overall(asked),
        };
        // What strangers use is counted on each plan by itself.
        let stranger = subject
            .account
            .is_some_and(|(consumer, _)| consumer == ConsumerId::ANONYMOUS);
        let plan = stranger.then_some(terms.profile.plan.as_str());
        self.text(&subject, plan)
    }

    /// Readable for whoever looks into Redis, where it names no address and is not too long.
    fn text(&self, subject: &Subject<'_>, plan: Option<&str>) -> String {
        let mut text = format!("{}{}", self.prefix, subject.limit);
        // Writing to a String cannot fail.
        if let Some(owner) = subject.owner {
            let _ = write!(text, ":of-route-{owner}");
        }
        if let Some((consumer, environment)) = subject.account {
            let _ = write!(text, ":{consumer}:{}", environment.word());
        }
        if let Some(key) = subject.key {
            let _ = write!(text, ":key-{key:x}");
        }
        if let Some(route) = subject.route {
            let _ = write!(text, ":route-{route}");
        }
        if let Some(method) = subject.method {
            let _ = write!(text, ":{}", method.word());
        }
        if let Some(plan) = plan {
            let _ = write!(text, ":on-{plan}");
        }
        if let Some(address) = subject.address {
            let _ = write!(text, ":from-{address:x}");
        }
        if subject.address.is_none() && text.len() <= NAME_MOST {
            return text;
        }
        format!("{}~{}", self.prefix, hash(&self.peppers, &text, HASH_BYTES))
    }
}

/// What the plan's overall limit counts together.
fn overall(asked: &Asked<'_>) -> Subject<'static> {
    let account = asked.account;
    Subject {
        owner: None,
        limit: OVERALL,
        account: Some((account.consumer, account.environment)),
        key: None,
        route: None,
        method: None,
        address: (account.consumer == ConsumerId::ANONYMOUS).then(|| table::address(asked.address)),
    }
}

/// Keyed by the pepper with the lowest number, which all gateways have whatever the order they were given in: addresses are
/// few enough to be guessed from a plain hash.
fn hash(peppers: &Peppers, text: &str, bytes: usize) -> String {
    let said = format!("turnpike rate limit {text}");
    let oldest = peppers.numbers().min().unwrap_or_default();
    let mac = peppers.mac(oldest, said.as_bytes());
    let mac = mac.unwrap_or_else(|| Sha256::digest(said.as_bytes()).into());
    URL_SAFE_NO_PAD.encode(&mac[..bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::access::Environment;
    use std::collections::HashSet;

    fn names(pepper: &str) -> Names {
        Names::new(Peppers::new([(1, pepper)]))
    }

    fn subject(limit: &'static str) -> Subject<'static> {
        Subject {
            owner: None,
            limit,
            account: Some((ConsumerId::from_bits(7), Environment::Live)),
            key: None,
            route: None,
            method: None,
            address: None,
        }
    }

    #[test]
    fn each_subject_has_its_name_and_addresses_are_in_none() {
        let names = names("a");
        let address = table::address("203.0.113.77".parse().unwrap());
        let consumer = ConsumerId::from_bits(7);
        let all = [
            subject("x"),
            subject("y"),
            Subject {
                owner: Some(1),
                ..subject("x")
            },
            Subject {
                route: Some(1),
                ..subject("x")
            },
            Subject {
                key: Some(1),
                ..subject("x")
            },
            Subject {
                account: Some((consumer, Environment::Test)),
                ..subject("x")
            },
            Subject {
                account: None,
                ..subject("x")
            },
            Subject {
                address: Some(address),
                ..subject("x")
            },
            Subject {
                address: Some(address + 1),
                ..subject("x")
            },
        ];
        let texts: HashSet<String> = all.iter().map(|s| names.text(s, None)).collect();
        assert_eq!(texts.len(), all.len(), "{texts:?}");
        for text in &texts {
            assert!(text.starts_with(PREFIX) && text.len() <= NAME_MOST, "{text}");
            assert!(
                !text.contains(&format!("{address:x}")) && !text.contains("203.0.113"),
                "{text}"
            );
        }
        assert!(
            names
                .text(&subject("x"), None)
                .ends_with(&format!(":x:{consumer}:live"))
        );
    }

    #[test]
    fn a_long_name_is_bounded_and_others_installations_have_others() {
        let plan = "p".repeat(500);
        let long = names("a").text(&subject("x"), Some(&plan));
        assert!(long.len() <= NAME_MOST, "{long}");
        assert_ne!(long, names("a").text(&subject("x"), Some(&plan[1..])));
        let [one, other] = ["a", "b"].map(|pepper| names(pepper).text(&subject("x"), None));
        assert_ne!(one, other);
        assert_eq!(one, names("a").text(&subject("x"), None));
    }
}
