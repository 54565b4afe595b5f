//! Stripe's test cards: what each number does.

use serde_json::{Value, json};

use crate::error::ApiError;

/// What a charge comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The money came.
    Paid,
    /// The bank said no: Stripe's code and decline code.
    Declined(String, String),
    /// The bank wants the cardholder: 3-D Secure.
    Authentication,
}

/// The cards, by number.
const PLAIN: &str = "4242424242424242";
const CHARGE_FAILS_LATER: &str = "4000000000000341";
/// Asks once; a card that was authenticated in Checkout pays alone afterwards.
const AUTHENTICATE_ONCE: [&str; 2] = ["4000002500003155", "4000000000003220"];
/// Asks at every payment, renewals too.
const AUTHENTICATE_ALWAYS: &str = "4000002760003184";
const DECLINED: [(&str, &str, &str); 7] = [
    ("4000000000000002", "card_declined", "generic_decline"),
    ("4000000000009995", "card_declined", "insufficient_funds"),
    ("4000000000009987", "card_declined", "lost_card"),
    ("4000000000009979", "card_declined", "stolen_card"),
    ("4000000000000069", "expired_card", ""),
    ("4000000000000127", "incorrect_cvc", ""),
    ("4000000000000119", "processing_error", ""),
];
const NAMED: [(&str, &str); 6] = [
    ("pm_card_visa", PLAIN),
    ("pm_card_mastercard", "5555555555554444"),
    ("pm_card_chargeCustomerFail", CHARGE_FAILS_LATER),
    ("pm_card_chargeDeclined", "4000000000000002"),
    ("pm_card_authenticationRequired", AUTHENTICATE_ALWAYS),
    ("pm_card_authenticationRequiredOnSetup", "4000002500003155"),
];

/// The number behind one of Stripe's names for test payment methods.
pub(crate) fn named(name: &str) -> Option<&'static str> {
    NAMED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// Refuses what is no card number.
pub(crate) fn check(number: &str) -> Result<(), ApiError> {
    let digits: Vec<u32> = number.chars().filter_map(|c| c.to_digit(10)).collect();
    let doubled = |(place, digit): (usize, &u32)| {
        if place % 2 == 0 {
            *digit
        } else {
            (digit * 2) / 10 + (digit * 2) % 10
        }
    };
    let sum: u32 = digits.iter().rev().enumerate().map(doubled).sum();
    if (12..=19).contains(&digits.len()) && sum.is_multiple_of(10) {
        return Ok(());
    }
    Err(ApiError::card("incorrect_number", "", "Your card number is incorrect.").with("param", "card[number]"))
}

/// Whether a card cannot even be saved.
pub(crate) fn refused_on_attach(number: &str) -> bool {
    DECLINED.iter().any(|(known, ..)| *known == number)
}

/// What a charge of this card does. `authenticated`: the cardholder passed 3-D Secure with it before;
/// `present`: in this very payment.
pub(crate) fn outcome(number: &str, authenticated: bool, present: bool) -> Outcome {
    if let Some((_, code, decline)) = DECLINED.iter().find(|(known, ..)| *known == number) {
        return Outcome::Declined((*code).to_owned(), (*decline).to_owned());
    }
    let asks = (AUTHENTICATE_ONCE.contains(&number) && !authenticated) || (number == AUTHENTICATE_ALWAYS && !present);
    if asks { Outcome::Authentication } else { Outcome::Paid }
}

/// Whether the card is saved gladly and then refuses its charges.
pub(crate) fn fails_later(number: &str) -> bool {
    number == CHARGE_FAILS_LATER
}

/// A refusal in Stripe's words.
pub(crate) fn decline(code: &str, decline_code: &str) -> ApiError {
    let message = match (code, decline_code) {
        ("expired_card", _) => "Your card has expired.",
        ("incorrect_cvc", _) => "Your card's security code is incorrect.",
        ("processing_error", _) => "An error occurred while processing your card. Try again in a little bit.",
        (_, "insufficient_funds") => "Your card has insufficient funds.",
        ("authentication_required", _) => "Your card was declined. This transaction requires authentication.",
        _ => "Your card was declined.",
    };
    ApiError::card(code, decline_code, message)
}

/// The payment method object for a card.
pub(crate) fn method(id: &str, number: &str, expiry: (i64, i64), now: i64, billing: &Value) -> Value {
    let brand = match number.get(..1) {
        Some("5") => "mastercard",
        Some("3") => "amex",
        _ => "visa",
    };
    let last4 = number.get(number.len().saturating_sub(4)..).unwrap_or_default();
    json!({
        "id": id, "object": "payment_method", "allow_redisplay": "unspecified", "created": now, "customer": null, "livemode": false,
        "billing_details": {"address": null, "email": billing["email"], "name": billing["name"], "phone": null, "tax_id": null},
        "card": {
            "brand": brand, "checks": {"address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass"},
            "country": "US", "display_brand": brand, "exp_month": expiry.0, "exp_year": expiry.1, "fingerprint": format!("fp{number}"),
            "funding": "credit", "generated_from": null, "last4": last4, "networks": {"available": [brand], "preferred": null},
            "regulated_status": "unregulated", "three_d_secure_usage": {"supported": true}, "wallet": null,
        },
        "metadata": {}, "type": "card", "_number": number, "_authenticated": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_and_decide() {
        assert!(check("4242424242424242").is_ok() && check("4242424242424241").is_err() && check("42").is_err());
        assert_eq!(outcome(PLAIN, false, false), Outcome::Paid);
        assert_eq!(outcome("4000002500003155", false, false), Outcome::Authentication);
        assert_eq!(outcome("4000002500003155", true, false), Outcome::Paid);
        assert_eq!(outcome(AUTHENTICATE_ALWAYS, true, false), Outcome::Authentication);
    }
}
