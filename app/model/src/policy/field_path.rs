//! Paths to fields of a JSON document.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::str::FromStr;

/// Most steps of a path: what a person can still read.
const STEPS_MOST: usize = 16;
/// Longest path, in bytes.
const LENGTH_MOST: usize = 256;

/// Where fields lie in a JSON document, such as `population.history`, `neighbours[*].trade` or `*.price`.
///
/// A name goes into an object, `*` into every member of an object, `[*]` into every element of an array. A path begins
/// at the document's outermost value. A name with other characters than letters, digits, `_` and `-` stands in brackets
/// and quotes, escaped as in JSON: `["odd.name"]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldPath {
    text: String,
    steps: Vec<FieldStep>,
}

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FieldStep {
    /// The members of an object with this name.
    Name(String),
    /// Every member of an object.
    AnyName,
    /// Every element of an array.
    AnyElement,
}

/// The text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} {problem}")]
pub struct FieldPathError {
    given: String,
    problem: &'static str,
}

impl FieldPath {
    /// The steps from the outermost value; at least one.
    pub fn steps(&self) -> &[FieldStep] {
        &self.steps
    }
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for FieldPath {
    type Err = FieldPathError;

    fn from_str(text: &str) -> Result<Self, FieldPathError> {
        let wrong = |problem| FieldPathError {
            given: text.chars().take(80).collect(),
            problem,
        };
        if text.is_empty() || text.len() > LENGTH_MOST {
            return Err(wrong("must be a path such as population.history, of at most 256 bytes"));
        }
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (step, after) = if let Some(after) = rest.strip_prefix("[*]") {
                (FieldStep::AnyElement, after)
            } else if let Some(quoted) = rest.strip_prefix('[') {
                let (name, after) =
                    quoted_name(quoted).ok_or_else(|| wrong("must have [*] or [\"name\"] in brackets"))?;
                (FieldStep::Name(name), after)
            } else {
                let rest = match rest.strip_prefix('.') {
                    Some(after) if !steps.is_empty() => after,
                    None if steps.is_empty() => rest,
                    _ => return Err(wrong("must have a dot between names, and none in front")),
                };
                plain_name(rest).ok_or_else(|| {
                    wrong("must have names of letters, digits, _ and -, or *; other names stand in brackets: [\"a.b\"]")
                })?
            };
            steps.push(step);
            rest = after;
        }
        if steps.len() > STEPS_MOST {
            return Err(wrong("must have at most 16 steps"));
        }
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }
}

/// A name or `*` at the beginning, and what comes after it.
fn plain_name(text: &str) -> Option<(FieldStep, &str)> {
    if let Some(after) = text.strip_prefix('*') {
        return Some((FieldStep::AnyName, after));
    }
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let end = text.find(|c| !plain(c)).unwrap_or(text.len());
    let (name, after) = text.split_at_checked(end)?;
    (!name.is_empty()).then(|| (FieldStep::Name(name.to_owned()), after))
}

/// A JSON string and `]` at the beginning, and what comes after them.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = strings.next()?.ok()?;
    let after = text.get(strings.byte_offset()..)?;
    Some((name, after.strip_prefix(']')?))
}

impl std::fmt::Display for FieldPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> FieldStep {
        FieldStep::Name(text.to_owned())
    }

    #[test]
    fn a_path_goes_through_objects_and_arrays() {
        for (text, steps) in [
            ("a", vec![name("a")]),
            ("population.history", vec![name("population"), name("history")]),
            (
                "neighbours[*].trade",
                vec![name("neighbours"), FieldStep::AnyElement, name("trade")],
            ),
            (
                "[*][*].*",
                vec![FieldStep::AnyElement, FieldStep::AnyElement, FieldStep::AnyName],
            ),
            ("*.price", vec![FieldStep::AnyName, name("price")]),
            ("a[\"b.c]\"].d", vec![name("a"), name("b.c]"), name("d")]),
            ("[\"\\u0070\\\"\"]", vec![name("p\"")]),
            ("größe", vec![name("größe")]),
        ] {
            assert_eq!(text.parse::<FieldPath>().unwrap().steps(), steps, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let deep = "a.".repeat(16) + "a";
        for text in [
            "", ".a", "a.", "a..b", "$.a", "a[0]", "a[", "a[\"b\"", "a b", "a[*]b", "a*", "**", "[\"a]", &deep,
        ] {
            assert!(text.parse::<FieldPath>().is_err(), "{text}");
        }
    }
}
