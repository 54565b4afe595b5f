//! Rate limits with a name: of a plan (`[[plans.limits]]`) and of a route (`[routes.policy] limits`).
//!
//! A limit lets `requests` through `per` window on average and `burst` at once, counted apart for each value of what it
//! counts `by`. A plan's limit holds for each consumer on the plan by itself, so `consumer` goes without saying there; a
//! route's limit holds for everybody, whatever their plan, and `by = ["route"]` counts all of them together. Any number
//! can hold for one request: it must pass them all, and one that is refused by any uses up none of the others.

use super::{PolicyError, wrong};
use crate::access::{Method, Partition, Window};
use crate::money::grouped;
use serde::{Deserialize, Serialize};

/// Most limits of one plan or of one route: each costs every request a look.
pub const MAX_RATE_RULES: usize = 20;
/// Greatest rate and burst: a billion, far above what one gateway can serve.
pub(crate) const COUNT_MOST: u32 = 1_000_000_000;
/// Names that the gateway gives limits of its own; in answers each name stands for one limit.
const RESERVED: [&str; 3] = ["rate", "quota", "concurrency"];

/// A rate limit with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRule {
    /// What answers call it (`RateLimit-Policy`, `violated-policies`). A limit that keeps its name keeps its count when
    /// its numbers change.
    pub name: String,
    /// Slugs of the routes it holds for; none means all. Only in plans.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Methods it holds for; none means all. GET includes HEAD.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// What requests must have in common to be counted together; by default the consumer.
    #[serde(default = "by_consumer")]
    pub by: Vec<Partition>,
    /// Requests let through in each window, on average; at least 1.
    pub requests: u32,
    /// The window.
    pub per: Window,
    /// Requests let through at once; by default as many as in a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

fn by_consumer() -> Vec<Partition> {
    vec![Partition::Consumer]
}

impl RateRule {
    /// Requests let through at once.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.requests)
    }

    /// What it says, without its name: `500 requests a minute for GET, 50 at once, for each key`. `route` gives the
    /// words for a route's slug.
    pub fn words(&self, route: impl Fn(&str) -> String) -> String {
        let s = if self.requests == 1 { "" } else { "s" };
        let mut out = format!(
            "{} request{s} a{} {}",
            grouped(self.requests.into()),
            n(self.per),
            self.per
        );
        if !self.methods.is_empty() {
            let methods: Vec<&str> = self.methods.iter().map(|m| m.word()).collect();
            out.push_str(&format!(" for {}", methods.join(", ")));
        }
        if !self.routes.is_empty() {
            let routes: Vec<String> = self.routes.iter().map(|r| route(r)).collect();
            out.push_str(&format!(" to {}", routes.join(", ")));
        }
        if let Some(burst) = self.burst {
            out.push_str(&format!(", {} at once", grouped(burst.into())));
        }
        let apart: Vec<&str> = self
            .by
            .iter()
            .filter(|b| **b != Partition::Consumer)
            .map(|b| b.word())
            .collect();
        if !apart.is_empty() {
            out.push_str(&format!(", for each {}", apart.join(" and ")));
        }
        out
    }
}

/// `an hour`, not `a hour`.
fn n(window: Window) -> &'static str {
    if window == Window::Hour { "n" } else { "" }
}

/// Checks the limits of a plan or of a route.
///
/// # Errors
/// The first that is wrong, as a problem of the field `limits`.
pub fn check_rate_rules(rules: &[RateRule]) -> Result<(), PolicyError> {
    let bad = |rule: &RateRule, problem: String| wrong("limits", format!("{}: {problem}", rule.name));
    if rules.len() > MAX_RATE_RULES {
        return wrong("limits", format!("at most {MAX_RATE_RULES}"));
    }
    for (i, rule) in rules.iter().enumerate() {
        if !crate::catalogue::is_slug(&rule.name) {
            let problem = format!("the name {:?} must be lower-case letters, digits and -", rule.name);
            return wrong("limits", problem);
        }
        if RESERVED.contains(&rule.name.as_str()) {
            let problem = format!(
                "this name is the gateway's own; choose another than {}",
                RESERVED.join(", ")
            );
            return bad(rule, problem);
        }
        if rules[..i].iter().any(|r| r.name == rule.name) {
            return bad(rule, "is there twice; give each limit a name of its own".to_owned());
        }
        for (what, count) in [("requests", rule.requests), ("burst", rule.burst())] {
            if count == 0 || count > COUNT_MOST {
                return bad(rule, format!("{what} must be 1 to {}", grouped(COUNT_MOST.into())));
            }
        }
        if rule.by.is_empty() {
            return bad(
                rule,
                "by must say what is counted together, such as [\"consumer\"], or [\"route\"] for everybody".to_owned(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> RateRule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn words_say_all_that_holds() {
        for (text, words) in [
            ("requests = 500\nper = \"minute\"", "500 requests a minute"),
            (
                "requests = 1\nper = \"hour\"\nburst = 1\nby = [\"key\", \"consumer\"]",
                "1 request an hour, 1 at once, for each key",
            ),
            (
                "requests = 2000\nper = \"day\"\nmethods = [\"POST\", \"PUT\"]\nroutes = [\"a\", \"b\"]",
                "2,000 requests a day for POST, PUT to A, B",
            ),
        ] {
            let rule = rule(&format!("name = \"x\"\n{text}"));
            assert_eq!(rule.words(str::to_uppercase), words);
            let written = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<RateRule>(&written).unwrap(), rule);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_name() {
        let good = rule("name = \"reads\"\nrequests = 1\nper = \"day\"");
        assert_eq!(check_rate_rules(std::slice::from_ref(&good)), Ok(()));
        let with = |change: fn(&mut RateRule)| {
            let mut rule = good.clone();
            change(&mut rule);
            check_rate_rules(&[rule]).unwrap_err().to_string()
        };
        for (told, part) in [
            (with(|r| r.name = "quota".to_owned()), "choose another"),
            (with(|r| r.name = "a b".to_owned()), "lower-case"),
            (with(|r| r.requests = 0), "reads: requests must be 1"),
            (with(|r| r.burst = Some(0)), "reads: burst must be 1"),
            (with(|r| r.by.clear()), "reads: by must say"),
            (
                check_rate_rules(&[good.clone(), good.clone()]).unwrap_err().to_string(),
                "twice",
            ),
            (
                check_rate_rules(&vec![good.clone(); 21]).unwrap_err().to_string(),
                "at most 20",
            ),
        ] {
            assert!(told.starts_with("limits: ") && told.contains(part), "{told}");
        }
    }
}
