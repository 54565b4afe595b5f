//! Parameters of a query, and of forms, which are written in the same way.
//!
//! Servers read queries differently: `a[]`, `a[0]`, `a.b` and `a_b` may all be `a`, `;` may separate, names may be
//! compared in any case, the first or the last of several may count. Whoever lacks a feature is held to every reading: a
//! parameter is asked for when any server would find it.

use super::fold;
use std::borrow::Cow;

/// A parameter that needs a feature.
#[derive(Debug)]
pub(super) struct Parameter {
    written: String,
    name: Name,
    /// Folded; none means every value.
    values: Vec<Vec<String>>,
}

/// A name or a value has no sure reading: an escape that is none, one inside another, a control, bytes that are no
/// text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclear;

/// A name as servers take it apart.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    /// `a[b].c` is `a`, `b`, `c`.
    parts: Vec<String>,
    /// With `_` for what cannot be in a variable's name.
    underscored: String,
    /// The same of what stands in front of a bracket.
    base: String,
}

impl Name {
    fn of(text: &str) -> Self {
        let underscored = |t: &str| -> String {
            t.chars()
                .map(|c| if matches!(c, '.' | ' ' | '[' | ']') { '_' } else { c })
                .collect()
        };
        Self {
            parts: parts(text),
            underscored: underscored(text),
            base: underscored(text.split('[').next().unwrap_or_default()),
        }
    }

    /// What follows of the other name, when it is this one or below it.
    fn leads_to<'a>(&self, other: &'a Name) -> Option<&'a [String]> {
        match other.parts.strip_prefix(self.parts.as_slice()) {
            Some(rest) => Some(rest),
            None => (self.underscored == other.underscored || self.underscored == other.base).then_some(&[]),
        }
    }
}

fn parts(text: &str) -> Vec<String> {
    let parts = text.split(['[', ']', '.']).map(str::trim).filter(|p| !p.is_empty());
    parts.map(str::to_owned).collect()
}

impl Parameter {
    /// From its name and the values that need the feature; no values means all.
    pub(super) fn new(name: &str, values: &[String]) -> Self {
        Self {
            written: name.to_owned(),
            name: Name::of(&fold(name)),
            values: values.iter().map(|v| parts(&fold(v))).collect(),
        }
    }

    /// As the catalogue has it.
    pub(super) fn shown(&self) -> String {
        if self.values.is_empty() {
            return format!("the parameter {}", self.written);
        }
        format!("this value of the parameter {}", self.written)
    }

    /// Whether a query asks for it.
    pub(super) fn asked(&self, query: &str) -> Result<bool, Unclear> {
        for (name, value) in pairs(query) {
            let name = Name::of(&text(name)?);
            let Some(below) = self.name.leads_to(&name) else {
                continue;
            };
            if self.values.is_empty() {
                return Ok(true);
            }
            let value = text(value)?;
            let word = |c: char| c.is_alphanumeric() || "_-.:[]*@$".contains(c);
            let words = value.split(|c| !word(c)).map(parts);
            if words
                .chain([below.to_vec()])
                .any(|asked| self.values.iter().any(|v| asked.starts_with(v)))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Values of a plain parameter as far as they have a sure reading.
pub(super) fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let named = pairs(query).filter(move |(n, _)| text(n).is_ok_and(|n| n == name));
    named.filter_map(|(_, v)| text(v).ok())
}

/// Names and values as they are written, at every separator that some server takes for one.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = query.split(['&', ';', '?']).filter(|p| !p.is_empty());
    parts.map(|p| p.split_once('=').unwrap_or((p, "")))
}

/// What is written, decoded once and folded.
fn text(written: &str) -> Result<String, Unclear> {
    let decoded: Cow<'_, [u8]> = if written.contains(['%', '+']) {
        Cow::Owned(decode(written.as_bytes())?)
    } else {
        Cow::Borrowed(written.as_bytes())
    };
    let text = std::str::from_utf8(&decoded).map_err(|_| Unclear)?;
    if text.chars().any(char::is_control) {
        return Err(Unclear);
    }
    Ok(fold(text.trim()))
}

fn hex(byte: Option<&u8>) -> Option<u8> {
    let digit = char::from(*byte?).to_digit(16)?;
    u8::try_from(digit).ok()
}

fn escape(bytes: &[u8]) -> Option<u8> {
    match (bytes.first(), hex(bytes.get(1)), hex(bytes.get(2))) {
        (Some(b'%'), Some(high), Some(low)) => Some(high * 16 + low),
        _ => None,
    }
}

fn decode(bytes: &[u8]) -> Result<Vec<u8>, Unclear> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'%' => (escape(rest).ok_or(Unclear)?, rest.get(3..).unwrap_or_default()),
            b'+' => (b' ', after),
            plain => (plain, after),
        };
        out.push(byte);
        rest = after;
    }
    // An escape that comes out of an escape would be decoded by servers that do so twice.
    if out.windows(3).any(|w| escape(w).is_some()) {
        return Err(Unclear);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(name: &str, values: &[&str], query: &str) -> Result<bool, Unclear> {
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        Parameter::new(name, &values).asked(query)
    }

    #[test]
    fn every_spelling_of_a_name_is_found() {
        for query in [
            "expand",
            "expand=",
            "expand=x",
            "a=1&expand=x",
            "a=1;expand=x",
            "expand=x&expand=y",
            "a&&&expand",
            "EXPAND=x",
            "%65xpand=x",
            "%45%58pand",
            "expand[]=x",
            "expand%5B%5d=x",
            "expand[0]=x",
            "expand[a][b]=x",
            "expand.a=x",
            "+expand=x",
            "%20expand%20=x",
            "?expand=x",
            "a=b?expand=x",
            "expand[=x",
            "expand%5Ba=x",
        ] {
            assert_eq!(asked("expand", &[], query), Ok(true), "{query}");
        }
        for query in [
            "",
            "a=1",
            "expanded=x",
            "a=expand",
            "exp=and",
            "xexpand",
            "a[expand]=1",
            "q=100%25&p=%26",
        ] {
            assert_eq!(asked("expand", &[], query), Ok(false), "{query}");
        }
        assert_eq!(asked("sort", &[], "%C5%BFort=1"), Ok(true), "a long s");
        for query in [
            "filter[geo]=1",
            "filter[geo][lat]=1",
            "filter.geo=1",
            "FILTER%5BGeo%5D",
            "filter_geo_",
        ] {
            assert_eq!(asked("filter[geo]", &[], query), Ok(true), "{query}");
        }
        assert_eq!(asked("filter[geo]", &[], "filter[name]=geo&filter=geo"), Ok(false));
        for query in ["a.b=1", "a_b=1", "a+b=1", "a[b=1"] {
            assert_eq!(asked("a_b", &[], query), Ok(true), "{query}");
        }
    }

    #[test]
    fn every_way_to_list_a_value_is_found() {
        for query in [
            "expand=history",
            "expand=HISTORY",
            "expand=hi%73tory",
            "expand=area,history",
            "expand=area%2Chistory",
            "expand=area+history",
            "expand=area|history",
            "expand=[\"history\"]",
            "expand=history.years",
            "expand=area&expand=history",
            "expand[]=history",
            "expand[history]=1",
            "expand.history=true",
            "expand=area;expand=history",
        ] {
            assert_eq!(asked("expand", &["history"], query), Ok(true), "{query}");
        }
        for query in [
            "expand",
            "expand=area",
            "expand=historyless",
            "a=history",
            "expand=pre-history",
            "expand[area]=1",
        ] {
            assert_eq!(asked("expand", &["history"], query), Ok(false), "{query}");
        }
        assert_eq!(asked("expand", &["a.b"], "expand=a[b]"), Ok(true));
        assert_eq!(asked("expand", &["a.b"], "expand=a"), Ok(false));
    }

    #[test]
    fn what_has_no_sure_reading_is_none() {
        for query in [
            "e%xpand=1",
            "%u0065xpand=1",
            "%2565xpand=1",
            "expand%00=1",
            "expand%0a=1",
            "%ff=1",
            "a&b%",
        ] {
            assert_eq!(asked("expand", &[], query), Err(Unclear), "{query}");
        }
        // In values only where they matter.
        assert_eq!(asked("expand", &["history"], "q=50%&x=%2565"), Ok(false));
        assert_eq!(asked("expand", &["history"], "expand=%2568istory"), Err(Unclear));
        assert_eq!(asked("expand", &["history"], "expand=%"), Err(Unclear));
        assert_eq!(asked("expand", &[], "expand=%"), Ok(true));
    }

    proptest! {
        /// Any mixture of cases, escapes, neighbours and array marks; as a server sees it that decodes once.
        #[test]
        fn no_spelling_hides_a_parameter(
            upper in prop::collection::vec(any::<bool>(), 6), escaped in prop::collection::vec(any::<bool>(), 6),
            before in "([a-z]{1,3}(=[a-z%2C+]{0,4})?[&;]){0,3}", mark in "(\\[[a-z0-9]?\\]|%5B%5D|\\.[a-z])?",
            after in "([&;][a-z]{1,3}){0,2}",
        ) {
            prop_assume!(!before.contains("expand"));
            let spelled: String = "expand".chars().zip(upper.iter().zip(&escaped)).map(|(c, (upper, escaped))| {
                let c = if *upper { c.to_ascii_uppercase() } else { c };
                if *escaped { format!("%{:02x}", u32::from(c)) } else { c.to_string() }
            }).collect();
            let query = format!("{before}{spelled}{mark}=1{after}");
            prop_assert_eq!(asked("expand", &[], &query), Ok(true), "{}", query);
        }

        #[test]
        fn any_query_does_no_harm(query in "\\PC{0,40}", name in "[a-z.\\[\\]]{1,6}") {
            let _ = asked(&name, &[], &query);
            let _ = asked(&name, &["a"], &query);
        }
    }
}
