//! Domain errors: what a person can do something about is a variant, the rest is [`DomainError::Internal`] and is
//! logged with its cause where it is turned into an answer.

/// PostgreSQL's code for text that it cannot hold: U+0000, which nobody types but a program sends.
const UNSTORABLE: &str = "22021";

/// Why a rule refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// Not there, or not yours: the same answer, so that nobody learns which.
    #[error("not found")]
    NotFound,
    /// A field of a form or request is wrong; the text says what to do.
    #[error("{field}: {problem}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// One sentence for the person who filled it in.
        problem: String,
    },
    /// The rules forbid it now; one sentence that says why and what to do.
    #[error("{0}")]
    Conflict(String),
    /// Too often; try again after that many seconds.
    #[error("try again in {retry_after_s} s")]
    TooMany {
        /// Seconds.
        retry_after_s: u64,
    },
    /// Stripe cannot be reached or answers with an error that may pass.
    #[error("payments are unavailable")]
    PaymentsUnavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Ours to mend.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a rule returns.
pub type Result<T, E = DomainError> = std::result::Result<T, E>;

impl DomainError {
    /// A wrong field.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            problem: problem.into(),
        }
    }
    /// The error and all that led to it, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
    /// A failure that is ours, with what led to it.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}

impl From<sqlx::Error> for DomainError {
    fn from(e: sqlx::Error) -> Self {
        let code = e.as_database_error().and_then(|e| e.code());
        if code.is_some_and(|code| code == UNSTORABLE) {
            return Self::invalid("text", "There is a character in it that cannot be kept.");
        }
        Self::Internal(Box::new(e))
    }
}

impl From<serde_json::Error> for DomainError {
    fn from(e: serde_json::Error) -> Self {
        Self::Internal(Box::new(e))
    }
}
