//! Control plane and usage store in memory, which can go away, be slow, and be heard by some only.

use crate::granting::{Granting, Known, root, root_of};
use async_trait::async_trait;
use gateway::{SnapshotSource, SourceError, UsageSink};
use model::access::Environment;
use model::lease::{LeaseAnswer, LeaseAsk, LeaseSubject};
use model::snapshot::*;
use model::usage::{UsageBatch, UsageRecord};
use model::*;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    version: i64,
    routing: (i64, Routing),
    keys: HashMap<u64, (i64, KeyRecord)>,
    entitlements: HashMap<(ConsumerId, Environment), (i64, Entitlement)>,
    purges: Vec<(i64, Purge)>,
    ledgers: HashMap<String, Vec<UsageRecord>>,
    leases: Granting,
}

impl State {
    fn shipped_through(&self, ledger: &str) -> u64 {
        let rows = self.ledgers.get(ledger);
        rows.and_then(|rows| rows.last()).map_or(0, |r| r.seq)
    }
    /// A key with what its chain used, beside what it was put with.
    fn with_use(&self, key: &KeyRecord) -> KeyRecord {
        let mut key = key.clone();
        let root = root(&key);
        let Some(limits) = &mut key.limits else { return key };
        let rows = self.ledgers.values().flatten();
        let of_it = rows.filter(|r| r.period_start == limits.period_start && root_of(&self.keys, r.key) == root);
        for r in of_it.filter(|r| r.units > 0) {
            match limits.used.iter_mut().find(|u| u.meter == r.meter) {
                Some(used) => used.units += u64::from(r.units),
                None => limits.used.push(KeyUse {
                    meter: r.meter,
                    units: r.units.into(),
                }),
            }
        }
        key
    }
    /// Units in the records of all ledgers that `include` takes.
    fn units(&self, include: impl FnMut(&&UsageRecord) -> bool) -> u64 {
        let rows = self.ledgers.values().flatten();
        rows.filter(include).map(|r| u64::from(r.units)).sum()
    }
}

/// Whether both count in the same meter and period.
fn is_like(one: &UsageRecord, other: &UsageRecord) -> bool {
    (one.meter, one.period_start) == (other.meter, other.period_start)
}

/// Waits until nothing is held any more.
async fn gate(held: &AtomicBool) {
    while held.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Control plane and usage store in memory. Each ledger's rows are kept; a gap or a repeat fails the test.
#[derive(Default)]
pub(crate) struct Plane {
    state: Mutex<State>,
    pub(crate) away: AtomicBool,
    /// Take the batch, then claim to have failed: an answer lost on the way.
    pub(crate) lose_answers: AtomicBool,
    /// Most keys and entitlements in an answer; 0 for any number.
    pub(crate) most: AtomicUsize,
    /// Answers given.
    pub(crate) answers: AtomicUsize,
    /// It goes away after so many answers; 0 for never.
    pub(crate) away_after: AtomicUsize,
    /// What an answer takes, in milliseconds.
    pub(crate) slow_ms: AtomicU64,
    /// Fail to say what others count.
    pub(crate) counts_away: AtomicBool,
    /// Questions for what others count.
    pub(crate) counts_asked: AtomicU64,
    /// Ledgers whose gateways it does not hear.
    pub(crate) cut_off: Mutex<HashSet<String>>,
    /// Ledgers whose gateways do not hear its answers for leases.
    pub(crate) deaf: Mutex<HashSet<String>>,
    /// Questions for leases, and what they wait for.
    pub(crate) leases_asked: AtomicUsize,
    pub(crate) leases_held: AtomicBool,
    /// Subjects of a question for leases beyond which there is no answer; 0 for none.
    pub(crate) leases_most: AtomicUsize,
    /// Takes no usage in meanwhile.
    pub(crate) ships_held: AtomicBool,
    hint: Notify,
}

impl Plane {
    fn here(&self) -> Result<(), SourceError> {
        if self.away.load(Ordering::SeqCst) {
            Err(SourceError("away".to_owned()))
        } else {
            Ok(())
        }
    }
    fn hears(&self, ledger: &str) -> Result<(), SourceError> {
        self.here()?;
        if self.cut_off.lock().unwrap().contains(ledger) {
            return Err(SourceError("cut off".to_owned()));
        }
        Ok(())
    }
    /// What a subject's ceilings let happen, with what is used.
    pub(crate) fn leased(&self, subject: &LeaseSubject) -> u64 {
        self.state.lock().unwrap().leases.open(subject)
    }
    fn change(&self, f: impl FnOnce(&mut State, i64)) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        f(&mut state, version);
        drop(state);
        self.hint.notify_one();
    }
    pub(crate) fn put_routing(&self, routing: Routing) {
        self.change(|s, v| s.routing = (v, routing));
    }
    pub(crate) fn put_key(&self, key: KeyRecord) {
        self.change(|s, v| drop(s.keys.insert(key.lookup, (v, key))));
    }
    pub(crate) fn put_entitlement(&self, e: Entitlement) {
        self.change(|s, v| drop(s.entitlements.insert((e.consumer, e.environment), (v, e))));
    }
    pub(crate) fn purge(&self, purge: Purge) {
        self.change(|s, v| s.purges.push((v, purge)));
    }
    pub(crate) fn edit_key(&self, lookup: u64, f: impl FnOnce(&mut KeyRecord)) {
        self.change(|s, v| {
            let slot = s.keys.get_mut(&lookup).unwrap();
            slot.0 = v;
            f(&mut slot.1);
        });
    }
    pub(crate) fn edit_entitlement(&self, consumer: ConsumerId, f: impl FnOnce(&mut Entitlement)) {
        self.change(|s, v| {
            let slot = s.entitlements.get_mut(&(consumer, Environment::Live)).unwrap();
            slot.0 = v;
            f(&mut slot.1);
        });
    }
    /// Another gateway counts units; that makes no new version.
    pub(crate) fn count_elsewhere(&self, consumer: ConsumerId, units: u64) {
        let mut state = self.state.lock().unwrap();
        let told = state.entitlements.get_mut(&(consumer, Environment::Live)).unwrap();
        told.1.meters[0].used += units;
    }
    /// What was shipped is gone, as when a database is set back.
    pub(crate) fn lose_usage(&self) {
        self.state.lock().unwrap().ledgers.clear();
    }
    pub(crate) fn key_id(&self, lookup: u64) -> KeyId {
        let state = self.state.lock().unwrap();
        state.keys.get(&lookup).unwrap().1.id
    }
    pub(crate) fn version(&self) -> i64 {
        self.state.lock().unwrap().version
    }
    /// All rows of all ledgers.
    pub(crate) fn rows(&self) -> Vec<UsageRecord> {
        self.state.lock().unwrap().ledgers.values().flatten().cloned().collect()
    }
}

#[async_trait]
impl SnapshotSource for Plane {
    async fn changes_since(&self, ledger: &str, version: i64) -> Result<Changes, SourceError> {
        self.hears(ledger)?;
        let last = self.away_after.load(Ordering::SeqCst);
        if last > 0 && self.answers.load(Ordering::SeqCst) >= last {
            return Err(SourceError("away".to_owned()));
        }
        let slow = Duration::from_millis(self.slow_ms.load(Ordering::SeqCst));
        tokio::time::sleep(slow).await;
        self.answers.fetch_add(1, Ordering::SeqCst);
        let s = self.state.lock().unwrap();
        let mut versions: Vec<i64> = s.keys.values().map(|k| k.0).collect();
        versions.extend(s.entitlements.values().map(|e| e.0));
        versions.retain(|v| *v > version);
        versions.sort_unstable();
        let most = self.most.load(Ordering::SeqCst);
        let left_out = versions.get(most).filter(|_| most > 0);
        let through = left_out.map_or(s.version, |v| v - 1);
        let told = |v: i64| v > version && v <= through;
        let mut entitlements: Vec<Entitlement> = s
            .entitlements
            .values()
            .filter(|e| told(e.0))
            .map(|e| e.1.clone())
            .collect();
        for e in &mut entitlements {
            for m in &mut e.meters {
                let mine = |r: &&UsageRecord| {
                    r.consumer == e.consumer
                        && r.environment == e.environment
                        && r.meter == m.meter
                        && r.period_start == e.period.start
                };
                m.used += s.units(mine);
            }
        }
        let others = s.ledgers.keys().filter(|name| *name != ledger);
        let others = others.map(|name| LedgerEnd {
            ledger: name.clone(),
            shipped_through: s.shipped_through(name),
            leases: None,
        });
        Ok(Changes {
            version: through,
            more: left_out.is_some(),
            routing: told(s.routing.0).then(|| s.routing.1.clone()),
            keys: s
                .keys
                .values()
                .filter(|k| told(k.0))
                .map(|k| s.with_use(&k.1))
                .collect(),
            entitlements,
            purges: s.purges.iter().filter(|p| told(p.0)).map(|p| p.1.clone()).collect(),
            shipped_through: s.shipped_through(ledger),
            others: others.collect(),
        })
    }
    async fn counts(&self, ledger: &str, parts: &[LedgerPart]) -> Result<Counts, SourceError> {
        self.hears(ledger)?;
        self.counts_asked.fetch_add(1, Ordering::SeqCst);
        if self.counts_away.load(Ordering::SeqCst) {
            return Err(SourceError("no counts".to_owned()));
        }
        let s = self.state.lock().unwrap();
        let told = |p: &LedgerPart| {
            let rows = s.ledgers.get(&p.ledger).into_iter().flatten();
            let (after, through) = (p.after, p.through);
            rows.filter(move |r| r.units > 0 && after < r.seq && r.seq <= through)
        };
        let mut counts = Counts {
            shipped_through: s.shipped_through(ledger),
            ..Counts::default()
        };
        for r in parts.iter().flat_map(told) {
            let base = s.entitlements.get(&(r.consumer, r.environment));
            let base = base.filter(|(_, e)| e.period.start == r.period_start);
            let base = base.and_then(|(_, e)| e.meters.iter().find(|m| m.meter == r.meter));
            let of_consumer =
                |o: &&UsageRecord| is_like(o, r) && o.consumer == r.consumer && o.environment == r.environment;
            counts.meters.push(MeterCount {
                consumer: r.consumer,
                environment: r.environment,
                meter: r.meter,
                period_start: r.period_start,
                used: base.map_or(0, |m| m.used) + s.units(of_consumer),
            });
            let root = |k: &KeyRecord| k.limits.as_ref().map(|limits| limits.root.unwrap_or(k.id));
            if let Some((lookup, root_id)) = s.keys.values().find_map(|(_, k)| {
                let root = root(k).filter(|_| k.id == r.key)?;
                Some((k.lookup, root))
            }) {
                let of_chain = |id: KeyId| s.keys.values().any(|(_, k)| k.id == id && root(k) == Some(root_id));
                counts.keys.push(KeyCount {
                    root: root_id,
                    lookup,
                    meter: r.meter,
                    period_start: r.period_start,
                    used: s.units(|o| is_like(o, r) && of_chain(o.key)),
                });
            }
        }
        Ok(counts)
    }
    async fn lease(&self, ask: &LeaseAsk) -> Result<LeaseAnswer, SourceError> {
        self.hears(&ask.ledger)?;
        self.leases_asked.fetch_add(1, Ordering::SeqCst);
        let most = self.leases_most.load(Ordering::SeqCst);
        if most > 0 && ask.items.len() > most {
            return Err(SourceError("too slow".to_owned()));
        }
        gate(&self.leases_held).await;
        let mut s = self.state.lock().unwrap();
        let mut leases = std::mem::take(&mut s.leases);
        let known = Known {
            ledgers: &s.ledgers,
            entitlements: &s.entitlements,
            keys: &s.keys,
        };
        let answer = leases.answer(&known, ask);
        s.leases = leases;
        if self.deaf.lock().unwrap().contains(&ask.ledger) {
            return Err(SourceError("the answer was lost".to_owned()));
        }
        answer.map_err(SourceError::new)
    }
    async fn hint(&self) {
        self.hint.notified().await;
    }
}

#[async_trait]
impl UsageSink for Plane {
    async fn end_leases(&self, ledger: &str, seq: u64) -> Result<(), SourceError> {
        self.hears(ledger)?;
        let mut s = self.state.lock().unwrap();
        let through = s.shipped_through(ledger);
        s.leases.end(ledger, seq);
        s.leases.reached(ledger, through);
        Ok(())
    }
    async fn ship(&self, batch: UsageBatch) -> Result<(), SourceError> {
        self.hears(&batch.ledger)?;
        gate(&self.ships_held).await;
        let mut s = self.state.lock().unwrap();
        let rows = s.ledgers.entry(batch.ledger.clone()).or_default();
        for r in &batch.records {
            let last = rows.last().map_or(0, |r| r.seq);
            assert_eq!(r.seq, last + 1, "records come in order, without gaps and repeats");
            rows.push(r.clone());
        }
        let through = s.shipped_through(&batch.ledger);
        let keys = std::mem::take(&mut s.keys);
        s.leases.count(&batch.ledger, &batch.records, &keys);
        s.keys = keys;
        s.leases.reached(&batch.ledger, through);
        if self.lose_answers.swap(false, Ordering::SeqCst) {
            return Err(SourceError("the answer was lost".to_owned()));
        }
        Ok(())
    }
    async fn shipped_through(&self, ledger: &str) -> Result<u64, SourceError> {
        self.hears(ledger)?;
        Ok(self.state.lock().unwrap().shipped_through(ledger))
    }
}
