//! What a method promises (RFC 9110, section 9.2), also where the library does not know it.

use http::Method;

/// Methods that are safe by the standards that define them (the registry of RFC 9110, section 16.1.1) and unknown to the
/// library: of RFC 4918, RFC 3253, RFC 5323 and draft-ietf-httpbis-safe-method-w-body. Of all others nothing is known, and
/// so nothing is taken for granted.
const ALSO_SAFE: [&str; 4] = ["PROPFIND", "REPORT", "SEARCH", "QUERY"];

/// Whether a request with it asks for no change.
pub(crate) fn is_safe(method: &Method) -> bool {
    method.is_safe() || ALSO_SAFE.contains(&method.as_str())
}

/// Whether a request with it may be sent again when nobody knows what became of it.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent() || is_safe(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_promises_nothing() {
        for (name, safe, idempotent) in [
            ("GET", true, true),
            ("OPTIONS", true, true),
            ("PROPFIND", true, true),
            ("QUERY", true, true),
            ("PUT", false, true),
            ("DELETE", false, true),
            ("POST", false, false),
            ("MKCOL", false, false),
            ("PURGE", false, false),
            ("propfind", false, false),
        ] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!((is_safe(&method), is_idempotent(&method)), (safe, idempotent), "{name}");
        }
    }
}
