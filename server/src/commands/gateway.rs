//! `turnpike gateway`.

use super::Context;
use crate::clock::MachineRandom;
use crate::output::{self, Failure};
use clap::{Args, Subcommand};
use gateway::{Explanation, Question, Verdict};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::KeyId;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for the gateway's answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// The gateway.
#[derive(Subcommand)]
pub(crate) enum Gateway {
    /// Say what would become of a request, decision by decision, without sending it.
    Explain(Explain),
}

/// A request that is asked about.
#[derive(Args)]
pub(crate) struct Explain {
    /// GET, POST, ...
    method: String,
    /// With or without scheme and host.
    url: String,
    /// The id of the key it would be sent with (key_...); without it the caller has no credential.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// A header it would have.
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The address it would come from.
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Where the running gateway's operators' listener is; without one that answers, the database is asked.
    #[arg(
        long,
        env = "TURNPIKE_OPERATIONS_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    operations: SocketAddr,
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("NAME:VALUE is wanted")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl Explain {
    fn question(&self) -> Question {
        Question {
            method: self.method.to_ascii_uppercase(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            key: self.key,
            client: self.client,
        }
    }
}

/// Asks the gateway that runs; whether there is one.
pub(crate) async fn ask_running(json: bool, Gateway::Explain(asked): &Gateway) -> Result<bool, Failure> {
    match tokio::time::timeout(ASK_LIMIT, ask(asked)).await {
        Ok(Ok(Some(explanation))) => {
            told(json, &explanation);
            Ok(true)
        }
        Ok(Ok(None)) => Ok(false),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure(format!("{} does not answer", asked.operations))),
    }
}

/// None when nobody listens there, or who does has no gateway.
async fn ask(asked: &Explain) -> Result<Option<Explanation>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure(format!("cannot ask {}: {e}", asked.operations));
    let Ok(stream) = tokio::net::TcpStream::connect(asked.operations).await else {
        return Ok(None);
    };
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(&asked.question()).map_err(|e| failed(&e))?;
    let request = http::Request::post("/explain")
        .header(http::header::HOST, asked.operations.to_string())
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::<hyper::body::Bytes>::from(body))
        .map_err(|e| failed(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
    match status {
        http::StatusCode::OK => serde_json::from_slice(&body).map(Some).map_err(|e| failed(&e)),
        http::StatusCode::NOT_FOUND => Ok(None),
        _ => Err(Failure(String::from_utf8_lossy(&body).trim().to_owned())),
    }
}

/// A folder that goes when it is done with.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Explains from the database.
pub(crate) async fn run(context: &Context, Gateway::Explain(asked): Gateway) -> Result<(), Failure> {
    tracing::warn!("no gateway answers; the database knows quotas and not how full rate limits are");
    let domain = &context.domain;
    let changes = domain::snapshot::changes_since(domain, "explain", 0).await?;
    let scratch = Scratch(std::env::temp_dir().join(format!("turnpike-explain-{}", std::process::id())));
    let question = asked.question();
    let explanation =
        gateway::explain_snapshot(changes, &question, &*domain.clock, &MachineRandom, &scratch.0).map_err(Failure)?;
    told(context.json, &explanation);
    Ok(())
}

fn told(json: bool, explanation: &Explanation) {
    let value = serde_json::to_value(explanation).unwrap_or_default();
    output::result(json, &value, words(explanation).trim_end());
}

fn words(explanation: &Explanation) -> String {
    let mut text = String::new();
    let mut phase = "";
    // Writing to a String cannot fail.
    for decision in &explanation.decisions {
        if phase != decision.phase {
            phase = &decision.phase;
            let _ = writeln!(text, "{phase}");
        }
        let verdict = match decision.verdict {
            Verdict::Passes => "ok     ",
            Verdict::Refuses => "REFUSED",
            Verdict::Says => "       ",
        };
        let _ = writeln!(text, "  {verdict} {}: {}", decision.about, decision.detail);
    }
    let _ = match (&explanation.refusal, explanation.status) {
        (Some(refusal), Some(status)) => writeln!(text, "It would be refused: {status} {refusal}."),
        (None, Some(status)) => writeln!(text, "The gateway would answer it by itself: {status}."),
        _ => writeln!(text, "It would be forwarded."),
    };
    if !explanation.live {
        let _ = writeln!(
            text,
            "From the database: rate limits and requests in flight are shown as if nobody had called."
        );
    }
    text
}
