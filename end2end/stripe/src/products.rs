//! Products.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::state::{State, assign, each, merge_metadata, text};
use crate::views::view;

const FIELDS: [&str; 10] = [
    "active",
    "description",
    "images",
    "marketing_features",
    "name",
    "shippable",
    "statement_descriptor",
    "tax_code",
    "unit_label",
    "url",
];

/// `POST /v1/products`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let id = match params["id"].as_str() {
        Some(id) if !state.get(id).is_null() => {
            return Err(ApiError::coded(
                "resource_already_exists",
                "id",
                &format!("Product already exists: {id}"),
            ));
        }
        Some(id) => id.to_owned(),
        None => state.new_id("prod"),
    };
    let mut product = json!({
        "id": id, "object": "product", "active": true, "attributes": [], "created": state.now, "default_price": null,
        "description": null, "images": [], "livemode": false, "marketing_features": [], "metadata": {}, "name": null,
        "package_dimensions": null, "shippable": null, "statement_descriptor": null, "tax_code": null, "type": "service",
        "unit_label": null, "updated": state.now, "url": null,
    });
    assign(&mut product, params, &FIELDS);
    merge_metadata(&mut product, params);
    state.put(product);
    state.emit("product.created", &id);
    if let Some(data) = params.get("default_price_data") {
        let mut wanted = data.clone();
        wanted["product"] = json!(id);
        let price = crate::prices::create(state, &wanted)?;
        state.edit(&id, |product| product["default_price"] = price["id"].clone());
    }
    Ok(view(state, &id))
}

/// `POST /v1/products/{id}`.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("product", id, "id")?;
    if let Some(price) = params["default_price"].as_str().filter(|price| !price.is_empty()) {
        let found = state.find("price", price, "default_price")?;
        if text(found, "product") != id {
            return Err(ApiError::param(
                "default_price",
                "The price specified belongs to another product.",
            ));
        }
    }
    let now = state.now;
    state.update(id, "product.updated", |product| {
        assign(product, params, &FIELDS);
        assign(product, params, &["default_price"]);
        merge_metadata(product, params);
        product["updated"] = json!(now);
    });
    Ok(view(state, id))
}

/// `DELETE /v1/products/{id}`: refused while prices use it.
pub(crate) fn delete(state: &mut State, id: &str) -> Answer {
    state.find("product", id, "id")?;
    if state.of_kind("price").any(|price| text(price, "product") == id) {
        return Err(ApiError::invalid(
            "This product cannot be deleted because it has one or more user-created prices.",
        ));
    }
    let last = view(state, id);
    state.forget(id);
    crate::events::emit(state, "product.deleted", last, None);
    Ok(json!({"id": id, "object": "product", "deleted": true}))
}

/// `GET /v1/products`.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    state.page("/v1/products", params, "product", |product| {
        params["active"]
            .as_bool()
            .is_none_or(|active| product["active"] == active)
            && (params.get("ids").is_none() || each(params, "ids").contains(&product["id"]))
            && params["url"].as_str().is_none_or(|url| product["url"] == url)
    })
}
