//! An id type per entity: `con_01jd...`, a prefix and 24 characters of Crockford base 32.
//!
//! 48 bits of milliseconds and 72 random bits: ids sort by the time they were made and cannot be guessed. Parsing is
//! strict, so an id of one kind is never taken for another.

use crate::{Random, Time};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters after the prefix: 120 bits, five a character.
const ENCODED_LEN: usize = 24;
const RANDOM_BITS: u32 = 72;

/// The text given is not an id of the kind wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {0}_ and 24 characters")]
pub struct IdError(pub &'static str);

fn generate(now: Time, random: &dyn Random) -> u128 {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    let low = u128::from_be_bytes(bytes) & ((1 << RANDOM_BITS) - 1);
    let millis = u128::try_from(now.unix_ms()).unwrap_or(0) & ((1 << 48) - 1);
    (millis << RANDOM_BITS) | low
}

/// Bits of a piece that is spelled at once: eight characters, in a register.
const PIECE_BITS: u32 = 40;

fn encode(value: u128, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let mut text = [0u8; ENCODED_LEN];
    for (i, piece) in (0u32..).zip(text.rchunks_exact_mut(8)) {
        // The mask leaves 40 bits of it, which fit.
        let mut bits = u64::try_from((value >> (i * PIECE_BITS)) & ((1 << PIECE_BITS) - 1)).unwrap_or(0);
        for c in piece.iter_mut().rev() {
            *c = ALPHABET[usize::from(bits.to_le_bytes()[0] & 31)];
            bits >>= 5;
        }
    }
    f.write_str(std::str::from_utf8(&text).unwrap_or_default())
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != ENCODED_LEN {
        return None;
    }
    text.bytes().try_fold(0u128, |value, c| {
        let digit = ALPHABET.iter().position(|a| *a == c)?;
        Some((value << 5) | u128::try_from(digit).ok()?)
    })
}

macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// What every id of this kind begins with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: the time now and 72 random bits.
            pub fn new(now: Time, random: &dyn Random) -> Self {
                Self(generate(now, random))
            }

            /// The 120 bits behind the text, for fixed-size records.
            pub fn to_bits(self) -> u128 {
                self.0
            }

            /// The id with these bits; the upper eight of the 128 are dropped.
            pub fn from_bits(bits: u128) -> Self {
                Self(bits & ((1 << 120) - 1))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                encode(self.0, f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_")).and_then(decode).map(Self).ok_or(IdError($prefix))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        crate::id::sqlx_text!($name);
    )+};
}

/// Stores a type that has `Display` and `FromStr` as PostgreSQL `text`.
macro_rules! sqlx_text {
    ($name:ident) => {
        #[cfg(feature = "sqlx")]
        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <String as sqlx::Type<sqlx::Postgres>>::type_info()
            }
            fn compatible(ty: &sqlx::postgres::PgTypeInfo) -> bool {
                <String as sqlx::Type<sqlx::Postgres>>::compatible(ty)
            }
        }
        #[cfg(feature = "sqlx")]
        impl sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> sqlx::postgres::PgTypeInfo {
                <String as sqlx::postgres::PgHasArrayType>::array_type_info()
            }
        }
        #[cfg(feature = "sqlx")]
        impl sqlx::Encode<'_, sqlx::Postgres> for $name {
            fn encode_by_ref(
                &self,
                buf: &mut sqlx::postgres::PgArgumentBuffer,
            ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
                // Its text, without a string in between: writing to a vector cannot fail.
                let _ = std::io::Write::write_fmt(&mut **buf, format_args!("{self}"));
                Ok(sqlx::encode::IsNull::No)
            }
        }
        #[cfg(feature = "sqlx")]
        impl sqlx::Decode<'_, sqlx::Postgres> for $name {
            fn decode(value: sqlx::postgres::PgValueRef<'_>) -> Result<Self, sqlx::error::BoxDynError> {
                Ok(<&str as sqlx::Decode<sqlx::Postgres>>::decode(value)?.parse()?)
            }
        }
    };
}
pub(crate) use sqlx_text;

id_types! {
    /// An account that subscribes, holds keys and pays.
    ConsumerId = "con";
    /// A person.
    MemberId = "mem";
    /// A plan, whatever its version.
    PlanId = "plan";
    /// One published, unchangeable version of a plan.
    PlanVersionId = "pv";
    /// A consumer's dated agreement to a plan version.
    SubscriptionId = "sub";
    /// A key; the secret itself is never stored.
    KeyId = "key";
    /// What one consumer has in place of what its plan says.
    OverrideId = "ovr";
    /// An invoice as mirrored from Stripe.
    InvoiceId = "inv";
    /// One request through the gateway.
    RequestId = "req";
}

impl ConsumerId {
    /// Nobody: callers without a credential. No account has this id.
    pub const ANONYMOUS: Self = Self(0);
}

impl KeyId {
    /// No key: a request without a credential.
    pub const NONE: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_bits_agree(bits in 0u128..(1 << 120)) {
            let id = KeyId::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
            prop_assert_eq!(id.to_string().len(), 28);
            prop_assert!(id.to_string().parse::<ConsumerId>().is_err());
        }

        #[test]
        fn text_sorts_like_time(a in 0u128..(1 << 120), b in 0u128..(1 << 120)) {
            let (x, y) = (KeyId::from_bits(a), KeyId::from_bits(b));
            prop_assert_eq!(x.cmp(&y), x.to_string().cmp(&y.to_string()));
        }
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in [
            "",
            "key_",
            "key_0",
            "con_000000000000000000000000",
            "key_00000000000000000000000U",
            "key_0000000000000000000000000",
        ] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }
}
