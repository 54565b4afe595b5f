//! What the page's islands ask for while it is open, and the words it comes in.

#![expect(
    missing_docs,
    reason = "the server macro makes structs of the arguments and takes no docs for their fields"
)]

use crate::ui::wire::{Cells, Rows};
use leptos::prelude::*;
use serde::{Deserialize, Serialize};

/// Where [`live_figures`] answers.
pub const FIGURES: &str = "/_pages/usage/figures";
/// Where [`live_log`] answers.
pub const LOG: &str = "/_pages/usage/log";

/// The figures at the top of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Rows", into = "Rows")]
pub struct Figures {
    /// Time of day at which they were read, in UTC.
    pub as_of: String,
    /// Figures with name and note.
    pub stats: Vec<Figure>,
    /// Allowances and the spend cap.
    pub bars: Vec<Bar>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// The figure itself.
    pub figure: String,
    /// What it is made of.
    pub note: String,
}

/// How much of something is used.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What a row of [`Figures`] on its way holds: a figure or a bar.
const FIGURE: &str = "figure";
const BAR: &str = "bar";

impl From<Figures> for Rows {
    fn from(figures: Figures) -> Self {
        let stats = figures
            .stats
            .into_iter()
            .map(|f| vec![FIGURE.to_owned(), f.name, f.figure, f.note]);
        let bars = figures.bars.into_iter().map(|b| {
            let (used, of) = (b.used.to_string(), b.of.to_string());
            vec![BAR.to_owned(), b.name, used, of, b.state, b.left, b.right]
        });
        std::iter::once(vec![figures.as_of]).chain(stats).chain(bars).collect()
    }
}

impl From<Rows> for Figures {
    fn from(rows: Rows) -> Self {
        let mut rows = rows.into_iter().map(Cells::new);
        let mut figures = Self {
            as_of: rows.next().map(|mut first| first.text()).unwrap_or_default(),
            ..Self::default()
        };
        for mut row in rows {
            match row.text().as_str() {
                FIGURE => figures.stats.push(Figure {
                    name: row.text(),
                    figure: row.text(),
                    note: row.text(),
                }),
                BAR => figures.bars.push(Bar {
                    name: row.text(),
                    used: row.number(),
                    of: row.number(),
                    state: row.text(),
                    left: row.text(),
                    right: row.text(),
                }),
                _ => {}
            }
        }
        figures
    }
}

/// The request log, the newest line first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Rows", into = "Rows")]
pub struct Log(pub Vec<LogRow>);

/// A line of the request log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// Id of the request.
    pub request: String,
    /// RFC 3339.
    pub at: String,
    /// Day and time of day, in UTC.
    pub at_words: String,
    /// HTTP status.
    pub status: String,
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

impl From<Log> for Rows {
    fn from(log: Log) -> Self {
        let row = |r: LogRow| {
            let (refusal, address) = r.refusal;
            let test = if r.test { "test" } else { "" }.to_owned();
            vec![
                r.request, r.at, r.at_words, r.status, r.state, r.route, r.key, test, r.units, r.took, refusal, address,
            ]
        };
        log.0.into_iter().map(row).collect()
    }
}

impl From<Rows> for Log {
    fn from(rows: Rows) -> Self {
        let row = |mut row: Cells| LogRow {
            request: row.text(),
            at: row.text(),
            at_words: row.text(),
            status: row.text(),
            state: row.text(),
            route: row.text(),
            key: row.text(),
            test: !row.text().is_empty(),
            units: row.text(),
            took: row.text(),
            refusal: (row.text(), row.text()),
        };
        Self(rows.into_iter().map(Cells::new).map(row).collect())
    }
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
pub async fn live_log(filter: String) -> Result<Log, ServerFnError> {
    let (visitor, site) = super::live::visitor().await?;
    super::live::log(
        &site,
        visitor.viewer(),
        &super::live::filter_of(&super::live::pairs(&filter)),
    )
    .await
    .map_err(super::live::hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "ssr")]
    #[test]
    fn the_islands_ask_where_the_server_functions_answer() {
        use leptos::server_fn::ServerFn;
        assert_eq!([LiveFigures::PATH, LiveLog::PATH], [FIGURES, LOG]);
    }

    #[test]
    fn what_crosses_to_the_browser_arrives_whole() {
        let figures = Figures {
            as_of: "14:05:12".to_owned(),
            stats: vec![Figure {
                name: "API calls".to_owned(),
                figure: "2".to_owned(),
                note: "\"quoted\", \u{1f5dd}".to_owned(),
            }],
            bars: vec![Bar {
                name: "API calls".to_owned(),
                used: 2,
                of: u64::MAX,
                state: "good".to_owned(),
                left: String::new(),
                right: "resets".to_owned(),
            }],
        };
        assert_eq!(Figures::from(Rows::from(figures.clone())), figures);
        let line = LogRow {
            request: "req_1".to_owned(),
            at: "2026-11-21T14:05:12Z".to_owned(),
            at_words: "21 Nov 2026, 14:05:12".to_owned(),
            status: "403".to_owned(),
            state: "warn".to_owned(),
            route: "clock".to_owned(),
            key: "ci \u{2026}uPrS".to_owned(),
            test: true,
            units: "0".to_owned(),
            took: "0.4 ms".to_owned(),
            refusal: ("feature-missing".to_owned(), "/problems/feature-missing".to_owned()),
        };
        let log = Log(vec![line.clone(), LogRow { test: false, ..line }]);
        assert_eq!(Log::from(Rows::from(log.clone())), log);
    }
}
