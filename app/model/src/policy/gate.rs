//! What of a route needs a feature.

use super::{FieldPath, PolicyError, wrong};
use crate::access::Method;
use serde::{Deserialize, Serialize};

/// Most gates of one route: the gateway keeps the gates a caller does not pass in the bits of one word.
pub const GATES_MOST: usize = 32;
/// Most values or fields of one gate.
const PER_GATE_MOST: usize = 100;
/// Longest name of a parameter, and longest value of one, in bytes.
const WORD_MOST: usize = 100;

/// A feature, and what of a route needs it.
///
/// What a gate guards is open to consumers whose plan grants its feature. Without `query`, `request_fields` and
/// `response_fields` it guards whole requests, those with one of its `methods`; with them what they name, each by
/// itself. (What guards all of a route is its `feature`.)
///
/// ```toml
/// [[routes]]
/// slug = "country"
/// methods = ["GET", "POST"]
/// # ...
/// [[routes.policy.gates]]            # POST needs `editing`
/// feature = "editing"
/// methods = ["POST"]
/// [[routes.policy.gates]]            # ?expand=history and what is below it need `history`, and so do the fields
/// feature = "history"
/// query = "expand"
/// query_values = ["history"]
/// request_fields = ["filters.since"]
/// response_fields = ["population.history", "neighbours[*].trade"]
/// ```
///
/// A request that asks for what its caller may not have is refused (`feature-missing`); fields of the answer are left
/// out of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Slug of the feature.
    pub feature: String,
    /// The gate is there for requests with these methods alone (GET answers HEAD too); none means every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// A parameter of the query, or of a form in the body, however it is spelled: `expand` is also `EXPAND`,
    /// `%65xpand`, `expand[]` and `expand.years`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Only these values of it, alone or in a list, in any case: `history` is also `area,History` and
    /// `history.years`; none means every value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_values: Vec<String>,
    /// Fields of a JSON body sent to the route; names are compared in any case, because many upstreams do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_fields: Vec<FieldPath>,
    /// Fields of a JSON answer; names are compared exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_fields: Vec<FieldPath>,
}

impl Gate {
    /// Whether it guards whole requests.
    pub fn guards_requests(&self) -> bool {
        self.query.is_none() && self.request_fields.is_empty() && self.response_fields.is_empty()
    }

    /// Checks what the types do not say, for a route with these methods and a catalogue with these features.
    fn check(&self, route_methods: &[Method], features: &[&str]) -> Result<(), PolicyError> {
        let place = |problem: String| wrong("gates", format!("{}: {problem}", self.feature));
        if !features.contains(&self.feature.as_str()) {
            return place(format!("is none of the features {}", features.join(", ")));
        }
        if let Some(method) = self.methods.iter().find(|m| !m.is_among(route_methods)) {
            return place(format!("the route does not take {method}"));
        }
        let words = self.query.iter().chain(&self.query_values);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.:[]*@$".contains(&b);
        for word in words {
            if word.is_empty() || word.len() > WORD_MOST || !word.bytes().all(plain) {
                return place(format!("{word:?} must be letters, digits and _ - . : [ ] * @ $"));
            }
        }
        if self.query.is_none() && !self.query_values.is_empty() {
            return place("query_values needs query, the parameter that has them".to_owned());
        }
        if self.methods.is_empty() && self.guards_requests() {
            return place("name what it guards, or set the route's own feature to guard all of it".to_owned());
        }
        for (field, count) in [
            ("query_values", self.query_values.len()),
            ("request_fields", self.request_fields.len()),
            ("response_fields", self.response_fields.len()),
        ] {
            if count > PER_GATE_MOST {
                return place(format!("at most {PER_GATE_MOST} {field}"));
            }
        }
        Ok(())
    }
}

/// Checks the gates of a route with these methods, in a catalogue with these features.
///
/// # Errors
/// What is wrong with the first gate that is wrong.
pub fn check_gates(gates: &[Gate], route_methods: &[Method], features: &[&str]) -> Result<(), PolicyError> {
    if gates.len() > GATES_MOST {
        return wrong("gates", format!("at most {GATES_MOST}"));
    }
    gates.iter().try_for_each(|g| g.check(route_methods, features))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gate: &str) -> Result<(), String> {
        let gate: Gate = toml::from_str(gate).map_err(|e| e.to_string())?;
        check_gates(&[gate], &[Method::Get, Method::Post], &["history"]).map_err(|e| e.to_string())
    }

    #[test]
    fn a_gate_guards_something_that_is_there() {
        for good in [
            "feature = \"history\"\nmethods = [\"POST\"]",
            "feature = \"history\"\nmethods = [\"HEAD\"]",
            "feature = \"history\"\nquery = \"expand\"\nquery_values = [\"history\"]",
            "feature = \"history\"\nrequest_fields = [\"a.b\"]\nresponse_fields = [\"a[*].b\", \"*.c\"]",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("feature = \"history\"", "name what it guards"),
            ("feature = \"other\"\nquery = \"a\"", "none of the features"),
            ("feature = \"history\"\nmethods = [\"DELETE\"]", "does not take"),
            (
                "feature = \"history\"\nmethods = [\"PROPFIND\"]",
                "does not take PROPFIND",
            ),
            ("feature = \"history\"\nquery_values = [\"a\"]", "needs query"),
            ("feature = \"history\"\nquery = \"a b\"", "must be letters"),
            ("feature = \"history\"\nresponse_fields = [\"a..b\"]", "must have names"),
            ("feature = \"history\"\nresponse_field = \"a\"", "unknown field"),
        ] {
            let told = check(bad).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
    }
}
