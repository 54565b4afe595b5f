//! Stripe behind the domain's [`Payments`]: requests are async-stripe's, the connection and what is read from the
//! answers are ours.

mod read;
mod transport;
mod write;

use async_trait::async_trait;
use domain::payments::{
    Checkout, ItemChange, NewCheckout, NewMeterEvent, NewPrice, Payments, PaymentsError, StripeDispute, StripeEvent,
    StripeInvoice, StripeRefund, StripeSchedule, StripeSubscription,
};
use domain::settings::Secret;
use model::{ConsumerId, Time};
use serde_json::Value;
use std::collections::HashMap;
use stripe_billing::billing_meter::{
    CreateBillingMeter, CreateBillingMeterDefaultAggregation, CreateBillingMeterDefaultAggregationFormula,
    ListBillingMeter,
};
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;
use stripe_billing::billing_meter_event_summary::ListIdBillingMeterEventSummary;
use stripe_billing::billing_portal_session::CreateBillingPortalSession;
use stripe_billing::invoice::{CreatePreviewInvoice, ListInvoice, RetrieveInvoice};
use stripe_billing::invoice_payment::{ListInvoicePayment, ListInvoicePaymentPayment, ListInvoicePaymentPaymentType};
use stripe_billing::subscription::{CancelSubscription, ListSubscription, RetrieveSubscription, UpdateSubscription};
use stripe_billing::subscription_schedule::{
    CreateSubscriptionSchedule, ReleaseSubscriptionSchedule, RetrieveSubscriptionSchedule,
};
use stripe_checkout::checkout_session::{ExpireCheckoutSession, RetrieveCheckoutSession};
use stripe_client_core::{RequestBuilder, StripeMethod, StripeRequest};
use stripe_core::charge::RetrieveCharge;
use stripe_core::customer::CreateCustomer;
use stripe_core::dispute::RetrieveDispute;
use stripe_core::event::{ListEvent, RetrieveEvent};
use stripe_core::refund::{CreateRefund, CreateRefundReason};
use stripe_misc::webhook_endpoint::{
    CreateWebhookEndpoint, CreateWebhookEndpointEnabledEvents, RetrieveWebhookEndpoint, UpdateWebhookEndpoint,
    UpdateWebhookEndpointEnabledEvents,
};
use stripe_product::product::CreateProduct;
use stripe_types::{RangeBoundsTs, RangeQueryTs};
use transport::Transport;

type Answer<T> = Result<T, PaymentsError>;

/// Objects on a page: the most that Stripe gives.
const PAGE: i64 = 100;
/// Pages read of one list. A thousand lines on an invoice, or undelivered events at once, are more than can be.
const MAX_PAGES: usize = 10;

/// How Stripe is reached.
pub struct Config {
    /// `sk_test_...` or `sk_live_...`; empty when Stripe is not configured.
    pub secret_key: Secret,
    /// Another address than Stripe's own: the emulator's.
    pub base_url: Option<String>,
}

/// Stripe.
pub struct Stripe {
    transport: Transport,
    livemode: bool,
    configured: bool,
}

/// There is no key to call Stripe with.
#[derive(Debug, thiserror::Error)]
#[error("no Stripe key is configured (TURNPIKE_STRIPE_SECRET_KEY)")]
struct NoKey;

/// The key has characters that a header cannot have.
#[derive(Debug, thiserror::Error)]
#[error("the Stripe key is not one")]
pub struct BadKey(#[source] http::Error);

impl Stripe {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the key cannot be sent.
    pub fn new(config: &Config) -> Result<Self, BadKey> {
        let key = config.secret_key.expose();
        Ok(Self {
            transport: Transport::new(&config.secret_key, config.base_url.as_deref()).map_err(BadKey)?,
            livemode: key.starts_with("sk_live_") || key.starts_with("rk_live_"),
            configured: !key.is_empty(),
        })
    }

    async fn send(&self, request: &impl StripeRequest, key: Option<&str>) -> Answer<Value> {
        self.call(&request.build(), key).await
    }

    async fn call(&self, request: &RequestBuilder, key: Option<&str>) -> Answer<Value> {
        if !self.configured {
            return Err(PaymentsError::Unavailable(Box::new(NoKey)));
        }
        self.transport.send(request, key).await
    }

    /// All pages of a list, from its first.
    async fn pages(&self, mut request: RequestBuilder) -> Answer<Vec<Value>> {
        let query = request.query.take().unwrap_or_default();
        let mut all: Vec<Value> = Vec::new();
        for _ in 0..MAX_PAGES {
            let after = all.last().map(|o| read::text(o, "id")).transpose()?;
            request.query = Some(match after {
                Some(id) => format!("{query}&limit={PAGE}&starting_after={id}"),
                None => format!("{query}&limit={PAGE}"),
            });
            let page = self.call(&request, None).await?;
            all.extend(read::list(&page)?.iter().cloned());
            if page["has_more"].as_bool() != Some(true) {
                return Ok(all);
            }
        }
        tracing::warn!(path = request.path, "a list of Stripe's is longer than is read");
        Ok(all)
    }

    /// The invoice that a charge paid, if it paid one.
    async fn invoice_of(&self, charge: &Value) -> Answer<Option<Value>> {
        let Some(intent) = read::reference(&charge["payment_intent"]) else {
            return Ok(None);
        };
        let payment = ListInvoicePaymentPayment {
            payment_intent: Some(intent),
            ..ListInvoicePaymentPayment::new(ListInvoicePaymentPaymentType::PaymentIntent)
        };
        let page = self.send(&ListInvoicePayment::new().payment(payment), None).await?;
        match read::list(&page)?.first().and_then(|p| read::reference(&p["invoice"])) {
            Some(id) => self.send(&RetrieveInvoice::new(id), None).await.map(Some),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Payments for Stripe {
    async fn create_product(&self, name: &str, slug: &str, idempotency_key: &str) -> Answer<String> {
        let metadata = HashMap::from([("turnpike_product".to_owned(), slug.to_owned())]);
        let request = CreateProduct::new(name).metadata(metadata);
        read::text(&self.send(&request, Some(idempotency_key)).await?, "id")
    }

    async fn create_meter(&self, name: &str, event_name: &str, idempotency_key: &str) -> Answer<String> {
        let sum = CreateBillingMeterDefaultAggregation::new(CreateBillingMeterDefaultAggregationFormula::Sum);
        let request = CreateBillingMeter::new(sum, name, event_name);
        match self.send(&request, Some(idempotency_key)).await {
            Err(PaymentsError::Refused { code, message }) => {
                // An earlier installation on the same Stripe account has made it.
                let active = ListBillingMeter::new().status(stripe_billing::BillingMeterStatus::Active);
                let all = self.pages(active.build()).await?;
                let same = all.iter().find(|m| m["event_name"].as_str() == Some(event_name));
                match same {
                    Some(meter) => read::text(meter, "id"),
                    None => Err(PaymentsError::Refused { code, message }),
                }
            }
            answer => read::text(&answer?, "id"),
        }
    }

    async fn create_price(&self, price: &NewPrice, idempotency_key: &str) -> Answer<String> {
        read::text(&self.send(&write::price(price), Some(idempotency_key)).await?, "id")
    }

    async fn create_customer(
        &self,
        consumer: ConsumerId,
        name: &str,
        email: &str,
        idempotency_key: &str,
    ) -> Answer<String> {
        let metadata = HashMap::from([("turnpike_consumer".to_owned(), consumer.to_string())]);
        let request = CreateCustomer::new().name(name).email(email).metadata(metadata);
        read::text(&self.send(&request, Some(idempotency_key)).await?, "id")
    }

    async fn create_checkout(&self, checkout: &NewCheckout, idempotency_key: &str) -> Answer<Checkout> {
        read::checkout(&self.send(&write::checkout(checkout), Some(idempotency_key)).await?)
    }

    async fn checkout(&self, id: &str) -> Answer<Checkout> {
        read::checkout(&self.send(&RetrieveCheckoutSession::new(id), None).await?)
    }

    async fn expire_checkout(&self, id: &str) -> Answer<()> {
        self.send(&ExpireCheckoutSession::new(id), None).await.map(drop)
    }

    async fn subscription(&self, id: &str) -> Answer<StripeSubscription> {
        read::subscription(&self.send(&RetrieveSubscription::new(id), None).await?)
    }

    async fn subscriptions_of(&self, customer: &str) -> Answer<Vec<StripeSubscription>> {
        // Without a status the list has all that have not ended.
        let all = self.pages(ListSubscription::new().customer(customer).build()).await?;
        all.iter().map(read::subscription).collect()
    }

    async fn preview_change(&self, subscription: &str, change: &ItemChange, at: Time) -> Answer<StripeInvoice> {
        let request = write::preview_change(subscription, change, at);
        read::invoice(&self.send(&request, None).await?)
    }

    async fn change_now(
        &self,
        subscription: &str,
        change: &ItemChange,
        at: Time,
        idempotency_key: &str,
    ) -> Answer<StripeSubscription> {
        let request = write::change_now(subscription, change, at);
        read::subscription(&self.send(&request, Some(idempotency_key)).await?)
    }

    async fn change_at_period_end(
        &self,
        subscription: &str,
        change: &ItemChange,
        idempotency_key: &str,
    ) -> Answer<String> {
        let create = CreateSubscriptionSchedule::new().from_subscription(subscription);
        let key = format!("{idempotency_key}-schedule");
        let schedule = self.send(&create, Some(&key)).await?;
        let id = read::text(&schedule, "id")?;
        let phases = read::phases(&schedule)?;
        let running = phases
            .first()
            .ok_or_else(|| transport::refused("no_phase", "the schedule has no phase"))?;
        let update = write::phases(&id, running, change);
        let key = format!("{idempotency_key}-phases");
        self.send(&update, Some(&key)).await?;
        Ok(id)
    }

    async fn schedule(&self, id: &str) -> Answer<StripeSchedule> {
        read::schedule(&self.send(&RetrieveSubscriptionSchedule::new(id), None).await?)
    }

    async fn release_schedule(&self, schedule: &str) -> Answer<()> {
        self.send(&ReleaseSubscriptionSchedule::new(schedule), None)
            .await
            .map(drop)
    }

    async fn cancel_at_period_end(&self, subscription: &str, cancel: bool) -> Answer<StripeSubscription> {
        let request = UpdateSubscription::new(subscription).cancel_at_period_end(cancel);
        read::subscription(&self.send(&request, None).await?)
    }

    async fn cancel_now(&self, subscription: &str, invoice_now: bool) -> Answer<()> {
        let request = CancelSubscription::new(subscription).invoice_now(invoice_now);
        self.send(&request, None).await.map(drop)
    }

    async fn invoice(&self, id: &str) -> Answer<StripeInvoice> {
        let object = self.send(&RetrieveInvoice::new(id), None).await?;
        let mut invoice = read::invoice(&object)?;
        if object["lines"]["has_more"].as_bool() == Some(true) {
            let all = RequestBuilder::new(StripeMethod::Get, format!("/invoices/{id}/lines"));
            invoice.lines = read::lines(&serde_json::json!({ "data": self.pages(all).await? }))?;
        }
        if object["status"] == "open" && object["attempted"] == true {
            let intents = ListInvoicePayment::new()
                .invoice(id)
                .expand(["data.payment.payment_intent".to_owned()]);
            let page = self.send(&intents, None).await?;
            let waits = |p: &Value| p["payment"]["payment_intent"]["status"] == "requires_action";
            invoice.needs_confirmation = read::list(&page)?.iter().any(waits);
        }
        Ok(invoice)
    }

    async fn invoices_of(&self, customer: &str) -> Answer<Vec<StripeInvoice>> {
        let page = self
            .send(&ListInvoice::new().customer(customer).limit(PAGE), None)
            .await?;
        read::list(&page)?.iter().map(read::invoice).collect()
    }

    async fn preview_next(&self, subscription: &str) -> Answer<StripeInvoice> {
        let request = CreatePreviewInvoice::new().subscription(subscription);
        read::invoice(&self.send(&request, None).await?)
    }

    async fn refund_invoice(&self, invoice: &str, idempotency_key: &str) -> Answer<()> {
        let page = self.send(&ListInvoicePayment::new().invoice(invoice), None).await?;
        for payment in read::list(&page)? {
            if payment["status"].as_str() != Some("paid") {
                continue;
            }
            let intent = &payment["payment"]["payment_intent"];
            let Some(intent) = intent.as_str().or_else(|| intent["id"].as_str()) else {
                continue;
            };
            let refund = CreateRefund::new()
                .payment_intent(intent)
                .reason(CreateRefundReason::Duplicate);
            let key = format!("{idempotency_key}-{intent}");
            self.send(&refund, Some(&key)).await?;
        }
        Ok(())
    }

    async fn refund_of(&self, charge: &str) -> Answer<Option<StripeRefund>> {
        let charge = self.send(&RetrieveCharge::new(charge), None).await?;
        let invoice = self.invoice_of(&charge).await?;
        read::refund(&charge, invoice.as_ref())
    }

    async fn dispute(&self, id: &str) -> Answer<StripeDispute> {
        let dispute = self.send(&RetrieveDispute::new(id), None).await?;
        let charge = read::reference(&dispute["charge"]).ok_or_else(|| read::lacks("charge"))?;
        let charge = self.send(&RetrieveCharge::new(charge), None).await?;
        let invoice = self.invoice_of(&charge).await?;
        read::dispute(&dispute, &charge, invoice.as_ref())
    }

    async fn send_meter_event(&self, event: &NewMeterEvent) -> Answer<()> {
        // No idempotency key: Stripe would keep a 500 under it for a day, and the identifier counts once anyway.
        let payload = write::payload(&event.customer, event.units);
        let request = CreateBillingMeterEvent::new(event.event_name.as_str(), payload)
            .identifier(event.identifier.as_str())
            .timestamp(event.at.unix_s());
        self.send(&request, None).await.map(drop)
    }

    async fn meter_total(&self, meter: &str, customer: &str, start: Time, end: Time) -> Answer<u64> {
        let request = ListIdBillingMeterEventSummary::new(meter, customer, end.unix_s(), start.unix_s());
        read::summaries(&self.send(&request, None).await?)
    }

    async fn portal_url(&self, customer: &str, return_url: &str) -> Answer<String> {
        let request = CreateBillingPortalSession::new()
            .customer(customer)
            .return_url(return_url);
        read::text(&self.send(&request, None).await?, "url")
    }

    async fn create_endpoint(&self, url: &str, types: &[&str]) -> Answer<(String, String, String)> {
        let events: Vec<CreateWebhookEndpointEnabledEvents> = types
            .iter()
            .map(|t| {
                t.parse()
                    .unwrap_or_else(|never: std::convert::Infallible| match never {})
            })
            .collect();
        // Events come in the shape of the endpoint's version, not of the account's.
        let version = stripe_client_core::VERSION;
        let request = CreateWebhookEndpoint::new(events, url).api_version(version.clone());
        let endpoint = self.send(&request, None).await?;
        Ok((
            read::text(&endpoint, "id")?,
            read::text(&endpoint, "secret")?,
            version.as_str().to_owned(),
        ))
    }

    async fn endpoint_types(&self, id: &str) -> Answer<Option<Vec<String>>> {
        match self.send(&RetrieveWebhookEndpoint::new(id), None).await {
            Ok(endpoint) => read::endpoint_types(&endpoint),
            Err(PaymentsError::Missing) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn set_endpoint_types(&self, id: &str, types: &[&str]) -> Answer<()> {
        let events: Vec<UpdateWebhookEndpointEnabledEvents> = types
            .iter()
            .map(|t| {
                t.parse()
                    .unwrap_or_else(|never: std::convert::Infallible| match never {})
            })
            .collect();
        let request = UpdateWebhookEndpoint::new(id).enabled_events(events);
        self.send(&request, None).await.map(drop)
    }

    async fn event(&self, id: &str) -> Answer<StripeEvent> {
        read::event(&self.send(&RetrieveEvent::new(id), None).await?)
    }

    fn livemode(&self) -> bool {
        self.livemode
    }

    fn is_configured(&self) -> bool {
        self.configured
    }

    async fn undelivered_events(&self, since: Time) -> Answer<Vec<StripeEvent>> {
        let created = RangeQueryTs::Bounds(RangeBoundsTs {
            gte: Some(since.unix_s()),
            ..RangeBoundsTs::default()
        });
        let request = ListEvent::new().delivery_success(false).created(created);
        let all = self.pages(request.build()).await?;
        // Stripe lists the newest first.
        all.iter().rev().map(read::event).collect()
    }
}
