//! What the usage page's server functions are asked with, looked at before they run. Programs can ask them too, and a
//! value that cannot be read is refused by its name instead of being passed over.

use axum::extract::Query;
use http::Uri;
use model::KeyId;
use model::access::Environment;
use std::collections::HashMap;

/// The arguments of [`super::api::live_figures`].
///
/// # Errors
/// One sentence that says what is wrong.
pub(crate) fn figures(address: &Uri) -> Result<(), String> {
    readable("env", &argument(address, "environment")?).map_err(|_| "environment must be live or test.".to_owned())
}

/// The arguments of [`super::api::live_log`].
///
/// # Errors
/// One sentence that says what is wrong.
pub(crate) fn log(address: &Uri) -> Result<(), String> {
    let filter = argument(address, "filter")?;
    let pairs = filter.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        // A field of the form that was left open.
        .filter(|(name, value)| !(value.is_empty() && FILTERS.contains(name)))
        .try_for_each(|(name, value)| readable(name, value))
}

fn argument(address: &Uri, name: &str) -> Result<String, String> {
    let query = Query::<HashMap<String, String>>::try_from_uri(address);
    let mut query = query.map_err(|_| "The query cannot be read.".to_owned())?.0;
    query
        .remove(name)
        .ok_or_else(|| format!("The argument {name} is missing."))
}

/// What the request log can be filtered by.
pub(super) const FILTERS: [&str; 5] = ["class", "route", "key", "env", "refused"];

/// Whether a value means something under its name.
///
/// # Errors
/// One sentence that says what would. It never repeats what was sent.
pub(super) fn readable(name: &str, value: &str) -> Result<(), String> {
    let wanted = match name {
        "env" if value.parse::<Environment>().is_err() => "live or test",
        "class" if !matches!(value, "1" | "2" | "3" | "4" | "5") => "1 to 5, the first digit of a status",
        "key" if value.parse::<KeyId>().is_err() => "a key's id, key_ and 24 characters",
        "route" | "refused" if value.contains('&') => "a value without &",
        "env" | "class" | "key" | "route" | "refused" => return Ok(()),
        _ => {
            return Err(format!(
                "The log is filtered by {}, and by nothing else.",
                FILTERS.join(", ")
            ));
        }
    };
    Err(format!("{name} must be {wanted}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(check: fn(&Uri) -> Result<(), String>, query: &str) -> Result<(), String> {
        check(&format!("/_pages/usage/x{query}").parse().unwrap())
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (query, name) in [
            ("", "environment"),
            ("?environment=", "live or test"),
            ("?environment=Live", "live or test"),
        ] {
            assert!(asked(figures, query).unwrap_err().contains(name), "{query}");
        }
        assert_eq!(asked(figures, "?environment=test"), Ok(()));
        for (filter, name) in [
            ("class%3D9", "class"),
            ("class%3D4%26env%3Dprod", "env"),
            ("key%3Dkey_1", "key"),
            ("environment%3Dlive", "filtered by"),
            ("color%3Dred", "filtered by"),
            ("nonsense", "filtered by"),
        ] {
            let refused = asked(log, &format!("?filter={filter}")).unwrap_err();
            assert!(refused.contains(name), "{filter}: {refused}");
        }
        assert!(asked(log, "").unwrap_err().contains("filter"));
        for filter in ["", "class%3D4%26route%3Dbatch", "class%3D", "refused%3D1%26env%3Dtest"] {
            assert_eq!(asked(log, &format!("?filter={filter}")), Ok(()), "{filter}");
        }
    }
}
