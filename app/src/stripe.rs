//! Stripe's deliveries: the raw body into the inbox, and an answer at once.

use crate::AppError;
use crate::site::Site;
use axum::body::Bytes;
use axum::extract::State;
use domain::{DomainError, stripe_inbox};
use http::{HeaderMap, StatusCode};

/// `POST /stripe/webhook`
///
/// # Errors
/// 400 when it is not signed by Stripe; 500 when it could not be stored, and then Stripe sends it again.
pub async fn webhook(State(site): State<Site>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, AppError> {
    let signature = headers
        .get("stripe-signature")
        .and_then(|s| s.to_str().ok())
        .unwrap_or_default();
    match stripe_inbox::receive(&site.domain, &body, signature).await {
        Ok(_) => Ok(StatusCode::OK),
        Err(DomainError::Invalid { problem, .. }) => {
            tracing::warn!(problem, "a delivery that is not from Stripe");
            Ok(StatusCode::BAD_REQUEST)
        }
        Err(e) => Err(e.into()),
    }
}
