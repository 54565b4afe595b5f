//! Reading requests: query, path and body, each refused as a [`Problem`].

use crate::problem::{Kind, Problem};
use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The query, whole: a parameter that `T` does not know is refused, so that a misspelt one is never ignored.
pub(crate) struct Params<T>(pub(crate) T);

/// For endpoints without parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The `{code}` of a path.
pub(crate) struct Code(pub(crate) String);

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(e) => Err(Problem::new(
                Kind::InvalidParameter,
                e.body_text().trim_start_matches("Failed to deserialize query string: "),
            )),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Code {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(code)) => Ok(Self(code)),
            Err(e) => Err(Problem::new(Kind::InvalidParameter, e.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(e) => Err(match e.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                    Kind::BodyTooLarge,
                    format!("A body has at most {} bytes.", crate::MAX_BODY_BYTES),
                ),
                StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
                    Kind::UnsupportedMediaType,
                    "Send JSON, with Content-Type: application/json.",
                ),
                _ => Problem::new(Kind::InvalidBody, e.body_text()),
            }),
        }
    }
}
