//! Customer portal sessions and configurations; the page itself is in `portal_page`.

use serde_json::{Value, json};

use crate::checkout::{Card, Submitted, save_card};
use crate::error::{Answer, ApiError};
use crate::state::{State, assign, merge_metadata, or_null, text};
use crate::views::view;

/// `POST /v1/billing_portal/configurations`.
pub(crate) fn configure(state: &mut State, params: &Value) -> Answer {
    let id = state.new_id("bpc");
    let profile = &params["business_profile"];
    let mut configuration = json!({
        "id": id, "object": "billing_portal.configuration", "active": true, "application": null,
        "business_profile": {"headline": profile["headline"], "privacy_policy_url": profile["privacy_policy_url"], "terms_of_service_url": profile["terms_of_service_url"]},
        "created": state.now, "default_return_url": or_null(params, "default_return_url"), "is_default": state.of_kind("billing_portal.configuration").next().is_none(),
        "features": {
            "customer_update": {"allowed_updates": [], "enabled": false}, "invoice_history": {"enabled": true},
            "payment_method_update": {"enabled": true, "payment_method_configuration": null},
            "subscription_cancel": {
                "cancellation_reason": {"enabled": false, "options": []}, "enabled": false, "mode": "at_period_end", "proration_behavior": "none",
            },
            "subscription_update": {
                "billing_cycle_anchor": null, "default_allowed_updates": [], "enabled": false, "proration_behavior": "none",
                "schedule_at_period_end": {"conditions": []}, "trial_update_behavior": "end_trial",
            },
        },
        "livemode": false, "login_page": {"enabled": false, "url": null}, "metadata": {}, "name": or_null(params, "name"), "updated": state.now,
    });
    apply(&mut configuration, params);
    state.put(configuration);
    Ok(view(state, &id))
}

fn apply(configuration: &mut Value, params: &Value) {
    for (feature, wanted) in params["features"].as_object().into_iter().flatten() {
        for (key, value) in wanted.as_object().into_iter().flatten() {
            configuration["features"][feature][key] = value.clone();
        }
    }
    assign(configuration, params, &["active", "default_return_url", "name"]);
    merge_metadata(configuration, params);
}

/// `POST /v1/billing_portal/configurations/{id}`.
pub(crate) fn reconfigure(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("billing_portal.configuration", id, "id")?;
    let now = state.now;
    state.edit(id, |configuration| {
        assign(
            &mut configuration["business_profile"],
            &params["business_profile"],
            &["headline", "privacy_policy_url", "terms_of_service_url"],
        );
        apply(configuration, params);
        configuration["updated"] = json!(now);
    });
    Ok(view(state, id))
}

/// `POST /v1/billing_portal/sessions`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let Some(customer) = params["customer"].as_str() else {
        return Err(ApiError::coded(
            "parameter_missing",
            "customer",
            "Missing required param: customer.",
        ));
    };
    crate::customers::present(state, customer, "customer")?;
    let first = state
        .of_kind("billing_portal.configuration")
        .next()
        .map(|known| text(known, "id").to_owned());
    let configuration = match (params["configuration"].as_str(), first) {
        (Some(id), _) => text(state.find("billing_portal.configuration", id, "configuration")?, "id").to_owned(),
        (None, Some(first)) => first,
        (None, None) => text(&configure(state, &json!({}))?, "id").to_owned(),
    };
    let return_url = match params.get("return_url") {
        Some(url) => url.clone(),
        None => state.get(&configuration)["default_return_url"].clone(),
    };
    let flow = params.get("flow_data").map_or(Value::Null, flow);
    let id = state.new_id("bps");
    let secret = state.letters(40);
    state.put(json!({
        "id": id, "object": "billing_portal.session", "configuration": configuration, "created": state.now, "customer": customer,
        "customer_account": null, "flow": flow, "livemode": false, "locale": or_null(params, "locale"), "on_behalf_of": null,
        "return_url": return_url, "url": format!("{}/p/session/{secret}", state.base_url), "_secret": secret,
    }));
    state.emit("billing_portal.session.created", &id);
    Ok(view(state, &id))
}

fn flow(data: &Value) -> Value {
    let after = &data["after_completion"];
    json!({
        "type": data["type"],
        "after_completion": {
            "type": after["type"].as_str().unwrap_or("portal_homepage"), "hosted_confirmation": after["hosted_confirmation"], "redirect": after["redirect"],
        },
        "subscription_cancel": if data["subscription_cancel"].is_object() {
            json!({"retention": null, "subscription": data["subscription_cancel"]["subscription"]})
        } else {
            Value::Null
        },
        "subscription_update": null, "subscription_update_confirm": null,
    })
}

/// Saves a card for the customer of a portal session or invoice and makes it the default everywhere.
pub(crate) fn change_card(state: &mut State, customer: &str, card: &Card, authenticated: bool) -> Submitted {
    if let Err(refusal) = crate::cards::check(&card.number) {
        return Submitted::Refused(refusal.message().to_owned());
    }
    if !authenticated && crate::cards::outcome(&card.number, false, false) == crate::cards::Outcome::Authentication {
        return Submitted::Authenticate;
    }
    state.enter(customer);
    let backup = state.clone();
    let method = match save_card(state, customer, card, authenticated) {
        Ok(method) => method,
        Err(refusal) => {
            state.restore(backup);
            return Submitted::Refused(refusal.message().to_owned());
        }
    };
    state.update(customer, "customer.updated", |customer| {
        customer["invoice_settings"]["default_payment_method"] = json!(method);
    });
    let theirs = |sub: &Value| {
        text(sub, "customer") == customer && !crate::views::ended(sub) && sub["default_payment_method"].is_string()
    };
    for sub in state.ids("subscription", theirs) {
        state.update(&sub, "customer.subscription.updated", |sub| {
            sub["default_payment_method"] = json!(method);
        });
    }
    Submitted::Done
}
