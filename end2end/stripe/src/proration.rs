//! Changes of a subscription's items, prorated to the second.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::invoice_items::{Item, add};
use crate::money;
use crate::periods;
use crate::prices::{interval, is_metered, wanted};
use crate::rating::total;
use crate::state::{State, each, flag, merge_metadata, number, text};

/// How a change of items is to be billed.
pub(crate) struct Change<'a> {
    /// The instant from which it counts.
    pub(crate) at: i64,
    /// `create_prorations`, `always_invoice` or `none`.
    pub(crate) behavior: &'a str,
    /// Whether the billing cycle begins anew; a changed interval always does that.
    pub(crate) reset: bool,
    /// Whether the period ends here anyway, so that nothing is left to prorate.
    pub(crate) boundary: bool,
}

/// Credits the unused rest of what an item was really charged in advance.
pub(crate) fn credit(state: &mut State, sub: &Value, item: &Value, at: i64) {
    let debit = &item["_debit"];
    let (start, end) = (number(debit, "start"), number(debit, "end"));
    let amount = money::share(number(debit, "amount"), end - at.max(start), end - start);
    if end > at && debit.is_object() {
        prorate(state, sub, item, -amount, (at, end), "Unused time on");
    }
}

fn prorate(state: &mut State, sub: &Value, item: &Value, amount: i64, period: (i64, i64), what: &str) {
    let price = state.get(text(item, "price")).clone();
    let quantity = number(item, "quantity").max(1);
    let counted = if quantity == 1 {
        String::new()
    } else {
        format!("{quantity} × ")
    };
    let name = crate::billing::product_name(state, &price);
    let description = json!(format!("{what} {counted}{name} after {}", periods::day(period.0)));
    let unit = i128::from(amount) * money::SCALE / i128::from(quantity);
    let of = Item {
        customer: text(sub, "customer"),
        subscription: sub["id"].clone(),
        subscription_item: item["id"].clone(),
        amount,
        currency: text(sub, "currency"),
        description,
        period,
        proration: true,
        price: Some((&price, unit)),
        quantity,
    };
    add(state, of);
}

/// Charges the rest of the running period at the item's price as it is now.
fn debit(state: &mut State, sub: &Value, item: &mut Value, at: i64) {
    let price = state.get(text(item, "price")).clone();
    let (start, end) = interval(&price).period(number(sub, "billing_cycle_anchor"), at);
    let amount = money::share(total(&price, number(item, "quantity")), end - at, end - start);
    prorate(state, sub, item, amount, (at, end), "Remaining time on");
    item["_debit"] = json!({"amount": amount, "start": at, "end": end});
}

/// A new item of a subscription, its period counted from the anchor.
pub(crate) fn new_item(
    state: &mut State,
    sub: &Value,
    price: &str,
    params: &Value,
    at: i64,
) -> Result<Value, ApiError> {
    let found = state.get(price).clone();
    let metered = is_metered(&found);
    if metered && params.get("quantity").is_some() {
        return Err(ApiError::param(
            "quantity",
            "You cannot set the quantity of a metered item: its meter counts it.",
        ));
    }
    let id = state.new_id("si");
    let period = interval(&found).period(number(sub, "billing_cycle_anchor"), at);
    let mut item = json!({
        "id": id, "object": "subscription_item", "billed_until": null, "billing_thresholds": null, "created": state.now, "discounts": [],
        "metadata": {}, "price": price, "subscription": sub["id"], "tax_rates": [], "current_period_start": period.0,
        "current_period_end": period.1, "_metered": metered, "_from": at, "_segments": [], "_debit": null,
    });
    if !metered {
        item["quantity"] = json!(params["quantity"].as_i64().unwrap_or(1));
    }
    merge_metadata(&mut item, params);
    Ok(item)
}

/// Applies `items[]` of an update to a subscription. True when the billing cycle began anew.
pub(crate) fn change_items(
    state: &mut State,
    id: &str,
    asked: &[Value],
    change: &Change<'_>,
) -> Result<bool, ApiError> {
    let plans = resolve(state, id, asked)?;
    let reset = change.reset || plans.iter().any(|plan| plan.new_interval);
    let sub = state.get(id).clone();
    let free = text(&sub, "status") == "trialing" || change.boundary;
    let prorates = change.behavior != "none" && !free && !reset;
    let mut items = each(&sub, "_items").to_vec();
    if reset && change.behavior != "none" && !free {
        for item in &items {
            credit(state, &sub, item, change.at);
        }
    }
    for plan in plans {
        apply(state, &sub, &mut items, plan, change, prorates)?;
    }
    if items.is_empty() {
        return Err(ApiError::param(
            "items",
            "A subscription must have at least one active item.",
        ));
    }
    state.edit(id, |sub| sub["_items"] = json!(items));
    Ok(reset)
}

/// One entry of `items[]`, understood: which item, which price.
struct Plan {
    item: Option<String>,
    price: Option<String>,
    params: Value,
    new_interval: bool,
}

fn resolve(state: &mut State, id: &str, asked: &[Value]) -> Result<Vec<Plan>, ApiError> {
    let mut plans = Vec::new();
    for (index, params) in asked.iter().enumerate() {
        let path = format!("items[{index}]");
        let price = wanted(state, params, &path)?;
        let sub = state.get(id);
        if let Some(price) = &price
            && text(state.get(price), "currency") != text(sub, "currency")
        {
            return Err(ApiError::param(
                &format!("{path}[price]"),
                "The price is in another currency than the subscription.",
            ));
        }
        let items = each(sub, "_items");
        let item = params["id"].as_str().map(str::to_owned);
        let known = item
            .as_ref()
            .map(|item| items.iter().find(|known| text(known, "id") == item));
        let new_interval = match (known, &price) {
            (Some(None), _) => {
                let item = item.unwrap_or_default();
                return Err(ApiError::missing("subscription item", &item, &format!("{path}[id]")));
            }
            (Some(Some(known)), Some(price)) => interval(state.get(text(known, "price"))) != interval(state.get(price)),
            (None, None) => {
                return Err(ApiError::coded(
                    "parameter_missing",
                    &format!("{path}[price]"),
                    "Each new item needs a price.",
                ));
            }
            (None, Some(price)) if items.iter().any(|item| text(item, "price") == price) => {
                let message = "You cannot add multiple subscription items with the same price.";
                return Err(ApiError::param(&format!("{path}[price]"), message));
            }
            _ => false,
        };
        plans.push(Plan {
            item,
            price,
            params: params.clone(),
            new_interval,
        });
    }
    Ok(plans)
}

fn apply(
    state: &mut State,
    sub: &Value,
    items: &mut Vec<Value>,
    plan: Plan,
    change: &Change<'_>,
    prorates: bool,
) -> Result<(), ApiError> {
    let Some(place) = items
        .iter()
        .position(|item| plan.item.as_deref() == Some(text(item, "id")))
    else {
        let price = plan.price.unwrap_or_default();
        let mut item = new_item(state, sub, &price, &plan.params, change.at)?;
        if prorates && !flag(&item, "_metered") {
            debit(state, sub, &mut item, change.at);
        }
        items.push(item);
        return Ok(());
    };
    let Some(old) = items.get(place).cloned() else {
        return Ok(());
    };
    if flag(&plan.params, "deleted") {
        items.remove(place);
        leave(state, sub, &old, change, prorates);
        return Ok(());
    }
    let price = plan.price.unwrap_or_else(|| text(&old, "price").to_owned());
    let metered = is_metered(state.get(&price));
    if metered && plan.params.get("quantity").is_some() {
        return Err(ApiError::param(
            "quantity",
            "You cannot set the quantity of a metered item: its meter counts it.",
        ));
    }
    let mut new = old.clone();
    merge_metadata(&mut new, &plan.params);
    new["price"] = json!(price);
    new["_metered"] = json!(metered);
    match plan.params["quantity"].as_i64() {
        _ if metered => new["quantity"] = Value::Null,
        Some(quantity) if quantity < 0 => return Err(ApiError::param("quantity", "Invalid non-negative integer")),
        Some(quantity) => new["quantity"] = json!(quantity),
        None if new["quantity"].is_null() => new["quantity"] = json!(1),
        None => {}
    }
    swap(state, sub, &old, &mut new, change, prorates);
    if let Some(slot) = items.get_mut(place) {
        *slot = new;
    }
    Ok(())
}

/// Bills the difference between an item before and after.
fn swap(state: &mut State, sub: &Value, old: &Value, new: &mut Value, change: &Change<'_>, prorates: bool) {
    if old["price"] == new["price"] && old["quantity"] == new["quantity"] {
        return;
    }
    if flag(old, "_metered") && number(old, "_from") < change.at {
        let stretch = json!({"price": old["price"], "from": old["_from"], "to": change.at});
        if let Some(segments) = new["_segments"].as_array_mut() {
            segments.push(stretch);
        }
    }
    if flag(new, "_metered") {
        new["_from"] = json!(change.at.max(number(old, "_from")));
    }
    if prorates {
        if !flag(old, "_metered") {
            credit(state, sub, old, change.at);
        }
        if !flag(new, "_metered") {
            debit(state, sub, new, change.at);
        }
    }
}

/// Bills the usage of a removed metered item, credits the rest of a licensed one.
fn leave(state: &mut State, sub: &Value, old: &Value, change: &Change<'_>, prorates: bool) {
    if !flag(old, "_metered") {
        if prorates {
            credit(state, sub, old, change.at);
        }
        return;
    }
    if change.behavior == "none" && !change.boundary {
        return;
    }
    let customer = text(sub, "customer").to_owned();
    for stretch in crate::billing::stretches(sub, old, change.at) {
        for line in crate::billing::usage_lines(state, &customer, &stretch)
            .iter()
            .filter(|line| number(line, "quantity") > 0)
        {
            let price = state.get(text(&stretch, "price")).clone();
            let unit = money::parse(text(&line["pricing"], "unit_amount_decimal")).unwrap_or_default();
            let of = Item {
                customer: &customer,
                subscription: sub["id"].clone(),
                subscription_item: old["id"].clone(),
                amount: number(line, "amount"),
                currency: text(sub, "currency"),
                description: line["description"].clone(),
                period: (number(&stretch, "from"), change.at),
                proration: false,
                price: Some((&price, unit)),
                quantity: number(line, "quantity"),
            };
            add(state, of);
        }
    }
}

/// Begins the billing cycle anew at `at`: bills the usage so far and the new periods. Gives lines and metered stretches.
pub(crate) fn restart(state: &mut State, id: &str, at: i64) -> (Vec<Value>, Vec<Value>) {
    state.edit(id, |sub| sub["billing_cycle_anchor"] = json!(at));
    let sub = state.get(id).clone();
    let (mut lines, mut stretches) = (Vec::new(), Vec::new());
    let mut items = each(&sub, "_items").to_vec();
    for item in &mut items {
        let price = state.get(text(item, "price")).clone();
        let period = interval(&price).period(at, at);
        stretches.extend(crate::billing::stretches(&sub, item, at));
        item["_segments"] = json!([]);
        item["_from"] = json!(at);
        if !is_metered(&price) {
            lines.extend(crate::billing::advance_lines(state, &sub, item, period, period));
            item["_debit"] =
                json!({"amount": total(&price, number(item, "quantity")), "start": period.0, "end": period.1});
        }
        item["current_period_start"] = json!(period.0);
        item["current_period_end"] = json!(period.1);
    }
    state.edit(id, |sub| sub["_items"] = json!(items));
    (lines, stretches)
}
