//! The path that is matched.
//!
//! The path is forwarded byte for byte. It is matched with its percent-escapes decoded, and everything that an
//! upstream could read in another way than the matcher did is refused: then a gate on `/v1/admin` cannot be walked
//! around by `/v1/%61dmin`, `/v1//admin` or `/v1/x/../admin`.

use crate::refusal::{Refusal, Refused};
use std::borrow::Cow;

pub(super) fn ambiguous(why: &'static str) -> Refused {
    Refused::new(Refusal::BadRequest, why)
}

/// The path that is matched: escapes decoded, ambiguous ones refused. Borrows unless there is an escape.
pub(crate) fn canonical(raw: &str) -> Result<Cow<'_, str>, Refused> {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(ambiguous("The request target must be a path."));
    }
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'\\' | b';' | b'#');
    if !bytes.iter().all(plain) {
        return Err(ambiguous(
            "The path holds a character that servers read differently: \\ ; # or one outside ASCII.",
        ));
    }
    let decoded = if bytes.contains(&b'%') {
        Cow::Owned(decode(bytes)?)
    } else {
        Cow::Borrowed(raw)
    };
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let empty_inside = segment.is_empty() && segments.peek().is_some();
        if empty_inside || segment == "." || segment == ".." {
            return Err(ambiguous("The path holds an empty or dot segment."));
        }
    }
    Ok(decoded)
}

fn decode(bytes: &[u8]) -> Result<String, Refused> {
    let hex = |b: Option<&u8>| {
        b.and_then(|b| char::from(*b).to_digit(16))
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if b != b'%' {
            out.push(b);
            i += 1;
            continue;
        }
        let (Some(high), Some(low)) = (hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) else {
            return Err(ambiguous("The path holds a % that begins no escape."));
        };
        let byte = high * 16 + low;
        if matches!(byte, b'.' | b'/' | b'\\' | b';') || byte.is_ascii_control() {
            return Err(ambiguous(
                "The path holds an escape that servers read differently: of . / \\ ; or a control.",
            ));
        }
        out.push(byte);
        i += 3;
    }
    // `%252e`, and `%25%32%65` as well: an upstream that decodes twice sees another path.
    let escape = |w: &[u8]| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit();
    if out.windows(3).any(escape) {
        return Err(ambiguous("The path holds an escape inside an escape."));
    }
    String::from_utf8(out).map_err(|_| ambiguous("The path's escapes are not UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in [
            "//a",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/%2e%2e/b",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a%00",
            "/a%",
            "/a%g1",
            "/a%252e",
            "/a%25%32%65",
            "/a%25%32e",
            "/%c0%ae",
            "/%ff",
            "a",
            "*",
            "/a%0d%0ab",
        ] {
            assert!(canonical(path).is_err(), "{path}");
        }
        for (path, read) in [
            ("/", "/"),
            ("/a/", "/a/"),
            ("/a%20b", "/a b"),
            ("/%61dmin", "/admin"),
            ("/a%40b", "/a@b"),
        ] {
            assert_eq!(canonical(path).unwrap(), read);
        }
    }

    proptest! {
        /// What is matched is what an upstream sees after decoding once, and decoding it again changes nothing that
        /// separates or steps out of segments.
        #[test]
        fn a_path_let_through_has_one_reading(path in "/([a-z./%;\\\\]|%2[ef]|%5c|%25|%61|%c3%a9){0,12}") {
            if let Ok(read) = canonical(&path) {
                prop_assert_eq!(read.matches('/').count(), path.matches('/').count());
                prop_assert!(read.split('/').all(|s| s != "." && s != ".."));
                prop_assert!(!read.contains("//") && !read.contains('\\') && !read.contains(';'));
            }
        }
    }
}
