//! A Stripe that runs here, in-process or as a program; development and tests only.
//!
//! The unmodified `async-stripe` client talks to it by base URL. It answers in the shapes of the API version
//! `2026-09-30.endive`, refuses what Stripe refuses, and delivers signed webhooks. A session in Checkout is paid on a plain
//! HTML page with Stripe's test cards. Time is its own: [`Running::advance_to`] does, in order, all that falls due.
//!
//! A request walks: `api` (key, version, faults, idempotency) -> `params` (the table of what is allowed) -> `routes` -> the
//! module of its noun, on one [`state`] behind one lock -> `views` (what the API shows) -> the answer. Events go to a queue
//! in `webhooks`, which `running` delivers.
//!
//! Requests can be recorded, a JSON line each with `method`, `path`, `query` and `body`, to be held against Stripe's own
//! description of its API: the program takes `--record FILE`, and an emulator in a test ([`Config::for_tests`]) writes a file
//! of its own into the folder that the variable `TURNPIKE_STRIPE_RECORD` names. `./dev test` sets it to
//! `target/stripe-requests`, where the emulator of the browser journeys writes, too.
#![recursion_limit = "256"]

mod api;
mod billing;
mod cancel;
mod cards;
mod checkout;
mod checkout_page;
mod clock;
mod control;
mod customers;
mod disputes;
mod dunning;
mod error;
mod events;
mod form;
mod invoice_items;
mod invoice_page;
mod invoices;
mod meters;
mod money;
mod pages;
mod params;
mod payments;
mod pending;
mod periods;
mod portal;
mod portal_page;
mod preview;
mod prices;
mod products;
mod proration;
mod rating;
mod routes;
mod running;
mod schedules;
mod settings;
mod state;
mod subscriptions;
mod views;
mod webhooks;

pub use running::{Config, Emulator, RECORD_VARIABLE, Running, StartError};
pub use settings::{AfterRetries, Fault, Mischief, Settings};
pub use state::API_VERSION;
