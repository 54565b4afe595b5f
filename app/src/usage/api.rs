//! What the page's islands ask for while it is open, and the words it comes in.

#![expect(
    missing_docs,
    reason = "the server macro makes structs of the arguments and takes no docs for their fields"
)]

use leptos::prelude::*;
use serde::{Deserialize, Serialize};

/// The figures at the top of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Time of day at which they were read, in UTC.
    pub as_of: String,
    /// Figures with name and note.
    pub stats: Vec<Figure>,
    /// Allowances and the spend cap.
    pub bars: Vec<Bar>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// The figure itself.
    pub figure: String,
    /// What it is made of.
    pub note: String,
}

/// How much of something is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// Of what.
    pub name: String,
    /// Used.
    pub used: u64,
    /// Of so many; at least 1.
    pub of: u64,
    /// good, warn or bad.
    pub state: String,
    /// Used and left, in words.
    pub left: String,
    /// What happens at the end, in words.
    pub right: String,
}

/// A line of the request log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// Id of the request.
    pub request: String,
    /// RFC 3339.
    pub at: String,
    /// Day and time of day, in UTC.
    pub at_words: String,
    /// HTTP status.
    pub status: i16,
    /// good, warn or bad.
    pub state: String,
    /// Slug of the route.
    pub route: String,
    /// The key's name and last characters.
    pub key: String,
    /// Made with a test key.
    pub test: bool,
    /// Units counted.
    pub units: String,
    /// How long it took.
    pub took: String,
    /// Name and address of the refusal's page; empty when it was not refused.
    pub refusal: (String, String),
}

/// The figures as they are now.
///
/// # Errors
/// When nobody is signed in any more, or the database fails.
#[server(prefix = "/_pages", endpoint = "usage/figures", input = leptos::server_fn::codec::GetUrl)]
pub async fn live_figures(environment: String) -> Result<Figures, ServerFnError> {
    let (visitor, site) = super::live::visitor().await?;
    super::live::figures(&site, visitor.viewer(), super::live::environment(&environment))
        .await
        .map_err(super::live::hidden)
}

/// The last requests that pass the filter, which is the page's own query.
///
/// # Errors
/// As [`live_figures`].
#[server(prefix = "/_pages", endpoint = "usage/log", input = leptos::server_fn::codec::GetUrl)]
pub async fn live_log(filter: String) -> Result<Vec<LogRow>, ServerFnError> {
    let (visitor, site) = super::live::visitor().await?;
    super::live::log(
        &site,
        visitor.viewer(),
        &super::live::filter_of(&super::live::pairs(&filter)),
    )
    .await
    .map_err(super::live::hidden)
}
