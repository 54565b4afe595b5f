//! Disputes: a cardholder contests a charge at the bank. The control page opens and decides them, as banks do.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::{State, flag, text};

/// Evidence is due so long after a dispute was opened, in seconds.
const ANSWER_S: i64 = 9 * 86_400;
/// The reasons that banks give.
const REASONS: [&str; 15] = [
    "bank_cannot_process",
    "check_returned",
    "credit_not_processed",
    "customer_initiated",
    "debit_not_authorized",
    "duplicate",
    "fraudulent",
    "general",
    "incorrect_account_details",
    "insufficient_funds",
    "noncompliant",
    "product_not_received",
    "product_unacceptable",
    "subscription_canceled",
    "unrecognized",
];

/// Contests a paid charge; gives the dispute's id. An inquiry takes no money yet.
pub(crate) fn open(state: &mut State, charge: &str, reason: &str, inquiry: bool) -> Result<String, ApiError> {
    let found = state.find("charge", charge, "charge")?.clone();
    if !flag(&found, "paid") || flag(&found, "refunded") || flag(&found, "disputed") {
        return Err(ApiError::param(
            "charge",
            "Only a charge that was paid can be disputed, once.",
        ));
    }
    if !REASONS.contains(&reason) {
        return Err(ApiError::param("reason", "No bank gives such a reason."));
    }
    state.enter(text(&found, "customer"));
    let id = state.new_id("dp");
    let now = state.now;
    state.put(json!({
        "id": id, "object": "dispute", "amount": found["amount"], "balance_transactions": [], "charge": charge, "created": now,
        "currency": found["currency"], "enhanced_eligibility_types": [], "evidence": {},
        "evidence_details": {
            "due_by": now + ANSWER_S, "enhanced_eligibility": {}, "has_evidence": false, "past_due": false, "submission_count": 0,
        },
        "is_charge_refundable": inquiry, "livemode": false, "metadata": {}, "payment_intent": found["payment_intent"],
        "payment_method_details": {"type": "card", "card": {
            "brand": found["payment_method_details"]["card"]["brand"], "case_type": if inquiry { "inquiry" } else { "chargeback" },
            "network_reason_code": "10.4",
        }},
        "reason": reason, "status": if inquiry { "warning_needs_response" } else { "needs_response" },
    }));
    state.edit(charge, |charge| charge["disputed"] = json!(true));
    state.emit("charge.dispute.created", &id);
    if !inquiry {
        state.emit("charge.dispute.funds_withdrawn", &id);
    }
    Ok(id)
}

/// The bank decides: `won`, `lost`, or `warning_closed` for an inquiry.
pub(crate) fn close(state: &mut State, id: &str, outcome: &str) -> Result<(), ApiError> {
    let found = state.find("dispute", id, "dispute")?.clone();
    let inquiry = text(&found, "status").starts_with("warning_");
    let fits = match outcome {
        "won" | "lost" => !inquiry,
        "warning_closed" => inquiry,
        _ => false,
    };
    if !fits || is_closed(&found) {
        return Err(ApiError::param(
            "outcome",
            "Won or lost; an inquiry is warning_closed. Only once.",
        ));
    }
    let customer = text(state.get(text(&found, "charge")), "customer").to_owned();
    state.enter(&customer);
    state.edit(id, |dispute| dispute["status"] = json!(outcome));
    state.emit("charge.dispute.closed", id);
    if outcome == "won" {
        state.emit("charge.dispute.funds_reinstated", id);
    }
    Ok(())
}

/// Whether the bank has decided.
pub(crate) fn is_closed(dispute: &Value) -> bool {
    matches!(text(dispute, "status"), "won" | "lost" | "warning_closed")
}
