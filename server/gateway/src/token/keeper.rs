//! Keeps the keys of issuers fresh, in the background.

use super::fetch::Client;
use super::issuer::Issuer;
use super::keys::KeySet;
use crate::stop::Stop;
use crate::worker::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often an issuer is asked for its keys: a new one is published long before it signs.
const ASK_EVERY: Duration = Duration::from_secs(300);
/// How often a file with a secret is looked at.
const READ_EVERY: Duration = Duration::from_secs(60);
/// First wait after a failure; it doubles up to the usual time.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Runs until told to stop: a task for each issuer whose keys change.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<Option<Stop>>) {
    let client = Client::new();
    let mut tasks: Vec<(Arc<Issuer>, JoinHandle<()>)> = Vec::new();
    loop {
        let issuers = shared.tables.issuers.load_full();
        tasks.retain(|(issuer, task)| {
            let stays = issuers.moving().any(|i| Arc::ptr_eq(i, issuer));
            if !stays {
                task.abort();
            }
            stays
        });
        for issuer in issuers.moving() {
            if !tasks.iter().any(|(known, _)| Arc::ptr_eq(known, issuer)) {
                let task = keep(Arc::clone(&shared), Arc::clone(issuer), client.clone());
                tasks.push((Arc::clone(issuer), tokio::spawn(task)));
            }
        }
        tokio::select! {
            () = shared.tables.issuers_changed.notified() => {}
            _ = stop.changed() => break,
        }
    }
    for (_, task) in tasks {
        task.abort();
    }
}

fn now_s(shared: &Shared) -> i64 {
    shared.clock.security_now().unix_s()
}

/// Asks one issuer, again and again.
async fn keep(shared: Arc<Shared>, issuer: Arc<Issuer>, client: Client) {
    let mut retry = RETRY_FIRST;
    loop {
        issuer.ask_begins(now_s(&shared));
        let every = if issuer.told.file.jwks_url.is_some() {
            ASK_EVERY
        } else {
            READ_EVERY
        };
        let pause = match ask(&issuer, &client).await {
            Ok((keys, source)) => {
                if issuer.put(keys, source, now_s(&shared)) {
                    shared.tables.trust_changed();
                }
                retry = RETRY_FIRST;
                every
            }
            Err(why) => {
                tracing::warn!(
                    issuer = issuer.told.file.slug,
                    why,
                    "the keys of an issuer cannot be had"
                );
                retry = (retry * 2).min(every);
                retry
            }
        };
        issuer.ask_ended();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = issuer.wanted.notified() => {}
        }
    }
}

async fn ask(issuer: &Arc<Issuer>, client: &Client) -> Result<(KeySet, Vec<u8>), String> {
    let file = &issuer.told.file;
    if let Some(url) = &file.jwks_url {
        let body = client.get(url).await?;
        return Ok((KeySet::of_jwks(&body, &file.algorithms)?, body));
    }
    let reading = Arc::clone(issuer);
    let loaded = tokio::task::spawn_blocking(move || reading.load()).await;
    loaded
        .map_err(|e| e.to_string())?
        .unwrap_or_else(|| Err("there is nothing to load".to_owned()))
}
