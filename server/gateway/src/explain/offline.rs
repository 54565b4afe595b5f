//! Explains from a snapshot, where no gateway can be asked: limits that only a gateway counts are whole then, and its
//! settings are the defaults.

use super::ask::{Knowledge, explain};
use super::{Explanation, Question};
use crate::authenticate::{Arrival, Callers, Known};
use crate::config::{Limits, Peppers};
use crate::ledger::Ledger;
use crate::tables::Tables;
use model::snapshot::Changes;
use model::{Clock, Random};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Explains a request by what a source says. `scratch` is an empty folder, for a ledger without records.
///
/// # Errors
/// When the folder cannot be used, or the question is none; in words.
pub fn explain_snapshot(
    changes: Changes,
    question: &Question,
    clock: &dyn Clock,
    random: &dyn Random,
    scratch: &Path,
) -> Result<Explanation, String> {
    let tables = Tables::new();
    let ledger = Ledger::open(scratch, 1, random).map_err(|e| e.to_string())?;
    tables.apply(changes, &ledger, clock.now()).map_err(|e| e.to_string())?;
    tables.set_connected(true);
    let knowledge = Knowledge {
        known: Known {
            tables: &tables,
            peppers: &Peppers::default(),
            callers: &Callers::new(),
        },
        trusted: &[],
        limits: &Limits::default(),
        ledger: &ledger,
        gates: &[],
        sharing: None,
        arrival: Arrival {
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            now: clock.now(),
            machine_now: clock.security_now(),
            skew_ms: clock.skew_ms(),
            now_ns: clock.steady_ns(),
        },
        live: false,
    };
    explain(&knowledge, question)
}
