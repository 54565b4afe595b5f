//! Invoice items: amounts that wait for a customer's next invoice, or join a draft.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::money;
use crate::state::{State, assign, merge_metadata, number, text};
use crate::views::view;

/// What an item is, before it has an id.
pub(crate) struct Item<'a> {
    pub(crate) customer: &'a str,
    pub(crate) subscription: Value,
    pub(crate) subscription_item: Value,
    pub(crate) amount: i64,
    pub(crate) currency: &'a str,
    pub(crate) description: Value,
    pub(crate) period: (i64, i64),
    pub(crate) proration: bool,
    /// The price and the unit price in trillionths, where there is one.
    pub(crate) price: Option<(&'a Value, i128)>,
    pub(crate) quantity: i64,
}

/// Stores a pending item and announces it. Gives its id.
pub(crate) fn add(state: &mut State, of: Item<'_>) -> String {
    let id = state.new_id("ii");
    let parent = if of.subscription.is_null() {
        Value::Null
    } else {
        let details = json!({"subscription": of.subscription, "subscription_item": of.subscription_item});
        json!({"type": "subscription_details", "subscription_details": details})
    };
    let pricing = of.price.map_or(Value::Null, |(price, unit)| {
        let details = json!({"price": price["id"], "product": price["product"]});
        json!({"type": "price_details", "price_details": details, "unit_amount_decimal": money::decimal(unit)})
    });
    let clock = state.get(of.customer)["test_clock"].clone();
    state.put(json!({
        "id": id, "object": "invoiceitem", "amount": of.amount, "net_amount": of.amount, "currency": of.currency, "customer": of.customer,
        "date": state.now, "created": state.now, "description": of.description, "discountable": !of.proration, "discounts": [],
        "invoice": null, "livemode": false, "metadata": {}, "parent": parent, "period": {"start": of.period.0, "end": of.period.1},
        "pricing": pricing, "proration": of.proration, "quantity": of.quantity, "quantity_decimal": of.quantity.to_string(),
        "tax_rates": [], "test_clock": clock,
    }));
    state.emit("invoiceitem.created", &id);
    id
}

fn pending(item: &Value) -> bool {
    item["invoice"].is_null()
}

fn subscription(item: &Value) -> &str {
    text(&item["parent"]["subscription_details"], "subscription")
}

/// Whether items wait for a subscription's next invoice.
pub(crate) fn waiting(state: &State, sub: &str) -> bool {
    let customer = text(state.get(sub), "customer");
    state.of_kind("invoiceitem").any(|item| {
        pending(item)
            && text(item, "customer") == customer
            && (subscription(item) == sub || subscription(item).is_empty())
    })
}

/// Puts the customer's waiting items on a draft: a renewal takes all, a change of the subscription its own, a one-off
/// invoice those of no subscription, an `empty` one none.
pub(crate) fn take_in(state: &mut State, invoice: &str, customer: &str, sub: Option<&str>, reason: &str) {
    if reason == "empty" {
        return;
    }
    let currency = state.get(invoice)["currency"].clone();
    let chosen = state.ids("invoiceitem", |item| {
        let whose = subscription(item);
        let fits = match sub {
            Some(sub) => whose == sub || (whose.is_empty() && reason != "subscription_update"),
            None => whose.is_empty(),
        };
        pending(item) && fits && text(item, "customer") == customer && item["currency"] == currency
    });
    for item in chosen {
        put_on(state, &item, invoice);
    }
}

fn put_on(state: &mut State, item: &str, invoice: &str) {
    let line = line(state, item, invoice);
    state.edit(item, |item| item["invoice"] = json!(invoice));
    state.edit(invoice, |invoice| {
        if let Some(lines) = invoice["lines"]["data"].as_array_mut() {
            lines.push(line);
        }
    });
}

/// The line that shows an item.
fn line(state: &mut State, item: &str, invoice: &str) -> Value {
    let id = state.new_id("il");
    let item = state.get(item);
    let details = json!({"credited_items": null});
    let owner = &item["parent"]["subscription_details"];
    let of_item = json!({
        "invoice_item": item["id"], "proration": item["proration"], "proration_details": details,
        "subscription": owner["subscription"], "subscription_item": owner["subscription_item"],
    });
    let by_item = owner["subscription_item"].is_string();
    let parent = if by_item {
        json!({"type": "subscription_item_details", "invoice_item_details": null, "subscription_item_details": of_item})
    } else {
        json!({"type": "invoice_item_details", "invoice_item_details": of_item, "subscription_item_details": null})
    };
    json!({
        "id": id, "object": "line_item", "amount": item["amount"], "currency": item["currency"], "description": item["description"],
        "discount_amounts": [], "discountable": item["discountable"], "discounts": [], "invoice": invoice, "livemode": false,
        "metadata": item["metadata"], "parent": parent, "period": item["period"], "pretax_credit_amounts": [],
        "pricing": item["pricing"], "quantity": item["quantity"], "quantity_decimal": item["quantity_decimal"],
        "subscription": owner["subscription"], "subtotal": item["amount"], "taxes": [], "_item": item["id"],
    })
}

/// Lets the items of a deleted draft wait again.
pub(crate) fn release(state: &mut State, invoice: &str) {
    for item in state.ids("invoiceitem", |item| item["invoice"] == *invoice) {
        state.edit(&item, |item| item["invoice"] = Value::Null);
    }
}

/// `POST /v1/invoiceitems`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let invoice = params["invoice"].as_str().map(str::to_owned);
    if let Some(invoice) = &invoice
        && text(state.find("invoice", invoice, "invoice")?, "status") != "draft"
    {
        return Err(ApiError::param("invoice", "You can only add items to a draft invoice.")
            .with("code", "invoice_not_editable"));
    }
    let of = invoice
        .as_deref()
        .map_or("", |id| text(state.get(id), "customer"))
        .to_owned();
    let customer = params["customer"].as_str().unwrap_or(&of).to_owned();
    crate::customers::present(state, &customer, "customer")?;
    state.enter(&customer);
    if let Some(sub) = params["subscription"].as_str() {
        let found = state.find("subscription", sub, "subscription")?;
        if text(found, "customer") != customer || crate::views::ended(found) {
            return Err(ApiError::param(
                "subscription",
                "The subscription is not this customer's, or it is over.",
            ));
        }
    }
    let quantity = params["quantity"].as_i64().unwrap_or(1);
    let (amount, price, unit) = amount(state, params, quantity)?;
    let price_currency = text(&price, "currency").to_owned();
    let currency = params["currency"]
        .as_str()
        .unwrap_or(if price.is_null() { "usd" } else { &price_currency })
        .to_owned();
    if let Some(invoice) = &invoice
        && text(state.get(invoice), "currency") != currency
    {
        return Err(ApiError::param(
            "currency",
            "The currency of the item must be the invoice's.",
        ));
    }
    let period = &params["period"];
    let period = (
        period["start"].as_i64().unwrap_or(state.now),
        period["end"].as_i64().unwrap_or(state.now),
    );
    let subscription = params.get("subscription").cloned().unwrap_or_default();
    let description = params.get("description").cloned().unwrap_or_default();
    let price = (!price.is_null()).then_some((&price, unit));
    let item = Item {
        customer: &customer,
        subscription,
        subscription_item: Value::Null,
        amount,
        currency: &currency,
        description,
        period,
        proration: false,
        price,
        quantity,
    };
    let id = add(state, item);
    state.edit(&id, |item| {
        assign(item, params, &["discountable"]);
        merge_metadata(item, params);
    });
    if let Some(invoice) = invoice {
        let before = view(state, &invoice);
        put_on(state, &id, &invoice);
        crate::invoices::retotal(state, &invoice);
        state.announce(&invoice, "invoice.updated", &before);
    }
    Ok(view(state, &id))
}

/// Amount in minor units, price and unit price in trillionths, from `amount`, `unit_amount_decimal` or `pricing`.
fn amount(state: &mut State, params: &Value, quantity: i64) -> Result<(i64, Value, i128), ApiError> {
    let unit = params["unit_amount_decimal"].as_str().and_then(money::parse);
    match (params["amount"].as_i64(), unit, params["pricing"]["price"].as_str()) {
        (Some(_), None, None) if params.get("quantity").is_some() => Err(ApiError::param(
            "quantity",
            "You may only specify one of these parameters: amount, quantity.",
        )),
        (Some(amount), None, None) => Ok((amount, Value::Null, i128::from(amount) * money::SCALE)),
        (None, Some(unit), None) => Ok((money::round(unit * i128::from(quantity)), Value::Null, unit)),
        (None, None, Some(price)) => {
            let price = state.find("price", price, "pricing[price]")?.clone();
            if text(&price, "type") != "one_time" {
                return Err(ApiError::param(
                    "pricing[price]",
                    "The price must be of `type=one_time`.",
                ));
            }
            let unit = money::parse(text(&price, "unit_amount_decimal")).unwrap_or_default();
            Ok((crate::rating::total(&price, quantity), price, unit))
        }
        (None, None, None) => Err(ApiError::coded(
            "parameter_missing",
            "amount",
            "Missing required param: amount.",
        )),
        _ => Err(ApiError::param(
            "amount",
            "You may only specify one of these parameters: amount, unit_amount_decimal, pricing.",
        )),
    }
}

fn changeable(state: &mut State, id: &str) -> Result<String, ApiError> {
    let item = state.find("invoiceitem", id, "id")?;
    let (invoice, customer) = (text(item, "invoice").to_owned(), text(item, "customer").to_owned());
    if !invoice.is_empty() && text(state.get(&invoice), "status") != "draft" {
        return Err(
            ApiError::invalid("This invoice item is on an invoice that is finalized.")
                .with("code", "invoice_not_editable"),
        );
    }
    state.enter(&customer);
    Ok(invoice)
}

/// `POST /v1/invoiceitems/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    let invoice = changeable(state, id)?;
    state.edit(id, |item| {
        assign(item, params, &["amount", "description", "period", "quantity"]);
        if let Some(unit) = params["unit_amount_decimal"].as_str().and_then(money::parse) {
            item["amount"] = json!(money::round(unit * i128::from(number(item, "quantity"))));
        }
        item["net_amount"] = item["amount"].clone();
        item["quantity_decimal"] = json!(number(item, "quantity").to_string());
        merge_metadata(item, params);
    });
    if !invoice.is_empty() {
        drop_line(state, id, &invoice);
        put_on(state, id, &invoice);
        crate::invoices::retotal(state, &invoice);
    }
    Ok(view(state, id))
}

fn drop_line(state: &mut State, item: &str, invoice: &str) {
    state.edit(invoice, |invoice| {
        if let Some(lines) = invoice["lines"]["data"].as_array_mut() {
            lines.retain(|line| line["_item"] != *item);
        }
    });
}

/// `DELETE /v1/invoiceitems/{id}`.
pub(crate) fn delete(state: &mut State, id: &str) -> Answer {
    let invoice = changeable(state, id)?;
    if !invoice.is_empty() {
        drop_line(state, id, &invoice);
        crate::invoices::retotal(state, &invoice);
    }
    let last = view(state, id);
    state.forget(id);
    crate::events::emit(state, "invoiceitem.deleted", last, None);
    Ok(json!({"id": id, "object": "invoiceitem", "deleted": true}))
}

/// `GET /v1/invoiceitems`.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    state.page("/v1/invoiceitems", params, "invoiceitem", |item| {
        ["customer", "invoice"]
            .into_iter()
            .all(|key| params[key].as_str().is_none_or(|wanted| item[key] == wanted))
            && params["pending"].as_bool().is_none_or(|wanted| pending(item) == wanted)
    })
}
