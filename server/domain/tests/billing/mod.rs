//! Billing against a Stripe that runs here: what people do, what Stripe does, and what gets lost or doubled between.

mod callers;
mod catalogue;
mod changes;
mod checkout;
mod disputes;
mod features;
mod grace;
mod inbox;
mod overrides;
mod refunds;
mod repeats;
pub(crate) mod shop;
mod unconfigured;
