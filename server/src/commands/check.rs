//! `turnpike check`: what would keep `serve` from working, without changing anything.

use crate::config::{Portal, Serving, Storage};
use crate::database::Database;
use crate::output::{self, Failure};
use domain::catalogue::stripe::PricedPlan;

/// Runs every check and prints a line for each.
pub(crate) async fn run(json: bool, storage: Storage, portal: Portal, serving: Serving) -> Result<(), Failure> {
    let mut findings: Vec<Finding> = Vec::new();
    let settings = portal.settings(&storage.data_dir);
    findings.push((
        "settings",
        settings
            .as_ref()
            .map(|s| format!("{} pepper(s)", s.peppers.len()))
            .map_err(ToString::to_string),
    ));
    let https = portal.portal_url.starts_with("https://")
        || portal.portal_url.contains("127.0.0.1")
        || portal.portal_url.contains("localhost");
    findings.push((
        "portal address",
        if https {
            Ok(portal.portal_url.clone())
        } else {
            Err(format!(
                "{} is plain http: browsers will not keep the session cookie",
                portal.portal_url
            ))
        },
    ));
    for (what, address) in [
        ("portal", serving.portal_listen),
        ("gateway", serving.gateway_listen),
        ("operations", serving.operations_listen),
    ] {
        let free = std::net::TcpListener::bind(address).map(|_| address.to_string());
        findings.push((
            what,
            free.map_err(|e| format!("cannot listen on {address}: {e} (is turnpike running?)")),
        ));
    }
    let (database, priced) = database(&storage).await;
    findings.push(("stripe", stripe(&portal, &priced)));
    if let Some(files) = serving.gateway_tls() {
        let read = files.check().map(|()| files.certificate.display().to_string());
        findings.push(("gateway certificate", read.map_err(|e| e.to_string())));
    }
    match serving.trace() {
        Ok(None) => {}
        Ok(Some(trace)) => findings.push(("traces", Ok(trace.endpoint.to_string()))),
        Err(wrong) => findings.push(("traces", Err(wrong.to_string()))),
    }
    if let Some(found) = redis(&serving).await {
        findings.push(("redis", found));
    }
    findings.push((
        "mail",
        Ok(if portal.smtp_url.is_some() {
            "by SMTP"
        } else {
            "no SMTP server: mail stays in the outbox"
        }
        .to_owned()),
    ));
    findings.push(("database", database));
    told(json, &findings)
}

type Finding = (&'static str, Result<String, String>);

/// Prints what was found; an error when something is wrong.
fn told(json: bool, findings: &[Finding]) -> Result<(), Failure> {
    let failed = findings.iter().filter(|(_, f)| f.is_err()).count();
    let rows: Vec<_> = findings
        .iter()
        .map(|(what, f)| serde_json::json!({ "check": what, "ok": f.is_ok(), "detail": f.as_ref().unwrap_or_else(|e| e) }))
        .collect();
    let words: Vec<String> = findings
        .iter()
        .map(|(what, f)| match f {
            Ok(text) => format!("ok    {what}: {text}"),
            Err(text) => format!("WRONG {what}: {text}"),
        })
        .collect();
    output::result(
        json,
        &serde_json::json!({ "checks": rows, "failed": failed }),
        &words.join("\n"),
    );
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure(format!("{failed} of {} checks failed", findings.len())))
    }
}

/// What can be charged for, and which plans wait for it.
fn stripe(portal: &Portal, priced: &[PricedPlan]) -> Result<String, String> {
    let Some(key) = portal.stripe_secret_key.as_deref().filter(|key| !key.is_empty()) else {
        let all: Vec<&str> = priced.iter().map(|p| p.name.as_str()).collect();
        return Ok(if all.is_empty() {
            "no key: priced plans cannot be bought until TURNPIKE_STRIPE_SECRET_KEY is set".to_owned()
        } else {
            format!(
                "no key: {} cannot be bought until TURNPIKE_STRIPE_SECRET_KEY is set",
                all.join(", ")
            )
        });
    };
    if key.contains("_live_") && portal.stripe_url.is_some() {
        return Err("a live key with --stripe-url: the key would go to an address that is not Stripe's".to_owned());
    }
    let mode = if key.contains("_live_") { "live" } else { "test mode" };
    let waiting: Vec<&str> = priced
        .iter()
        .filter(|p| !p.in_stripe)
        .map(|p| p.name.as_str())
        .collect();
    Ok(if waiting.is_empty() {
        mode.to_owned()
    } else {
        format!("{mode}; `serve` still has to make the prices of {}", waiting.join(", "))
    })
}

/// Whether the place where rate limits are shared can be asked; none where there is no such place.
async fn redis(serving: &Serving) -> Option<Result<String, String>> {
    let redis = match serving.redis() {
        Ok(redis) => redis?,
        Err(wrong) => return Some(Err(wrong.to_string())),
    };
    Some(redis.check().await.map(|()| redis.url.to_string()))
}

/// The server's version, and the plans that need Stripe; none of those before the first `migrate`.
async fn database(storage: &Storage) -> (Result<String, String>, Vec<PricedPlan>) {
    let database = match Database::open(storage, false).await {
        Ok(database) => database,
        Err(error) => return (Err(error.to_string()), Vec::new()),
    };
    let version: Result<String, sqlx::Error> = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&database.pool)
        .await;
    let priced = match &version {
        Ok(_) => domain::catalogue::stripe::priced(&database.pool)
            .await
            .unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    database.close().await;
    (
        version.map(|v| format!("PostgreSQL {v}")).map_err(|e| e.to_string()),
        priced,
    )
}
