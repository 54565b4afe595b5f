//! A person's way in and out: sign-up, log-in, confirming the address, lost passwords, the account page.

pub mod account;
pub mod login;
pub mod outbox;
pub mod reset;
pub mod setup;
pub mod signup;
pub mod verify;

use crate::AppError;
use crate::render;
use crate::session::Visitor;
use crate::ui::FormState;
use axum::response::{IntoResponse, Redirect, Response};
use domain::DomainError;
use http::{HeaderValue, StatusCode, header};

/// Draws a form again with what is wrong in it, or fails with an error page.
///
/// # Errors
/// What no change of the form can mend.
pub(crate) fn refuse(
    state: FormState,
    error: DomainError,
    draw: impl FnOnce(FormState) -> Response,
) -> Result<Response, AppError> {
    let retry_after_s = match error {
        DomainError::TooMany { retry_after_s } => Some(retry_after_s),
        _ => None,
    };
    let response = draw(state.refused(error)?);
    Ok(match retry_after_s {
        None => render::with_status(StatusCode::UNPROCESSABLE_ENTITY, response),
        Some(seconds) => {
            let mut response = render::with_status(StatusCode::TOO_MANY_REQUESTS, response);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
    })
}

/// Where somebody goes who is signed in and asks for a page that is for others, such as the log-in page.
fn away(visitor: &Visitor) -> Option<Response> {
    let identity = visitor.identity()?;
    let to = if identity.membership().is_some() {
        "/home"
    } else {
        "/admin"
    };
    Some(Redirect::to(to).into_response())
}
