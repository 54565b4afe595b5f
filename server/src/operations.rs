//! The listener for operators: alive, ready, measured. It has an address of its own and no secrets.

use crate::machine;
use axum::Json;
use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use domain::Domain;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Longest wait for the database before it counts as away.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// What the checks look at.
#[derive(Clone)]
pub(crate) struct Operations {
    /// For the database.
    pub(crate) domain: Domain,
    /// Whose disk is looked at.
    pub(crate) data_dir: PathBuf,
    /// The gateway, where this process has one.
    pub(crate) gateway: Option<Weak<gateway::Running>>,
    /// Set at SIGTERM: not ready any more, so that a balancer looks elsewhere before requests are refused.
    pub(crate) draining: Arc<AtomicBool>,
}

impl Operations {
    /// Looks at these. The gateway is held for the length of an answer alone.
    pub(crate) fn new(
        domain: &Domain,
        data_dir: &Path,
        gateway: Option<&Arc<gateway::Running>>,
        draining: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            domain: domain.clone(),
            data_dir: data_dir.to_owned(),
            gateway: gateway.map(Arc::downgrade),
            draining: draining.clone(),
        }
    }
}

/// `/healthz`, `/readyz`, `/metrics`, and `/explain` for this machine.
pub(crate) fn router(operations: Operations) -> Router {
    Router::new()
        // Asks nothing of anybody: an answer means that the process lives.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/explain", post(explain))
        .with_state(operations)
}

async fn ready(State(operations): State<Operations>) -> Response {
    let mut problems = Vec::new();
    if operations.draining.load(Ordering::Relaxed) {
        problems.push("shutting down");
    }
    if !database_answers(&operations.domain).await && operations.gateway.is_none() {
        problems.push("the database does not answer");
    }
    if operations
        .gateway
        .as_ref()
        .is_some_and(|g| !g.upgrade().is_some_and(|g| g.ready()))
    {
        problems.push("the gateway has no snapshot yet");
    }
    let unlike = operations.gateway.as_ref().and_then(Weak::upgrade);
    let unlike = unlike.map_or(0, |g| g.unlike_leases());
    if problems.is_empty() && unlike > 0 {
        // It serves as well as ever, so it stays in its balancer.
        let other = "of the other gateways differ from this one in TURNPIKE_GATEWAY_LEASES: set it on all or on none";
        format!("ready\nlimits can be passed: {unlike} {other}\n").into_response()
    } else if problems.is_empty() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
    }
}

async fn database_answers(domain: &Domain) -> bool {
    let ping = sqlx::query("SELECT 1").execute(&domain.pool);
    matches!(tokio::time::timeout(PING_LIMIT, ping).await, Ok(Ok(_)))
}

/// What would become of a request. It says what consumers pay for and have used, so it is for this machine alone, and
/// being JSON that is posted, not for pages in a browser on it.
async fn explain(
    State(operations): State<Operations>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(question): Json<gateway::Question>,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "Ask from the machine itself.\n").into_response();
    }
    let Some(gateway) = operations.gateway.as_ref().and_then(Weak::upgrade) else {
        return (StatusCode::NOT_FOUND, "There is no gateway here.\n").into_response();
    };
    match gateway.explain(&question) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, why + "\n").into_response(),
    }
}

async fn metrics(State(operations): State<Operations>) -> Response {
    let gateway = operations.gateway.as_ref().and_then(Weak::upgrade);
    let mut text = gateway.map(|g| g.metrics()).unwrap_or_default();
    let up = u8::from(database_answers(&operations.domain).await);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# HELP turnpike_database_up Whether PostgreSQL answers.\n# TYPE turnpike_database_up gauge\nturnpike_database_up {up}"
    );
    if up == 1
        && let Ok(backlog) = domain::jobs::backlog(&operations.domain).await
    {
        let _ = writeln!(
            text,
            "# HELP turnpike_jobs Jobs by state.\n# TYPE turnpike_jobs gauge\nturnpike_jobs{{state=\"due\"}} {}\nturnpike_jobs{{state=\"dead\"}} {}",
            backlog.due, backlog.dead
        );
    }
    if up == 1
        && let Ok(full) = domain::snapshot::hint_queue(&operations.domain).await
    {
        let _ = writeln!(
            text,
            "# HELP turnpike_database_notification_queue Part of PostgreSQL's queue of notifications in use; full, no change of a key or plan commits.\n# TYPE turnpike_database_notification_queue gauge\nturnpike_database_notification_queue {full}"
        );
    }
    let connections = operations.domain.pool.size();
    let _ = writeln!(
        text,
        "# HELP turnpike_database_connections Open connections.\n# TYPE turnpike_database_connections gauge\nturnpike_database_connections {connections}"
    );
    machine::render(&mut text, &operations.data_dir, operations.domain.clock.skew_ms());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
