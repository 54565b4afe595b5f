//! What the rules ask of Stripe, in our words. One implementation, crate `payments`; tests run it against the
//! emulator. Every call that creates something takes an idempotency key: repeating it returns the first result.

use model::access::Interval;
use model::price::Overage;
use model::{ConsumerId, Currency, Money, Period, Time};
use rust_decimal::Decimal;

/// Why a call to Stripe did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PaymentsError {
    /// Refused for a reason that trying again does not mend; Stripe's code and message.
    #[error("Stripe refused: {code}: {message}")]
    Refused {
        /// Such as `resource_missing` or `card_declined`.
        code: String,
        /// Stripe's words.
        message: String,
    },
    /// The object is not there (any more).
    #[error("Stripe has no such object")]
    Missing,
    /// Certainly not done: too many requests, or no connection was made.
    #[error("Stripe cannot be reached now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Perhaps done: the connection ended, or Stripe failed, after the request was sent.
    #[error("Stripe's answer was lost")]
    Ambiguous(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<PaymentsError> for crate::DomainError {
    fn from(e: PaymentsError) -> Self {
        match e {
            PaymentsError::Missing => Self::NotFound,
            PaymentsError::Refused { .. } => Self::internal(e),
            PaymentsError::Unavailable(_) | PaymentsError::Ambiguous(_) => Self::PaymentsUnavailable(Box::new(e)),
        }
    }
}

type Answer<T> = Result<T, PaymentsError>;

/// A price to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPrice {
    /// Stripe's product.
    pub product: String,
    /// Shown to the provider in Stripe's dashboard.
    pub nickname: String,
    /// Its currency.
    pub currency: Currency,
    /// How often it is charged.
    pub interval: Interval,
    /// What is charged.
    pub kind: NewPriceKind,
}

/// What a price charges.
#[derive(Debug, Clone, PartialEq)]
pub enum NewPriceKind {
    /// An amount in advance.
    Flat(Money),
    /// Usage in arrears: the allowance at zero, then the overage.
    Metered {
        /// Stripe's meter.
        meter: String,
        /// Units at price zero.
        included: u64,
        /// What is above.
        overage: Overage,
    },
}

/// A Checkout to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckout {
    /// Stripe's customer.
    pub customer: String,
    /// Comes back as `client_reference_id`.
    pub consumer: ConsumerId,
    /// Flat prices, quantity 1.
    pub flat_prices: Vec<String>,
    /// Metered prices, without quantity.
    pub metered_prices: Vec<String>,
    /// Where a payer goes; `{CHECKOUT_SESSION_ID}` is filled in.
    pub success_url: String,
    /// Where somebody goes who does not pay.
    pub cancel_url: String,
}

/// A Checkout as Stripe has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Stripe's session.
    pub id: String,
    /// The hosted page, while open.
    pub url: Option<String>,
    /// `open`, `complete` or `expired`.
    pub status: String,
    /// `paid`, `unpaid` or `no_payment_required`.
    pub payment_status: String,
    /// Our consumer, as given.
    pub client_reference_id: Option<String>,
    /// Stripe's customer.
    pub customer: Option<String>,
    /// Stripe's subscription, once complete.
    pub subscription: Option<String>,
    /// When it ends by itself.
    pub expires_at: Time,
}

/// A subscription as Stripe has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeSubscription {
    /// Stripe's id.
    pub id: String,
    /// Stripe's customer.
    pub customer: String,
    /// Stripe's word: active, trialing, past_due, unpaid, canceled, incomplete, incomplete_expired, paused.
    pub status: String,
    /// Its items with the period each is in.
    pub items: Vec<StripeItem>,
    /// Ends with the period.
    pub cancel_at_period_end: bool,
    /// The schedule that manages it.
    pub schedule: Option<String>,
    /// A change waits for its payment and lapses then: what is sold stays as it was.
    pub pending_until: Option<Time>,
    /// The newest invoice.
    pub latest_invoice: Option<String>,
    /// When it ended.
    pub ended_at: Option<Time>,
}

/// An item of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeItem {
    /// Stripe's id.
    pub id: String,
    /// Stripe's price.
    pub price: String,
    /// The period it is in.
    pub period: Period,
}

/// What a schedule will do at the end of the running phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeSchedule {
    /// Stripe's id.
    pub id: String,
    /// Prices of the phase that comes next; none when there is none, or the schedule is over.
    pub next_prices: Vec<String>,
}

/// New prices for a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemChange {
    /// Items to remove.
    pub remove: Vec<String>,
    /// Flat prices to add, quantity 1.
    pub add_flat: Vec<String>,
    /// Metered prices to add.
    pub add_metered: Vec<String>,
    /// How long the new prices' periods are.
    pub interval: Interval,
    /// A new period begins with the change: the interval is another one.
    pub restart_period: bool,
}

/// An invoice, or a preview of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeInvoice {
    /// Stripe's id; empty on a preview.
    pub id: String,
    /// Stripe's customer.
    pub customer: String,
    /// Stripe's subscription, where it belongs to one.
    pub subscription: Option<String>,
    /// Number on the document, once finalized.
    pub number: Option<String>,
    /// draft, open, paid, void, uncollectible.
    pub status: String,
    /// All lines.
    pub total: Money,
    /// Still to pay.
    pub amount_due: Money,
    /// Paid.
    pub amount_paid: Money,
    /// What it covers.
    pub period: Period,
    /// When it was made.
    pub created: Time,
    /// The cardholder must confirm the payment with the bank (3-D Secure), on Stripe's page for the invoice.
    pub needs_confirmation: bool,
    /// Stripe's page for it.
    pub hosted_url: Option<String>,
    /// The document.
    pub pdf_url: Option<String>,
    /// Its lines, all of them.
    pub lines: Vec<StripeLine>,
}

/// A line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeLine {
    /// Stripe's words.
    pub description: String,
    /// Units.
    pub quantity: Option<u64>,
    /// Price of one, in exact minor units.
    pub unit_minor: Option<Decimal>,
    /// The amount; negative is a credit.
    pub amount: Money,
    /// Stripe's price.
    pub price: Option<String>,
    /// Part of a period, because of a change.
    pub proration: bool,
    /// What it covers.
    pub period: Period,
}

/// What was paid back of a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeRefund {
    /// Stripe's customer.
    pub customer: String,
    /// All of it, not a part.
    pub full: bool,
    /// The invoice that the charge paid.
    pub invoice: Option<String>,
    /// The invoice's subscription.
    pub subscription: Option<String>,
}

/// A payment that a cardholder contests at the bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeDispute {
    /// Stripe's id.
    pub id: String,
    /// Stripe's customer, where the charge has one.
    pub customer: Option<String>,
    /// The subscription that the charge paid for.
    pub subscription: Option<String>,
    /// What is contested.
    pub amount: Money,
    /// The bank's word for why, such as `fraudulent`.
    pub reason: String,
    /// Stripe's word: needs_response, under_review, won, lost, prevented; an inquiry's begins with `warning_`.
    pub status: String,
    /// When it was opened.
    pub created: Time,
}

/// A meter event to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMeterEvent {
    /// The meter's event name.
    pub event_name: String,
    /// Stripe's customer.
    pub customer: String,
    /// Units.
    pub units: u64,
    /// When they were used.
    pub at: Time,
    /// Stripe counts an identifier once in at least 24 hours.
    pub identifier: String,
}

/// An event of Stripe's list.
#[derive(Debug, Clone, PartialEq)]
pub struct StripeEvent {
    /// `evt_...`
    pub id: String,
    /// The whole event.
    pub raw: serde_json::Value,
}

/// Stripe, as far as Turnpike uses it.
#[async_trait::async_trait]
pub trait Payments: Send + Sync {
    /// Makes a product.
    async fn create_product(&self, name: &str, slug: &str, idempotency_key: &str) -> Answer<String>;
    /// Makes a meter that sums values, or gives the one that listens to this `event_name` already: it is unique.
    async fn create_meter(&self, name: &str, event_name: &str, idempotency_key: &str) -> Answer<String>;
    /// Makes a price.
    async fn create_price(&self, price: &NewPrice, idempotency_key: &str) -> Answer<String>;
    /// Makes a customer.
    async fn create_customer(
        &self,
        consumer: ConsumerId,
        name: &str,
        email: &str,
        idempotency_key: &str,
    ) -> Answer<String>;
    /// Opens a Checkout.
    async fn create_checkout(&self, checkout: &NewCheckout, idempotency_key: &str) -> Answer<Checkout>;
    /// Reads a Checkout.
    async fn checkout(&self, id: &str) -> Answer<Checkout>;
    /// Ends an open Checkout.
    async fn expire_checkout(&self, id: &str) -> Answer<()>;
    /// Reads a subscription.
    async fn subscription(&self, id: &str) -> Answer<StripeSubscription>;
    /// All subscriptions of a customer that have not ended.
    async fn subscriptions_of(&self, customer: &str) -> Answer<Vec<StripeSubscription>>;
    /// What changing now would charge, prorated as of `at`.
    async fn preview_change(&self, subscription: &str, change: &ItemChange, at: Time) -> Answer<StripeInvoice>;
    /// Changes the items now, prorated as of `at` and invoiced at once; takes effect only when paid.
    async fn change_now(
        &self,
        subscription: &str,
        change: &ItemChange,
        at: Time,
        idempotency_key: &str,
    ) -> Answer<StripeSubscription>;
    /// Changes the items at the end of the running period; gives the schedule.
    async fn change_at_period_end(
        &self,
        subscription: &str,
        change: &ItemChange,
        idempotency_key: &str,
    ) -> Answer<String>;
    /// Reads a schedule.
    async fn schedule(&self, id: &str) -> Answer<StripeSchedule>;
    /// Takes a scheduled change back.
    async fn release_schedule(&self, schedule: &str) -> Answer<()>;
    /// Ends the subscription with its period, or takes that back.
    async fn cancel_at_period_end(&self, subscription: &str, cancel: bool) -> Answer<StripeSubscription>;
    /// Ends it now, with a last invoice when `invoice_now`.
    async fn cancel_now(&self, subscription: &str, invoice_now: bool) -> Answer<()>;
    /// Reads an invoice with all its lines.
    async fn invoice(&self, id: &str) -> Answer<StripeInvoice>;
    /// The newest invoices of a customer, at most 100.
    async fn invoices_of(&self, customer: &str) -> Answer<Vec<StripeInvoice>>;
    /// The next invoice of a subscription, as it stands.
    async fn preview_next(&self, subscription: &str) -> Answer<StripeInvoice>;
    /// Pays back a payment in full (a second subscription bought by mistake).
    async fn refund_invoice(&self, invoice: &str, idempotency_key: &str) -> Answer<()>;
    /// What was paid back of a charge, and what the charge had paid for; none when nothing was.
    async fn refund_of(&self, charge: &str) -> Answer<Option<StripeRefund>>;
    /// Reads a dispute, and what the contested charge had paid for.
    async fn dispute(&self, id: &str) -> Answer<StripeDispute>;
    /// Reports usage.
    async fn send_meter_event(&self, event: &NewMeterEvent) -> Answer<()>;
    /// Units Stripe has for a meter and customer between two instants on whole minutes.
    async fn meter_total(&self, meter: &str, customer: &str, start: Time, end: Time) -> Answer<u64>;
    /// A page of Stripe's to change the card and pay what is open.
    async fn portal_url(&self, customer: &str, return_url: &str) -> Answer<String>;
    /// Registers our webhook address for these types of events; gives id, secret and API version.
    async fn create_endpoint(&self, url: &str, types: &[&str]) -> Answer<(String, String, String)>;
    /// The types of events that an endpoint gets; none when it is gone or disabled.
    async fn endpoint_types(&self, id: &str) -> Answer<Option<Vec<String>>>;
    /// Changes the types of events that an endpoint gets; address and secret stay.
    async fn set_endpoint_types(&self, id: &str, types: &[&str]) -> Answer<()>;
    /// Reads an event.
    async fn event(&self, id: &str) -> Answer<StripeEvent>;
    /// Whether real money moves: the key is a live one.
    fn livemode(&self) -> bool;
    /// Whether there is a key. Without one every call fails at once, as unavailable.
    fn is_configured(&self) -> bool;
    /// Events since `since` that were not delivered, the oldest 1,000 at most.
    async fn undelivered_events(&self, since: Time) -> Answer<Vec<StripeEvent>>;
}
