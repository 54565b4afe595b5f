//! `turnpike cache`.

use super::Context;
use crate::output::{self, Failure};
use clap::Subcommand;

/// Answers that gateways keep.
#[derive(Subcommand)]
pub(crate) enum Cache {
    /// Tell every gateway to forget kept answers: all, or those of a route or of paths.
    Purge {
        /// Only of this route (its slug).
        #[arg(long)]
        route: Option<String>,
        /// Only of paths that begin so, as clients write them.
        #[arg(long, default_value = "", value_name = "PREFIX")]
        path: String,
    },
}

/// Runs it.
pub(crate) async fn run(context: &Context, cache: Cache) -> Result<(), Failure> {
    let Cache::Purge { route, path } = cache;
    let provider = domain::Provider::console();
    domain::purges::purge(&context.domain, &provider, route.as_deref(), &path).await?;
    let said = serde_json::json!({ "route": route, "path": path });
    output::result(
        context.json,
        &said,
        "every gateway forgets these answers within seconds",
    );
    Ok(())
}
