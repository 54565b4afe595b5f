//! Time: what falls due, in order, on the emulator's clock and on test clocks.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::invoices::HELD_SECONDS;
use crate::state::{State, each, flag, number, text};
use crate::views::{ended, view};

/// Something that falls due. The order is that of doing when two fall due together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Phase,
    CancelAt,
    Renewal,
    Finalize,
    Collect,
    TrialNotice,
    Incomplete,
    PendingUpdate,
    Resume,
    Session,
}

/// Stripe tells that a trial ends three days before.
const NOTICE_SECONDS: i64 = 3 * 86_400;

/// Does the next thing that falls due at or before `until` on a clock (an empty name: the emulator's own). Gives the
/// instant of what it did.
pub(crate) fn step(state: &mut State, clock: &str, until: i64) -> Option<i64> {
    let (at, step, id) = next(state, clock).filter(|(at, ..)| *at <= until)?;
    if !clock.is_empty() {
        state.edit(clock, |clock| {
            clock["frozen_time"] = json!(at.max(number(clock, "frozen_time")));
        });
    }
    state.now = at;
    state.request = Value::Null;
    act(state, step, &id, at);
    Some(at)
}

/// When the next thing falls due on a clock.
pub(crate) fn next_due(state: &State, clock: &str) -> Option<i64> {
    next(state, clock).map(|(at, ..)| at)
}

fn next(state: &State, clock: &str) -> Option<(i64, Step, String)> {
    let mine = |object: &&Value| text(object, "test_clock") == clock;
    let mut best: Option<(i64, Step, String)> = None;
    let mut offer = |at: Option<i64>, step: Step, object: &Value| {
        let Some(at) = at else { return };
        if best
            .as_ref()
            .is_none_or(|(time, other, _)| (at, step) < (*time, *other))
        {
            best = Some((at, step, text(object, "id").to_owned()));
        }
    };
    for sub in state.of_kind("subscription").filter(|sub| !ended(sub)).filter(mine) {
        for (step, at) in subscription_dues(sub) {
            offer(at, step, sub);
        }
    }
    for schedule in state.of_kind("subscription_schedule").filter(mine) {
        offer(crate::schedules::due(schedule), Step::Phase, schedule);
    }
    for invoice in state.of_kind("invoice").filter(mine) {
        match text(invoice, "status") {
            "draft" if flag(invoice, "auto_advance") => {
                offer(invoice["automatically_finalizes_at"].as_i64(), Step::Finalize, invoice);
            }
            "open" => offer(invoice["next_payment_attempt"].as_i64(), Step::Collect, invoice),
            _ => {}
        }
    }
    if clock.is_empty() {
        for session in state
            .of_kind("checkout.session")
            .filter(|session| text(session, "status") == "open")
        {
            offer(session["expires_at"].as_i64(), Step::Session, session);
        }
    }
    best
}

fn subscription_dues(sub: &Value) -> [(Step, Option<i64>); 6] {
    let status = text(sub, "status");
    let billed = matches!(status, "active" | "past_due" | "unpaid" | "trialing");
    let end = each(sub, "_items")
        .iter()
        .map(|item| number(item, "current_period_end"))
        .min();
    let notice = sub["trial_end"]
        .as_i64()
        .filter(|_| status == "trialing" && sub["_noticed"].is_null());
    [
        (Step::CancelAt, sub["cancel_at"].as_i64()),
        (Step::Renewal, end.filter(|_| billed)),
        (Step::TrialNotice, notice.map(|end| end - NOTICE_SECONDS)),
        (
            Step::Incomplete,
            sub["_incomplete_until"].as_i64().filter(|_| status == "incomplete"),
        ),
        (Step::PendingUpdate, crate::pending::expiry(sub)),
        (Step::Resume, sub["pause_collection"]["resumes_at"].as_i64()),
    ]
}

fn act(state: &mut State, step: Step, id: &str, at: i64) {
    match step {
        Step::Phase => crate::schedules::advance(state, id),
        Step::CancelAt => crate::cancel::at_end(state, id, at),
        Step::Renewal => crate::billing::renew(state, id, at),
        Step::Finalize => finalize(state, id, at),
        Step::Collect => {
            state.edit(id, |invoice| invoice["next_payment_attempt"] = Value::Null);
            // A refusal is told by events.
            let _refused = crate::payments::collect(state, id, None, false, false);
        }
        Step::TrialNotice => {
            state.edit(id, |sub| sub["_noticed"] = json!(true));
            state.emit("customer.subscription.trial_will_end", id);
        }
        Step::Incomplete => crate::dunning::expire(state, id),
        Step::PendingUpdate => crate::pending::expire(state, id),
        Step::Resume => state.update(id, "customer.subscription.updated", |sub| {
            sub["pause_collection"] = Value::Null;
        }),
        Step::Session => crate::checkout::expire_now(state, id),
    }
}

/// Finalizes a draft and collects it, unless an endpoint has not taken its `invoice.created` yet: then Stripe waits, up
/// to 72 hours.
fn finalize(state: &mut State, id: &str, at: i64) {
    let invoice = state.get(id);
    if crate::webhooks::outstanding(state, text(invoice, "_created_event"))
        && at < number(invoice, "created") + HELD_SECONDS
    {
        let later = at + crate::invoices::DRAFT_SECONDS;
        state.edit(id, |invoice| invoice["automatically_finalizes_at"] = json!(later));
        return;
    }
    let waiting = state.waiting.len();
    crate::meters::aggregate(state, waiting);
    crate::invoices::finalize_now(state, id);
    let invoice = state.get(id);
    if text(invoice, "status") == "open" && text(invoice, "collection_method") == "charge_automatically" {
        // A refusal is told by events.
        let _refused = crate::payments::collect(state, id, None, false, false);
    }
}

/// `POST /v1/test_helpers/test_clocks`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let id = state.new_id("clock");
    let frozen = number(params, "frozen_time");
    state.put(json!({
        "id": id, "object": "test_helpers.test_clock", "created": state.now, "deletes_after": state.now + 30 * 86_400, "frozen_time": frozen,
        "livemode": false, "name": params["name"], "status": "ready", "status_details": {},
    }));
    state.emit("test_helpers.test_clock.created", &id);
    Ok(view(state, &id))
}

/// `POST /v1/test_helpers/test_clocks/{id}/advance`: at once, where Stripe takes a while.
pub(crate) fn advance(state: &mut State, id: &str, params: &Value) -> Answer {
    let now = number(state.find("test_helpers.test_clock", id, "id")?, "frozen_time");
    let to = number(params, "frozen_time");
    if to <= now {
        return Err(ApiError::param(
            "frozen_time",
            "The test clock can only be advanced forward.",
        ));
    }
    check_intervals(state, id, now, to)?;
    let waiting = state.waiting.len();
    crate::meters::aggregate(state, waiting);
    while step(state, id, to).is_some() {}
    state.now = to;
    state.update(id, "test_helpers.test_clock.advancing", |clock| {
        clock["frozen_time"] = json!(to);
    });
    state.emit("test_helpers.test_clock.ready", id);
    Ok(view(state, id))
}

/// Stripe advances by at most two of the shortest intervals on the clock.
fn check_intervals(state: &State, id: &str, now: i64, to: i64) -> Result<(), ApiError> {
    let subs = state
        .of_kind("subscription")
        .filter(|sub| text(sub, "test_clock") == id && !ended(sub));
    let items = subs.flat_map(|sub| each(sub, "_items"));
    let limit = items
        .map(|item| crate::prices::interval(state.get(text(item, "price"))).after(now, 2))
        .min();
    match limit {
        Some(limit) if to > limit => {
            let message =
                "You can only advance a test clock by up to two intervals of the shortest subscription on it.";
            Err(ApiError::param("frozen_time", message))
        }
        _ => Ok(()),
    }
}

/// `DELETE /v1/test_helpers/test_clocks/{id}`: its customers go too.
pub(crate) fn delete(state: &mut State, id: &str) -> Answer {
    state.find("test_helpers.test_clock", id, "id")?;
    for customer in state.ids("customer", |customer| text(customer, "test_clock") == id) {
        crate::customers::delete(state, &customer)?;
    }
    let last = view(state, id);
    state.forget(id);
    crate::events::emit(state, "test_helpers.test_clock.deleted", last, None);
    Ok(json!({"id": id, "object": "test_helpers.test_clock", "deleted": true}))
}
