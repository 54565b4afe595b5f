//! Refusals, as RFC 9457 problem documents.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// What went wrong, as a stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidParameter,
    InvalidBody,
    UnknownCountry,
    UnknownCurrency,
    UnknownZone,
    NoSuchPath,
    MethodNotAllowed,
    BodyTooLarge,
    UnsupportedMediaType,
}

impl Kind {
    /// Status, last part of the `type` address, title.
    fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidParameter => (StatusCode::BAD_REQUEST, "invalid-parameter", "Invalid parameter"),
            Self::InvalidBody => (StatusCode::BAD_REQUEST, "invalid-body", "Invalid body"),
            Self::UnknownCountry => (StatusCode::NOT_FOUND, "unknown-country", "Unknown country"),
            Self::UnknownCurrency => (StatusCode::NOT_FOUND, "unknown-currency", "Unknown currency"),
            Self::UnknownZone => (StatusCode::NOT_FOUND, "unknown-zone", "Unknown time zone"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no-such-path", "No such path"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
            ),
        }
    }
}

/// A refusal: `type`, `title`, `status`, and a `detail` that says what to change.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Problem {
    r#type: String,
    title: &'static str,
    pub(crate) status: u16,
    detail: String,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (status, slug, title) = kind.words();
        Self {
            r#type: format!("https://atlas.example/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, serde_json::to_string(&self).unwrap_or_default()).into_response()
    }
}
