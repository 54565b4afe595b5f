//! Exact unit prices: whole numbers of trillionths of a minor unit, since Stripe's decimals have up to twelve places.

/// Trillionths in one minor unit (cent).
pub(crate) const SCALE: i128 = 1_000_000_000_000;
/// Decimal places of [`SCALE`].
const PLACES: usize = 12;

/// Reads `12.345` as trillionths. None for anything that is no plain decimal of at most twelve places.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || whole.len() > 18 || fraction.len() > PLACES || !plain(whole) || !plain(fraction) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = format!("{fraction:0<PLACES$}").parse().ok()?;
    Some(sign * (whole * SCALE + fraction))
}

/// Writes trillionths as a decimal without trailing zeros.
pub(crate) fn decimal(value: i128) -> String {
    let (whole, fraction) = (
        value.unsigned_abs() / SCALE.unsigned_abs(),
        value.unsigned_abs() % SCALE.unsigned_abs(),
    );
    let sign = if value < 0 { "-" } else { "" };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    format!(
        "{sign}{whole}.{}",
        format!("{fraction:0>PLACES$}").trim_end_matches('0')
    )
}

/// Rounds trillionths to whole minor units, halves away from zero.
pub(crate) fn round(value: i128) -> i64 {
    divide(value, SCALE)
}

/// `part / whole` of an amount in minor units, halves away from zero.
pub(crate) fn share(amount: i64, part: i64, whole: i64) -> i64 {
    if whole == 0 {
        0
    } else {
        divide(i128::from(amount) * i128::from(part), i128::from(whole))
    }
}

fn divide(value: i128, by: i128) -> i64 {
    let rounded = (value.abs() * 2 + by.abs()) / (by.abs() * 2);
    let signed = if (value < 0) == (by < 0) { rounded } else { -rounded };
    i64::try_from(signed).unwrap_or(if signed < 0 { i64::MIN } else { i64::MAX })
}

/// An amount for people: `$12.00`, `EUR 12.00`.
pub(crate) fn show(amount: i64, currency: &str) -> String {
    show_exact(i128::from(amount) * SCALE, currency)
}

/// As [`show`], for a price with fractions of a minor unit: at least two decimals, more where the price has more.
pub(crate) fn show_exact(value: i128, currency: &str) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let symbol = match currency {
        "usd" => "$".to_owned(),
        "eur" => "€".to_owned(),
        "gbp" => "£".to_owned(),
        other => format!("{} ", other.to_uppercase()),
    };
    if ZERO_DECIMAL.contains(&currency) {
        return format!("{sign}{symbol}{}", decimal(value.abs()));
    }
    let (major, rest) = (value.abs() / (SCALE * 100), value.abs() % (SCALE * 100));
    let fraction = format!("{rest:014}");
    let mut shown = fraction.trim_end_matches('0').to_owned();
    while shown.len() < 2 {
        shown.push('0');
    }
    format!("{sign}{symbol}{major}.{shown}")
}

/// Currencies whose minor unit is the whole one.
const ZERO_DECIMAL: [&str; 6] = ["jpy", "krw", "vnd", "clp", "xaf", "xof"];

/// Stripe's smallest charge, in minor units: anything less is carried to the customer's balance.
pub(crate) fn smallest_charge(currency: &str) -> i64 {
    match currency {
        "gbp" => 30,
        "sek" | "nok" => 300,
        "dkk" => 250,
        _ => 50,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        assert_eq!(parse("0.000000000001"), Some(1));
        assert_eq!(parse("-1.5"), Some(-SCALE * 3 / 2));
        assert_eq!(parse("0.0000000000001"), None);
        assert_eq!(parse("1e3"), None);
        assert_eq!(decimal(parse("12.340").unwrap()), "12.34");
    }

    #[test]
    fn halves_go_away_from_zero() {
        assert_eq!((round(SCALE / 2), round(SCALE / 2 - 1), round(-SCALE / 2)), (1, 0, -1));
        assert_eq!((share(1000, 1, 3), share(-1000, 2, 3)), (333, -667));
    }

    #[test]
    fn prices_are_shown_with_their_fractions() {
        assert_eq!(show(1250, "usd"), "$12.50");
        assert_eq!(show_exact(SCALE / 10, "usd"), "$0.001");
        assert_eq!(show(500, "jpy"), "JPY 500");
    }
}
