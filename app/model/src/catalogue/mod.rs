//! What is sold: the catalogue file that `turnpike plan publish` takes, and the checked form of it.
//!
//! The file is TOML. Prices in it are in major units (`"29.00"`, `"0.0006"`), because people read it; everything past
//! [`CatalogueFile::check`] is in exact minor units.

mod check;
mod file;
mod plan;
mod statuses;
mod terms;
#[cfg(test)]
mod tests;

pub use file::{CatalogueFile, FeatureFile, MeterFile, ProductFile, RouteFile, UpstreamFile};
pub use plan::{OfferFile, OfferMeterFile, OverageFile, OverageTierFile, PlanFile};
pub use statuses::StatusSet;
pub use terms::{CacheHits, MeterTerms, Offer, PlanTerms, RateLimit};

/// Most plans, routes, meters or features in one file: what a person can still oversee.
pub const MAX_ENTRIES: usize = 500;

/// Longest slug.
pub const MAX_SLUG_LEN: usize = 40;

/// The highest priority of a plan.
pub const PRIORITY_MOST: u8 = 9;

pub(crate) fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// What is wrong with a catalogue file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct CatalogueError {
    /// Such as `plans.pro.month.flat`.
    pub place: String,
    /// What to do about it.
    pub problem: String,
}

fn wrong<T>(place: impl Into<String>, problem: impl Into<String>) -> Result<T, CatalogueError> {
    Err(CatalogueError {
        place: place.into(),
        problem: problem.into(),
    })
}

/// Lower-case letters, digits and -, a letter first, at most [`MAX_SLUG_LEN`].
pub(crate) fn is_slug(slug: &str) -> bool {
    !slug.is_empty()
        && slug.len() <= MAX_SLUG_LEN
        && slug
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && slug.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

fn check_slug(place: &str, slug: &str) -> Result<(), CatalogueError> {
    if is_slug(slug) {
        Ok(())
    } else {
        wrong(
            place,
            format!("{slug:?} must be lower-case letters, digits and -, at most {MAX_SLUG_LEN}"),
        )
    }
}

fn slugs<'a>(place: &str, all: impl Iterator<Item = &'a String>) -> Result<Vec<&'a str>, CatalogueError> {
    let mut seen: Vec<&str> = Vec::new();
    for slug in all {
        check_slug(place, slug)?;
        if seen.contains(&slug.as_str()) {
            return wrong(place, format!("{slug} is there twice"));
        }
        seen.push(slug);
    }
    if seen.len() > MAX_ENTRIES {
        wrong(place, format!("at most {MAX_ENTRIES}"))
    } else {
        Ok(seen)
    }
}

fn known(place: &str, what: &str, all: &[&str], slug: &str) -> Result<(), CatalogueError> {
    if all.contains(&slug) {
        return Ok(());
    }
    wrong(
        format!("{place}.{what}"),
        format!("{slug:?} is none of {}", all.join(", ")),
    )
}
