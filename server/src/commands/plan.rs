//! `turnpike plan`.

use super::Context;
use crate::output::{self, Failure};
use clap::Subcommand;
use model::catalogue::CatalogueFile;
use std::path::{Path, PathBuf};

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
    /// Read a catalogue file and say what is wrong with it, without a database.
    Check {
        /// The file (TOML).
        file: PathBuf,
    },
}

/// The file, read and parsed.
fn read(file: &Path) -> Result<CatalogueFile, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure(format!("cannot read {}: {e}", file.display())))?;
    domain::catalogue::parse(&text).map_err(|e| Failure(format!("{}: {e}", file.display())))
}

/// Does what needs no database; false when that is not all.
pub(crate) fn check(json: bool, plan: &Plan) -> Result<bool, Failure> {
    let Plan::Check { file } = plan else { return Ok(false) };
    let read = read(file)?;
    let (routes, plans) = (read.routes.len(), read.plans.len());
    let told = serde_json::json!({ "routes": routes, "plans": plans });
    output::result(
        json,
        &told,
        &format!(
            "{}: {routes} routes and {plans} plans, nothing is wrong",
            file.display()
        ),
    );
    Ok(true)
}

/// Runs it.
pub(crate) async fn run(context: &Context, plan: Plan) -> Result<(), Failure> {
    let Plan::Publish { file, dry_run } = plan else {
        return Ok(());
    };
    let catalogue = read(&file)?;
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
