//! The gateway's folders: a process that takes over writes a ledger and a snapshot of its own, while the one before it
//! still writes its.

use crate::output::Failure;
use domain::Domain;
use gateway::UsageSink;
use model::{Clock, Random};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Folders of one data folder: restarts that may drain at the same time, and the one that serves.
const SLOTS: usize = 8;
/// How often it is looked whether a ledger was left behind, or must be shipped again after the database was restored.
const REST_EVERY: Duration = Duration::from_secs(60);

fn folders(data_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let name = |n: usize| {
        if n == 1 {
            "gateway".to_owned()
        } else {
            format!("gateway-{n}")
        }
    };
    (1..=SLOTS).map(move |n| data_dir.join(name(n)))
}

/// The folder for a gateway that starts. One that takes over gets any that is free; otherwise it is the one that served
/// last.
pub(crate) fn choose(data_dir: &Path, takes_over: bool) -> Result<PathBuf, Failure> {
    let mut newest = None;
    for folder in folders(data_dir) {
        let free = gateway::is_free(&folder)
            .map_err(|e| Failure(format!("cannot look at the gateway's folder {}: {e}", folder.display())))?;
        if takes_over && free {
            return Ok(folder);
        }
        if !takes_over && !free {
            return Err(Failure(format!(
                "{} belongs to another running gateway; `turnpike serve --take-over` takes over from it",
                folder.display()
            )));
        }
        let told = std::fs::metadata(folder.join("snapshot"))
            .and_then(|m| m.modified())
            .ok();
        if told > newest.as_ref().and_then(|(told, _)| *told) || newest.is_none() {
            newest = Some((told, folder));
        }
    }
    match newest {
        Some((_, folder)) if !takes_over => Ok(folder),
        _ => Err(Failure(
            "earlier restarts still drain: try again when one has ended".to_owned(),
        )),
    }
}

/// What ended gateways left in the other folders.
pub(crate) struct Rest {
    pub(crate) data_dir: PathBuf,
    /// The folder of the gateway that runs.
    pub(crate) own: PathBuf,
    pub(crate) limits: gateway::Limits,
    pub(crate) sink: Arc<dyn UsageSink>,
    pub(crate) domain: Domain,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) gateway: Weak<gateway::Running>,
}

impl Rest {
    /// Ships it, now and from time to time.
    pub(crate) async fn ship(self) {
        loop {
            let mut shipped = false;
            for folder in folders(&self.data_dir).filter(|f| *f != self.own && f.exists()) {
                let clock: &dyn Clock = &*self.domain.clock;
                match gateway::ship_rest(&folder, &self.limits, Arc::clone(&self.sink), clock, &*self.random).await {
                    Ok(records) => shipped |= records > 0,
                    Err(error) => {
                        tracing::warn!(%error, folder = %folder.display(), "usage that was left behind cannot be shipped");
                    }
                }
            }
            if let Some(gateway) = self.gateway.upgrade().filter(|_| shipped) {
                // They count against the same quotas and caps.
                gateway.ask_all_anew();
            }
            tokio::time::sleep(REST_EVERY).await;
        }
    }
}
