//! Header lines of either side.

use super::Invalid;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Most digits of a `Content-Length`: always fits 64 bits.
const LENGTH_DIGITS: usize = 18;

/// The number in a `Content-Length`: digits and nothing else, no sign, no list, no blank.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, Invalid> {
    if !(1..=LENGTH_DIGITS).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err(Invalid("the length is no plain number"));
    }
    Ok(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// Adds a line whose value lies in `head`, without copying it.
pub(crate) fn append(headers: &mut HeaderMap, name: HeaderName, head: &Bytes, value: &[u8]) -> Result<(), Invalid> {
    let value = HeaderValue::from_maybe_shared(head.slice_ref(value));
    headers.append(
        name,
        value.map_err(|_| Invalid("a header's value holds a control character"))?,
    );
    Ok(())
}
