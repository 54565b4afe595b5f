//! `turnpike`: the portal, the gateway and the tools around them, in one program.
//!
//! `main` reads the command line, a module under `commands` runs each command, `serve` puts the parts together. No rule
//! lives here: what a command means is in `domain`, `gateway` and `app`.

mod assets;
mod bridge;
mod clock;
mod commands;
mod config;
mod database;
mod handover;
mod listeners;
mod logs;
mod machine;
mod notify;
mod operations;
mod output;
mod serve;
mod slots;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = commands::Cli::try_parse().unwrap_or_else(|error| {
        if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            output::error_object(&error.render().to_string());
        }
        error.exit()
    });
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::failure(json, &format!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failure(json, &error.to_string()),
    }
}
