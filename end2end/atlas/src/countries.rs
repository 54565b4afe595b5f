//! Countries by ISO 3166-1, with their currencies (ISO 4217) and subdivisions (ISO 3166-2).

use crate::currencies;
use crate::problem::{Kind, Problem};
use crate::request::{Code, Nothing, Params};
use axum::Json;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Countries on a page when `limit` is left out.
const DEFAULT_LIMIT: usize = 50;
/// Most countries on a page: all of them.
const MAX_LIMIT: usize = 250;
/// Longest search text, in bytes: longer than every name.
const MAX_QUERY_BYTES: usize = 80;

/// A country as it is listed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Country {
    name: &'static str,
    alpha2: &'static str,
    alpha3: &'static str,
    numeric: String,
    flag: String,
    currencies: Vec<&'static str>,
}

/// A country as it is looked up.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CountryDetail {
    #[serde(flatten)]
    country: &'static Country,
    subdivisions: Vec<Subdivision>,
}

#[derive(Debug, Clone, Serialize)]
struct Subdivision {
    code: &'static str,
    name: &'static str,
    kind: &'static str,
}

/// A page of the list.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    items: Vec<&'static Country>,
    /// Matches on all pages together.
    total: usize,
    /// The `after` of the next page.
    next: Option<&'static str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    #[serde(default)]
    q: String,
    limit: Option<usize>,
    after: Option<String>,
}

/// By alpha-2 code, ascending: the order of pages.
static COUNTRIES: LazyLock<Vec<Country>> = LazyLock::new(|| {
    let mut all: Vec<Country> = rust_iso3166::ALL
        .iter()
        .map(|c| Country {
            name: c.name,
            alpha2: c.alpha2,
            alpha3: c.alpha3,
            numeric: c.numeric_str(),
            flag: c.alpha2.chars().filter_map(regional_indicator).collect(),
            currencies: currencies::used_in(c.alpha2),
        })
        .collect();
    all.sort_by_key(|c| c.alpha2);
    all
});

/// Two of these make a flag.
fn regional_indicator(letter: char) -> Option<char> {
    char::from_u32(0x1F1E6 + u32::from(letter).checked_sub(u32::from('A'))?)
}

pub(crate) async fn list(Params(params): Params<ListParams>) -> Result<impl IntoResponse, Problem> {
    let refuse = |detail: String| Err(Problem::new(Kind::InvalidParameter, detail));
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return refuse(format!("limit: {limit} is not between 1 and {MAX_LIMIT}"));
    }
    if params.q.len() > MAX_QUERY_BYTES {
        return refuse(format!("q: longer than {MAX_QUERY_BYTES} bytes"));
    }
    let after = params.after.as_deref().map(find).transpose()?.map(|c| c.alpha2);
    let wanted = params.q.trim().to_lowercase();
    let matching: Vec<&'static Country> = COUNTRIES.iter().filter(|c| c.matches(&wanted)).collect();
    let total = matching.len();
    let mut items: Vec<_> = matching
        .into_iter()
        .filter(|c| after.is_none_or(|a| c.alpha2 > a))
        .take(limit + 1)
        .collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|c| c.alpha2);
    Ok((crate::STATIC_DATA, Json(Page { items, total, next })))
}

pub(crate) async fn show(Code(code): Code, Params(Nothing {}): Params<Nothing>) -> Result<impl IntoResponse, Problem> {
    Ok((crate::STATIC_DATA, Json(detail(&code)?)))
}

/// The country of an alpha-2, alpha-3 or numeric code, with its subdivisions.
pub(crate) fn detail(code: &str) -> Result<CountryDetail, Problem> {
    let country = find(code)?;
    let subdivisions = rust_iso3166::iso3166_2::SUBDIVISION_COUNTRY_MAP
        .get(country.alpha2)
        .map(|all| all.iter())
        .into_iter()
        .flatten()
        .map(|s| Subdivision {
            code: s.code,
            name: s.name,
            kind: s.subdivision_type,
        })
        .collect();
    Ok(CountryDetail { country, subdivisions })
}

fn find(code: &str) -> Result<&'static Country, Problem> {
    let wanted = code.to_ascii_uppercase();
    let letters = wanted.bytes().all(|b| b.is_ascii_uppercase());
    let digits = wanted.bytes().all(|b| b.is_ascii_digit());
    let found = match wanted.len() {
        2 if letters => COUNTRIES.iter().find(|c| c.alpha2 == wanted),
        3 if letters => COUNTRIES.iter().find(|c| c.alpha3 == wanted),
        3 if digits => COUNTRIES.iter().find(|c| c.numeric == wanted),
        _ => {
            let detail = "A country code is two or three letters or three digits, such as CH, CHE or 756.";
            return Err(Problem::new(Kind::InvalidParameter, detail));
        }
    };
    found.ok_or_else(|| Problem::new(Kind::UnknownCountry, format!("ISO 3166-1 has no country {wanted}.")))
}

impl Country {
    /// `wanted` is in lower case: part of the name, or a whole code. Nothing matches every country.
    fn matches(&self, wanted: &str) -> bool {
        self.name.to_lowercase().contains(wanted)
            || self.alpha2.eq_ignore_ascii_case(wanted)
            || self.alpha3.eq_ignore_ascii_case(wanted)
            || self.numeric == wanted
    }
}
