//! Stripe's objects in our words. Only the fields that are used are looked at: a field that Stripe adds, drops or
//! renames elsewhere never makes a payment unreadable.

use domain::payments::{
    Checkout, PaymentsError, StripeDispute, StripeEvent, StripeInvoice, StripeItem, StripeLine, StripeRefund,
    StripeSchedule, StripeSubscription,
};
use model::{Currency, Money, Period, Time};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::Value;

type Read<T> = Result<T, PaymentsError>;

/// A field that must be there is not.
#[derive(Debug, thiserror::Error)]
#[error("Stripe's answer has no usable {0}")]
struct Unreadable(&'static str);

pub(crate) fn lacks(what: &'static str) -> PaymentsError {
    // The request was carried out; what came of it is not known.
    PaymentsError::Ambiguous(Box::new(Unreadable(what)))
}

pub(crate) fn text(object: &Value, field: &'static str) -> Read<String> {
    maybe_text(&object[field]).ok_or_else(|| lacks(field))
}

fn maybe_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// An id, whether the object is expanded or not.
pub(crate) fn reference(value: &Value) -> Option<String> {
    maybe_text(value).or_else(|| maybe_text(&value["id"]))
}

fn time(object: &Value, field: &'static str) -> Read<Time> {
    maybe_time(&object[field]).ok_or_else(|| lacks(field))
}

fn maybe_time(value: &Value) -> Option<Time> {
    value.as_i64().map(Time::from_unix_s)
}

fn integer(object: &Value, field: &'static str) -> Read<i64> {
    object[field].as_i64().ok_or_else(|| lacks(field))
}

pub(crate) fn list(object: &Value) -> Read<&Vec<Value>> {
    object["data"].as_array().ok_or_else(|| lacks("data"))
}

pub(crate) fn checkout(o: &Value) -> Read<Checkout> {
    Ok(Checkout {
        id: text(o, "id")?,
        url: maybe_text(&o["url"]),
        status: text(o, "status")?,
        payment_status: text(o, "payment_status")?,
        client_reference_id: maybe_text(&o["client_reference_id"]),
        customer: reference(&o["customer"]),
        subscription: reference(&o["subscription"]),
        expires_at: time(o, "expires_at")?,
    })
}

pub(crate) fn subscription(o: &Value) -> Read<StripeSubscription> {
    let items: Vec<StripeItem> = list(&o["items"])?.iter().map(item).collect::<Read<_>>()?;
    let period_end = items.iter().map(|i| i.period.end).max();
    // An end set to a date is shown as the end of the period when it is not after it.
    let ends = maybe_time(&o["cancel_at"]).is_some_and(|at| period_end.is_some_and(|end| at <= end));
    Ok(StripeSubscription {
        id: text(o, "id")?,
        customer: reference(&o["customer"]).ok_or_else(|| lacks("customer"))?,
        status: text(o, "status")?,
        items,
        cancel_at_period_end: o["cancel_at_period_end"].as_bool().unwrap_or(false) || ends,
        schedule: reference(&o["schedule"]),
        pending_until: maybe_time(&o["pending_update"]["expires_at"]),
        latest_invoice: reference(&o["latest_invoice"]),
        ended_at: maybe_time(&o["ended_at"]),
    })
}

fn item(o: &Value) -> Read<StripeItem> {
    Ok(StripeItem {
        id: text(o, "id")?,
        price: reference(&o["price"]).ok_or_else(|| lacks("price"))?,
        period: Period {
            start: time(o, "current_period_start")?,
            end: time(o, "current_period_end")?,
        },
    })
}

/// A phase of a schedule: its bounds, and its items as (price, quantity).
pub(crate) struct Phase {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) items: Vec<(String, Option<u64>)>,
}

pub(crate) fn phases(o: &Value) -> Read<Vec<Phase>> {
    let phases = o["phases"].as_array().ok_or_else(|| lacks("phases"))?;
    phases
        .iter()
        .map(|p| {
            let items = p["items"].as_array().ok_or_else(|| lacks("phases.items"))?;
            Ok(Phase {
                start: integer(p, "start_date")?,
                end: integer(p, "end_date")?,
                items: items
                    .iter()
                    .map(|i| {
                        let price = reference(&i["price"]).ok_or_else(|| lacks("price"))?;
                        Ok((price, i["quantity"].as_u64()))
                    })
                    .collect::<Read<_>>()?,
            })
        })
        .collect()
}

pub(crate) fn schedule(o: &Value) -> Read<StripeSchedule> {
    let status = text(o, "status")?;
    let running = o["current_phase"]["end_date"].as_i64();
    let phases = phases(o)?;
    let next = phases.iter().find(|p| running.is_none_or(|end| p.start >= end));
    let over = !matches!(status.as_str(), "active" | "not_started");
    Ok(StripeSchedule {
        id: text(o, "id")?,
        next_prices: next
            .filter(|_| !over)
            .map(|p| p.items.iter().map(|(price, _)| price.clone()).collect())
            .unwrap_or_default(),
    })
}

pub(crate) fn invoice(o: &Value) -> Read<StripeInvoice> {
    let currency = currency(o)?;
    let money = |field| {
        Ok::<_, PaymentsError>(Money {
            minor: integer(o, field)?,
            currency,
        })
    };
    Ok(StripeInvoice {
        // A preview has none.
        id: maybe_text(&o["id"]).unwrap_or_default(),
        customer: reference(&o["customer"]).ok_or_else(|| lacks("customer"))?,
        subscription: reference(&o["parent"]["subscription_details"]["subscription"]),
        number: maybe_text(&o["number"]),
        status: maybe_text(&o["status"]).unwrap_or_else(|| "draft".to_owned()),
        total: money("total")?,
        amount_due: money("amount_due")?,
        amount_paid: money("amount_paid")?,
        period: Period {
            start: time(o, "period_start")?,
            end: time(o, "period_end")?,
        },
        created: time(o, "created")?,
        needs_confirmation: false,
        hosted_url: maybe_text(&o["hosted_invoice_url"]),
        pdf_url: maybe_text(&o["invoice_pdf"]),
        lines: lines(&o["lines"])?,
    })
}

pub(crate) fn lines(page: &Value) -> Read<Vec<StripeLine>> {
    list(page)?.iter().map(line).collect()
}

fn line(o: &Value) -> Read<StripeLine> {
    let parent = &o["parent"];
    let details = [&parent["subscription_item_details"], &parent["invoice_item_details"]];
    let pricing = &o["pricing"];
    Ok(StripeLine {
        description: maybe_text(&o["description"]).unwrap_or_default(),
        quantity: o["quantity"].as_u64(),
        unit_minor: decimal(&pricing["unit_amount_decimal"]),
        amount: Money {
            minor: integer(o, "amount")?,
            currency: currency(o)?,
        },
        price: reference(&pricing["price_details"]["price"]),
        proration: details.iter().any(|d| d["proration"].as_bool() == Some(true)),
        period: Period {
            start: time(&o["period"], "start")?,
            end: time(&o["period"], "end")?,
        },
    })
}

/// A charge, with the invoices that its payment paid.
pub(crate) fn refund(charge: &Value, invoice: Option<&Value>) -> Read<Option<StripeRefund>> {
    let (amount, back) = (integer(charge, "amount")?, integer(charge, "amount_refunded")?);
    let Some(customer) = reference(&charge["customer"]).filter(|_| back > 0) else {
        return Ok(None);
    };
    Ok(Some(StripeRefund {
        customer,
        full: back >= amount,
        invoice: invoice.and_then(|i| maybe_text(&i["id"])),
        subscription: invoice.and_then(|i| reference(&i["parent"]["subscription_details"]["subscription"])),
    }))
}

/// A dispute, with the contested charge and the invoice that it paid.
pub(crate) fn dispute(o: &Value, charge: &Value, invoice: Option<&Value>) -> Read<StripeDispute> {
    Ok(StripeDispute {
        id: text(o, "id")?,
        customer: reference(&charge["customer"]),
        subscription: invoice.and_then(|i| reference(&i["parent"]["subscription_details"]["subscription"])),
        amount: Money {
            minor: integer(o, "amount")?,
            currency: currency(o)?,
        },
        reason: text(o, "reason")?,
        status: text(o, "status")?,
        created: time(o, "created")?,
    })
}

/// The types of events that an endpoint gets; none when it is disabled.
pub(crate) fn endpoint_types(o: &Value) -> Read<Option<Vec<String>>> {
    let types = o["enabled_events"].as_array().ok_or_else(|| lacks("enabled_events"))?;
    let types = types.iter().filter_map(maybe_text).collect();
    Ok((o["status"].as_str() == Some("enabled")).then_some(types))
}

fn currency(o: &Value) -> Read<Currency> {
    text(o, "currency")?.parse().map_err(|_| lacks("currency"))
}

/// A decimal that Stripe writes as text or as a number.
fn decimal(value: &Value) -> Option<Decimal> {
    match value {
        Value::String(s) => s.parse().ok(),
        Value::Number(n) => Decimal::from_scientific(&n.to_string())
            .or_else(|_| n.to_string().parse())
            .ok(),
        _ => None,
    }
}

/// The sum of a page of meter summaries, in whole units.
pub(crate) fn summaries(page: &Value) -> Read<u64> {
    let mut sum = Decimal::ZERO;
    for o in list(page)? {
        sum += decimal(&o["aggregated_value"]).ok_or_else(|| lacks("aggregated_value"))?;
    }
    sum.to_u64().ok_or_else(|| lacks("aggregated_value"))
}

pub(crate) fn event(o: &Value) -> Read<StripeEvent> {
    Ok(StripeEvent {
        id: text(o, "id")?,
        raw: o.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_subscription_reads_its_periods_from_its_items() {
        let o = json!({"id": "sub_1", "customer": {"id": "cus_1"}, "status": "active", "cancel_at": 200, "items": {"data": [
            {"id": "si_1", "price": {"id": "price_1"}, "current_period_start": 100, "current_period_end": 200}]}});
        let s = subscription(&o).unwrap();
        assert_eq!(s.customer, "cus_1");
        assert_eq!(s.items[0].period.end, Time::from_unix_s(200));
        assert!(s.cancel_at_period_end, "an end set to the period's end is one");
        assert_eq!(s.pending_until, None);
    }

    #[test]
    fn an_invoice_without_its_subscription_is_one_without() {
        let o = json!({"customer": "cus_1", "currency": "usd", "total": 10, "amount_due": 10, "amount_paid": 0, "created": 5,
            "period_start": 1, "period_end": 2, "lines": {"data": [{"amount": 10, "currency": "usd", "description": "x",
            "period": {"start": 1, "end": 2}, "pricing": {"unit_amount_decimal": "0.06", "price_details": {"price": "price_1"}},
            "parent": {"subscription_item_details": {"proration": true}}}]}});
        let i = invoice(&o).unwrap();
        assert_eq!((i.id.as_str(), i.subscription, i.status.as_str()), ("", None, "draft"));
        assert_eq!(i.lines[0].unit_minor, Some("0.06".parse().unwrap()));
        assert!(i.lines[0].proration);
    }

    #[test]
    fn a_schedule_names_the_phase_after_the_running_one() {
        let phase = |start: i64, price: &str| json!({"start_date": start, "end_date": start + 10, "items": [{"price": price, "quantity": 1}]});
        let mut o = json!({"id": "sub_sched_1", "status": "active", "current_phase": {"start_date": 0, "end_date": 10},
            "phases": [phase(0, "old"), phase(10, "new")]});
        assert_eq!(schedule(&o).unwrap().next_prices, ["new"]);
        o["status"] = json!("released");
        assert!(schedule(&o).unwrap().next_prices.is_empty());
    }

    #[test]
    fn summaries_add_up_whatever_the_number_looks_like() {
        let page = json!({"data": [{"aggregated_value": 12.0}, {"aggregated_value": 3}, {"aggregated_value": 1e6}]});
        assert_eq!(summaries(&page).unwrap(), 1_000_015);
    }
}
