//! The copy of the snapshot on disk, with which a gateway starts while the control plane is away.
//!
//! Magic, version, length and CRC-32 of the rest; then the routing table as JSON, the entitlements as JSON with what
//! is used and the ledger's sequence number that holds for, and the keys in a fixed form. Written to a new file, synced
//! and renamed; the one before is kept and used when the newest is damaged.

use crate::account::ForeignUse;
use crate::ledger::Ledger;
use crate::tables::Tables;
use model::access::Environment;
use model::snapshot::{Entitlement, KeyLimits, KeyRecord, KeyUse, Routing};
use model::{ConsumerId, KeyId, Time};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"TPSNAP01";
const HEAD_LEN: usize = 8 + 8 + 4;
const NEWEST: &str = "snapshot";
const PREVIOUS: &str = "snapshot.previous";
/// When the control plane last had told all it knows, by the machine's clock, in milliseconds since 1970.
const CONFIRMED: &str = "snapshot.confirmed";
/// Bytes of a key before its routes.
const KEY_LEN: usize = 8 + 32 + 16 + 16 + 2 + 1 + 8 + 2;
const REVOKED: u8 = 1;
const TEST: u8 = 2;
const SCOPED: u8 = 4;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: i64,
    routing: Option<Routing>,
    /// Each with the last sequence number of our ledger that its `used` holds.
    entitlements: Vec<(Entitlement, u64)>,
    /// Limits of keys, in the same way.
    #[serde(default)]
    key_limits: Vec<(KeyId, KeyLimits, u64)>,
    /// What tokens used of meters that their consumers' own plans lack.
    #[serde(default)]
    foreign: Vec<ForeignUse>,
    /// Up to this sequence number nothing else was used of such meters; none in a copy from before they were stored.
    #[serde(default)]
    foreign_through: Option<u64>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the stored snapshot is damaged: {what}"),
    )
}

/// Writes the copy.
pub(crate) fn save(dir: &Path, tables: &Tables, ledger: &Ledger) -> io::Result<()> {
    // The version is read first: what changes meanwhile is asked for again.
    let version = tables.version();
    let routing = tables.routes.load_full().map(|r| r.told.clone());
    // Counters that are made meanwhile hold nothing from before this.
    let (_, foreign_through) = ledger.agreed(&[]);
    let accounts = tables.all_accounts();
    let foreign = accounts
        .iter()
        .flat_map(|account| account.foreign_uses(ledger))
        .collect();
    let entitlements = accounts.iter().filter_map(|account| {
        let terms = account.told();
        let counters: Vec<_> = terms.limits.iter().map(|l| &l.slot.recorded).collect();
        let (used, through) = ledger.agreed(&counters);
        let known = terms.period.start < terms.period.end;
        known.then(|| (terms.to_entitlement(account, &used), through))
    });
    let key_limits = tables.key_limits().into_iter().map(|(id, limit)| {
        let (period_start, slots) = limit.slots();
        let counters: Vec<_> = slots.iter().map(|(_, slot)| &slot.recorded).collect();
        let (used, through) = ledger.agreed(&counters);
        let used = slots.iter().zip(used);
        let used = used.map(|((meter, _), units)| KeyUse { meter: *meter, units });
        (id, limit.to_told(period_start, used.collect()), through)
    });
    let stored = Stored {
        version,
        routing,
        entitlements: entitlements.collect(),
        key_limits: key_limits.collect(),
        foreign,
        foreign_through: Some(foreign_through),
    };
    let json = serde_json::to_vec(&stored)?;
    let mut body = Vec::with_capacity(json.len() + 8 + tables.key_count() * (KEY_LEN + 4));
    body.extend_from_slice(&u64::try_from(json.len()).unwrap_or(0).to_le_bytes());
    body.extend_from_slice(&json);
    tables.each_key(|k| put_key(&mut body, &k));

    let new = dir.join("snapshot.new");
    let mut file = File::create(&new)?;
    file.write_all(MAGIC)?;
    file.write_all(&u64::try_from(body.len()).unwrap_or(0).to_le_bytes())?;
    file.write_all(&crc32fast::hash(&body).to_le_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    match std::fs::rename(dir.join(NEWEST), dir.join(PREVIOUS)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::rename(&new, dir.join(NEWEST))?;
    File::open(dir)?.sync_all()
}

fn put_key(out: &mut Vec<u8>, k: &KeyRecord) {
    out.extend_from_slice(&k.lookup.to_le_bytes());
    out.extend_from_slice(&k.mac);
    out.extend_from_slice(&k.id.to_bits().to_le_bytes());
    out.extend_from_slice(&k.consumer.to_bits().to_le_bytes());
    out.extend_from_slice(&k.pepper.to_le_bytes());
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.push(
        flag(k.revoked, REVOKED) | flag(k.environment == Environment::Test, TEST) | flag(k.routes.is_some(), SCOPED),
    );
    out.extend_from_slice(&k.expires_at.map_or(i64::MAX, Time::unix_ms).to_le_bytes());
    let routes = k.routes.as_deref().unwrap_or_default();
    let count = u16::try_from(routes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for route in routes.iter().take(usize::from(count)) {
        out.extend_from_slice(&route.to_le_bytes());
    }
}

/// Takes the next `N` bytes.
fn take<const N: usize>(from: &mut &[u8]) -> io::Result<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>().ok_or_else(|| damaged("it ends early"))?;
    *from = rest;
    Ok(*head)
}

fn get_key(from: &mut &[u8]) -> io::Result<KeyRecord> {
    let lookup = u64::from_le_bytes(take(from)?);
    let mac = take(from)?;
    let id = KeyId::from_bits(u128::from_le_bytes(take(from)?));
    let consumer = ConsumerId::from_bits(u128::from_le_bytes(take(from)?));
    let pepper = u16::from_le_bytes(take(from)?);
    let [flags] = take(from)?;
    let expires_ms = i64::from_le_bytes(take(from)?);
    let count = u16::from_le_bytes(take(from)?);
    let mut routes = Vec::new();
    for _ in 0..count {
        routes.push(u16::from_le_bytes(take(from)?));
    }
    Ok(KeyRecord {
        id,
        lookup,
        mac,
        pepper,
        consumer,
        environment: if flags & TEST == 0 {
            Environment::Live
        } else {
            Environment::Test
        },
        revoked: flags & REVOKED != 0,
        expires_at: (expires_ms != i64::MAX).then(|| Time::from_unix_ms(expires_ms)),
        routes: (flags & SCOPED != 0).then_some(routes),
        limits: None,
    })
}

/// Notes when the copy was last known to be all there is. It is not synced: what a power cut takes of it costs nothing but
/// the time since.
pub(crate) fn confirm(dir: &Path, now: Time) -> io::Result<()> {
    let new = dir.join("snapshot.confirmed.new");
    std::fs::write(&new, now.unix_ms().to_string())?;
    std::fs::rename(&new, dir.join(CONFIRMED))
}

/// When the copy was last known to be all there is; none when that is not known.
pub(crate) fn confirmed(dir: &Path) -> Option<Time> {
    let text = std::fs::read_to_string(dir.join(CONFIRMED)).ok()?;
    Some(Time::from_unix_ms(text.trim().parse().ok()?))
}

/// Removes the copies: another gateway knows more by now.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    for name in [NEWEST, PREVIOUS, CONFIRMED] {
        match std::fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the ledger completes what a copy holds.
fn is_completed_by(stored: &Stored, ledger: &Ledger) -> bool {
    let entitlements = stored.entitlements.iter().map(|(_, seq)| *seq);
    let oldest = entitlements
        .chain(stored.key_limits.iter().map(|(_, _, seq)| *seq))
        .chain(stored.foreign_through)
        .min();
    oldest.is_none_or(|seq| seq + 1 >= ledger.first())
}

/// Loads the newest good copy into the tables; false when there is none. One that is older than the ledger reaches back is
/// none: counts would begin too low, so that the control plane must be asked first.
pub(crate) fn load(dir: &Path, tables: &Tables, ledger: &Ledger, now: Time) -> io::Result<bool> {
    for name in [NEWEST, PREVIOUS] {
        match read(&dir.join(name)) {
            Ok((stored, _)) if !is_completed_by(&stored, ledger) => {
                tracing::error!(
                    name,
                    "the stored snapshot is older than the ledger reaches back: it is not used"
                );
            }
            Ok((stored, keys)) => {
                tables.apply_entitlements(stored.entitlements, ledger, now)?;
                if let Some(routing) = stored.routing {
                    let through = stored.foreign_through.unwrap_or(ledger.first() - 1);
                    tables.recall_foreign(&routing.issuers, &stored.foreign, through, ledger);
                    tables.apply_routing(routing);
                }
                let limits = stored.key_limits.into_iter();
                let mut limits: HashMap<KeyId, (KeyLimits, u64)> = limits.map(|(id, l, seq)| (id, (l, seq))).collect();
                let with_limits = |mut key: KeyRecord| {
                    let known = limits.remove(&key.id);
                    let through = known.as_ref().map_or(0, |(_, seq)| *seq);
                    key.limits = known.map(|(told, _)| told);
                    (key, through)
                };
                tables.apply_keys(keys.into_iter().map(with_limits).collect(), ledger, now)?;
                tables.set_version(stored.version);
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, name, "the stored snapshot cannot be used"),
        }
    }
    Ok(false)
}

fn read(path: &Path) -> io::Result<(Stored, Vec<KeyRecord>)> {
    let bytes = std::fs::read(path)?;
    let (head, body) = bytes.split_at_checked(HEAD_LEN).ok_or_else(|| damaged("no head"))?;
    let mut head = head;
    let (magic, length, crc): ([u8; 8], [u8; 8], [u8; 4]) = (take(&mut head)?, take(&mut head)?, take(&mut head)?);
    if magic != *MAGIC || u64::from_le_bytes(length) != u64::try_from(body.len()).unwrap_or(0) {
        return Err(damaged("wrong kind or length"));
    }
    if u32::from_le_bytes(crc) != crc32fast::hash(body) {
        return Err(damaged("wrong checksum"));
    }
    let mut rest = body;
    let json_len = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).map_err(|_| damaged("length"))?;
    let (json, keys) = rest.split_at_checked(json_len).ok_or_else(|| damaged("length"))?;
    let stored = serde_json::from_slice(json)?;
    let mut rest = keys;
    let mut keys = Vec::with_capacity(rest.len() / KEY_LEN);
    while !rest.is_empty() {
        keys.push(get_key(&mut rest)?);
    }
    Ok((stored, keys))
}
