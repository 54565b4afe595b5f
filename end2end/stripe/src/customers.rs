//! Customers and their payment methods. Cards are Stripe's test cards; the number decides what a card does.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::state::{State, assign, list, merge_metadata, or_null, text};
use crate::views::view;

const TEXTS: [&str; 8] = [
    "address",
    "balance",
    "description",
    "email",
    "name",
    "phone",
    "preferred_locales",
    "tax_exempt",
];

/// `POST /v1/customers`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let clock = text(params, "test_clock").to_owned();
    if !clock.is_empty() {
        state.find("test_helpers.test_clock", &clock, "test_clock")?;
        state.now = state.get(&clock)["frozen_time"].as_i64().unwrap_or(state.now);
    }
    let email = text(params, "email");
    if !email.is_empty() && !email.contains('@') {
        return Err(ApiError::coded(
            "email_invalid",
            "email",
            &format!("Invalid email address: {email}"),
        ));
    }
    let id = state.new_id("cus");
    let prefix = state.letters(8).to_uppercase();
    let mut customer = json!({
        "id": id, "object": "customer", "address": null, "balance": 0, "created": state.now, "currency": null,
        "default_source": null, "delinquent": false, "description": null, "email": null, "invoice_prefix": prefix,
        "invoice_settings": {"custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null},
        "livemode": false, "metadata": {}, "name": null, "next_invoice_sequence": 1, "phone": null, "preferred_locales": [],
        "shipping": null, "tax_exempt": "none", "test_clock": or_null(params, "test_clock"),
    });
    assign(&mut customer, params, &TEXTS);
    merge_metadata(&mut customer, params);
    state.put(customer);
    if let Some(method) = params["payment_method"].as_str() {
        attach(state, method, &json!({"customer": id}))?;
    }
    settings(state, &id, params)?;
    state.emit("customer.created", &id);
    Ok(view(state, &id))
}

/// `POST /v1/customers/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    present(state, id, "id")?;
    let before = view(state, id);
    settings(state, id, params)?;
    state.edit(id, |customer| {
        assign(customer, params, &TEXTS);
        merge_metadata(customer, params);
    });
    state.announce(id, "customer.updated", &before);
    Ok(view(state, id))
}

/// Checks that a customer exists and was not deleted.
pub(crate) fn present(state: &State, id: &str, param: &str) -> Result<(), ApiError> {
    let customer = state.find("customer", id, param)?;
    if customer.get("deleted").is_some() {
        Err(ApiError::missing("customer", id, param))
    } else {
        Ok(())
    }
}

fn settings(state: &mut State, id: &str, params: &Value) -> Result<(), ApiError> {
    let Some(settings) = params.get("invoice_settings") else {
        return Ok(());
    };
    if let Some(method) = settings["default_payment_method"]
        .as_str()
        .filter(|method| !method.is_empty())
    {
        let found = state.find("payment_method", method, "invoice_settings[default_payment_method]")?;
        if text(found, "customer") != id {
            let message = format!("The customer does not have a payment method with the ID {method}.");
            return Err(ApiError::param("invoice_settings[default_payment_method]", &message));
        }
    }
    state.edit(id, |customer| {
        assign(
            &mut customer["invoice_settings"],
            settings,
            &["default_payment_method", "footer"],
        );
    });
    Ok(())
}

/// `DELETE /v1/customers/{id}`: cancels the subscriptions at once.
pub(crate) fn delete(state: &mut State, id: &str) -> Answer {
    present(state, id, "id")?;
    state.enter(id);
    let running = state.ids("subscription", |sub| {
        text(sub, "customer") == id && !crate::views::ended(sub)
    });
    for subscription in running {
        crate::cancel::now(state, &subscription, &json!({}))?;
    }
    let last = view(state, id);
    state.edit(id, |customer| {
        *customer = json!({"id": id, "object": "customer", "deleted": true});
    });
    crate::events::emit(state, "customer.deleted", last, None);
    Ok(view(state, id))
}

/// `POST /v1/payment_methods`.
pub(crate) fn create_method(state: &mut State, params: &Value) -> Answer {
    let card = &params["card"];
    if text(params, "type") != "card" || !card.is_object() {
        return Err(ApiError::coded(
            "parameter_missing",
            "card",
            "Missing required param: card.",
        ));
    }
    let number: String = text(card, "number").chars().filter(char::is_ascii_digit).collect();
    crate::cards::check(&number)?;
    let id = state.new_id("pm");
    let expiry = (
        card["exp_month"].as_i64().unwrap_or(12),
        card["exp_year"].as_i64().unwrap_or(2034),
    );
    state.put(crate::cards::method(
        &id,
        &number,
        expiry,
        state.now,
        &params["billing_details"],
    ));
    state.edit(&id, |method| merge_metadata(method, params));
    Ok(view(state, &id))
}

/// `POST /v1/payment_methods/{id}`.
pub(crate) fn update_method(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("payment_method", id, "id")?;
    state.update(id, "payment_method.updated", |method| {
        assign(
            &mut method["billing_details"],
            &params["billing_details"],
            &["email", "name"],
        );
        assign(&mut method["card"], &params["card"], &["exp_month", "exp_year"]);
        merge_metadata(method, params);
    });
    Ok(view(state, id))
}

/// `POST /v1/payment_methods/{id}/attach`; Stripe's `pm_card_...` names make a new method each time.
pub(crate) fn attach(state: &mut State, id: &str, params: &Value) -> Answer {
    let customer = text(params, "customer").to_owned();
    present(state, &customer, "customer")?;
    state.enter(&customer);
    let id = match crate::cards::named(id) {
        Some(number) => {
            let new = state.new_id("pm");
            state.put(crate::cards::method(&new, number, (12, 2034), state.now, &Value::Null));
            new
        }
        None => id.to_owned(),
    };
    let method = state.find("payment_method", &id, "id")?;
    let owner = text(method, "customer").to_owned();
    if !owner.is_empty() && owner != customer {
        return Err(ApiError::invalid(
            "The payment method you provided has already been attached to a customer.",
        ));
    }
    if crate::cards::refused_on_attach(text(method, "_number")) {
        return Err(crate::cards::decline("card_declined", "generic_decline"));
    }
    if owner.is_empty() {
        state.edit(&id, |method| method["customer"] = json!(customer));
        state.emit("payment_method.attached", &id);
    }
    Ok(view(state, &id))
}

/// `POST /v1/payment_methods/{id}/detach`.
pub(crate) fn detach(state: &mut State, id: &str) -> Answer {
    let customer = text(state.find("payment_method", id, "id")?, "customer").to_owned();
    if customer.is_empty() {
        return Err(ApiError::invalid(
            "The payment method you provided is not attached to a customer.",
        ));
    }
    state.edit(&customer, |customer| {
        if customer["invoice_settings"]["default_payment_method"] == id {
            customer["invoice_settings"]["default_payment_method"] = Value::Null;
        }
    });
    state.update(id, "payment_method.detached", |method| method["customer"] = Value::Null);
    Ok(view(state, id))
}

/// `GET /v1/customers/{id}/payment_methods` and `GET /v1/payment_methods`.
pub(crate) fn methods(state: &State, path: &str, customer: &str, params: &Value) -> Answer {
    if customer.is_empty() {
        return Ok(list(path, Vec::new(), false));
    }
    present(state, customer, "customer")?;
    state.page(path, params, "payment_method", |method| {
        text(method, "customer") == customer
    })
}
