//! What a gateway that handed over, or died, left in its data folder.

use crate::config::Limits;
use crate::gateway::LEDGER_FOLDER;
use crate::ledger::{LOCK_FILE, Ledger};
use crate::shipper;
use crate::source::UsageSink;
use model::{Clock, Random};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Whether no running gateway has this data folder.
///
/// # Errors
/// When its lock cannot be opened.
pub fn is_free(data_dir: &Path) -> io::Result<bool> {
    match File::options()
        .write(true)
        .open(data_dir.join(LEDGER_FOLDER).join(LOCK_FILE))
    {
        Ok(lock) => Ok(lock.try_lock().is_ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Ships what is left in a data folder, gives back what it had leased, and removes what was kept long enough; how many records it was. While a gateway runs
/// there it is left alone.
///
/// # Errors
/// When the ledger cannot be read, or the sink does not take it.
pub async fn ship_rest(
    data_dir: &Path,
    limits: &Limits,
    sink: Arc<dyn UsageSink>,
    clock: &dyn Clock,
    random: &dyn Random,
) -> io::Result<usize> {
    let folder = data_dir.join(LEDGER_FOLDER);
    let ledger = match Ledger::open(&folder, limits.segment_records.max(1), random) {
        Ok(ledger) => ledger,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
        Err(e) => return Err(e),
    };
    let (shipped, records) = shipper::finish(Arc::clone(&ledger), Arc::clone(&sink))
        .await
        .map_err(io::Error::other)?;
    sink.end_leases(ledger.id(), shipped).await.map_err(io::Error::other)?;
    ledger.prune(shipped, limits.retention, clock.security_now());
    Ok(records)
}
