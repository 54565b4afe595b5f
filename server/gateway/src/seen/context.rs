//! Trace context as the W3C has it (Trace Context, level 1): `traceparent` and `tracestate`.

use http::HeaderMap;
use std::fmt;

/// Of which trace a request is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: u128,
    /// The span that asked.
    pub(crate) parent: u64,
    pub(crate) sampled: bool,
}

pub(crate) const TRACEPARENT: &str = "traceparent";
/// What vendors say of a trace to each other.
pub(crate) const TRACESTATE: &str = "tracestate";

/// Lower-case hexadecimal digits of a number, of exactly so many digits.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    let value = |b: &u8| match b {
        b'0'..=b'9' => Some(u128::from(b - b'0')),
        b'a'..=b'f' => Some(u128::from(b - b'a' + 10)),
        _ => None,
    };
    (text.len() == digits).then_some(())?;
    text.iter().try_fold(0u128, |sum, b| Some(sum << 4 | value(b)?))
}

impl Context {
    /// What the headers say, when it is said once and is well formed.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut said = headers.get_all(TRACEPARENT).into_iter();
        let (only, None) = (said.next()?, said.next()) else {
            return None;
        };
        Self::parse(only.as_bytes())
    }

    /// `00-{trace}-{parent}-{flags}`. Later versions may have more behind it, and 255 is none.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|b| *b == b'-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let parent = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        let whole = version != 0 || parts.next().is_none();
        (whole && version != 255 && trace != 0 && parent != 0).then_some(Self {
            trace,
            parent,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_well_formed_is_read_and_said_again() {
        let context = Context::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert!(context.sampled);
        let later = GOOD.replace("00-0af", "cc-0af") + "-what-the-future-adds";
        assert_eq!(Context::parse(later.as_bytes()), Some(context));
    }

    #[test]
    fn anything_else_is_none() {
        let zeros = |part: &str| GOOD.replace(part, &"0".repeat(part.len()));
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replace("00-0af", "ff-0af"),
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &zeros("0af7651916cd43dd8448eb211c80319c"),
            &zeros("b7ad6b7169203331"),
            &GOOD.replace("b7ad", "g7ad"),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(Context::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, GOOD.parse().unwrap());
        assert!(Context::read(&twice).is_some());
        twice.append(TRACEPARENT, GOOD.parse().unwrap());
        assert_eq!(Context::read(&twice), None);
    }
}
