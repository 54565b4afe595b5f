//! Grants leases in memory, by the rule that the control plane grants by.

use model::access::Environment;
use model::lease::{Books, Lease, LeaseAnswer, LeaseAsk, LeaseOwner, LeaseRow, LeaseSubject, LeaseTold, Rest};
use model::snapshot::{Entitlement, KeyRecord, KeyUse};
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const WANTED_FOR: Duration = Duration::from_secs(2);

#[derive(Default, Clone, Copy)]
struct Row {
    lease: Lease,
    ends_after: Option<u64>,
    taken_over: bool,
}

/// Leases, and whose turn it is.
#[derive(Default)]
pub(crate) struct Granting {
    rows: HashMap<(String, LeaseSubject), Row>,
    turns: HashMap<String, i64>,
    wanted: HashMap<LeaseOwner, Instant>,
}

/// What is known beside.
pub(crate) struct Known<'a> {
    pub(crate) ledgers: &'a HashMap<String, Vec<UsageRecord>>,
    pub(crate) entitlements: &'a HashMap<(ConsumerId, Environment), (i64, Entitlement)>,
    pub(crate) keys: &'a HashMap<u64, (i64, KeyRecord)>,
}

/// The first key of a key's chain.
pub(crate) fn root(key: &KeyRecord) -> KeyId {
    key.limits.as_ref().and_then(|l| l.root).unwrap_or(key.id)
}

pub(crate) fn root_of(keys: &HashMap<u64, (i64, KeyRecord)>, id: KeyId) -> KeyId {
    keys.values().find(|(_, k)| k.id == id).map_or(id, |(_, k)| root(k))
}

impl Granting {
    pub(crate) fn count(&mut self, ledger: &str, records: &[UsageRecord], keys: &HashMap<u64, (i64, KeyRecord)>) {
        for r in records {
            for root in [None, Some(root_of(keys, r.key))] {
                let subject = LeaseSubject {
                    consumer: r.consumer,
                    environment: r.environment,
                    root,
                    meter: r.meter,
                    period_start: r.period_start,
                };
                if let Some(row) = self.rows.get_mut(&(ledger.to_owned(), subject)) {
                    row.lease.used += u64::from(r.units);
                }
            }
        }
    }

    pub(crate) fn end(&mut self, ledger: &str, seq: u64) {
        for (_, row) in self.rows.iter_mut().filter(|((name, _), _)| name == ledger) {
            (row.ends_after, row.taken_over) = (Some(seq), false);
        }
        *self.turns.entry(ledger.to_owned()).or_default() += 1;
    }

    pub(crate) fn reached(&mut self, ledger: &str, through: u64) {
        let of_it = self.rows.iter_mut().filter(|((name, _), _)| name == ledger);
        for (_, row) in of_it.filter(|(_, row)| row.ends_after.is_some_and(|seq| seq <= through)) {
            if !row.taken_over {
                row.lease.ceiling = row.lease.used;
            }
            (row.ends_after, row.taken_over) = (None, false);
        }
    }

    /// Units that ledgers may still bring.
    pub(crate) fn open(&self, subject: &LeaseSubject) -> u64 {
        let of_it = self.rows.iter().filter(|((_, s), _)| s == subject);
        of_it.map(|(_, row)| row.lease.open()).sum()
    }

    pub(crate) fn answer(&mut self, known: &Known<'_>, ask: &LeaseAsk) -> Result<LeaseAnswer, String> {
        let turn = self.turns.get(&ask.ledger).copied().unwrap_or(0);
        let through = known
            .ledgers
            .get(&ask.ledger)
            .and_then(|rows| rows.last())
            .map_or(0, |r| r.seq);
        let mut answer = LeaseAnswer {
            turn,
            shipped_through: through,
            ..LeaseAnswer::default()
        };
        let Some(asked) = ask.turn else { return Ok(answer) };
        if asked != turn {
            return Err("another turn".to_owned());
        }
        answer.turn = turn + 1;
        if let Some(seq) = ask.begins_after {
            self.end(&ask.ledger, seq);
            self.reached(&ask.ledger, through);
        }
        self.turns.insert(ask.ledger.clone(), turn + 1);
        for item in &ask.items {
            let row = self.rows.entry((ask.ledger.clone(), item.subject)).or_default();
            if row.ends_after.is_some() && item.more == 0 {
                answer.told.push(told(item.subject, row.lease));
                continue;
            }
            row.taken_over = row.ends_after.is_some();
            row.lease.ceiling = match row.ends_after {
                Some(_) => row.lease.ceiling.max(item.holds),
                None => item.holds,
            };
            let lease = row.lease;
            let Some(mut of_it) = self.decide(known, &ask.ledger, item, lease) else {
                answer.told.push(LeaseTold {
                    rest: Rest::Leased,
                    ..told(item.subject, lease)
                });
                continue;
            };
            of_it.used = lease.used;
            self.rows
                .entry((ask.ledger.clone(), item.subject))
                .or_default()
                .lease
                .ceiling = of_it.ceiling;
            if of_it.rest == Rest::Leased {
                self.wanted.insert(item.subject.owner(), Instant::now());
            }
            answer.told.push(of_it);
        }
        let lately = self.wanted.iter().filter(|(_, at)| at.elapsed() < WANTED_FOR);
        let has = |owner: &LeaseOwner| {
            let mut mine = self.rows.iter().filter(|((name, _), _)| *name == ask.ledger);
            mine.any(|((_, s), row)| s.owner() == *owner && row.lease.open() > 0)
        };
        answer.wanted = lately.map(|(owner, _)| *owner).filter(has).collect();
        Ok(answer)
    }

    fn decide(
        &self,
        known: &Known<'_>,
        ledger: &str,
        item: &model::lease::LeaseItem,
        lease: Lease,
    ) -> Option<LeaseTold> {
        let subject = item.subject;
        let (_, terms) = known.entitlements.get(&(subject.consumer, subject.environment))?;
        let mut terms = terms.clone();
        let length = terms.period.start.ms_until(terms.period.end);
        if terms.period.start != subject.period_start {
            // Gateways enter the next period by themselves.
            if terms.period.end != subject.period_start {
                return None;
            }
            terms.period.start = subject.period_start;
            terms.period.end = subject.period_start.plus_ms(length);
            for m in &mut terms.meters {
                m.used = 0;
            }
        }
        let rows = || {
            let all = known.ledgers.values().flatten();
            all.filter(|r| r.consumer == subject.consumer && r.period_start == subject.period_start)
        };
        for m in &mut terms.meters {
            let of_it = rows().filter(|r| r.meter == m.meter && r.environment == subject.environment);
            m.used += of_it.map(|r| u64::from(r.units)).sum::<u64>();
        }
        let key = match subject.root {
            None => None,
            Some(id) => {
                let (_, key) = known.keys.values().find(|(_, k)| k.id == id)?;
                let mut limits = key.limits.clone()?;
                limits.used = rows()
                    .filter(|r| root_of(known.keys, r.key) == id)
                    .map(|r| KeyUse {
                        meter: r.meter,
                        units: u64::from(r.units),
                    })
                    .collect();
                Some(limits)
            }
        };
        let leases: Vec<LeaseRow> = self
            .rows
            .iter()
            .map(|((ledger, subject), row)| LeaseRow {
                ledger: ledger.clone(),
                subject: *subject,
                lease: row.lease,
            })
            .collect();
        let books = Books {
            entitlement: &terms,
            key: key.as_ref(),
            leases: &leases,
            now: subject.period_start.plus_ms(1),
        };
        let decision = books.decide(ledger, item, lease);
        Some(LeaseTold {
            ceiling: decision.ceiling,
            until: decision.until,
            rest: decision.rest,
            ..told(subject, lease)
        })
    }
}

fn told(subject: LeaseSubject, lease: Lease) -> LeaseTold {
    LeaseTold {
        subject,
        ceiling: lease.ceiling,
        used: lease.used,
        until: None,
        rest: Rest::Granted,
    }
}
