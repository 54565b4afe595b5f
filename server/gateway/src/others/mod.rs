//! What other gateways count against the same quotas, caps and keys' limits.
//!
//! Usage changes no version. With every answer the control plane says how far it has the ledgers of others; of those that
//! went on, the new records are named by their sequence numbers, and what is told is all that is used of whatever they
//! counted in. So nothing is asked where there is one gateway, what is told twice changes nothing, and what is
//! committed late has a number that was not asked for yet. Our counter follows what is told and what our own ledger
//! holds beyond it.

mod live;
#[cfg(test)]
mod tests;

use crate::config::Limits;
use crate::ledger::Ledger;
use crate::limit::{Limit, Slot};
use crate::source::SnapshotSource;
use crate::tables::Tables;
use crate::worker::Shared;
use live::Live;
use model::access::Environment;
use model::snapshot::{
    COUNTED_MOST, Changes, Counts, KeyUse, LedgerEnd, LedgerPart, MeterEntitlement, OTHERS_TOLD_FOR_S,
};
use model::{ConsumerId, KeyId, Time};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for an answer of the source.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// With more records than this to hear of everything is asked for, which takes less time.
const RECORDS_MOST: u64 = 1_000_000;
/// Time without an answer, in milliseconds, after which a ledger may have been shipped that is not told any more.
const UNHEARD_MS: i64 = OTHERS_TOLD_FOR_S / 2 * 1_000;
/// Others are asked for often for this long after they counted something, in milliseconds: a minute.
const BUSY_MS: i64 = 60_000;
/// A count is kept for a period that begins at most this much later, in milliseconds: clocks do not differ by more than an
/// hour.
const AHEAD_MS: i64 = 3_600_000;

/// Whose count it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    Account(ConsumerId, Environment),
    /// A chain of keys that took over from one another, by its first.
    Keys(KeyId),
}

/// What is counted: whose, of which meter, in the period with this start.
type What = (Whose, u16, Time);

/// Units used, with those of our ledger up to a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    used: u64,
    through: u64,
    /// What finds a key, where the count is of keys.
    lookup: u64,
}

type AllTold = HashMap<What, Told>;

/// What was heard of other gateways.
#[derive(Default)]
pub(crate) struct Others {
    /// How far each of their ledgers is in our counters; none before everything was told.
    heard: Option<HashMap<String, u64>>,
    /// When the control plane last said how far they are.
    told_at: Option<Time>,
    /// When one of them last counted something.
    counted_at: Option<Time>,
    /// There is more to ask for.
    more: bool,
    /// Counts of periods that have not begun by our clock.
    ahead: AllTold,
    /// Which of them are at work.
    live: Live,
}

/// What an answer of the control plane says of other gateways.
pub(crate) struct Answer {
    ends: Vec<LedgerEnd>,
    /// Whether everything was asked for.
    everything: bool,
    /// Counts that are told beside.
    counts: AllTold,
}

impl Answer {
    /// Taken out of the answer, before that goes on.
    pub(crate) fn take_from(changes: &mut Changes, everything: bool) -> Self {
        let ends = std::mem::take(&mut changes.others);
        Self {
            everything,
            counts: if ends.is_empty() {
                AllTold::new()
            } else {
                told_in(changes)
            },
            ends,
        }
    }
}

/// What to ask for.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Parts(Vec<LedgerPart>),
    Everything,
}

impl Others {
    /// Asks for what others counted since, at most once, and takes it over.
    ///
    /// # Errors
    /// When the source does not answer, or our ledger cannot be read; what is missed is asked for again.
    pub(crate) async fn follow(
        &mut self,
        shared: &Arc<Shared>,
        source: &dyn SnapshotSource,
        answer: Answer,
    ) -> Result<(), String> {
        let now = shared.clock.now();
        if let Some(sharing) = &shared.sharing {
            sharing.hear_of(self.live.count(&answer.ends, answer.everything, now));
        }
        look_for_unlike(&shared.tables, &answer.ends);
        let next = self.next(&answer, now);
        self.told_at = Some(now);
        self.more = next == Next::Everything;
        let mut told = self.ahead.clone();
        told.extend(answer.counts);
        let parts = match next {
            Next::Parts(parts) => parts,
            Next::Nothing => Vec::new(),
            Next::Everything => {
                shared.tables.ask_all_anew(true);
                Vec::new()
            }
        };
        if !parts.is_empty() {
            self.counted_at = Some(now);
            let first = shared.ledger.first();
            let asked = timeout(ASK_TIMEOUT, source.counts(shared.ledger.id(), &parts)).await;
            let mut counts = asked
                .map_err(|_| "no answer in time".to_owned())?
                .map_err(|e| e.to_string())?;
            // Of what was gone from our ledger before nothing can be added; `sync` says so.
            counts.shipped_through = counts.shipped_through.max(first.saturating_sub(1));
            told.extend(told_by(&counts));
        }
        if told.is_empty() && parts.is_empty() {
            return Ok(());
        }
        let applying = Arc::clone(shared);
        let apply = move || apply(told, &applying.tables, &applying.ledger, now);
        let applied = tokio::task::spawn_blocking(apply).await.map_err(|e| e.to_string())?;
        self.ahead = applied.map_err(|e| e.to_string())?;
        self.more |= self.hear(&parts, &answer.ends);
        Ok(())
    }

    /// How long to wait before the next question.
    pub(crate) fn pause(&self, limits: &Limits, now: Time, shortest: Duration) -> Duration {
        if self.more {
            shortest
        } else if self.counted_at.is_some_and(|at| at.ms_until(now) < BUSY_MS) {
            limits.counts_interval.min(limits.poll_interval)
        } else {
            limits.poll_interval
        }
    }

    fn next(&mut self, answer: &Answer, now: Time) -> Next {
        if answer.everything {
            let heard = answer.ends.iter().map(|end| (end.ledger.clone(), end.shipped_through));
            self.heard = Some(heard.collect());
            return Next::Nothing;
        }
        if answer.ends.is_empty() {
            return Next::Nothing;
        }
        let unheard = self.told_at.is_some_and(|at| at.ms_until(now) > UNHEARD_MS);
        match self.heard.as_ref().filter(|_| !unheard) {
            Some(heard) => missing(heard, &answer.ends),
            None => Next::Everything,
        }
    }

    /// Notes that these parts are in our counters; whether there is more.
    fn hear(&mut self, parts: &[LedgerPart], ends: &[LedgerEnd]) -> bool {
        let Some(heard) = &mut self.heard else { return false };
        for part in parts {
            heard.insert(part.ledger.clone(), part.through);
        }
        ends.iter()
            .any(|end| heard.get(&end.ledger).copied().unwrap_or(0) < end.shipped_through)
    }
}

/// Limits are leased by all gateways or by none: says so when that changes.
fn look_for_unlike(tables: &Tables, ends: &[LedgerEnd]) {
    let leases = tables.desk.is_some();
    let unlike = ends
        .iter()
        .filter(|end| end.leases.is_some_and(|other| other != leases));
    let names: Vec<&str> = unlike.map(|end| end.ledger.as_str()).collect();
    let count = u64::try_from(names.len()).unwrap_or(u64::MAX);
    if tables.unlike.swap(count, Ordering::Relaxed) == count {
        return;
    }
    if count == 0 {
        tracing::info!("all gateways that were heard of lately lease limits, or none does");
    } else {
        tracing::error!(
            leases,
            others = names.join(", "),
            "gateways differ in whether they lease limits: together they can pass hard quotas and caps. Set \
             TURNPIKE_GATEWAY_LEASES on all of them or on none"
        );
    }
}

/// The records that were not heard of, as far as one question goes.
fn missing(heard: &HashMap<String, u64>, ends: &[LedgerEnd]) -> Next {
    let mut parts = Vec::new();
    let mut missing = 0u64;
    for end in ends {
        let after = heard.get(&end.ledger).copied().unwrap_or(0);
        if end.shipped_through < after {
            // The database was set back: numbers that we think we know come again.
            return Next::Everything;
        }
        let room = COUNTED_MOST.saturating_sub(missing);
        missing = missing.saturating_add(end.shipped_through - after);
        let through = end.shipped_through.min(after.saturating_add(room));
        if through > after {
            parts.push(LedgerPart {
                ledger: end.ledger.clone(),
                after,
                through,
            });
        }
    }
    if missing > RECORDS_MOST {
        Next::Everything
    } else if parts.is_empty() {
        Next::Nothing
    } else {
        Next::Parts(parts)
    }
}

/// What is used by the entitlements and keys of an answer. They are taken over already; this makes up for what was recorded
/// in that moment.
fn told_in(changes: &Changes) -> AllTold {
    let told = |used: u64, lookup: u64| Told {
        used,
        through: changes.shipped_through,
        lookup,
    };
    let of_meters = changes.entitlements.iter().flat_map(|e| {
        let whose = Whose::Account(e.consumer, e.environment);
        let of_meter = move |m: &MeterEntitlement| ((whose, m.meter, e.period.start), told(m.used, 0));
        e.meters.iter().map(of_meter)
    });
    let of_keys = changes.keys.iter().flat_map(|key| {
        key.limits.iter().flat_map(move |limits| {
            let whose = Whose::Keys(limits.root.unwrap_or(key.id));
            let of_meter = move |u: &KeyUse| ((whose, u.meter, limits.period_start), told(u.units, key.lookup));
            limits.used.iter().map(of_meter)
        })
    });
    of_meters.chain(of_keys).collect()
}

fn told_by(counts: &Counts) -> impl Iterator<Item = (What, Told)> + '_ {
    let told = |used: u64, lookup: u64| Told {
        used,
        through: counts.shipped_through,
        lookup,
    };
    let of_meters = counts.meters.iter().map(move |c| {
        let whose = Whose::Account(c.consumer, c.environment);
        ((whose, c.meter, c.period_start), told(c.used, 0))
    });
    let of_keys = counts
        .keys
        .iter()
        .map(move |c| ((Whose::Keys(c.root), c.meter, c.period_start), told(c.used, c.lookup)));
    of_meters.chain(of_keys)
}

/// Where a count belongs.
enum Place {
    Account(Limit),
    Keys(Arc<Slot>),
    /// Its period has not begun here.
    Ahead,
    /// Nobody counts it here: its period is over, or no plan mentions its meter.
    Nowhere,
}

impl Place {
    fn of(what: What, lookup: u64, tables: &Tables, now: Time) -> Self {
        let (whose, meter, start) = what;
        let is_near = now.ms_until(start) <= AHEAD_MS;
        let key = match whose {
            Whose::Keys(root) => tables.key(lookup).filter(|key| key.root() == root),
            Whose::Account(..) => None,
        };
        let account = match whose {
            Whose::Account(consumer, environment) => tables.known_account(consumer, environment),
            Whose::Keys(_) => key.as_ref().map(|key| Arc::clone(&key.account)),
        };
        let Some(account) = account else { return Self::Nowhere };
        let terms = account.terms(now);
        if start > terms.period.start {
            return if is_near { Self::Ahead } else { Self::Nowhere };
        }
        if let Some(key) = key {
            let limit = key.limit.as_ref();
            let slot = limit.and_then(|limit| limit.slot_in(start, terms.period.start, meter));
            return slot.map_or(Self::Nowhere, Self::Keys);
        }
        let current = start == terms.period.start;
        let limit = terms.limit(meter).filter(|_| current);
        limit.map_or(Self::Nowhere, |limit| Self::Account(limit.clone()))
    }

    fn slot(&self) -> Option<&Arc<Slot>> {
        match self {
            Self::Account(limit) => Some(&limit.slot),
            Self::Keys(slot) => Some(slot),
            Self::Ahead | Self::Nowhere => None,
        }
    }
}

/// A counter that may have to follow.
struct Behind {
    place: Place,
    used: u64,
    /// Our records that are in `used`.
    through: u64,
    /// What our counter says, with our records up to `seq`.
    recorded: u64,
    seq: u64,
    /// Units of our records after `through`, up to `seq`.
    own: u64,
}

/// Raises our counters to what is told; gives back what is ahead of our clock. Requests go on meanwhile: our counter, and
/// what our ledger adds to what is told, are those of one instant each, and only the difference is added.
fn apply(told: AllTold, tables: &Tables, ledger: &Ledger, now: Time) -> io::Result<AllTold> {
    let mut ahead = AllTold::new();
    let mut behind: HashMap<What, Behind> = HashMap::new();
    for (what, told) in told {
        let place = Place::of(what, told.lookup, tables, now);
        if let Some(slot) = place.slot() {
            let (values, seq) = ledger.agreed(&[&slot.recorded]);
            let recorded = values.first().copied().unwrap_or(0);
            let of_it = Behind {
                place,
                used: told.used,
                through: told.through,
                recorded,
                seq,
                own: 0,
            };
            behind.insert(what, of_it);
        } else if matches!(place, Place::Ahead) {
            ahead.insert(what, told);
        }
    }
    let Some(oldest) = behind.values().map(|b| b.through).min() else {
        return Ok(ahead);
    };
    let chains = chains(behind.keys(), tables);
    ledger.each_counted_after(oldest, |r| {
        let account = Whose::Account(r.consumer, r.environment);
        let keys = chains.get(&r.key).map(|root| Whose::Keys(*root));
        for whose in [Some(account), keys].into_iter().flatten() {
            if let Some(b) = behind.get_mut(&(whose, r.meter, r.period_start))
                && b.through < r.seq
                && r.seq <= b.seq
            {
                b.own = b.own.saturating_add(u64::from(r.units));
            }
        }
    })?;
    for b in behind.values() {
        let missing = b.used.saturating_add(b.own).saturating_sub(b.recorded);
        match &b.place {
            Place::Account(limit) if missing > 0 => {
                limit.slot.raise(missing);
                limit.note_recorded(now);
            }
            Place::Keys(slot) => slot.raise(missing),
            _ => {}
        }
    }
    Ok(ahead)
}

/// The first key of its chain, for every key that counts in one of these.
fn chains<'a>(whats: impl Iterator<Item = &'a What>, tables: &Tables) -> HashMap<KeyId, KeyId> {
    let mut chains = HashMap::new();
    for (whose, ..) in whats {
        if let Whose::Keys(root) = whose {
            chains.extend(tables.keys_of(*root).into_iter().map(|key| (key, *root)));
        }
    }
    chains
}
