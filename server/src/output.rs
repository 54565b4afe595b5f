//! What commands print: one JSON object on stdout with `--json`, a sentence for people without; errors on stderr.

use serde_json::Value;
use std::io::Write as _;
use std::process::ExitCode;

/// What a command fails with: a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(pub(crate) String);

impl From<domain::DomainError> for Failure {
    fn from(e: domain::DomainError) -> Self {
        Self(e.chain())
    }
}

/// A refusal that names what was looked for.
pub(crate) fn missing(error: domain::DomainError, what: &str, id: &dyn std::fmt::Display) -> Failure {
    match error {
        domain::DomainError::NotFound => Failure(format!("there is no {what} {id}")),
        other => other.into(),
    }
}

/// Prints a result. A closed pipe is nobody's fault.
pub(crate) fn result(json: bool, value: &Value, words: &str) {
    let text = if json { value.to_string() } else { words.to_owned() };
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints why it failed, for programs.
pub(crate) fn error_object(why: &str) {
    drop(writeln!(
        std::io::stdout(),
        "{}",
        serde_json::json!({ "error": why.trim_end() })
    ));
}

/// Prints why it failed.
pub(crate) fn failure(json: bool, why: &str) -> ExitCode {
    if json {
        error_object(why);
    }
    drop(writeln!(std::io::stderr(), "turnpike: {why}"));
    ExitCode::FAILURE
}
