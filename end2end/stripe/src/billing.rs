//! What a subscription owes: lines in advance for licensed prices, in arrears for metered ones, and the renewal.

use serde_json::{Value, json};

use crate::invoices::{Draft, draft};
use crate::money;
use crate::periods;
use crate::prices::{interval, is_metered};
use crate::rating::{Part, rate, total};
use crate::state::{State, each, flag, number, text};

/// The facts that every line of a subscription shares.
pub(crate) struct LineOf<'a> {
    pub(crate) subscription: &'a str,
    pub(crate) item: &'a str,
    pub(crate) price: &'a Value,
    pub(crate) period: (i64, i64),
    pub(crate) metadata: &'a Value,
}

/// An invoice line for a part of a subscription item.
pub(crate) fn line(state: &mut State, of: &LineOf<'_>, part: &Part, description: &str) -> Value {
    let price = of.price;
    json!({
        "id": state.new_id("il"), "object": "line_item", "amount": part.amount, "currency": price["currency"], "description": description,
        "discount_amounts": [], "discountable": true, "discounts": [], "invoice": null, "livemode": false, "metadata": of.metadata,
        "parent": {
            "type": "subscription_item_details", "invoice_item_details": null,
            "subscription_item_details": {
                "invoice_item": null, "proration": false, "proration_details": {"credited_items": null},
                "subscription": of.subscription, "subscription_item": of.item,
            },
        },
        "period": {"start": of.period.0, "end": of.period.1}, "pretax_credit_amounts": [],
        "pricing": {
            "type": "price_details", "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": money::decimal(part.unit),
        },
        "quantity": part.quantity, "quantity_decimal": part.quantity.to_string(), "subscription": of.subscription,
        "subtotal": part.amount, "taxes": [],
    })
}

/// The name that customers see for a price.
pub(crate) fn product_name<'a>(state: &'a State, price: &Value) -> &'a str {
    text(state.get(text(price, "product")), "name")
}

/// `/ month`, `every 3 months`.
pub(crate) fn rhythm(price: &Value) -> String {
    let every = interval(price);
    if every.count == 1 {
        format!("/ {}", every.unit)
    } else {
        format!("every {} {}s", every.count, every.unit)
    }
}

fn describe(state: &State, price: &Value, part: &Part) -> String {
    let currency = text(price, "currency");
    let tier = part.tier.map_or_else(String::new, |tier| format!("Tier {tier} "));
    let size = number(&price["transform_quantity"], "divide_by");
    let each = if size > 0 {
        format!(" per {size}")
    } else {
        String::new()
    };
    let unit = money::show_exact(part.unit, currency);
    format!(
        "{} × {} ({tier}at {unit}{each} {})",
        part.quantity,
        product_name(state, price),
        rhythm(price)
    )
}

/// The lines for a licensed item over `period`, the part of the whole interval `of` that it covers.
pub(crate) fn advance_lines(
    state: &mut State,
    sub: &Value,
    item: &Value,
    period: (i64, i64),
    of: (i64, i64),
) -> Vec<Value> {
    let price = state.get(text(item, "price")).clone();
    let about = LineOf {
        subscription: text(sub, "id"),
        item: text(item, "id"),
        price: &price,
        period,
        metadata: &sub["metadata"],
    };
    let mut lines = Vec::new();
    for mut part in rate(&price, number(item, "quantity")) {
        let description = describe(state, &price, &part);
        part.amount = money::share(part.amount, period.1 - period.0, of.1 - of.0);
        lines.push(line(state, &about, &part, &description));
    }
    lines
}

/// The lines for a metered stretch, at the usage known now.
pub(crate) fn usage_lines(state: &mut State, customer: &str, stretch: &Value) -> Vec<Value> {
    let price = state.get(text(stretch, "price")).clone();
    let period = (number(stretch, "from"), number(stretch, "to"));
    let used = crate::meters::usage(state, text(&price["recurring"], "meter"), customer, period.0, period.1);
    let about = LineOf {
        subscription: text(stretch, "subscription"),
        item: text(stretch, "item"),
        price: &price,
        period,
        metadata: &stretch["metadata"],
    };
    let mut lines = Vec::new();
    for part in rate(&price, used) {
        let description = describe(state, &price, &part);
        let mut made = line(state, &about, &part, &description);
        made["_usage"] = json!(true);
        lines.push(made);
    }
    lines
}

/// The stretches of a metered item that end at `at` and are not billed yet, each at the price then in force.
pub(crate) fn stretches(sub: &Value, item: &Value, at: i64) -> Vec<Value> {
    let about = |price: &Value, from: i64, to: i64| json!({"subscription": sub["id"], "item": item["id"], "price": price, "from": from, "to": to, "metadata": sub["metadata"]});
    let closed = each(item, "_segments")
        .iter()
        .map(|s| about(&s["price"], number(s, "from"), number(s, "to")));
    let mut all: Vec<Value> = closed.collect();
    if number(item, "_from") < at && flag(item, "_metered") {
        all.push(about(&item["price"], number(item, "_from"), at));
    }
    all
}

/// What a subscription owes at an instant, before it is an invoice.
#[derive(Default)]
struct Owed {
    lines: Vec<Value>,
    stretches: Vec<Value>,
    /// The start of the period that ends.
    since: Option<i64>,
}

/// Renews the items whose period ends at `at`, and drafts the invoice.
pub(crate) fn renew(state: &mut State, id: &str, at: i64) {
    let before = crate::views::view(state, id);
    let mut sub = state.get(id).clone();
    let trial = text(&sub, "status") == "trialing";
    if trial && !leave_trial(state, &mut sub, at) {
        return;
    }
    let mut owed = Owed::default();
    let mut items = each(&sub, "_items").to_vec();
    for item in items.iter_mut().filter(|item| number(item, "current_period_end") <= at) {
        renew_item(state, &sub, item, at, trial, &mut owed);
    }
    sub["_items"] = json!(items);
    let held = text(&sub, "status") == "unpaid";
    state.put(sub.clone());
    let Owed {
        lines,
        stretches,
        since,
    } = owed;
    let invoice = draft(
        state,
        Draft {
            customer: text(&sub, "customer"),
            subscription: Some(id),
            reason: "subscription_cycle",
            lines,
            stretches,
            period: (since.unwrap_or(at), at),
        },
    );
    state.edit(id, |sub| sub["latest_invoice"] = json!(invoice));
    state.announce(id, "customer.subscription.updated", &before);
    pause(state, &sub, &invoice, held);
}

fn renew_item(state: &mut State, sub: &Value, item: &mut Value, at: i64, trial: bool, owed: &mut Owed) {
    let price = state.get(text(item, "price")).clone();
    let end = number(item, "current_period_end");
    let next = interval(&price).period(number(sub, "billing_cycle_anchor"), end);
    owed.since = Some(owed.since.unwrap_or(at).min(number(item, "current_period_start")));
    if is_metered(&price) {
        if !trial {
            owed.stretches.extend(stretches(sub, item, end));
        }
        item["_segments"] = json!([]);
        item["_from"] = json!(end);
    } else {
        let made = advance_lines(state, sub, item, (end, next.1), next);
        owed.lines.extend(made);
        item["_debit"] = json!({"amount": total(&price, number(item, "quantity")), "start": end, "end": next.1});
    }
    item["current_period_start"] = json!(end);
    item["current_period_end"] = json!(next.1);
}

/// Ends a trial; false when the subscription is over or paused with it.
fn leave_trial(state: &mut State, sub: &mut Value, at: i64) -> bool {
    let customer = state.get(text(sub, "customer"));
    let method = [
        &sub["default_payment_method"],
        &customer["invoice_settings"]["default_payment_method"],
    ];
    let missing = method.into_iter().all(Value::is_null) && text(sub, "collection_method") == "charge_automatically";
    let id = text(sub, "id").to_owned();
    match text(&sub["trial_settings"]["end_behavior"], "missing_payment_method") {
        "cancel" if missing => {
            crate::cancel::finish(state, &id, at, "payment_failed", Vec::new());
            false
        }
        "pause" if missing => {
            state.update(&id, "customer.subscription.updated", |sub| {
                sub["status"] = json!("paused");
            });
            state.emit("customer.subscription.paused", &id);
            false
        }
        _ => {
            sub["status"] = json!("active");
            true
        }
    }
}

/// Does with a new draft what paused collection or an unpaid subscription asks.
fn pause(state: &mut State, sub: &Value, invoice: &str, held: bool) {
    let behavior = text(&sub["pause_collection"], "behavior");
    if held || behavior == "keep_as_draft" {
        state.edit(invoice, |invoice| {
            invoice["auto_advance"] = json!(false);
            invoice["automatically_finalizes_at"] = Value::Null;
        });
    } else if matches!(behavior, "void" | "mark_uncollectible") {
        crate::invoices::finalize_now(state, invoice);
        let (status, event) = if behavior == "void" {
            ("void", "invoice.voided")
        } else {
            ("uncollectible", "invoice.marked_uncollectible")
        };
        crate::invoices::close(state, invoice, status, event);
    }
}

/// The line of a trial: free.
pub(crate) fn trial_line(state: &mut State, sub: &Value, item: &Value, period: (i64, i64)) -> Value {
    let price = state.get(text(item, "price")).clone();
    let about = LineOf {
        subscription: text(sub, "id"),
        item: text(item, "id"),
        price: &price,
        period,
        metadata: &sub["metadata"],
    };
    let part = Part {
        quantity: number(item, "quantity").max(1),
        unit: 0,
        amount: 0,
        tier: None,
    };
    let description = format!(
        "Trial period for {} until {}",
        product_name(state, &price),
        periods::day(period.1)
    );
    line(state, &about, &part, &description)
}
