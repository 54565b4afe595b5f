//! Atlas, the demo provider's API: countries, currencies and local times, from ISO 3166, ISO 4217 and the IANA time
//! zone database.
//!
//! It knows nothing of Turnpike: no keys, no limits, no counting. It stands for the service that a company already
//! has and now wants to sell. Every answer is a function of the request and the injected [`Clock`].

mod batch;
mod clock;
mod countries;
mod currencies;
mod problem;
mod request;
mod time;
mod transitions;

pub use clock::Clock;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use problem::{Kind, Problem};

/// Largest request body, in bytes: a full batch is below 20 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The description of this API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// How long an answer may be kept where the data only changes with a release: a day, in seconds.
const STATIC_DATA: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "public, max-age=86400")];
/// For answers that depend on the moment.
const MOMENTARY: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

/// Every path and what answers it.
pub fn routes() -> Vec<(&'static str, MethodRouter<Clock>)> {
    vec![
        ("/v1/countries", get(countries::list)),
        ("/v1/countries/{code}", get(countries::show)),
        ("/v1/currencies/{code}", get(currencies::show)),
        ("/v1/time", get(time::show)),
        ("/v1/transitions", get(transitions::list)),
        ("/v1/batch", post(batch::answer)),
        ("/v1/clock", get(clock::stream)),
        ("/openapi.json", get(openapi)),
    ]
}

/// The whole API, with the clock that tells it what "now" is.
pub fn router(clock: Clock) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(clock)
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(
        Kind::NoSuchPath,
        format!(
            "There is nothing at {}. GET /openapi.json lists every path.",
            uri.path()
        ),
    )
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!(
            "{} does not answer {method}; the Allow header says what it answers.",
            uri.path()
        ),
    )
}
