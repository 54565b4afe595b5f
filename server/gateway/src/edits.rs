//! Headers that a route removes, sets and adds, compiled.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use model::policy::HeaderEdits;

/// What happens to the headers of a message.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// Removed, or replaced by what is set.
    gone: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// From what the catalogue says.
    pub(crate) fn compile(told: &HeaderEdits) -> Result<Self, http::Error> {
        let name = |n: &String| HeaderName::try_from(n).map_err(http::Error::from);
        let pair = |(n, v): (&String, &String)| Ok::<_, http::Error>((name(n)?, HeaderValue::try_from(v)?));
        Ok(Self {
            gone: told
                .remove
                .iter()
                .chain(told.set.keys())
                .map(name)
                .collect::<Result<_, _>>()?,
            set: told.set.iter().map(pair).collect::<Result<_, _>>()?,
            add: told.add.iter().map(pair).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a header of this name does not pass as it is.
    pub(crate) fn drops(&self, name: &HeaderName) -> bool {
        self.gone.contains(name)
    }

    /// What is written beside the headers that pass.
    pub(crate) fn written(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.set.iter().chain(&self.add)
    }

    /// Changes headers in place.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.gone {
            headers.remove(name);
        }
        for (name, value) in self.written() {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_removed_then_set_then_added_to() {
        let told = r#"{"remove": ["server", "x-a"], "set": {"x-b": "2"}, "add": {"x-a": "3", "vary": "x-b"}}"#;
        let edits = Edits::compile(&serde_json::from_str(told).unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("server", "s"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-b", "0"),
            ("vary", "accept"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut headers);
        let all = |name: &str| {
            headers
                .get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (all("server"), all("x-a"), all("x-b")),
            (vec![], vec!["3".to_owned()], vec!["2".to_owned()])
        );
        assert_eq!(all("vary"), ["accept", "x-b"]);
    }
}
