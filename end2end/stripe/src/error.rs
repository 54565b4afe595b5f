//! Refusals in the shape of Stripe's `error` object.

use serde_json::{Value, json};

/// A refusal: the HTTP status and the `error` object of the answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) error: Value,
}

/// What a handler gives: an object, or a refusal.
pub(crate) type Answer = Result<Value, ApiError>;

impl ApiError {
    /// Any refusal.
    pub(crate) fn new(status: u16, kind: &str, message: &str) -> Self {
        Self {
            status,
            error: json!({"type": kind, "message": message}),
        }
    }

    /// A request that Stripe would not understand or not allow: 400.
    pub(crate) fn invalid(message: &str) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// As [`Self::invalid`], about one parameter.
    pub(crate) fn param(param: &str, message: &str) -> Self {
        Self::invalid(message).with("param", param)
    }

    /// As [`Self::param`], with Stripe's code for it.
    pub(crate) fn coded(code: &str, param: &str, message: &str) -> Self {
        Self::param(param, message).with("code", code)
    }

    /// No object of that kind has this id: 404 when the id is in the path, 400 when it is a parameter.
    pub(crate) fn missing(kind: &str, id: &str, param: &str) -> Self {
        let status = if param == "id" { 404 } else { 400 };
        let mut error = Self::coded("resource_missing", param, &format!("No such {kind}: '{id}'"));
        error.status = status;
        error
    }

    /// A card that was refused: 402.
    pub(crate) fn card(code: &str, decline_code: &str, message: &str) -> Self {
        let error = Self::new(402, "card_error", message).with("code", code);
        if decline_code.is_empty() {
            error
        } else {
            error.with("decline_code", decline_code)
        }
    }

    /// Sets one more field of the `error` object.
    pub(crate) fn with(mut self, field: &str, value: &str) -> Self {
        self.error[field] = Value::from(value);
        self
    }

    /// The sentence for people.
    pub(crate) fn message(&self) -> &str {
        self.error["message"].as_str().unwrap_or_default()
    }

    /// The whole answer body.
    pub(crate) fn body(&self) -> Value {
        json!({"error": self.error})
    }
}
