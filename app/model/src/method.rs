//! The HTTP methods that routes are bound to: the usual ones, and any other by its name.

use std::fmt;
use std::str::FromStr;

/// Longest name of a method, in bytes: the longest that is registered has 17 (`UPDATEREDIRECTREF`), and every method takes
/// that much room wherever it stands.
const METHOD_MOST: usize = 23;
/// Most methods of one route: far more than are registered for one resource.
pub const METHODS_PER_ROUTE_MOST: usize = 32;
/// What a method's name may hold beside capital letters and digits (RFC 9110, section 5.6.2).
const SIGNS: &[u8] = b"!#$%&'*+-.^_`|~";

/// An HTTP method a route can be bound to. It is compared, copied and hashed in place, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// GET, and HEAD with it.
    Get,
    /// HEAD alone.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS, but for what pages of a browser ask before they call a route with `cors`.
    Options,
    /// Any other, such as PROPFIND.
    Other(Word),
}

/// The name of a method that has no variant of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word([u8; METHOD_MOST]);

/// Why a text is no method that a route can be bound to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// It is no name of a method.
    #[error(
        "{0:?} is no method: name it as requests do, such as GET or PROPFIND, with a letter first and at most {METHOD_MOST} \
         characters"
    )]
    NoName(String),
    /// It has small letters. Methods are told apart by case, and all that are registered have capitals.
    #[error("{0:?} is no method: write it in capitals, {upper:?}", upper = .0.to_ascii_uppercase())]
    SmallLetters(String),
    /// It is not for routes.
    #[error("{0} cannot be sold: {1}")]
    Refused(&'static str, &'static str),
}

/// Methods that no route can be bound to, and why.
const REFUSED: [(&str, &str); 3] = [
    ("CONNECT", "it asks for a tunnel to elsewhere and not for an answer"),
    (
        "TRACE",
        "its answer is the request as it came, with the credentials in it",
    ),
    ("PRI", "HTTP/2 connections begin with it, so that no request can"),
];

impl Method {
    /// Its name, as requests have it.
    pub fn word(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other(word) => word.as_str(),
        }
    }

    /// Whether a request with it is meant by these methods: GET means HEAD, too.
    pub fn is_among(self, methods: &[Method]) -> bool {
        methods.contains(&self) || (self == Method::Head && methods.contains(&Method::Get))
    }

    /// The one that it is counted as: HEAD as GET.
    #[must_use]
    pub fn counted(self) -> Self {
        if self == Method::Head { Method::Get } else { self }
    }
}

impl Word {
    fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; METHOD_MOST];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(METHOD_MOST);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        let known = match text {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => return other(text),
        };
        Ok(known)
    }
}

fn other(text: &str) -> Result<Method, MethodError> {
    let shown = || text.chars().take(40).collect();
    let fits = |b: u8| b.is_ascii_alphanumeric() || SIGNS.contains(&b);
    // A sign alone, such as *, is a name by the letter of the standard, and meant for something else.
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let word = Word::new(text).filter(|_| begins && text.bytes().all(fits));
    let word = word.ok_or_else(|| MethodError::NoName(shown()))?;
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(MethodError::SmallLetters(shown()));
    }
    match REFUSED.iter().find(|(name, _)| *name == text) {
        Some((name, why)) => Err(MethodError::Refused(name, why)),
        None => Ok(Method::Other(word)),
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.word())
    }
}

impl<'de> serde::Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

crate::id::sqlx_text!(Method);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_as_it_was_written() {
        let longest = "A".repeat(METHOD_MOST);
        for name in [
            "GET",
            "HEAD",
            "POST",
            "PUT",
            "PATCH",
            "DELETE",
            "OPTIONS",
            "PROPFIND",
            "VERSION-CONTROL",
            "M-SEARCH",
            "X_1",
            "PRINT",
            &longest,
        ] {
            let method: Method = name.parse().unwrap();
            assert_eq!(method.to_string(), name);
            let written = serde_json::to_string(&method).unwrap();
            assert_eq!(
                written,
                format!("{name:?}"),
                "as gateways of earlier versions stored it"
            );
            assert_eq!(serde_json::from_str::<Method>(&written).unwrap(), method);
        }
        assert!(size_of::<Method>() <= 24);
    }

    #[test]
    fn a_route_that_an_earlier_version_stored_is_read_and_written_as_it_was() {
        let stored = r#"{"number":1,"slug":"a","methods":["GET","POST","PUT","PATCH","DELETE"],"path":"/a","upstream":1,"meter":1,"weight":1,"feature":null,"policy":"#;
        let route: crate::snapshot::RouteRecord = serde_json::from_str(&format!("{stored}{{}}}}")).unwrap();
        assert_eq!(route.methods.len(), 5);
        assert!(serde_json::to_string(&route).unwrap().starts_with(stored));
    }

    #[test]
    fn what_is_no_method_is_told_why() {
        for (text, why) in [
            ("", "is no method"),
            ("*", "is no method"),
            ("1ST", "is no method"),
            ("G ET", "is no method"),
            ("GET,POST", "is no method"),
            ("G\u{cb}T", "is no method"),
            ("A\0", "is no method"),
            (&"A".repeat(METHOD_MOST + 1), "at most 23 characters"),
            ("get", "write it in capitals, \"GET\""),
            ("PropFind", "write it in capitals, \"PROPFIND\""),
            ("CONNECT", "CONNECT cannot be sold: it asks for a tunnel"),
            ("TRACE", "TRACE cannot be sold"),
            ("PRI", "PRI cannot be sold"),
        ] {
            let told = text.parse::<Method>().unwrap_err().to_string();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn get_means_head_and_head_means_no_get() {
        assert!(Method::Head.is_among(&[Method::Get]) && Method::Head.is_among(&[Method::Head]));
        assert!(!Method::Get.is_among(&[Method::Head]) && !Method::Head.is_among(&[Method::Post]));
        assert_eq!(
            (Method::Head.counted(), Method::Put.counted()),
            (Method::Get, Method::Put)
        );
    }
}
