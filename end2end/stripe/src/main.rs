//! The Stripe emulator as a program. Development and tests only.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use stripe_emulator::{Config, Emulator, Settings};

/// A Stripe that runs here: development and tests only. Its control page is at /_control.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    /// Where to listen.
    #[arg(long, env = "STRIPE_EMULATOR_LISTEN", default_value = "127.0.0.1:4020")]
    listen: SocketAddr,
    /// Append each API request to this file as a JSON line.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Keep the state in this file across restarts.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Write to this file by how many seconds the emulator's clock is ahead of real time.
    #[arg(long)]
    clock_offset_file: Option<PathBuf>,
    /// Send all events to this address too; the signing secret is printed.
    #[arg(long)]
    webhook_url: Option<String>,
    /// Milliseconds of real time to wait, while the clock is advanced, after an invoice was drafted: time to report usage.
    #[arg(long, default_value_t = 2000)]
    pause_ms: u64,
}

/// Time since 1970: the one place where the emulator reads the machine's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the program decides the clock that everything else takes as a parameter"
)]
fn real_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let config = Config {
        clock: Arc::new(|| i64::try_from(real_time().as_secs()).unwrap_or(i64::MAX)),
        listen: options.listen,
        seed: u64::try_from(real_time().as_nanos()).unwrap_or_default(),
        record: options.record,
        state: options.state,
        clock_offset_file: options.clock_offset_file,
        aggregation_lag: Duration::from_millis(500),
        ticks: true,
        settings: Settings {
            pause_ms: options.pause_ms,
            ..Settings::default()
        },
    };
    let running = Emulator::start(config).await?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "Stripe emulator at {} with its control page at {}_control",
        running.base_url, running.base_url
    )?;
    if let Some(url) = options.webhook_url {
        writeln!(out, "Webhook secret for {url}: {}", running.add_webhook(&url)?)?;
    }
    tokio::signal::ctrl_c().await?;
    running.shutdown();
    Ok(())
}
