//! Currencies by ISO 4217.

use crate::problem::{Kind, Problem};
use crate::request::{Code, Nothing, Params};
use axum::Json;
use axum::response::IntoResponse;
use iso_currency::{Currency as Iso, Flag, IntoEnumIterator};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    /// Money that people pay with.
    Current,
    /// A unit of account, such as BOV.
    Fund,
    /// A metal, a test code, no currency.
    Special,
    /// Replaced by another.
    Superseded,
}

/// A currency.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Currency {
    code: &'static str,
    numeric: String,
    name: String,
    symbol: String,
    /// Digits after the decimal point; none where the notion has no meaning (gold).
    exponent: Option<u16>,
    standing: Standing,
    superseded_by: Option<&'static str>,
    /// Alpha-2 codes of countries.
    used_by: Vec<String>,
}

/// Current currencies by the alpha-2 code of the country.
static BY_COUNTRY: LazyLock<BTreeMap<String, Vec<&'static str>>> = LazyLock::new(|| {
    let mut map: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for currency in Iso::iter().filter(|c| standing(*c).0 == Standing::Current) {
        for country in currency.used_by() {
            map.entry(country.to_string()).or_default().push(currency.code());
        }
    }
    map
});

/// Codes of the current currencies of a country, by its alpha-2 code.
pub(crate) fn used_in(alpha2: &str) -> Vec<&'static str> {
    BY_COUNTRY.get(alpha2).cloned().unwrap_or_default()
}

pub(crate) async fn show(Code(code): Code, Params(Nothing {}): Params<Nothing>) -> Result<impl IntoResponse, Problem> {
    Ok((crate::STATIC_DATA, Json(find(&code)?)))
}

/// The currency of a three-letter or numeric code.
pub(crate) fn find(code: &str) -> Result<Currency, Problem> {
    let wanted = code.to_ascii_uppercase();
    let found = if wanted.len() == 3 && wanted.bytes().all(|b| b.is_ascii_uppercase()) {
        Iso::from_code(&wanted)
    } else if wanted.len() == 3 && wanted.bytes().all(|b| b.is_ascii_digit()) {
        wanted.parse().ok().and_then(Iso::from_numeric)
    } else {
        let detail = "A currency code is three letters or three digits, such as CHF or 756.";
        return Err(Problem::new(Kind::InvalidParameter, detail));
    };
    found
        .map(Currency::from)
        .ok_or_else(|| Problem::new(Kind::UnknownCurrency, format!("ISO 4217 has no currency {wanted}.")))
}

impl From<Iso> for Currency {
    fn from(iso: Iso) -> Self {
        let (standing, superseded_by) = standing(iso);
        let mut used_by: Vec<String> = iso.used_by().iter().map(ToString::to_string).collect();
        used_by.sort();
        Self {
            code: iso.code(),
            numeric: format!("{:03}", iso.numeric()),
            name: iso.name().to_owned(),
            symbol: iso.symbol().to_string(),
            exponent: iso.exponent(),
            standing,
            superseded_by: superseded_by.map(|c| c.code()),
            used_by,
        }
    }
}

fn standing(currency: Iso) -> (Standing, Option<Iso>) {
    match currency.flags().first() {
        None => (Standing::Current, None),
        Some(Flag::Fund) => (Standing::Fund, None),
        Some(Flag::Special) => (Standing::Special, None),
        Some(Flag::Superseded(by)) => (Standing::Superseded, Some(*by)),
    }
}
