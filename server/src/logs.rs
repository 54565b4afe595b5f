//! Logs: to stderr, so that stdout stays a command's result.

use crate::config::LogFormat;
use crate::output::Failure;
use tracing_subscriber::EnvFilter;

/// Starts logging.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|e| Failure(format!("TURNPIKE_LOG: {e}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Failure(format!("cannot start logging: {e}")))
}
