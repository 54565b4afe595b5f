//! Money is an integer of minor units and its currency. Unit prices are exact decimals of minor units.

use rust_decimal::{Decimal, RoundingStrategy};

/// An ISO 4217 code in lower case, as Stripe writes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

/// The text is not three ASCII letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three letters, such as usd")]
pub struct CurrencyError;

impl Currency {
    /// US dollars.
    pub const USD: Currency = Currency(*b"usd");

    /// The code in lower case.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Digits after the decimal point of its minor unit. The list of currencies without or with three is Stripe's, which
    /// counts shillings of Uganda in hundredths that nobody uses.
    pub fn exponent(self) -> u32 {
        match &self.0 {
            b"bif" | b"clp" | b"djf" | b"gnf" | b"jpy" | b"kmf" | b"krw" | b"mga" | b"pyg" | b"rwf" | b"vnd"
            | b"vuv" | b"xaf" | b"xof" | b"xpf" => 0,
            b"bhd" | b"jod" | b"kwd" | b"omr" | b"tnd" => 3,
            _ => 2,
        }
    }

    /// Digits after the decimal point that Stripe charges: an amount must end in zeros where the minor unit is finer.
    pub fn charged_decimals(self) -> u32 {
        match &self.0 {
            b"isk" | b"ugx" => 0,
            _ => self.exponent().min(2),
        }
    }

    /// Stripe charges multiples of so many minor units.
    pub fn charge_step(self) -> u32 {
        10u32.pow(self.exponent() - self.charged_decimals())
    }
}

impl std::str::FromStr for Currency {
    type Err = CurrencyError;
    fn from_str(text: &str) -> Result<Self, CurrencyError> {
        let bytes: [u8; 3] = text.as_bytes().try_into().map_err(|_| CurrencyError)?;
        bytes
            .iter()
            .all(u8::is_ascii_alphabetic)
            .then(|| Self(bytes.map(|b| b.to_ascii_lowercase())))
            .ok_or(CurrencyError)
    }
}

impl std::fmt::Display for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl std::fmt::Debug for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl serde::Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

crate::id::sqlx_text!(Currency);

/// An amount: minor units (cents) of a currency. Negative is a credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Money {
    /// Minor units: cents of a dollar, yen of a yen.
    pub minor: i64,
    /// The currency.
    pub currency: Currency,
}

/// An amount that money cannot be: too large, too fine, or of another currency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("{0:?} is not an amount such as 29.00")]
    NotANumber(String),
    /// More decimals than the currency has.
    #[error("{0} has more decimals than {1} has")]
    TooFine(String, Currency),
    /// Does not fit 64 bits of minor units.
    #[error("the amount is too large")]
    TooLarge,
}

impl Money {
    /// Nothing, of a currency.
    pub fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// Reads `29.00`: major units, at most the currency's decimals.
    ///
    /// # Errors
    /// When the text is no number, is finer than a minor unit or too large.
    pub fn parse_major(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let minor = minor_units(text, currency)?;
        if minor.normalize().scale() > 0 {
            return Err(MoneyError::TooFine(text.to_owned(), currency));
        }
        Ok(Self {
            minor: i64::try_from(minor.normalize().mantissa()).map_err(|_| MoneyError::TooLarge)?,
            currency,
        })
    }

    /// A decimal number of minor units, rounded half away from zero to a whole one: Stripe's rounding of a line.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn from_minor_half_up(minor: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        let whole = minor.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero);
        Ok(Self {
            minor: i64::try_from(whole).map_err(|_| MoneyError::TooLarge)?,
            currency,
        })
    }

    /// The sum; `None` when the currencies differ or it overflows.
    pub fn checked_add(self, other: Money) -> Option<Money> {
        (self.currency == other.currency).then_some(())?;
        Some(Money {
            minor: self.minor.checked_add(other.minor)?,
            currency: self.currency,
        })
    }
}

/// Major units as text (`0.0006`) to exact minor units (`0.06`).
///
/// # Errors
/// When the text is no number or too large.
pub fn minor_units(text: &str, currency: Currency) -> Result<Decimal, MoneyError> {
    let major: Decimal = Decimal::from_str_exact(text.trim()).map_err(|_| MoneyError::NotANumber(text.to_owned()))?;
    let scale = Decimal::from(10u64.pow(currency.exponent()));
    major
        .checked_mul(scale)
        .map(|d| d.normalize())
        .ok_or(MoneyError::TooLarge)
}

/// Exact minor units in major ones, for programs: `0.0006`, `12.50`, `-3.00`, `500`; at least the currency's decimals.
pub struct Major {
    /// In minor units.
    pub minor: Decimal,
    /// The currency.
    pub currency: Currency,
}

impl std::fmt::Display for Major {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exponent = self.currency.exponent();
        let mut major = self.minor.normalize();
        major.set_scale(major.scale() + exponent).map_err(|_| std::fmt::Error)?;
        let major = major.normalize();
        let digits = usize::try_from(major.scale().max(exponent)).map_err(|_| std::fmt::Error)?;
        write!(f, "{major:.digits$}")
    }
}

impl From<Money> for Major {
    fn from(money: Money) -> Self {
        Self {
            minor: money.minor.into(),
            currency: money.currency,
        }
    }
}

impl std::fmt::Display for Money {
    /// `$1,234.50`, `-$0.01`, `¥500`, `12.00 CHF`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exponent = self.currency.exponent();
        let scale = 10u64.pow(exponent);
        let (major, rest) = (self.minor.unsigned_abs() / scale, self.minor.unsigned_abs() % scale);
        let sign = if self.minor < 0 { "-" } else { "" };
        let symbol = match self.currency.code() {
            "usd" => "$",
            "eur" => "€",
            "gbp" => "£",
            "jpy" => "¥",
            _ => "",
        };
        write!(f, "{sign}{symbol}{}", grouped(major))?;
        if exponent > 0 {
            write!(f, ".{rest:0width$}", width = usize::try_from(exponent).unwrap_or(2))?;
        }
        if symbol.is_empty() {
            write!(f, " {}", self.currency.code().to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads() {
        let usd = Currency::USD;
        assert_eq!(
            Money {
                minor: 123_450,
                currency: usd
            }
            .to_string(),
            "$1,234.50"
        );
        assert_eq!(
            Money {
                minor: -1,
                currency: usd
            }
            .to_string(),
            "-$0.01"
        );
        assert_eq!(
            Money {
                minor: 1200,
                currency: "CHF".parse().unwrap()
            }
            .to_string(),
            "12.00 CHF"
        );
        assert_eq!(
            Money {
                minor: 500,
                currency: "jpy".parse().unwrap()
            }
            .to_string(),
            "¥500"
        );
        assert_eq!(Money::parse_major("29.00", usd).unwrap().minor, 2900);
        assert_eq!(Money::parse_major("29", usd).unwrap().minor, 2900);
        assert!(Money::parse_major("29.005", usd).is_err());
        assert!(Money::parse_major("1e3", usd).is_err());
        assert_eq!(minor_units("0.0006", usd).unwrap().to_string(), "0.06");
    }

    #[test]
    fn says_major_units_exactly() {
        let major = |minor: &str, currency: &str| {
            let (minor, currency) = (minor.parse().unwrap(), currency.parse().unwrap());
            Major { minor, currency }.to_string()
        };
        assert_eq!(major("0.06", "usd"), "0.0006");
        assert_eq!(major("1250", "usd"), "12.50");
        assert_eq!(major("-300.0", "usd"), "-3.00");
        assert_eq!(major("0", "usd"), "0.00");
        assert_eq!(major("0", "jpy"), "0");
        assert_eq!(major("500.5", "jpy"), "500.5");
        assert_eq!(major("1000", "kwd"), "1.000");
    }

    #[test]
    fn counts_minor_units_as_stripe_does() {
        let of = |code: &str| {
            let currency: Currency = code.parse().unwrap();
            (currency.exponent(), currency.charge_step())
        };
        assert_eq!(
            ["usd", "jpy", "ugx", "isk", "kwd", "huf"].map(of),
            [(2, 1), (0, 1), (2, 100), (2, 100), (3, 10), (2, 1)]
        );
    }

    #[test]
    fn rounds_half_away_from_zero() {
        let round = |t: &str| {
            Money::from_minor_half_up(t.parse().unwrap(), Currency::USD)
                .unwrap()
                .minor
        };
        assert_eq!(
            [round("0.5"), round("1.5"), round("2.4999"), round("-0.5")],
            [1, 2, 2, -1]
        );
    }
}
