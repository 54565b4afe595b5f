//! What is granted becomes an edge of the counter here.

use super::Held;
use crate::ledger::Ledger;
use crate::limit::Slot;
use crate::worker::Shared;
use model::lease::{LeaseSubject, LeaseTold, Rest};
use model::{KeyId, Time};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A counter as it was at one instant.
struct Then {
    recorded: u64,
    seq: u64,
    raised: u64,
    /// Units of our records that the answer does not know.
    unshipped: u64,
}

/// Sets the edges by what is told. What our ledger holds beyond `through` is not in what is told as used.
pub(super) fn install(granted: &[(Arc<Slot>, LeaseTold)], through: u64, shared: &Shared) -> io::Result<()> {
    let ledger: &Ledger = &shared.ledger;
    let mut then: HashMap<LeaseSubject, Then> = HashMap::new();
    let mut chains: HashMap<KeyId, KeyId> = HashMap::new();
    for (slot, told) in granted {
        let state = super::lock(&slot.held().state);
        let (values, seq) = ledger.agreed(&[&slot.recorded]);
        let at = Then {
            recorded: values.first().copied().unwrap_or(0),
            seq,
            raised: state.raised,
            unshipped: 0,
        };
        drop(state);
        then.insert(told.subject, at);
        if let Some(root) = told.subject.root {
            chains.extend(shared.tables.keys_of(root).into_iter().map(|key| (key, root)));
        }
    }
    // Of what is gone from the ledger nothing can be added: it was shipped once, and the control plane lost it.
    let after = through.max(ledger.first().saturating_sub(1));
    ledger.each_counted_after(after, |r| {
        let account = LeaseSubject {
            consumer: r.consumer,
            environment: r.environment,
            root: None,
            meter: r.meter,
            period_start: r.period_start,
        };
        let of_key = chains.get(&r.key).map(|root| LeaseSubject {
            root: Some(*root),
            ..account
        });
        for subject in [Some(account), of_key].into_iter().flatten() {
            if let Some(at) = then.get_mut(&subject).filter(|at| r.seq <= at.seq) {
                at.unshipped = at.unshipped.saturating_add(u64::from(r.units));
            }
        }
    })?;
    for (slot, told) in granted {
        if let Some(at) = then.get(&told.subject) {
            slot.held().install(told, at, slot.taken(), shared.clock.now());
        }
    }
    Ok(())
}

impl Held {
    fn install(&self, told: &LeaseTold, then: &Then, taken: u64, now: Time) {
        let mut state = super::lock(&self.state);
        let own = told.used.saturating_add(then.unshipped);
        let raised = state.raised.saturating_sub(then.raised);
        let edge = then.recorded.saturating_add(raised).saturating_add(told.ceiling);
        let edge = edge.saturating_sub(own);
        self.edge.store(edge, Ordering::SeqCst);
        let until_ms = told.until.map_or(i64::MAX, Time::unix_ms);
        self.until_ms.store(until_ms, Ordering::Relaxed);
        let room = edge.saturating_sub(taken);
        let low = match told.rest {
            // Where nothing is left to be granted, more is asked for once this is used up.
            Rest::Granted if now.unix_ms() < until_ms && Some(told.ceiling) > state.ceiling => edge - room / 2,
            _ => u64::MAX,
        };
        self.low.store(low, Ordering::Relaxed);
        state.ceiling = Some(told.ceiling);
        state.rest = told.rest;
        state.shut_until = match told.rest {
            Rest::UsedUp(_) => Some(Instant::now() + super::USED_UP_FOR),
            Rest::Granted => None,
            Rest::Leased => state.shut_until,
        };
    }
}
