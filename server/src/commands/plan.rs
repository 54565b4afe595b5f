//! `turnpike plan`.

use super::Context;
use crate::output::{self, Failure};
use clap::Subcommand;
use std::path::PathBuf;

/// What is sold.
#[derive(Subcommand)]
pub(crate) enum Plan {
    /// Publish a catalogue file: routes, meters, plans. Plans whose terms changed get a new version.
    Publish {
        /// The file (TOML).
        file: PathBuf,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs it.
pub(crate) async fn run(context: &Context, plan: Plan) -> Result<(), Failure> {
    let Plan::Publish { file, dry_run } = plan;
    let text = std::fs::read_to_string(&file).map_err(|e| Failure(format!("cannot read {}: {e}", file.display())))?;
    let catalogue = domain::catalogue::parse(&text).map_err(|e| Failure(format!("{}: {e}", file.display())))?;
    let provider = domain::Provider::console();
    if dry_run {
        let changes = domain::catalogue::preview(&context.domain, &provider, &catalogue).await?;
        let words: Vec<String> = changes
            .iter()
            .map(|c| format!("{}: {}", c.subject, c.details.join("; ")))
            .collect();
        let words = if words.is_empty() {
            "nothing would change".to_owned()
        } else {
            words.join("\n")
        };
        output::result(
            context.json,
            &serde_json::json!({ "changes": changes.iter().map(|c| &c.subject).collect::<Vec<_>>() }),
            &words,
        );
        return Ok(());
    }
    let published = domain::catalogue::publish(&context.domain, &provider, &catalogue).await?;
    let versions: Vec<_> = published
        .versions
        .iter()
        .map(|v| serde_json::json!({ "plan": v.plan, "plan_version_id": v.id, "version": v.number }))
        .collect();
    let words: Vec<String> = published
        .versions
        .iter()
        .map(|v| format!("{} is now at version {}", v.plan, v.number))
        .collect();
    let words = if words.is_empty() {
        "no plan changed".to_owned()
    } else {
        words.join("\n")
    };
    output::result(context.json, &serde_json::json!({ "published": versions }), &words);
    Ok(())
}
