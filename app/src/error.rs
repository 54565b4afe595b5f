//! Errors on their way to a person: the cause is logged here, the page says what can be said.

use axum::response::{IntoResponse, Response};
use domain::DomainError;
use http::StatusCode;

/// What a handler fails with: an error page.
#[derive(Debug)]
pub struct AppError {
    /// HTTP status.
    pub status: StatusCode,
    /// One sentence for the person in front of the page.
    pub public: String,
}

impl AppError {
    /// Not there, or not yours.
    pub fn not_found() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            public: "There is no such page, or it is not yours to see.".to_owned(),
        }
    }
    /// The role does not allow it.
    pub fn forbidden(public: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            public: public.into(),
        }
    }
}

impl From<DomainError> for AppError {
    fn from(e: DomainError) -> Self {
        let (status, public) = match &e {
            DomainError::NotFound => return Self::not_found(),
            DomainError::Invalid { field, problem } => {
                (StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {problem}"))
            }
            DomainError::Conflict(text) => (StatusCode::CONFLICT, text.clone()),
            DomainError::TooMany { retry_after_s } => (
                StatusCode::TOO_MANY_REQUESTS,
                format!("Too many tries. Try again in {retry_after_s} seconds."),
            ),
            DomainError::PaymentsUnavailable(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The payment service cannot be reached right now. Nothing was charged. Try again in a minute."
                    .to_owned(),
            ),
            DomainError::Internal(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong on our side and has been logged. Nothing you entered was changed.".to_owned(),
            ),
        };
        if status.is_server_error() {
            tracing::error!(cause = e.chain(), "request failed");
        }
        Self { status, public }
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        // Drawn in full by the security layer, which knows brand and nonce: it looks for this extension.
        let mut response = (self.status, self.public.clone()).into_response();
        response.extensions_mut().insert(ErrorText(self.public));
        response
    }
}

/// Marks a response that is replaced by a page with this text.
#[derive(Clone, Debug)]
pub struct ErrorText(pub String);

/// Marks the answer to a form whose sender is not signed in any more: replaced by a page that keeps what was typed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedOut;
