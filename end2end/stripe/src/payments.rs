//! Money: payment intents, charges, invoice payments, refunds.

use serde_json::{Value, json};

use crate::cards::{self, Outcome};
use crate::error::{Answer, ApiError};
use crate::state::{State, flag, merge_metadata, number, or_null, text};
use crate::views::view;

/// Opens the payment intent of an invoice that was just finalized.
pub(crate) fn intend(state: &mut State, invoice: &str, amount: i64) {
    let id = state.new_id("pi");
    let secret = format!("{id}_secret_{}", state.letters(24));
    let (currency, customer) = (
        state.get(invoice)["currency"].clone(),
        state.get(invoice)["customer"].clone(),
    );
    state.put(json!({
        "id": id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_received": 0, "application": null,
        "automatic_payment_methods": null, "canceled_at": null, "cancellation_reason": null, "capture_method": "automatic",
        "client_secret": secret, "confirmation_method": "automatic", "created": state.now, "currency": currency, "customer": customer,
        "description": null, "last_payment_error": null, "latest_charge": null, "livemode": false, "metadata": {}, "next_action": null,
        "on_behalf_of": null, "payment_method": null, "payment_method_options": {}, "payment_method_types": ["card"],
        "processing": null, "receipt_email": null, "setup_future_usage": "off_session", "shipping": null,
        "status": "requires_payment_method", "_invoice": invoice,
    }));
    let payment = state.new_id("inpay");
    state.put(json!({
        "id": payment, "object": "invoice_payment", "amount_paid": null, "amount_requested": amount, "created": state.now,
        "currency": currency, "invoice": invoice, "is_default": true, "livemode": false,
        "payment": {"type": "payment_intent", "payment_intent": id}, "status": "open",
        "status_transitions": {"canceled_at": null, "paid_at": null},
    }));
    state.edit(invoice, |invoice| invoice["_intent"] = json!(id));
}

/// Cancels the payment intent of an invoice that nobody has to pay any more.
pub(crate) fn cancel_intent(state: &mut State, invoice: &str) {
    let now = state.now;
    let intent = text(state.get(invoice), "_intent").to_owned();
    state.update(&intent, "payment_intent.canceled", |intent| {
        intent["status"] = json!("canceled");
        intent["canceled_at"] = json!(now);
        intent["cancellation_reason"] = json!("void_invoice");
    });
    for payment in state.ids("invoice_payment", |payment| text(payment, "invoice") == invoice) {
        state.edit(&payment, |payment| {
            payment["status"] = json!("canceled");
            payment["status_transitions"]["canceled_at"] = json!(now);
        });
    }
}

/// The payment method that an invoice would be paid with, or nothing.
pub(crate) fn method_for(state: &State, invoice: &str) -> String {
    let invoice = state.get(invoice);
    let subscription = state.get(crate::invoices::subscription(invoice));
    let customer = state.get(text(invoice, "customer"));
    let known = [
        &invoice["default_payment_method"],
        &subscription["default_payment_method"],
        &customer["invoice_settings"]["default_payment_method"],
    ];
    known.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
}

/// What a charge of a payment method comes to now; takes the control page's order for the next charge.
pub(crate) fn attempt(state: &mut State, method: &str, present: bool) -> Outcome {
    if let Some(code) = state.settings.fail_next_charge.take() {
        return match code.as_str() {
            "authentication_required" => Outcome::Authentication,
            "expired_card" | "incorrect_cvc" | "processing_error" => Outcome::Declined(code, String::new()),
            "card_declined" => Outcome::Declined(code, "generic_decline".to_owned()),
            _ => Outcome::Declined("card_declined".to_owned(), code),
        };
    }
    let method = state.get(method);
    let number = text(method, "_number");
    if cards::fails_later(number) {
        return Outcome::Declined("card_declined".to_owned(), "generic_decline".to_owned());
    }
    cards::outcome(number, flag(method, "_authenticated"), present || state.cardholder)
}

/// Tries to collect an open invoice. `present`: the cardholder just passed 3-D Secure; `asked`: somebody asked for this
/// attempt, it is no scheduled one. The refusal comes back after its events went out.
pub(crate) fn collect(
    state: &mut State,
    invoice: &str,
    method: Option<&str>,
    present: bool,
    asked: bool,
) -> Result<(), ApiError> {
    let method = method.map_or_else(|| method_for(state, invoice), str::to_owned);
    if !method.is_empty() {
        let owner = text(state.find("payment_method", &method, "payment_method")?, "customer");
        if owner != text(state.get(invoice), "customer") {
            return Err(ApiError::param(
                "payment_method",
                "The payment method does not belong to this customer.",
            ));
        }
    }
    let outcome = if method.is_empty() {
        Outcome::Declined("resource_missing".to_owned(), String::new())
    } else {
        attempt(state, &method, present)
    };
    state.edit(invoice, |invoice| {
        invoice["attempted"] = json!(true);
        if !asked || number(invoice, "attempt_count") == 0 {
            invoice["attempt_count"] = json!(number(invoice, "attempt_count") + 1);
        }
    });
    let due = number(state.get(invoice), "amount_remaining");
    match outcome {
        Outcome::Paid => {
            charge(state, invoice, &method, None);
            crate::invoices::mark_paid(state, invoice, due);
            Ok(())
        }
        Outcome::Declined(code, _) if code == "resource_missing" => {
            crate::dunning::failed(state, invoice, false, asked);
            let message = "This customer has no attached payment source or default payment method.";
            Err(ApiError::invalid(message).with("code", "resource_missing"))
        }
        Outcome::Declined(code, decline) => {
            let refusal = cards::decline(&code, &decline);
            charge(state, invoice, &method, Some(&refusal));
            crate::dunning::failed(state, invoice, false, asked);
            Err(refusal)
        }
        Outcome::Authentication => {
            ask_for_authentication(state, invoice, &method);
            crate::dunning::failed(state, invoice, true, asked);
            let mut refusal = cards::decline("authentication_required", "authentication_required");
            refusal.error["code"] = json!("invoice_payment_intent_requires_action");
            Err(refusal)
        }
    }
}

fn ask_for_authentication(state: &mut State, invoice: &str, method: &str) {
    let intent = text(state.get(invoice), "_intent").to_owned();
    let url = format!("{}/i/{invoice}", state.base_url);
    state.update(&intent, "payment_intent.requires_action", |intent| {
        intent["status"] = json!("requires_action");
        intent["payment_method"] = json!(method);
        intent["next_action"] = json!({"type": "redirect_to_url", "redirect_to_url": {"url": url, "return_url": null}});
    });
}

fn charge(state: &mut State, invoice: &str, method: &str, refusal: Option<&ApiError>) {
    let id = state.new_id("ch");
    let (intent, now) = (text(state.get(invoice), "_intent").to_owned(), state.now);
    let (due, paid) = (number(state.get(invoice), "amount_remaining"), refusal.is_none());
    let card = state.get(method).clone();
    let why = refusal.map_or(Value::Null, |refusal| refusal.error.clone());
    state.put(json!({
        "id": id, "object": "charge", "amount": due, "amount_captured": if paid { due } else { 0 }, "amount_refunded": 0,
        "application": null, "balance_transaction": null, "billing_details": card["billing_details"], "captured": paid, "created": now,
        "currency": state.get(invoice)["currency"], "customer": state.get(invoice)["customer"], "description": null, "disputed": false,
        "failure_code": why["code"], "failure_message": why["message"], "fraud_details": {}, "livemode": false, "metadata": {},
        "outcome": null, "paid": paid, "payment_intent": intent, "payment_method": method,
        "payment_method_details": {"type": "card", "card": {
            "brand": card["card"]["brand"], "country": "US", "exp_month": card["card"]["exp_month"], "exp_year": card["card"]["exp_year"],
            "funding": "credit", "last4": card["card"]["last4"],
        }},
        "receipt_email": null, "receipt_number": null, "receipt_url": format!("{}/i/{invoice}", state.base_url), "refunded": false,
        "shipping": null, "status": if paid { "succeeded" } else { "failed" },
    }));
    state.emit(if paid { "charge.succeeded" } else { "charge.failed" }, &id);
    let event = if paid {
        "payment_intent.succeeded"
    } else {
        "payment_intent.payment_failed"
    };
    state.update(&intent, event, |intent| {
        intent["latest_charge"] = json!(id);
        intent["payment_method"] = if paid { json!(method) } else { Value::Null };
        intent["next_action"] = Value::Null;
        intent["last_payment_error"] = why;
        intent["status"] = json!(if paid { "succeeded" } else { "requires_payment_method" });
        intent["amount_received"] = json!(if paid { due } else { 0 });
    });
    if paid {
        for payment in state.ids("invoice_payment", |payment| text(payment, "invoice") == invoice) {
            state.edit(&payment, |payment| {
                payment["status"] = json!("paid");
                payment["amount_paid"] = json!(due);
                payment["status_transitions"]["paid_at"] = json!(now);
            });
        }
    }
}

/// `POST /v1/refunds`.
pub(crate) fn refund(state: &mut State, params: &Value) -> Answer {
    let charge = match (params["charge"].as_str(), params["payment_intent"].as_str()) {
        (Some(charge), None) => charge.to_owned(),
        (None, Some(intent)) => {
            let intent = state.find("payment_intent", intent, "payment_intent")?;
            let charge = text(intent, "latest_charge").to_owned();
            if text(intent, "status") != "succeeded" {
                return Err(ApiError::param(
                    "payment_intent",
                    "This PaymentIntent does not have a successful charge to refund.",
                ));
            }
            charge
        }
        _ => {
            return Err(ApiError::coded(
                "parameter_missing",
                "charge",
                "One of these params is required: charge, payment_intent.",
            ));
        }
    };
    let found = state.find("charge", &charge, "charge")?.clone();
    state.enter(text(&found, "customer"));
    let disputed = state.of_kind("dispute").find(|d| text(d, "charge") == charge);
    if disputed.is_some_and(|dispute| !flag(dispute, "is_charge_refundable")) {
        let message = format!("Charge {charge} has been charged back; cannot issue a refund.");
        return Err(ApiError::invalid(&message).with("code", "charge_disputed"));
    }
    let left = number(&found, "amount_captured") - number(&found, "amount_refunded");
    let amount = params["amount"].as_i64().unwrap_or(left);
    if left == 0 {
        let message = format!("Charge {charge} has already been refunded.");
        return Err(ApiError::invalid(&message).with("code", "charge_already_refunded"));
    }
    if amount <= 0 || amount > left {
        let message =
            format!("Refund amount ({amount}) is greater than unrefunded amount on charge ({left}), or not positive.");
        return Err(ApiError::param("amount", &message));
    }
    let id = state.new_id("re");
    let mut refund = json!({
        "id": id, "object": "refund", "amount": amount, "balance_transaction": null, "charge": charge, "created": state.now,
        "currency": found["currency"], "destination_details": {"card": {"type": "refund"}, "type": "card"}, "metadata": {},
        "payment_intent": found["payment_intent"], "reason": or_null(params, "reason"), "receipt_number": null,
        "source_transfer_reversal": null, "status": "succeeded", "transfer_reversal": null,
    });
    merge_metadata(&mut refund, params);
    state.put(refund);
    state.update(&charge, "charge.refunded", |charge| {
        charge["amount_refunded"] = json!(number(charge, "amount_refunded") + amount);
        charge["refunded"] = json!(amount == left);
    });
    state.emit("refund.created", &id);
    Ok(view(state, &id))
}
