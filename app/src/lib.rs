//! The portal: pages, forms and islands.
//!
//! A page is an axum handler: it takes the right it needs as an extractor, loads what it shows from the domain and
//! renders a Leptos view to HTML in one go. A form posts to the address of its page. Nothing needs JavaScript;
//! islands make a few places live. Everything but islands exists on the server only (feature `ssr`), so the wasm that
//! a browser loads (feature `hydrate`) holds the islands and `model`.

// A page is one deep type of nested elements.
#![recursion_limit = "256"]

#[cfg(feature = "ssr")]
pub mod accounts;
#[cfg(feature = "ssr")]
pub mod admin;
#[cfg(feature = "ssr")]
pub mod budget;
#[cfg(feature = "ssr")]
pub mod error;
#[cfg(feature = "ssr")]
mod error_page;
#[cfg(feature = "ssr")]
pub mod invoices;
#[cfg(feature = "ssr")]
pub mod keys;
#[cfg(feature = "ssr")]
mod landing;
#[cfg(feature = "ssr")]
pub mod overview;
#[cfg(feature = "ssr")]
pub mod plan;
pub mod pricing;
#[cfg(feature = "ssr")]
pub mod problems;
#[cfg(feature = "ssr")]
pub mod render;
#[cfg(feature = "ssr")]
pub mod routes;
#[cfg(feature = "ssr")]
pub mod security;
#[cfg(feature = "ssr")]
pub mod session;
#[cfg(feature = "ssr")]
pub mod site;
#[cfg(feature = "ssr")]
pub mod stripe;
pub mod ui;
pub mod usage;

#[cfg(feature = "ssr")]
pub use error::AppError;
#[cfg(feature = "ssr")]
pub use site::Site;

/// Prepares the browser's reactive runtime; `public/boot.js` then starts each island by its name.
#[cfg(feature = "hydrate")]
pub fn start() {
    leptos::mount::hydrate_islands();
}
