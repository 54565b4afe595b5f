//! Prices: licensed or metered; per unit, per package, graduated or by volume.

use serde_json::{Value, json};

use crate::error::{Answer, ApiError};
use crate::money;
use crate::periods::Interval;
use crate::state::{State, assign, each, merge_metadata, number, or_null, text};
use crate::views::view;

/// Currencies that the emulator knows; Stripe knows about 135.
const CURRENCIES: [&str; 16] = [
    "usd", "eur", "gbp", "chf", "cad", "aud", "nzd", "sek", "nok", "dkk", "pln", "czk", "jpy", "sgd", "hkd", "inr",
];
/// Stripe's longest interval: three years.
const LONGEST: [(&str, i64); 4] = [("day", 1095), ("week", 156), ("month", 36), ("year", 3)];

/// `POST /v1/prices`.
pub(crate) fn create(state: &mut State, params: &Value) -> Answer {
    let currency = text(params, "currency").to_lowercase();
    if !CURRENCIES.contains(&currency.as_str()) {
        return Err(ApiError::param("currency", &format!("Invalid currency: {currency}.")));
    }
    let recurring = recurring(state, params)?;
    let amounts = amounts(params)?;
    let tiers = tiers(params, &recurring)?;
    let product = product(state, params)?;
    let id = state.new_id("price");
    let lookup = take_lookup_key(state, params)?;
    let scheme = if tiers.is_null() { "per_unit" } else { "tiered" };
    let mut price = json!({
        "id": id, "object": "price", "active": params["active"].as_bool().unwrap_or(true), "billing_scheme": scheme,
        "created": state.now, "currency": currency, "custom_unit_amount": null, "livemode": false, "lookup_key": lookup,
        "metadata": {}, "nickname": or_null(params, "nickname"), "product": product, "recurring": recurring,
        "tax_behavior": params["tax_behavior"].as_str().unwrap_or("unspecified"), "tiers_mode": or_null(params, "tiers_mode"),
        "transform_quantity": or_null(params, "transform_quantity"), "type": if recurring.is_null() { "one_time" } else { "recurring" },
        "unit_amount": amounts.0, "unit_amount_decimal": amounts.1, "_tiers": tiers,
    });
    merge_metadata(&mut price, params);
    state.put(price);
    state.emit("price.created", &id);
    Ok(view(state, &id))
}

fn product(state: &mut State, params: &Value) -> Result<String, ApiError> {
    match (params["product"].as_str(), params.get("product_data")) {
        (Some(_), Some(_)) => Err(ApiError::param(
            "product",
            "You may only specify one of these parameters: product, product_data.",
        )),
        (Some(product), None) => {
            state.find("product", product, "product")?;
            Ok(product.to_owned())
        }
        (None, Some(data)) => Ok(text(&crate::products::create(state, data)?, "id").to_owned()),
        (None, None) => Err(ApiError::coded(
            "parameter_missing",
            "product",
            "Missing required param: product.",
        )),
    }
}

fn recurring(state: &State, params: &Value) -> Result<Value, ApiError> {
    let Some(asked) = params.get("recurring") else {
        return Ok(Value::Null);
    };
    let usage = asked["usage_type"].as_str().unwrap_or("licensed");
    let (unit, count) = (text(asked, "interval"), asked["interval_count"].as_i64().unwrap_or(1));
    let longest = LONGEST
        .iter()
        .find(|(known, _)| *known == unit)
        .map_or(1, |(_, most)| *most);
    if !(1..=longest).contains(&count) {
        return Err(ApiError::param(
            "recurring[interval_count]",
            &format!("Invalid interval_count: {count}"),
        ));
    }
    match (usage, asked["meter"].as_str()) {
        ("metered", None) => {
            let message = "Metered prices must be backed by a meter: pass recurring[meter].";
            return Err(ApiError::coded("parameter_missing", "recurring[meter]", message));
        }
        ("licensed", Some(_)) => {
            return Err(ApiError::param(
                "recurring[meter]",
                "A meter can only be set when usage_type is metered.",
            ));
        }
        (_, Some(meter)) => {
            let meter = state.find("billing.meter", meter, "recurring[meter]")?;
            if text(meter, "status") != "active" {
                return Err(ApiError::coded(
                    "archived_meter",
                    "recurring[meter]",
                    "The meter is not active.",
                ));
            }
        }
        _ => {}
    }
    Ok(json!({
        "interval": unit, "interval_count": count, "meter": asked["meter"], "trial_period_days": null, "usage_type": usage,
    }))
}

/// `unit_amount` and `unit_amount_decimal`, of which one may be sent.
fn amounts(params: &Value) -> Result<(Value, Value), ApiError> {
    let tiered = text(params, "billing_scheme") == "tiered";
    let amount = pair(params, "unit_amount", "unit_amount")?;
    match (tiered, amount) {
        (true, Some(_)) => Err(ApiError::param(
            "unit_amount",
            "You cannot set unit_amount when billing_scheme is tiered.",
        )),
        (true, None) => Ok((Value::Null, Value::Null)),
        (false, None) => {
            let message =
                "You must specify either `unit_amount` or `unit_amount_decimal` when `billing_scheme=per_unit`.";
            Err(ApiError::coded("parameter_missing", "unit_amount", message))
        }
        (false, Some(value)) => Ok((whole(value), json!(money::decimal(value)))),
    }
}

/// One amount out of `name` (minor units) and `name_decimal`, in trillionths.
fn pair(params: &Value, name: &str, path: &str) -> Result<Option<i128>, ApiError> {
    let exact = params[format!("{name}_decimal")].as_str();
    let value = match (params[name].as_i64(), exact) {
        (Some(_), Some(_)) => {
            return Err(ApiError::param(
                path,
                &format!("You may only specify one of these parameters: {name}, {name}_decimal."),
            ));
        }
        (Some(whole), None) => Some(i128::from(whole) * money::SCALE),
        (None, Some(exact)) => money::parse(exact),
        (None, None) => None,
    };
    if value.is_some_and(|value| value < 0) {
        return Err(ApiError::coded(
            "parameter_invalid_integer",
            path,
            "Invalid non-negative amount",
        ));
    }
    Ok(value)
}

/// Whole minor units as a number, anything finer as null, as Stripe shows `unit_amount`.
fn whole(value: i128) -> Value {
    if value % money::SCALE == 0 {
        i64::try_from(value / money::SCALE).map_or(Value::Null, Value::from)
    } else {
        Value::Null
    }
}

fn tiers(params: &Value, recurring: &Value) -> Result<Value, ApiError> {
    let tiered = text(params, "billing_scheme") == "tiered";
    let sent = each(params, "tiers");
    if !tiered {
        let stray = ["tiers", "tiers_mode"]
            .into_iter()
            .find(|name| params.get(*name).is_some());
        return stray.map_or(Ok(Value::Null), |name| {
            Err(ApiError::param(
                name,
                &format!("You cannot set {name} unless billing_scheme is tiered."),
            ))
        });
    }
    if sent.is_empty() || params.get("tiers_mode").is_none() {
        let name = if sent.is_empty() { "tiers" } else { "tiers_mode" };
        return Err(ApiError::coded(
            "parameter_missing",
            name,
            &format!("Missing required param: {name}."),
        ));
    }
    if params.get("transform_quantity").is_some() {
        return Err(ApiError::param(
            "transform_quantity",
            "You cannot set transform_quantity when billing_scheme is tiered.",
        ));
    }
    if recurring.is_null() {
        return Err(ApiError::param("billing_scheme", "Tiered prices must be recurring."));
    }
    let mut made = Vec::new();
    let mut below = 0;
    for (index, tier) in sent.iter().enumerate() {
        let path = format!("tiers[{index}]");
        let last = index + 1 == sent.len();
        let up_to = tier["up_to"].as_i64();
        if last != up_to.is_none() || up_to.is_some_and(|up_to| up_to <= below) {
            return Err(ApiError::param(
                &format!("{path}[up_to]"),
                "Tiers must ascend and the last one must be `inf`.",
            ));
        }
        below = up_to.unwrap_or(below);
        let unit = pair(tier, "unit_amount", &format!("{path}[unit_amount]"))?;
        let flat = pair(tier, "flat_amount", &format!("{path}[flat_amount]"))?;
        if unit.is_none() && flat.is_none() {
            return Err(ApiError::param(
                &path,
                "Each tier needs a unit_amount or a flat_amount.",
            ));
        }
        let shown = |value: Option<i128>| {
            (
                value.map_or(Value::Null, whole),
                value.map_or(Value::Null, |v| json!(money::decimal(v))),
            )
        };
        let (unit, flat) = (shown(unit), shown(flat));
        made.push(json!({
            "up_to": up_to, "unit_amount": unit.0, "unit_amount_decimal": unit.1, "flat_amount": flat.0, "flat_amount_decimal": flat.1,
        }));
    }
    Ok(Value::Array(made))
}

/// Gives the lookup key to the price in hand, taking it from its holder when `transfer_lookup_key` says so.
fn take_lookup_key(state: &mut State, params: &Value) -> Result<Value, ApiError> {
    let key = or_null(params, "lookup_key");
    let holder = state.ids("price", |price| !key.is_null() && price["lookup_key"] == key);
    for id in holder {
        if params["transfer_lookup_key"] != true {
            let message = format!("A price (`{id}`) already uses that lookup key.");
            return Err(ApiError::param("lookup_key", &message));
        }
        state.update(&id, "price.updated", |price| price["lookup_key"] = Value::Null);
    }
    Ok(key)
}

/// `POST /v1/prices/{id}`: amounts never change.
pub(crate) fn update(state: &mut State, id: &str, params: &Value) -> Answer {
    state.find("price", id, "id")?;
    if params
        .get("lookup_key")
        .is_some_and(|key| *key != state.get(id)["lookup_key"])
    {
        take_lookup_key(state, params)?;
    }
    state.update(id, "price.updated", |price| {
        assign(price, params, &["active", "lookup_key", "nickname", "tax_behavior"]);
        merge_metadata(price, params);
    });
    Ok(view(state, id))
}

/// `GET /v1/prices`.
pub(crate) fn page(state: &State, params: &Value) -> Answer {
    let recurring = &params["recurring"];
    state.page("/v1/prices", params, "price", |price| {
        let same = |key: &str| params[key].as_str().is_none_or(|wanted| price[key] == wanted);
        let recurs = |key: &str| {
            recurring[key]
                .as_str()
                .is_none_or(|wanted| price["recurring"][key] == wanted)
        };
        params["active"]
            .as_bool()
            .is_none_or(|active| price["active"] == active)
            && ["currency", "product", "type"].into_iter().all(same)
            && ["interval", "meter", "usage_type"].into_iter().all(recurs)
            && (params.get("lookup_keys").is_none() || each(params, "lookup_keys").contains(&price["lookup_key"]))
    })
}

/// Whether usage decides the quantity.
pub(crate) fn is_metered(price: &Value) -> bool {
    price["recurring"]["usage_type"] == "metered"
}

/// The billing interval of a recurring price.
pub(crate) fn interval(price: &Value) -> Interval {
    let recurring = &price["recurring"];
    Interval {
        unit: text(recurring, "interval").to_owned(),
        count: number(recurring, "interval_count").max(1),
    }
}

/// The price that an item asks for: an existing one, or one made of `price_data`.
pub(crate) fn wanted(state: &mut State, item: &Value, path: &str) -> Result<Option<String>, ApiError> {
    let id = match (item["price"].as_str(), item.get("price_data")) {
        (Some(id), None) => id.to_owned(),
        (None, Some(data)) => text(&create(state, data)?, "id").to_owned(),
        (None, None) => return Ok(None),
        _ => {
            return Err(ApiError::param(
                path,
                "You may only specify one of these parameters: price, price_data.",
            ));
        }
    };
    let price = state.find("price", &id, &format!("{path}[price]"))?;
    if text(price, "type") != "recurring" {
        let message = format!(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`: {id}"
        );
        return Err(ApiError::param(&format!("{path}[price]"), &message));
    }
    Ok(Some(id))
}
