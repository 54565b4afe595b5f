//! Bodies of requests: JSON, and forms, which are read as queries are.

use crate::feature_gates::fold;
use crate::filter::{Match, Paths, Place, ROOT};
use crate::refusal::{Refusal, Refused};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

/// Whether a body must be read: for fields of JSON, or, when it is a form, for parameters.
pub(super) fn is_read(for_fields: bool, for_parameters: bool, headers: &HeaderMap) -> Result<bool, Refused> {
    let read = for_fields || (for_parameters && is_form(headers));
    let plain = |v: &http::HeaderValue| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if read && !headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Err(Refused::new(
            Refusal::BodyEncoded,
            "A compressed body cannot be checked for what your plan includes. Send it as it is.",
        ));
    }
    Ok(read)
}

/// Any of the media types named.
fn has_type(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> bool {
    let mut named = headers.get_all(CONTENT_TYPE).iter().filter_map(|v| v.to_str().ok());
    named.any(|v| {
        let essence = v.split([';', ',']).next().unwrap_or_default();
        wanted(&essence.trim().to_ascii_lowercase())
    })
}

/// Whether it is called a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    has_type(headers, |t| t == "application/x-www-form-urlencoded")
}

/// Whether it is called JSON, or begins as JSON does: many upstreams do not look at what it is called.
pub(super) fn is_json(headers: &HeaderMap, bytes: &[u8]) -> bool {
    // White space, zeros and byte order marks of any encoding in front.
    let before = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0 | 0xEF | 0xBB | 0xBF | 0xFE | 0xFF);
    let first = bytes.iter().find(|b| !before(b));
    let Some(first) = first else { return false };
    matches!(first, b'{' | b'[') || has_type(headers, |t| t.contains("json"))
}

/// The gates among `gates` that a field of the body belongs to.
///
/// # Errors
/// When it is not JSON, or a name stands twice in an object, so that readers differ in what it says.
pub(super) fn fields_asked(paths: &Paths, gates: u32, bytes: &[u8]) -> Result<u32, Refused> {
    let asked = Cell::new(0);
    let scan = Scan {
        paths,
        gates,
        asked: &asked,
        places: vec![ROOT],
    };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = scan.deserialize(&mut json).and_then(|()| json.end());
    match read {
        Ok(()) => Ok(asked.get()),
        Err(error) => {
            let detail = format!("The body must be JSON that has one reading: {error}.");
            Err(Refused::new(Refusal::BodyUnclear, detail))
        }
    }
}

/// Walks a value at these places.
struct Scan<'a> {
    paths: &'a Paths,
    gates: u32,
    asked: &'a Cell<u32>,
    places: Vec<Place>,
}

impl Scan<'_> {
    fn inside(&self, matched: Match, places: Vec<Place>) -> Self {
        if let Match::Ends(gates) = matched {
            self.asked.set(self.asked.get() | gates);
        }
        Self { places, ..*self }
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        loop {
            let mut places = Vec::new();
            let matched = self.paths.element(&self.places, self.gates, &mut places);
            let before = self.asked.get();
            if elements.next_element_seed(self.inside(matched, places))?.is_none() {
                // There was no element, so it asked for nothing.
                self.asked.set(before);
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            let mut places = Vec::new();
            let matched = self
                .paths
                .name(&self.places, fold(&name).as_bytes(), self.gates, &mut places);
            if !seen.insert(name.into_owned()) {
                return Err(A::Error::custom("a name stands twice in an object"));
            }
            members.next_value_seed(self.inside(matched, places))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::FieldPath;
    use proptest::prelude::*;

    fn asked(path: &str, body: &str) -> Option<bool> {
        let path: FieldPath = path.parse().unwrap();
        let paths = Paths::new([(0, &path)], fold);
        fields_asked(&paths, 1, body.as_bytes()).ok().map(|gates| gates != 0)
    }

    #[test]
    fn a_field_is_found_however_it_is_written() {
        for (path, body) in [
            ("filters.geo", r#"{"filters":{"geo":null}}"#),
            ("filters.geo", r#"{"a":[{"geo":1}],"filters":{"x":1,"\u0067eo":{}}}"#),
            ("filters.geo", r#"{"Filters":{"GEO":1}}"#),
            ("keys.s", r#"{"\u212aeys":{"\u017f":1}}"#),
            ("items[*].price", r#"{"items":[1,{"price":2}]}"#),
            ("*.price", r#"{"a":{"b":1},"c":{"price":1}}"#),
            ("[*][*]", r#"[[1]]"#),
        ] {
            assert_eq!(asked(path, body), Some(true), "{path} {body}");
        }
        for (path, body) in [
            (
                "filters.geo",
                r#"{"geo":1,"filters":{"a":{"geo":1}},"x":"\"filters\":{\"geo\":1}"}"#,
            ),
            ("filters.geo", r#"{"filters":[{"geo":1}]}"#),
            ("items[*]", r#"{"items":[]}"#),
            ("items[*]", r#"{"items":{"a":1}}"#),
            ("a", "1.5e3"),
        ] {
            assert_eq!(asked(path, body), Some(false), "{path} {body}");
        }
    }

    #[test]
    fn a_body_with_two_readings_is_refused() {
        for body in [
            r#"{"a":1,"a":2}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
            r#"{"a":1}}"#,
            r#"{"a":1} {"b":2}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            r#"{"a":1/*,"b":2*/}"#,
            r#"{"a":NaN}"#,
            "{\"a\":\"\n\"}",
            "\u{feff}{}",
            "",
            r#"{"\ud800":1}"#,
        ] {
            assert_eq!(asked("b", body), None, "{body}");
        }
        assert!(fields_asked(&Paths::new([], fold), 1, b"{\"\xff\":1}").is_err());
    }

    proptest! {
        /// Any reader that keeps one of several members finds no field that was not found here.
        #[test]
        fn no_body_hides_a_field(body in "\\PC{0,40}|(\\{|\\}|\\[|\\]|\"a\"|\"b\"|:|,|1){0,14}") {
            if let Some(found) = asked("a.b", &body) {
                let value: serde_json::Value = serde_json::from_str(&body).unwrap();
                prop_assert_eq!(found, value.get("a").is_some_and(|a| a.get("b").is_some()));
            }
        }
    }
}
