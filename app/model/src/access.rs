//! The small words that describe what a consumer may do: interval, environment, role, state, method.

pub use crate::method::{METHODS_PER_ROUTE_MOST, Method, MethodError};

/// Makes an enum with one lower-case word per variant: `Display`, `FromStr`, serde, sqlx `text`.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// The word for it in SQL, JSON and URLs.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
        impl std::str::FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(WordError { given: text.chars().take(40).collect(), accepted: &[$($word),+] }),
                }
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.word())
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

/// A word that is none of those accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of {}", accepted.join(", "))]
pub struct WordError {
    /// What was given, at most 40 characters of it.
    pub given: String,
    /// What would have been right.
    pub accepted: &'static [&'static str],
}

words! {
    /// How long a billing period is.
    Interval {
        /// A calendar month.
        Month = "month",
        /// A calendar year.
        Year = "year",
    }
    /// Which world a key belongs to. Test keys are limited like the free plan and never billed.
    Environment {
        /// Counted and billed.
        Live = "live",
        /// Counted apart, never billed.
        Test = "test",
    }
    /// What a member may do in a consumer account.
    Role {
        /// Everything, and the account's last owner cannot leave.
        Owner = "owner",
        /// Everything but ownership.
        Admin = "admin",
        /// Keys and usage, not money.
        Developer = "developer",
        /// Looks, changes nothing.
        Viewer = "viewer",
    }
    /// Where a subscription stands. The words are Stripe's where Stripe has them.
    SubscriptionStatus {
        /// Paid for, or free.
        Active = "active",
        /// The first payment is not through; no access.
        Incomplete = "incomplete",
        /// A renewal failed; access stays until the grace period ends.
        PastDue = "past_due",
        /// The grace period ended; keys are refused until payment.
        Suspended = "suspended",
        /// Ended.
        Cancelled = "cancelled",
    }
    /// Who settles a subscription.
    Settlement {
        /// Stripe invoices it.
        Stripe = "stripe",
        /// Costs nothing by its terms.
        Free = "free",
        /// The provider gave it away: metered, never billed.
        Complimentary = "complimentary",
    }
    /// What happens past a quota.
    QuotaKind {
        /// Requests are refused until the period ends.
        Hard = "hard",
        /// Requests go on; they cost what the plan's price says, and nothing where it has none.
        Soft = "soft",
    }
    /// What a rate limit is counted over.
    Window {
        /// One second.
        Second = "second",
        /// 60 seconds.
        Minute = "minute",
        /// 3,600 seconds.
        Hour = "hour",
        /// 86,400 seconds, wherever they begin.
        Day = "day",
    }
    /// What requests must have in common to be counted together by a rate limit (its quota partition).
    Partition {
        /// The consumer, in one environment: all its keys together.
        Consumer = "consumer",
        /// The key.
        Key = "key",
        /// The route.
        Route = "route",
        /// The method; HEAD counts as GET.
        Method = "method",
        /// The client's address; of IPv6 its first 64 bits, which is what one client commonly has to itself.
        Address = "address",
    }
    /// How a caller says who is asking.
    Credential {
        /// A key of ours.
        Key = "key",
        /// A signed token (JWT) of an issuer that the catalogue trusts.
        Jwt = "jwt",
        /// A key as the user name of HTTP basic authentication.
        Basic = "basic",
        /// Nothing at all.
        Anonymous = "anonymous",
    }
    /// How a token is signed.
    TokenAlgorithm {
        /// HMAC with SHA-256: whoever can check a token can make one.
        Hs256 = "HS256",
        /// RSA (PKCS #1 v1.5) with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
    /// What a token's claim calls a consumer by.
    ConsumerName {
        /// Its id, `con_...`.
        Id = "id",
        /// The name that the provider gave it.
        ExternalId = "external_id",
    }
    /// What an issuer's tokens may add to a consumer's plan.
    Grant {
        /// Features beyond those of the plan.
        Features = "features",
    }
    /// Why the gateway refuses a consumer whole, whatever the request.
    Suspension {
        /// A payment failed and the grace period ended.
        Payment = "payment",
        /// The provider suspended the account.
        Provider = "provider",
        /// There is no subscription.
        NoPlan = "no_plan",
    }
}

impl Window {
    /// Its length.
    pub fn seconds(self) -> u32 {
        match self {
            Window::Second => 1,
            Window::Minute => 60,
            Window::Hour => 3_600,
            Window::Day => 86_400,
        }
    }
}

impl Role {
    /// May create, rotate and revoke keys.
    pub fn manages_keys(self) -> bool {
        matches!(self, Role::Owner | Role::Admin | Role::Developer)
    }
    /// May change the plan, the card and the spend cap.
    pub fn manages_billing(self) -> bool {
        matches!(self, Role::Owner | Role::Admin)
    }
}
