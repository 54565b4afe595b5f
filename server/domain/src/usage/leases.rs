//! Grants leases to the gateways' ledgers ([`model::lease`] has the rule).
//!
//! A question holds its ledger's row, so that what is taken in of it stands still, and then the turn of each account that it
//! is about. Questions of one ledger are numbered by turns: one that comes late, after its gateway gave it up, changes
//! nothing.

use super::ingest::{self, saturating, small, summed};
use crate::key_limits;
use crate::snapshot::{rolled, with_usage};
use crate::{Domain, DomainError, Result, locks};
use model::access::Environment;
use model::lease::{
    Books, LEASES_MOST, Lease, LeaseAnswer, LeaseAsk, LeaseItem, LeaseOwner, LeaseRow, LeaseSubject, LeaseTold, Rest,
};
use model::snapshot::{Entitlement, KeyLimits};
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, Time};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A gateway may be in a period that begins at most this much later, in milliseconds: clocks do not differ by more than an
/// hour.
const AHEAD_MS: i64 = 3_600_000;
/// How long it is told that somebody lacks units, in seconds; who still does says so again. By the database's clock: those
/// of the machines that ask and of those that have differ by more.
const WANTED_FOR_S: f64 = 2.0;
/// Leases of periods that ended so long ago go, in milliseconds: a week.
const KEPT_FOR_MS: i64 = 7 * 86_400_000;

/// Answers a question.
///
/// # Errors
/// `Conflict` when the question has another turn than the next one; `Invalid` when it is too long; when the database fails.
pub async fn lease(domain: &Domain, ask: &LeaseAsk) -> Result<LeaseAnswer> {
    if ask.items.len() > LEASES_MOST {
        return Err(DomainError::invalid("items", "are too many: ask for fewer"));
    }
    let Some(turn) = ask.turn else {
        return turn_of(domain, &ask.ledger).await;
    };
    let now = domain.clock.now();
    let mut tx = domain.pool.begin().await?;
    let through = take_turn(&mut tx, &ask.ledger, turn, now).await?;
    if let Some(seq) = ask.begins_after {
        end_after(&mut tx, &ask.ledger, seq, through).await?;
    }
    take_accounts(&mut tx, &ask.items).await?;
    let mut desk = Desk::load(&mut tx, ask, now).await?;
    let told: Vec<LeaseTold> = ask.items.iter().map(|item| desk.decide(&ask.ledger, item)).collect();
    desk.write(&mut tx, &ask.ledger).await?;
    want(&mut tx, &told).await?;
    let wanted = wanted(&mut tx, &ask.ledger).await?;
    tx.commit().await?;
    Ok(LeaseAnswer {
        turn: turn + 1,
        shipped_through: through,
        told,
        wanted,
    })
}

/// Nothing is used any more of what a ledger has leased beyond this record: its gateway has ended.
///
/// # Errors
/// When the database fails.
pub async fn end_leases(domain: &Domain, ledger: &str, seq: u64) -> Result<()> {
    let mut tx = domain.pool.begin().await?;
    let known = sqlx::query_scalar!(
        "UPDATE ledgers SET lease_turn = lease_turn + 1, leased_at = $2 WHERE id = $1 AND lease_turn > 0
         RETURNING shipped_through",
        ledger,
        domain.clock.now(),
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(through) = known {
        end_after(&mut tx, ledger, seq, unsigned(through)?).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Drops leases of periods that ended long ago.
pub(super) async fn drop_old(domain: &Domain) -> Result<()> {
    let now = domain.clock.now();
    sqlx::query!("DELETE FROM leases WHERE period_end < $1", now.plus_ms(-KEPT_FOR_MS))
        .execute(&domain.pool)
        .await?;
    sqlx::query!(
        "DELETE FROM lease_wants WHERE wanted_at < clock_timestamp() - make_interval(secs => $1)",
        WANTED_FOR_S
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

/// Counts records of a ledger towards its leases, in the transaction that takes them in.
pub(super) async fn count(connection: &mut PgConnection, ledger: &str, records: &[&UsageRecord]) -> Result<()> {
    let key = |r: &UsageRecord| (r.consumer, r.environment, r.period_start, small(r.meter), r.key);
    let add = |units: &mut i64, r: &UsageRecord| *units += i64::from(r.units);
    let units = summed(records.iter().copied().filter(|r| r.units > 0), key, add);
    sqlx::query!(
        "WITH n AS (
             SELECT u.*, coalesce(k.root_id, u.key_id) AS root_id
             FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::smallint[], $6::text[], $7::bigint[])
                 AS u (consumer_id, environment, period_start, meter, key_id, units)
             LEFT JOIN keys k ON k.id = u.key_id
         ), sums AS (
             SELECT consumer_id, environment, period_start, '' AS root_id, meter, sum(units)::bigint AS units FROM n
             GROUP BY 1, 2, 3, 5
             UNION ALL
             SELECT consumer_id, environment, period_start, root_id, meter, sum(units)::bigint FROM n GROUP BY 1, 2, 3, 4, 5
         )
         UPDATE leases l SET used = l.used + s.units FROM sums s
         WHERE l.ledger = $1 AND l.consumer_id = s.consumer_id AND l.environment = s.environment
           AND l.period_start = s.period_start AND l.root_id = s.root_id AND l.meter = s.meter",
        ledger,
        &units.iter().map(|(k, _)| k.0).collect::<Vec<_>>() as &[ConsumerId],
        &units.iter().map(|(k, _)| k.1).collect::<Vec<_>>() as &[Environment],
        &units.iter().map(|(k, _)| k.2).collect::<Vec<_>>() as &[Time],
        &units.iter().map(|(k, _)| k.3).collect::<Vec<_>>(),
        &units.iter().map(|(k, _)| k.4).collect::<Vec<_>>() as &[KeyId],
        &units.iter().map(|(_, units)| *units).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What is left of leases that were to end with a record that is taken in by now is free.
pub(super) async fn end_reached(connection: &mut PgConnection, ledger: &str, through: u64) -> Result<()> {
    sqlx::query!(
        "UPDATE leases SET ceiling = CASE WHEN taken_over THEN ceiling ELSE used END, ends_after = NULL, taken_over = false
         WHERE ledger = $1 AND ends_after <= $2",
        ledger,
        saturating(through),
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn unsigned(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(DomainError::internal)
}

async fn turn_of(domain: &Domain, ledger: &str) -> Result<LeaseAnswer> {
    let turn = sqlx::query_scalar!("SELECT lease_turn FROM ledgers WHERE id = $1", ledger)
        .fetch_optional(&domain.pool)
        .await?;
    Ok(LeaseAnswer {
        turn: turn.unwrap_or(0),
        ..LeaseAnswer::default()
    })
}

/// Holds the ledger's row and counts the question; how far the ledger is taken in.
async fn take_turn(connection: &mut PgConnection, ledger: &str, turn: i64, now: Time) -> Result<u64> {
    ingest::ensure_ledger(&mut *connection, ledger, now).await?;
    let through = sqlx::query_scalar!(
        "UPDATE ledgers SET lease_turn = lease_turn + 1, leased_at = $3 WHERE id = $1 AND lease_turn = $2
         RETURNING shipped_through",
        ledger,
        turn,
        now
    )
    .fetch_optional(connection)
    .await?;
    let through =
        through.ok_or_else(|| DomainError::Conflict("a later question for leases was answered".to_owned()))?;
    unsigned(through)
}

async fn end_after(connection: &mut PgConnection, ledger: &str, seq: u64, through: u64) -> Result<()> {
    sqlx::query!(
        "UPDATE leases SET ends_after = $2, taken_over = false WHERE ledger = $1",
        ledger,
        saturating(seq)
    )
    .execute(&mut *connection)
    .await?;
    end_reached(connection, ledger, through).await
}

/// Takes the turns of the accounts, in one order for all, so that nobody waits in a circle.
async fn take_accounts(connection: &mut PgConnection, items: &[LeaseItem]) -> Result<()> {
    let accounts: BTreeSet<String> = items
        .iter()
        .map(|i| format!("{} {}", i.subject.consumer, i.subject.environment))
        .collect();
    sqlx::query!(
        r#"SELECT pg_advisory_xact_lock($1, a.number) AS "lock" FROM (
               SELECT DISTINCT hashtext(name) AS number FROM unnest($2::text[]) AS n (name) ORDER BY 1) a"#,
        locks::LEASING,
        &accounts.into_iter().collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

type Account = (ConsumerId, Environment, Time);

/// All that the answer follows from.
struct Desk {
    now: Time,
    rows: BTreeMap<LeaseOwner, Vec<LeaseRow>>,
    /// Of the asking ledger, those from before its gateway began of which it is not known yet how much was used.
    ending: BTreeSet<LeaseSubject>,
    entitlements: HashMap<Account, Entitlement>,
    /// By the first key of the chain and the period's start.
    keys: HashMap<(KeyId, Time), KeyLimits>,
    changed: BTreeSet<LeaseSubject>,
}

impl Desk {
    /// Leases are read before what is used: of what is taken in meanwhile too much is counted, never too little.
    async fn load(connection: &mut PgConnection, ask: &LeaseAsk, now: Time) -> Result<Self> {
        let mut desk = Self {
            now,
            rows: BTreeMap::new(),
            ending: BTreeSet::new(),
            entitlements: HashMap::new(),
            keys: HashMap::new(),
            changed: BTreeSet::new(),
        };
        if ask.items.is_empty() {
            return Ok(desk);
        }
        desk.load_rows(connection, ask).await?;
        let accounts: BTreeSet<Account> = ask
            .items
            .iter()
            .map(|i| (i.subject.consumer, i.subject.environment, i.subject.period_start))
            .collect();
        desk.load_entitlements(connection, &accounts).await?;
        let roots: BTreeSet<(KeyId, Time)> = ask
            .items
            .iter()
            .filter_map(|i| Some((i.subject.root?, i.subject.period_start)))
            .collect();
        desk.keys = key_limits::of_chains(connection, &roots).await?;
        Ok(desk)
    }

    async fn load_rows(&mut self, connection: &mut PgConnection, ask: &LeaseAsk) -> Result<()> {
        // Of the account itself, too, where a key is asked for.
        let owners: BTreeSet<LeaseOwner> = ask.items.iter().map(|i| i.subject.owner()).collect();
        let rows = sqlx::query!(
            r#"SELECT l.ledger, l.consumer_id AS "consumer: ConsumerId", l.environment AS "environment: Environment",
                      l.period_start AS "period_start: Time", l.root_id, l.meter, l.ceiling, l.used,
                      l.ends_after IS NOT NULL AS "ends!"
               FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[])
                        AS w (consumer_id, environment, period_start, root_id)
               JOIN leases l USING (consumer_id, environment, period_start, root_id)"#,
            &owners.iter().map(|o| o.0).collect::<Vec<_>>() as &[ConsumerId],
            &owners.iter().map(|o| o.1).collect::<Vec<_>>() as &[Environment],
            &owners.iter().map(|o| o.3).collect::<Vec<_>>() as &[Time],
            &owners.iter().map(|o| root_text(o.2)).collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await?;
        for r in rows {
            let subject = LeaseSubject {
                consumer: r.consumer,
                environment: r.environment,
                root: root_of(&r.root_id)?,
                meter: u16::try_from(r.meter).map_err(DomainError::internal)?,
                period_start: r.period_start,
            };
            if r.ledger == ask.ledger && r.ends {
                self.ending.insert(subject);
            }
            self.rows.entry(subject.owner()).or_default().push(LeaseRow {
                ledger: r.ledger,
                subject,
                lease: Lease {
                    ceiling: unsigned(r.ceiling)?,
                    used: unsigned(r.used)?,
                },
            });
        }
        Ok(())
    }

    /// The accounts' terms, in the periods that are asked for: the running ones, or those that gateways whose clocks are
    /// ahead have entered. Of others nothing is known.
    async fn load_entitlements(&mut self, connection: &mut PgConnection, accounts: &BTreeSet<Account>) -> Result<()> {
        let rows = sqlx::query_scalar!(
            "SELECT e.record FROM unnest($1::text[], $2::text[]) AS w (consumer_id, environment)
             JOIN entitlements e USING (consumer_id, environment)",
            &accounts.iter().map(|a| a.0).collect::<Vec<_>>() as &[ConsumerId],
            &accounts.iter().map(|a| a.1).collect::<Vec<_>>() as &[Environment],
        )
        .fetch_all(&mut *connection)
        .await?;
        let ahead = self.now.plus_ms(AHEAD_MS);
        let (mut running, mut coming) = (Vec::new(), Vec::new());
        for row in rows {
            let record: Entitlement = serde_json::from_value(row)?;
            let is_asked =
                |at| accounts.contains(&(record.consumer, record.environment, rolled(record.period, at).start));
            if is_asked(self.now) {
                running.push(record);
            } else if is_asked(ahead) {
                coming.push(record);
            }
        }
        for (records, at) in [(running, self.now), (coming, ahead)] {
            if records.is_empty() {
                continue;
            }
            for e in with_usage(&mut *connection, records, at).await? {
                self.entitlements.insert((e.consumer, e.environment, e.period.start), e);
            }
        }
        Ok(())
    }

    fn lease(&mut self, ledger: &str, subject: LeaseSubject) -> &mut Lease {
        let rows = self.rows.entry(subject.owner()).or_default();
        let found = rows.iter().position(|r| r.ledger == ledger && r.subject == subject);
        let place = found.unwrap_or_else(|| {
            rows.push(LeaseRow {
                ledger: ledger.to_owned(),
                subject,
                lease: Lease::default(),
            });
            rows.len() - 1
        });
        &mut rows[place].lease
    }

    fn decide(&mut self, ledger: &str, item: &LeaseItem) -> LeaseTold {
        let subject = item.subject;
        let ends = self.ending.contains(&subject);
        let row = self.lease(ledger, subject);
        if ends && item.more == 0 {
            // Once what was recorded of it is known, it ends by itself, or is given back then.
            return LeaseTold {
                subject,
                ceiling: row.ceiling,
                used: row.used,
                until: None,
                rest: Rest::Granted,
            };
        }
        // What it held before it began anew stays its own: nobody knows yet how much of that it recorded. What was given by
        // answers that never came is taken back.
        row.ceiling = if ends { row.ceiling.max(item.holds) } else { item.holds };
        let lease = *row;
        let nothing = Vec::new();
        let account = (subject.consumer, subject.environment, subject.period_start);
        let key = subject
            .root
            .and_then(|root| self.keys.get(&(root, subject.period_start)));
        let is_known = subject.root.is_none() || key.is_some();
        let decided = self.entitlements.get(&account).filter(|_| is_known).map(|entitlement| {
            let books = Books {
                entitlement,
                key,
                leases: self.rows.get(&subject.owner()).unwrap_or(&nothing),
                now: self.now,
            };
            books.decide(ledger, item, lease)
        });
        let (ceiling, until, rest) =
            decided.map_or((lease.ceiling, None, Rest::Leased), |d| (d.ceiling, d.until, d.rest));
        self.lease(ledger, subject).ceiling = ceiling;
        self.changed.insert(subject);
        LeaseTold {
            subject,
            ceiling,
            used: lease.used,
            until,
            rest,
        }
    }

    async fn write(&mut self, connection: &mut PgConnection, ledger: &str) -> Result<()> {
        let changed = std::mem::take(&mut self.changed);
        let ceilings: Vec<i64> = changed
            .iter()
            .map(|s| saturating(self.lease(ledger, *s).ceiling))
            .collect();
        let end = |s: &LeaseSubject| {
            let of_it = self.entitlements.get(&(s.consumer, s.environment, s.period_start));
            of_it.map_or(self.now, |e| e.period.end)
        };
        sqlx::query!(
            "INSERT INTO leases AS l (ledger, consumer_id, environment, period_start, root_id, meter, period_end, ceiling, used)
             SELECT $1, n.*, 0 FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::smallint[],
                                           $7::timestamptz[], $8::bigint[]) AS n
             ON CONFLICT (ledger, consumer_id, environment, period_start, root_id, meter) DO UPDATE SET
                 ceiling = excluded.ceiling, period_end = greatest(l.period_end, excluded.period_end),
                 taken_over = l.ends_after IS NOT NULL",
            ledger,
            &changed.iter().map(|s| s.consumer).collect::<Vec<_>>() as &[ConsumerId],
            &changed.iter().map(|s| s.environment).collect::<Vec<_>>() as &[Environment],
            &changed.iter().map(|s| s.period_start).collect::<Vec<_>>() as &[Time],
            &changed.iter().map(|s| root_text(s.root)).collect::<Vec<_>>(),
            &changed
                .iter()
                .map(|s| i16::try_from(s.meter).map_err(DomainError::internal))
                .collect::<Result<Vec<_>>>()?,
            &changed.iter().map(end).collect::<Vec<_>>() as &[Time],
            &ceilings,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

fn root_text(root: Option<KeyId>) -> String {
    root.map_or_else(String::new, |id| id.to_string())
}

fn root_of(text: &str) -> Result<Option<KeyId>> {
    let parsed = (!text.is_empty()).then(|| text.parse());
    parsed.transpose().map_err(DomainError::internal)
}

/// Notes who lacks what others have.
async fn want(connection: &mut PgConnection, told: &[LeaseTold]) -> Result<()> {
    let lacking = told.iter().filter(|t| t.rest == Rest::Leased);
    let owners: BTreeSet<LeaseOwner> = lacking.map(|t| t.subject.owner()).collect();
    if owners.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO lease_wants (consumer_id, environment, period_start, root_id, wanted_at)
         SELECT n.*, clock_timestamp() FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[]) AS n
         ON CONFLICT (consumer_id, environment, period_start, root_id) DO UPDATE SET wanted_at = excluded.wanted_at",
        &owners.iter().map(|o| o.0).collect::<Vec<_>>() as &[ConsumerId],
        &owners.iter().map(|o| o.1).collect::<Vec<_>>() as &[Environment],
        &owners.iter().map(|o| o.3).collect::<Vec<_>>() as &[Time],
        &owners.iter().map(|o| root_text(o.2)).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Owners of which this ledger has leases that others lack.
async fn wanted(connection: &mut PgConnection, ledger: &str) -> Result<Vec<LeaseOwner>> {
    let rows = sqlx::query!(
        r#"SELECT w.consumer_id AS "consumer: ConsumerId", w.environment AS "environment: Environment",
                  w.period_start AS "period_start: Time", w.root_id
           FROM lease_wants w WHERE w.wanted_at > clock_timestamp() - make_interval(secs => $2) AND EXISTS (
               SELECT FROM leases l WHERE l.ledger = $1 AND l.consumer_id = w.consumer_id AND l.environment = w.environment
                   AND l.period_start = w.period_start AND l.root_id = w.root_id AND l.ceiling > l.used)"#,
        ledger,
        WANTED_FOR_S,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|r| Ok((r.consumer, r.environment, root_of(&r.root_id)?, r.period_start)))
        .collect()
}
