//! Checkout sessions: made by the API, paid on the hosted page.

use serde_json::{Value, json};

use crate::cards::{self, Outcome};
use crate::error::{Answer, ApiError};
use crate::rating::total;
use crate::state::{State, each, flag, list, merge_metadata, number, or_null, text};
use crate::views::view;

/// A session lives 30 minutes to 24 hours, 24 hours unless it says otherwise.
const SHORTEST_SECONDS: i64 = 30 * 60;
const LONGEST_SECONDS: i64 = 24 * 3600;

/// `POST /v1/checkout/sessions`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let mode = text(params, "mode").to_owned();
    let customer = text(params, "customer").to_owned();
    check(state, params, &mode, &customer)?;
    if !customer.is_empty() {
        state.enter(&customer);
    }
    let wall = state.wall;
    let expires = params["expires_at"].as_i64().unwrap_or(wall + LONGEST_SECONDS);
    if !(wall + SHORTEST_SECONDS - 60..=wall + LONGEST_SECONDS).contains(&expires) {
        let message =
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.";
        return Err(ApiError::param("expires_at", message));
    }
    let items = items(state, params, &mode)?;
    let currency = match items.first() {
        Some(item) => state.get(text(item, "price"))["currency"].clone(),
        None => or_null(params, "currency"),
    };
    if let Some(known) = state.get(&customer)["currency"].as_str()
        && mode == "subscription"
        && currency != known
    {
        let message = format!(
            "You cannot combine currencies on a single customer. This customer has had a subscription or payment in {known}."
        );
        return Err(ApiError::param("customer", &message));
    }
    let id = format!("cs_test_{}", state.letters(58));
    let data = &params["subscription_data"];
    let trial = data.get("trial_period_days").is_some() || data.get("trial_end").is_some();
    let today = if trial { 0 } else { today(state, &items) };
    let amount = if mode == "setup" { Value::Null } else { json!(today) };
    let email = if customer.is_empty() {
        or_null(params, "customer_email")
    } else {
        state.get(&customer)["email"].clone()
    };
    let mut session = json!({
        "id": id, "object": "checkout.session", "adaptive_pricing": {"enabled": false}, "after_expiration": null,
        "allow_promotion_codes": params["allow_promotion_codes"], "amount_subtotal": amount, "amount_total": amount,
        "automatic_tax": {"enabled": false, "liability": null, "provider": null, "status": null}, "billing_address_collection": null,
        "cancel_url": or_null(params, "cancel_url"), "client_reference_id": or_null(params, "client_reference_id"), "client_secret": null,
        "collected_information": null, "consent": null, "consent_collection": null, "created": state.now, "currency": currency,
        "currency_conversion": null, "custom_fields": [],
        "custom_text": {"after_submit": null, "shipping_address": null, "submit": params["custom_text"]["submit"], "terms_of_service_acceptance": null},
        "customer": or_null(params, "customer"), "customer_creation": if customer.is_empty() { json!("always") } else { Value::Null },
        "customer_details": details(&email, &Value::Null), "customer_email": or_null(params, "customer_email"), "discounts": [],
        "expires_at": expires, "invoice": null, "invoice_creation": null, "livemode": false, "locale": or_null(params, "locale"),
        "metadata": {}, "mode": mode, "origin_context": null, "payment_intent": null, "payment_link": null,
        "payment_method_collection": if mode == "subscription" { json!(params["payment_method_collection"].as_str().unwrap_or("always")) } else { Value::Null },
        "payment_method_configuration_details": null, "payment_method_options": {}, "payment_method_types": ["card"],
        "payment_status": if today > 0 { "unpaid" } else { "no_payment_required" }, "permissions": null,
        "phone_number_collection": {"enabled": false}, "recovered_from": null, "saved_payment_method_options": null, "setup_intent": null,
        "shipping_address_collection": null, "shipping_cost": null, "shipping_options": [], "status": "open",
        "submit_type": or_null(params, "submit_type"), "subscription": null, "success_url": params["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0}, "ui_mode": "hosted_page",
        "url": format!("{}/c/pay/{id}", state.base_url), "wallet_options": null, "_items": items, "_data": data,
        "_setup": params["setup_intent_data"],
    });
    merge_metadata(&mut session, params);
    state.put(session);
    Ok(view(state, &id))
}

fn details(email: &Value, name: &Value) -> Value {
    json!({
        "address": null, "business_name": null, "email": email, "individual_name": null, "name": name, "phone": null, "tax_exempt": "none",
        "tax_ids": [],
    })
}

fn check(state: &State, params: &Value, mode: &str, customer: &str) -> Result<(), ApiError> {
    if mode.is_empty() {
        return Err(ApiError::coded(
            "parameter_missing",
            "mode",
            "Missing required param: mode.",
        ));
    }
    if !customer.is_empty() {
        crate::customers::present(state, customer, "customer")?;
        if params.get("customer_email").is_some() {
            return Err(ApiError::param(
                "customer_email",
                "You may only specify one of these parameters: customer, customer_email.",
            ));
        }
        if params.get("customer_creation").is_some() {
            return Err(ApiError::param(
                "customer_creation",
                "You cannot set `customer_creation` with an existing customer.",
            ));
        }
    }
    if text(params, "success_url").is_empty() {
        return Err(ApiError::coded(
            "parameter_missing",
            "success_url",
            "You must provide a `success_url`.",
        ));
    }
    for key in ["success_url", "cancel_url"] {
        if params[key]
            .as_str()
            .is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            let message = "Not a valid URL: an explicit scheme (such as https) must be provided.";
            return Err(ApiError::coded("url_invalid", key, message));
        }
    }
    match mode {
        "setup" if params.get("line_items").is_some() || params.get("subscription_data").is_some() => {
            Err(ApiError::param(
                "line_items",
                "You can not pass `line_items` or `subscription_data` in `setup` mode.",
            ))
        }
        "setup" if params.get("currency").is_none() => Err(ApiError::coded(
            "parameter_missing",
            "currency",
            "You must provide `currency` in `setup` mode.",
        )),
        "subscription" if params.get("setup_intent_data").is_some() => Err(ApiError::param(
            "setup_intent_data",
            "You can not pass `setup_intent_data` in `subscription` mode.",
        )),
        _ => Ok(()),
    }
}

fn items(state: &mut State, params: &Value, mode: &str) -> Result<Vec<Value>, ApiError> {
    let mut items = Vec::new();
    for (index, asked) in each(params, "line_items").iter().enumerate() {
        let path = format!("line_items[{index}]");
        let id = match (asked["price"].as_str(), asked.get("price_data")) {
            (Some(id), None) => id.to_owned(),
            (None, Some(data)) => text(&crate::prices::create(state, data)?, "id").to_owned(),
            _ => {
                return Err(ApiError::param(
                    &path,
                    "You must specify either `price` or `price_data`.",
                ));
            }
        };
        let price = state.find("price", &id, &format!("{path}[price]"))?;
        if !flag(price, "active") {
            let message = format!("The price specified is inactive. This field only accepts active prices: {id}");
            return Err(ApiError::param(&format!("{path}[price]"), &message));
        }
        let quantity = match (crate::prices::is_metered(price), asked["quantity"].as_i64()) {
            (true, Some(_)) => {
                let message = "Quantity should not be specified where usage_type is `metered`.";
                return Err(ApiError::param(&format!("{path}[quantity]"), message));
            }
            (true, None) => Value::Null,
            (false, Some(quantity)) if quantity > 0 => json!(quantity),
            (false, _) => {
                let message = "Quantity is required. Add `quantity`, of at least 1, to the line item.";
                return Err(ApiError::coded(
                    "parameter_missing",
                    &format!("{path}[quantity]"),
                    message,
                ));
            }
        };
        let item = state.new_id("li");
        items.push(json!({"id": item, "price": id, "quantity": quantity}));
    }
    let recurring = items
        .iter()
        .any(|item| text(state.get(text(item, "price")), "type") == "recurring");
    if mode == "subscription" && !recurring {
        let message = "You must provide at least one recurring price in `subscription` mode when using prices.";
        return Err(ApiError::param("line_items", message));
    }
    Ok(items)
}

/// What the licensed items cost today.
fn today(state: &State, items: &[Value]) -> i64 {
    let priced = items.iter().filter(|item| item["quantity"].is_i64());
    priced
        .map(|item| total(state.get(text(item, "price")), number(item, "quantity")))
        .sum()
}

/// The `line_items` of a session.
pub(crate) fn line_items(state: &State, session: &Value) -> Value {
    let made = each(session, "_items").iter().map(|item| {
        let price = state.get(text(item, "price")).clone();
        let amount = item["quantity"].as_i64().map_or(0, |quantity| total(&price, quantity));
        json!({
            "id": item["id"], "object": "item", "adjustable_quantity": null, "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
            "amount_total": amount, "currency": price["currency"], "description": crate::billing::product_name(state, &price), "metadata": null,
            "price": crate::views::compose(state, price), "quantity": item["quantity"],
        })
    });
    list(
        &format!("/v1/checkout/sessions/{}/line_items", text(session, "id")),
        made.collect(),
        false,
    )
}

/// `POST /v1/checkout/sessions/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("checkout.session", id, "id")?;
    state.edit(id, |session| merge_metadata(session, params));
    Ok(view(state, id))
}

/// `POST /v1/checkout/sessions/{id}/expire`.
pub(crate) fn expire(state: &mut State, id: &str) -> Answer {
    let status = text(state.find("checkout.session", id, "id")?, "status").to_owned();
    if status != "open" {
        let message = format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This one has a status of {status}."
        );
        return Err(ApiError::invalid(&message));
    }
    expire_now(state, id);
    Ok(view(state, id))
}

/// Expires an open session.
pub(crate) fn expire_now(state: &mut State, id: &str) {
    state.edit(id, |session| {
        session["status"] = json!("expired");
        session["url"] = Value::Null;
        session["_card"] = Value::Null;
    });
    state.emit("checkout.session.expired", id);
}

/// `GET /v1/checkout/sessions`.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    state.page("/v1/checkout/sessions", params, "checkout.session", |session| {
        let same = |key: &str| params[key].as_str().is_none_or(|wanted| session[key] == wanted);
        let email = params["customer_details"]["email"].as_str();
        ["customer", "status", "subscription"].into_iter().all(same)
            && email.is_none_or(|email| session["customer_details"]["email"] == email)
    })
}

/// A card as the hosted page takes it.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    pub(crate) number: String,
    pub(crate) expiry: (i64, i64),
    pub(crate) name: String,
    pub(crate) email: String,
}

/// What became of a card form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Submitted {
    Done,
    Authenticate,
    Refused(String),
}

/// Pays an open session with a card. A session that is complete already stays as it is.
pub(crate) fn pay(state: &mut State, id: &str, card: &Card, authenticated: bool) -> Submitted {
    let session = state.get(id).clone();
    match text(&session, "status") {
        "open" => {}
        "complete" => return Submitted::Done,
        _ => return Submitted::Refused("This Checkout session has expired.".to_owned()),
    }
    if let Err(refusal) = cards::check(&card.number) {
        return Submitted::Refused(refusal.message().to_owned());
    }
    if !authenticated && cards::outcome(&card.number, false, false) == Outcome::Authentication {
        hold(state, id, card);
        return Submitted::Authenticate;
    }
    let backup = state.clone();
    state.cardholder = authenticated;
    let result = complete(state, id, &session, card, authenticated);
    state.cardholder = false;
    match result {
        Ok(()) => Submitted::Done,
        Err(refusal) => {
            state.restore(backup);
            if text(&refusal.error, "code") == "invoice_payment_intent_requires_action" {
                hold(state, id, card);
                return Submitted::Authenticate;
            }
            Submitted::Refused(refusal.message().to_owned())
        }
    }
}

fn hold(state: &mut State, id: &str, card: &Card) {
    let held = json!({"number": card.number, "month": card.expiry.0, "year": card.expiry.1, "name": card.name, "email": card.email});
    state.edit(id, |session| session["_card"] = held);
}

/// The card that waits for 3-D Secure, if there is one.
pub(crate) fn held(object: &Value) -> Option<Card> {
    let card = &object["_card"];
    card.is_object().then(|| Card {
        number: text(card, "number").to_owned(),
        expiry: (number(card, "month"), number(card, "year")),
        name: text(card, "name").to_owned(),
        email: text(card, "email").to_owned(),
    })
}

/// Saves a card for a customer and gives the payment method's id.
pub(crate) fn save_card(
    state: &mut State,
    customer: &str,
    card: &Card,
    authenticated: bool,
) -> Result<String, ApiError> {
    let method = state.new_id("pm");
    let billing = json!({"email": card.email, "name": card.name});
    let mut made = cards::method(&method, &card.number, card.expiry, state.now, &billing);
    made["_authenticated"] = json!(authenticated);
    state.put(made);
    crate::customers::attach(state, &method, &json!({"customer": customer}))?;
    Ok(method)
}

fn complete(state: &mut State, id: &str, session: &Value, card: &Card, authenticated: bool) -> Result<(), ApiError> {
    let customer = match session["customer"].as_str() {
        Some(customer) => customer.to_owned(),
        None => {
            let email = session["customer_email"].as_str().unwrap_or(&card.email);
            let made = crate::customers::create(state, &json!({"email": email, "name": card.name}))?;
            text(&made, "id").to_owned()
        }
    };
    state.enter(&customer);
    let method = save_card(state, &customer, card, authenticated)?;
    let (mut subscription, mut invoice, mut setup) = (Value::Null, Value::Null, Value::Null);
    if text(session, "mode") == "setup" {
        setup = json!(set_up(state, session, &customer, &method));
    } else {
        let made = subscribe(state, session, &customer, &method)?;
        subscription = made["id"].clone();
        invoice = made["latest_invoice"].clone();
    }
    let paid = number(state.get(invoice.as_str().unwrap_or_default()), "amount_paid");
    let total = state.get(invoice.as_str().unwrap_or_default())["total"].clone();
    let email = state.get(&customer)["email"].clone();
    state.edit(id, |session| {
        session["status"] = json!("complete");
        session["customer"] = json!(customer);
        session["subscription"] = subscription;
        session["invoice"] = invoice;
        session["setup_intent"] = setup;
        session["customer_details"] = details(&email, &json!(card.name));
        session["payment_status"] = json!(if paid > 0 { "paid" } else { "no_payment_required" });
        session["amount_total"] = total.clone();
        session["amount_subtotal"] = total;
        session["url"] = Value::Null;
        session["_card"] = Value::Null;
    });
    state.emit("checkout.session.completed", id);
    let event = state.of_kind("event").next_back().map(|event| event["id"].clone());
    state.edit(id, |session| session["_completed_event"] = event.unwrap_or_default());
    Ok(())
}

fn subscribe(state: &mut State, session: &Value, customer: &str, method: &str) -> Answer {
    let data = &session["_data"];
    let mut wanted = json!({
        "customer": customer, "default_payment_method": method, "payment_behavior": "error_if_incomplete",
        "metadata": data["metadata"].as_object().cloned().unwrap_or_default(),
    });
    for key in [
        "billing_cycle_anchor",
        "description",
        "proration_behavior",
        "trial_end",
        "trial_period_days",
        "trial_settings",
    ] {
        if let Some(value) = data.get(key) {
            wanted[key] = value.clone();
        }
    }
    let mut items = Vec::new();
    for item in each(session, "_items") {
        let price = state.get(text(item, "price")).clone();
        let mut entry = json!({"price": item["price"]});
        if item["quantity"].is_i64() {
            entry["quantity"] = item["quantity"].clone();
        }
        if text(&price, "type") == "recurring" {
            items.push(entry);
        } else {
            let once = json!({"customer": customer, "pricing": {"price": item["price"]}, "quantity": item["quantity"]});
            crate::invoice_items::create(state, &once)?;
        }
    }
    wanted["items"] = json!(items);
    crate::subscriptions::create(state, &wanted)
}

fn set_up(state: &mut State, session: &Value, customer: &str, method: &str) -> String {
    let id = state.new_id("seti");
    let secret = format!("{id}_secret_{}", state.letters(24));
    let data = &session["_setup"];
    let mut intent = json!({
        "id": id, "object": "setup_intent", "application": null, "automatic_payment_methods": null, "cancellation_reason": null,
        "client_secret": secret, "created": state.now, "customer": customer, "description": or_null(data, "description"),
        "flow_directions": null, "last_setup_error": null, "latest_attempt": null, "livemode": false, "mandate": null, "metadata": {},
        "next_action": null, "on_behalf_of": null, "payment_method": method, "payment_method_options": {}, "payment_method_types": ["card"],
        "single_use_mandate": null, "status": "succeeded", "usage": "off_session",
    });
    merge_metadata(&mut intent, data);
    state.put(intent);
    state.emit("setup_intent.succeeded", &id);
    id
}
