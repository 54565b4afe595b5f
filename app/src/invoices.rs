//! Invoices: the list, and one with its lines.

use crate::error::AppError;
use crate::render::Nav;
use crate::session::SignedIn;
use crate::ui::{Tone, badge, card, empty, page_head, when};
use axum::extract::Path;
use axum::response::Response;
use domain::cost::{Cost, MeterCost, NextInvoice};
use domain::invoices::{Invoice, Line};
use domain::{cost, invoices};
use leptos::prelude::*;
use model::money::grouped;
use model::price::unit_price_words;
use model::{InvoiceId, Money, Period};

/// `GET /invoices`
///
/// # Errors
/// When the database fails.
pub async fn page(visitor: SignedIn) -> Result<Response, AppError> {
    let domain = &visitor.site().domain;
    let list = invoices::list(domain, visitor.viewer()).await?;
    let running = cost::running(domain, visitor.viewer()).await?;
    Ok(visitor.console("Invoices", Nav::Invoices, || {
        let next = running.as_ref().and_then(|c| Some(estimate(c, c.next_invoice.as_ref()?)));
        let body = if list.is_empty() {
            let text = "The first one appears here when you subscribe to a paid plan.";
            let action = view! { <a class="button" href="/pricing">"Compare plans"</a> };
            view! { <section class="card">{empty("No invoices yet", text, action)}</section> }.into_any()
        } else {
            let rows: Vec<_> = list.iter().map(row).collect();
            let table = view! {
                <div class="table-wrap" tabindex="0" role="group" aria-label="Invoices">
                    <table class="stacked">
                        <thead>
                            <tr>
                                <th scope="col">"Number"</th><th scope="col">"Date"</th><th scope="col">"Period"</th>
                                <th scope="col">"Status"</th><th scope="col" class="num">"Total"</th><th scope="col" class="num">"Document"</th>
                            </tr>
                        </thead>
                        <tbody>{rows}</tbody>
                    </table>
                </div>
            };
            card("All invoices", "the newest 100", table).into_any()
        };
        view! {
            {page_head("Invoices", "Stripe makes and keeps them; the documents are there.", ())}
            {next}
            {body}
        }
    }))
}

fn estimate(cost: &Cost, next: &NextInvoice) -> impl IntoView + use<> {
    let lines: Vec<_> = cost
        .meters
        .iter()
        .filter(|m| !m.invoiced)
        .flat_map(|m| m.lines.iter().map(move |l| (m, l)))
        .map(|(m, l)| {
            let words = unit_price_words(l.unit_minor, l.amount.currency);
            view! { <tr><td>{m.name.clone()} ", " {m.plan.clone()}</td><td data-label="Quantity" class="num">{grouped(l.units)}</td><td data-label="Price">{words}</td><td data-label="Amount" class="num">{l.amount.to_string()}</td></tr> }
        })
        .collect();
    let flat = (next.flat.minor != 0).then(|| {
        view! { <tr><td>"The next period in advance"</td><td data-label="Quantity" class="num">"1"</td><td></td><td data-label="Amount" class="num">{next.flat.to_string()}</td></tr> }
    });
    let late: Vec<_> = cost
        .meters
        .iter()
        .filter(|m| m.late > 0 && !m.invoiced)
        .map(late)
        .collect();
    let note = format!("on {}, if nothing more is used", next.at.day());
    let body = view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="The next invoice">
            <table class="stacked">
                <thead><tr><th scope="col">"What"</th><th scope="col" class="num">"Quantity"</th><th scope="col">"Price"</th><th scope="col" class="num">"Amount"</th></tr></thead>
                <tbody>
                    {lines} {flat}
                    <tr class="sum"><th scope="row">"Total"</th><td></td><td></td><td class="num"><strong>{next.total.to_string()}</strong></td></tr>
                </tbody>
            </table>
        </div>
        {late}
    };
    card("Next invoice", note, body)
}

/// Why more is billed than the period's own usage.
fn late(meter: &MeterCost) -> impl IntoView + use<> {
    let plural = if meter.late == 1 { "" } else { "s" };
    let (units, unit, name) = (grouped(meter.late), &meter.unit, &meter.name);
    view! { <p>{format!("{name}: {units} {unit}{plural} of these were used in an earlier period and counted after its invoice was final.")}</p> }
}

fn row(invoice: &Invoice) -> impl IntoView + use<> {
    let name = name_of(invoice);
    let pdf = invoice
        .pdf_url
        .clone()
        .map(|url| view! { <a href=url rel="noopener" aria-label=format!("PDF of {name}")>"PDF"</a> });
    view! {
        <tr>
            <td><a href=format!("/invoices/{}", invoice.id)>{name_of(invoice)}</a></td>
            <td data-label="Date">{when(invoice.created_at)}</td>
            <td data-label="Period">{days(invoice.period)}</td>
            <td data-label="Status">{status(invoice)}</td>
            <td data-label="Total" class="num">{invoice.total.to_string()}</td>
            <td data-label="Document" class="num">{pdf}</td>
        </tr>
    }
}

fn name_of(invoice: &Invoice) -> String {
    invoice.number.clone().unwrap_or_else(|| "Draft".to_owned())
}

fn days(period: Period) -> String {
    if period.start == period.end {
        period.start.day()
    } else {
        format!("{} to {}", period.start.day(), period.end.day())
    }
}

fn status(invoice: &Invoice) -> impl IntoView + use<> {
    let (tone, text) = match invoice.status.as_str() {
        "paid" => (Tone::Good, "paid"),
        "open" => (Tone::Warn, "to be paid"),
        "draft" => (Tone::Plain, "draft, may still change"),
        "void" => (Tone::Plain, "void"),
        "uncollectible" => (Tone::Bad, "not paid"),
        _ => (Tone::Plain, "unknown"),
    };
    badge(tone, text)
}

/// `GET /invoices/{id}`
///
/// # Errors
/// Not found when it is not the account's.
pub async fn detail(visitor: SignedIn, Path(id): Path<String>) -> Result<Response, AppError> {
    let id: InvoiceId = id.parse().map_err(|_| AppError::not_found())?;
    let (invoice, lines) = invoices::detail(&visitor.site().domain, visitor.viewer(), id).await?;
    let title = format!("Invoice {}", name_of(&invoice));
    Ok(visitor.console(&title, Nav::Invoices, || {
        let link = |url: &Option<String>, text: &'static str, kind: Option<&'static str>| {
            url.clone().map(|url| view! { <a class="button" data-kind=kind href=url rel="noopener">{text}</a> })
        };
        let to_pay = (invoice.status == "open").then_some("primary");
        let hosted = link(&invoice.hosted_url, if to_pay.is_some() { "Pay at Stripe" } else { "Open at Stripe" }, to_pay);
        let actions = view! { {hosted} {link(&invoice.pdf_url, "PDF", None)} <a class="button" data-kind="quiet" href="/invoices">"All invoices"</a> };
        view! {
            {page_head(title.clone(), days(invoice.period), actions)}
            {card("Lines", status(&invoice), lines_table(&invoice, &lines))}
        }
    }))
}

fn lines_table(invoice: &Invoice, lines: &[Line]) -> impl IntoView + use<> {
    let rows: Vec<_> = lines.iter().map(line).collect();
    let sum = |name: &'static str, amount: String| {
        view! { <tr class="sum"><th scope="row">{name}</th><td></td><td></td><td></td><td class="num"><strong>{amount}</strong></td></tr> }
    };
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label="Lines of the invoice">
            <table class="stacked">
                <thead>
                    <tr>
                        <th scope="col">"What"</th><th scope="col">"Period"</th><th scope="col" class="num">"Quantity"</th>
                        <th scope="col" class="num">"Unit price"</th><th scope="col" class="num">"Amount"</th>
                    </tr>
                </thead>
                <tbody>
                    {rows}
                    {sum("Total", invoice.total.to_string())}
                    {sum("Paid", invoice.amount_paid.to_string())}
                    {sum("To pay", to_pay(invoice).to_string())}
                </tbody>
            </table>
        </div>
    }
}

/// What is still open. Stripe's amount due does not go down when it is paid.
fn to_pay(invoice: &Invoice) -> Money {
    let due = invoice.amount_due;
    Money {
        minor: due.minor.saturating_sub(invoice.amount_paid.minor).max(0),
        currency: due.currency,
    }
}

fn line(l: &Line) -> impl IntoView + use<> {
    let quantity = l.quantity.map(|q| grouped(q.unsigned_abs())).unwrap_or_default();
    let unit = l
        .unit_minor
        .map(|u| unit_price_words(u, l.amount.currency))
        .unwrap_or_default();
    let usage = l.metered.then(|| view! { " " <a href="/usage?range=30d">"usage"</a> });
    view! {
        <tr>
            <td>{l.description.clone()}{usage}</td>
            <td data-label="Period">{days(l.period)}</td>
            <td data-label="Quantity" class="num">{quantity}</td>
            <td data-label="Unit price" class="num">{unit}</td>
            <td data-label="Amount" class="num">{l.amount.to_string()}</td>
        </tr>
    }
}
