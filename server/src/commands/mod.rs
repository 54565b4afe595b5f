//! The command line: one module a noun.

mod account;
mod cache;
mod check;
mod demo;
mod gateway;
mod key;
mod overrides;
mod plan;
mod usage;

use crate::clock::{MachineClock, MachineRandom};
use crate::config::{Portal, Serving, Storage};
use crate::database::{Database, migrate};
use crate::output::{self, Failure};
use clap::{Parser, Subcommand};
use domain::settings::Settings;
use domain::{Domain, Inner};
use std::sync::Arc;

/// Sell your HTTP APIs from your own machines: portal, gateway and billing in one program.
#[derive(Parser)]
#[command(name = "turnpike", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print one JSON object on stdout instead of a sentence.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    portal: Portal,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the portal, the gateway and the worker.
    Serve(Box<Serving>),
    /// Bring the database's schema up to date.
    Migrate,
    /// Fill a database with a believable provider, described by a file.
    Demo(demo::Demo),
    /// The provider's people.
    #[command(subcommand)]
    Admin(account::Admin),
    /// Accounts that subscribe and hold keys.
    #[command(subcommand)]
    Consumer(account::Consumer),
    /// Keys.
    #[command(subcommand)]
    Key(key::Key),
    /// What one consumer has in place of what its plan says.
    #[command(subcommand)]
    Override(overrides::Override),
    /// Usage of the running billing period.
    Usage(usage::Usage),
    /// What is sold.
    #[command(subcommand)]
    Plan(plan::Plan),
    /// Answers that gateways keep.
    #[command(subcommand)]
    Cache(cache::Cache),
    /// The gateway.
    #[command(subcommand)]
    Gateway(gateway::Gateway),
    /// Check configuration, database and Stripe, and say what is wrong.
    Check(Box<Serving>),
}

/// What a command works with.
pub(crate) struct Context {
    pub(crate) domain: Domain,
    pub(crate) json: bool,
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli {
        json,
        storage,
        portal,
        command,
    } = cli;
    if let Command::Gateway(asked) = &command
        && gateway::ask_running(json, asked).await?
    {
        return Ok(());
    }
    match command {
        Command::Serve(serving) => return crate::serve::serve(storage, portal, *serving).await,
        Command::Check(serving) => return check::run(json, storage, portal, *serving).await,
        _ => {}
    }
    let settings = portal.settings(&storage.data_dir)?;
    let database = Database::open(&storage, false).await?;
    let clock = MachineClock::start(portal.clock_offset_file.clone());
    let context = Context {
        domain: domain(&database, &portal, settings, clock)?,
        json,
    };
    let outcome = with_schema(&database, &context, command).await;
    database.close().await;
    outcome
}

async fn with_schema(database: &Database, context: &Context, command: Command) -> Result<(), Failure> {
    migrate(&database.pool).await?;
    match command {
        Command::Migrate => {
            output::result(
                context.json,
                &serde_json::json!({ "migrations": domain::MIGRATIONS.iter().count() }),
                "the schema is up to date",
            );
            Ok(())
        }
        Command::Demo(demo) => demo::run(context, demo).await,
        Command::Admin(admin) => account::admin(context, admin).await,
        Command::Consumer(consumer) => account::consumer(context, consumer).await,
        Command::Key(key) => key::run(context, key).await,
        Command::Override(command) => overrides::run(context, command).await,
        Command::Usage(usage) => usage::run(context, usage).await,
        Command::Plan(plan) => plan::run(context, plan).await,
        Command::Cache(cache) => cache::run(context, cache).await,
        Command::Gateway(asked) => gateway::run(context, asked).await,
        Command::Serve(_) | Command::Check(_) => Ok(()),
    }
}

/// Puts the rules together with the machine's clock, randomness and Stripe.
pub(crate) fn domain(
    database: &Database,
    portal: &Portal,
    settings: Settings,
    clock: Arc<MachineClock>,
) -> Result<Domain, Failure> {
    let stripe = payments::Config {
        secret_key: domain::settings::Secret::new(portal.stripe_secret_key.clone().unwrap_or_default()),
        base_url: portal.stripe_url.clone(),
    };
    let payments = payments::Stripe::new(&stripe).map_err(|e| Failure(format!("TURNPIKE_STRIPE_SECRET_KEY: {e}")))?;
    Ok(Domain::new(Inner {
        pool: database.pool.clone(),
        clock,
        random: Arc::new(MachineRandom),
        payments: Arc::new(payments),
        settings,
    }))
}
