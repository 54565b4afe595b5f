//! The words of every mail.

use crate::Settings;
use crate::links::Token;
use crate::mail::Letter;
use model::Time;
use model::access::QuotaKind;
use model::catalogue::MeterTerms;
use model::quota::Quota;

/// To somebody who signed up with an address we did not know.
pub(crate) fn verify(settings: &Settings, token: &Token) -> Letter {
    Letter::notice(
        "Confirm your e-mail address",
        ["Open the link and press the button there. Then you can create your first key.".to_owned()],
    )
    .with_action(settings, "Confirm this address", &format!("/verify/{}", token.expose()))
    .with_footer(
        "The link works once, for 24 hours. If you did not sign up, do nothing: without the confirmation nobody can \
         use an account with your address.",
    )
}

/// To somebody who signed up with an address that has an account.
pub(crate) fn already(settings: &Settings) -> Letter {
    Letter::notice(
        "You already have an account",
        [
            "Somebody, perhaps you, signed up with this address. It has an account already, so no new one was made."
                .to_owned(),
            format!(
                "Log in as usual. If you have forgotten the password, set a new one at {}/reset.",
                settings.portal_url
            ),
        ],
    )
    .with_action(settings, "Log in", "/login")
    .with_footer("If it was not you, do nothing: nobody got into your account.")
}

/// To somebody who asked for a new password.
pub(crate) fn reset(settings: &Settings, token: &Token) -> Letter {
    Letter::notice(
        "Set a new password",
        ["Open the link to set a new password. You will be logged out everywhere else.".to_owned()],
    )
    .with_action(settings, "Set a new password", &format!("/reset/{}", token.expose()))
    .with_footer(
        "The link works once, for 30 minutes. If you did not ask for it, do nothing: your password stays as it is.",
    )
}

/// To somebody whom the provider made an account for.
pub(crate) fn invited(settings: &Settings, consumer: &str) -> Letter {
    Letter::notice(
        "An account was made for you",
        [
            format!("You own the account \u{201c}{consumer}\u{201d} now. It has no password yet."),
            "Ask for a link to set one with this e-mail address.".to_owned(),
        ],
    )
    .with_action(settings, "Set a password", "/reset")
}

/// After a password was changed or reset.
pub(crate) fn password_changed(settings: &Settings, at: Time) -> Letter {
    Letter::notice(
        "Your password was changed",
        [format!(
            "The password of your account was changed on {}. All other sessions were ended.",
            at.minute()
        )],
    )
    .with_action(settings, "That was not me: set a new password", "/reset")
    .with_footer("If it was you, there is nothing to do.")
}

/// After a renewal failed. `amount` is written out, such as `$49.00`; access goes on until `until`. `needs_confirmation`:
/// the bank waits for the cardholder.
pub fn payment_failed(settings: &Settings, amount: &str, until: Option<Time>, needs_confirmation: bool) -> Letter {
    let consequence = match until {
        Some(until) => format!(
            "Your keys go on working until {}. After that they are refused until the payment is through.",
            until.minute()
        ),
        None => "Your keys are refused until the payment is through.".to_owned(),
    };
    if needs_confirmation {
        return Letter::notice(
            "Your payment waits for your confirmation",
            [
                format!("Your bank wants you to confirm the payment of {amount} for your plan."),
                consequence,
            ],
        )
        .with_action(settings, "Confirm the payment", "/plan");
    }
    Letter::notice(
        "Your payment did not go through",
        [
            format!("We could not collect {amount} for your plan."),
            consequence,
            "Most often a card has expired or has not enough on it.".to_owned(),
        ],
    )
    .with_action(settings, "Mend the payment", "/plan")
}

/// A mark that usage reached.
pub(crate) struct Mark<'a> {
    /// Percent.
    pub(crate) percent: u16,
    /// Of what: a meter with its name, what the plan says of it, and its quota; none for the spend cap.
    pub(crate) meter: Option<(&'a str, &'a MeterTerms, Quota)>,
    /// `40,000 of 50,000 calls`.
    pub(crate) used: &'a str,
    /// End of the period.
    pub(crate) until: Time,
}

/// What happens past a quota, all of which is used or not yet.
fn past(terms: &MeterTerms, quota: Quota, all: bool) -> String {
    match (quota.kind, &terms.overage, &terms.grace) {
        (QuotaKind::Soft, Some(_), _) if all => "What is used beyond that is charged, as your plan says.".to_owned(),
        (QuotaKind::Soft, Some(_), _) => "Calls go on beyond that, and are then charged as your plan says.".to_owned(),
        (QuotaKind::Soft, None, _) => "Calls go on beyond that, free of charge.".to_owned(),
        (QuotaKind::Hard, _, Some(grace)) => format!(
            "Beyond that calls go on for {}, free of charge; then they are refused.",
            grace.words()
        ),
        // A larger plan would not help against an override.
        (QuotaKind::Hard, _, None) if all && quota != Quota::of(terms) => "Calls are refused until then.".to_owned(),
        (QuotaKind::Hard, _, None) if all => {
            "Calls are refused until then. A larger plan lifts this at once.".to_owned()
        }
        (QuotaKind::Hard, _, None) => {
            "When all are used, calls are refused until then. Nothing is refused yet.".to_owned()
        }
    }
}

/// To every member of an account when a mark is reached.
pub(crate) fn usage_mark(settings: &Settings, account: &str, mark: &Mark<'_>) -> Letter {
    let (percent, all) = (mark.percent, mark.percent >= 100);
    let what = mark.meter.map_or("the spend cap", |(name, ..)| name);
    let then = match mark.meter {
        None if all => "Calls that would cost more are refused until you raise the cap or the period ends.".to_owned(),
        None => "When it is reached, calls that would cost more are refused. Nothing is refused yet.".to_owned(),
        Some((_, terms, quota)) => past(terms, quota, all),
    };
    let used = format!(
        "The account \u{201c}{account}\u{201d} has used {} of the period that ends on {}.",
        mark.used,
        mark.until.minute()
    );
    let letter = Letter::notice(format!("{percent} % of {what} used"), [used, then]);
    match mark.meter {
        None => letter.with_action(settings, "Change the spend cap", "/budget"),
        Some(_) => letter.with_action(settings, "See your usage", "/usage"),
    }
}
