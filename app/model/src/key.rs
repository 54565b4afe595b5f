//! The form of a key: `{prefix}_{live|test}_{id 8}{secret 32}{crc 6}`, all base 62.
//!
//! The CRC-32 of everything before it lets a border refuse a mistyped key without looking anything up; the id finds
//! the row; the secret holds 190 bits, so a plain MAC of it is safe to store. The whole key is a [`PlainKey`] and is
//! never printed; what is stored is its HMAC.

use crate::Random;
use crate::access::Environment;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of the public id.
pub const LOOKUP_LEN: usize = 8;
/// Characters of the secret.
pub const SECRET_LEN: usize = 32;
/// Characters of the checksum.
pub const CRC_LEN: usize = 6;
/// Longest prefix a provider may choose.
pub const MAX_PREFIX_LEN: usize = 12;

/// A key in clear. It has no `Debug`, no `Display` and no serde: it leaves through [`PlainKey::reveal`] alone.
#[derive(Clone)]
pub struct PlainKey {
    text: String,
    lookup: Lookup,
    environment: Environment,
}

/// The public part that finds the row: eight base-62 characters as a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Lookup(pub u64);

impl Lookup {
    /// Reads the eight characters.
    pub fn parse(text: &[u8]) -> Option<Self> {
        (text.len() == LOOKUP_LEN).then_some(())?;
        text.iter()
            .try_fold(0u64, |n, c| Some(n * 62 + u64::from(digit(*c)?)))
            .map(Self)
    }
}

impl std::fmt::Display for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&base62(self.0, LOOKUP_LEN))
    }
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'A'..=b'Z' => Some(c - b'A' + 10),
        b'a'..=b'z' => Some(c - b'a' + 36),
        _ => None,
    }
}

fn base62(mut n: u64, width: usize) -> String {
    let mut out = vec![b'0'; width];
    for c in out.iter_mut().rev() {
        *c = BASE62[usize::try_from(n % 62).unwrap_or(0)];
        n /= 62;
    }
    String::from_utf8(out).unwrap_or_default()
}

/// CRC-32 (IEEE 802.3), four bytes at a time: every call pays for it ("slicing": Kounavis and Berry, 2005).
pub fn crc32(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let crc = words.iter().fold(!0u32, |crc, word| {
        let mixed = (crc ^ u32::from_le_bytes(*word)).to_le_bytes();
        let tables = CRC_TABLES.iter().rev();
        tables
            .zip(mixed)
            .fold(0, |crc, (table, byte)| crc ^ table[usize::from(byte)])
    });
    !rest.iter().fold(crc, |crc, b| {
        CRC_TABLES[0][usize::from((crc ^ u32::from(*b)).to_le_bytes()[0])] ^ (crc >> 8)
    })
}

/// What a byte does to the checksum, and what it does with one, two and three zero bytes behind it.
static CRC_TABLES: [[u32; 256]; 4] = {
    let mut tables = [[0u32; 256]; 4];
    let mut i = 0u32;
    while i < 256 {
        let (mut c, mut k) = (i, 0);
        while k < 8 {
            c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
            k += 1;
        }
        let byte = i.to_le_bytes()[0] as usize;
        tables[0][byte] = c;
        i += 1;
    }
    let mut table = 1;
    while table < 4 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][before.to_le_bytes()[0] as usize] ^ (before >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
};

/// Splits a key as presented into environment and lookup, after checking form and checksum. No allocation.
pub fn parse(text: &[u8]) -> Option<(Environment, Lookup)> {
    let body_len = LOOKUP_LEN + SECRET_LEN + CRC_LEN;
    let start = text.len().checked_sub(body_len)?;
    let (head, body) = text.split_at(start);
    let head = head.strip_suffix(b"_")?;
    let (prefix, word) = match head.strip_suffix(b"_live") {
        Some(prefix) => (prefix, Environment::Live),
        None => (head.strip_suffix(b"_test")?, Environment::Test),
    };
    let prefix_good = (1..=MAX_PREFIX_LEN).contains(&prefix.len()) && prefix.iter().all(u8::is_ascii_alphanumeric);
    if !prefix_good || !body.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let (signed, crc) = text.split_at(text.len() - CRC_LEN);
    let given = crc.iter().try_fold(0u64, |n, c| Some(n * 62 + u64::from(digit(*c)?)))?;
    (given == u64::from(crc32(signed))).then_some(())?;
    Some((word, Lookup::parse(&body[..LOOKUP_LEN])?))
}

impl PlainKey {
    /// A new key. `prefix` is the provider's, one to twelve letters or digits (others are dropped).
    pub fn generate(prefix: &str, environment: Environment, random: &dyn Random) -> Self {
        let prefix: String = prefix
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(MAX_PREFIX_LEN)
            .collect();
        let prefix = if prefix.is_empty() { "tp" } else { &prefix };
        let body = draw(random, LOOKUP_LEN + SECRET_LEN);
        let signed = format!("{prefix}_{environment}_{body}");
        let text = format!("{signed}{}", base62(u64::from(crc32(signed.as_bytes())), CRC_LEN));
        let lookup = Lookup::parse(&body.as_bytes()[..LOOKUP_LEN]).unwrap_or(Lookup(0));
        Self {
            text,
            lookup,
            environment,
        }
    }

    /// The key itself, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.text
    }
    /// The public part that finds it.
    pub fn lookup(&self) -> Lookup {
        self.lookup
    }
    /// Live or test.
    pub fn environment(&self) -> Environment {
        self.environment
    }
    /// The last four characters, shown in lists.
    pub fn last4(&self) -> &str {
        self.text.get(self.text.len().saturating_sub(4)..).unwrap_or_default()
    }
    /// What lists show before the dots: prefix, environment and the first four of the id.
    pub fn shown_prefix(&self) -> &str {
        let keep = self.text.len().saturating_sub(LOOKUP_LEN + SECRET_LEN + CRC_LEN) + 4;
        self.text.get(..keep).unwrap_or_default()
    }
}

/// Uniform base-62 characters: bytes of 248 and above are thrown away, so none is likelier than another.
fn draw(random: &dyn Random, count: usize) -> String {
    let mut out = String::with_capacity(count);
    while out.len() < count {
        let mut bytes = [0u8; 64];
        random.fill(&mut bytes);
        for b in bytes.iter().filter(|b| **b < 248).take(count - out.len()) {
            out.push(char::from(BASE62[usize::from(b % 62)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Seeded(AtomicU64);
    impl Random for Seeded {
        fn fill(&self, bytes: &mut [u8]) {
            for b in bytes {
                let n = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
                *b = (n ^ (n >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9).to_be_bytes()[0];
            }
        }
    }

    #[test]
    fn crc_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    proptest! {
        /// Bit by bit, as the standard has it.
        #[test]
        fn crc_is_that_of_the_definition(bytes: Vec<u8>) {
            let bit = |crc: u32, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), bit);
            prop_assert_eq!(crc32(&bytes), !bytes.iter().fold(!0, byte));
        }

        #[test]
        fn what_is_made_is_understood(seed: u64, live: bool, prefix in "[a-z]{1,12}") {
            let environment = if live { Environment::Live } else { Environment::Test };
            let key = PlainKey::generate(&prefix, environment, &Seeded(AtomicU64::new(seed)));
            prop_assert_eq!(parse(key.reveal().as_bytes()), Some((environment, key.lookup())));
            prop_assert!(!key.shown_prefix().contains(key.last4()) || key.last4().len() == 4);
        }

        #[test]
        fn one_wrong_character_is_seen(seed: u64, at in 0usize..54, with in "[0-9A-Za-z]") {
            let key = PlainKey::generate("tp", Environment::Live, &Seeded(AtomicU64::new(seed)));
            let mut text = key.reveal().as_bytes().to_vec();
            prop_assume!(at < text.len() && text[at] != with.as_bytes()[0]);
            text[at] = with.as_bytes()[0];
            prop_assert_eq!(parse(&text), None);
        }

        #[test]
        fn nothing_makes_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
