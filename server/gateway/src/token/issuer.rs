//! Issuers, ready to be asked: their keys as they are known now, and when they were last asked for.

use super::keys::KeySet;
use crate::account::{Profile, TokenPlan};
use arc_swap::ArcSwapOption;
use model::KeyId;
use model::snapshot::{Entitlement, IssuerRecord};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::Notify;

/// Shortest time between two questions to an issuer that tokens with unknown keys bring about, in seconds.
const ASK_SPACING_S: i64 = 60;
/// How long keys count that cannot be asked for again, in seconds.
const KEPT_S: i64 = 3_600;
/// Longest file with a secret, in bytes.
const SECRET_MOST: u64 = 4_096;

/// Keys, as they were told.
pub(super) struct Held {
    pub(super) keys: KeySet,
    /// When, in seconds since 1970; of no meaning for keys that are not fetched.
    at_s: i64,
    /// What they were made from, to see whether they changed.
    source: Vec<u8>,
}

/// An issuer of tokens.
pub(crate) struct Issuer {
    pub(super) told: IssuerRecord,
    held: ArcSwapOption<Held>,
    /// When its keys were last asked for, in seconds since 1970.
    asked_s: AtomicI64,
    /// Whether they are being asked for now.
    asking: AtomicBool,
    /// Wakes the task that asks.
    pub(super) wanted: Notify,
}

impl Issuer {
    fn new(told: IssuerRecord) -> Self {
        let issuer = Self {
            told,
            held: ArcSwapOption::empty(),
            // What is fetched is asked for as soon as the issuer is known, and no request needs to ask for it first.
            asked_s: AtomicI64::new(i64::MAX),
            asking: AtomicBool::new(true),
            wanted: Notify::new(),
        };
        if let Some(loaded) = issuer.load() {
            match loaded {
                Ok((keys, source)) => drop(issuer.put(keys, source, 0)),
                Err(why) => tracing::error!(issuer = issuer.told.file.slug, why, "an issuer's key cannot be used"),
            }
            issuer.asking.store(false, Ordering::Relaxed);
        }
        issuer
    }

    /// Its keys, when they are on this machine; none when they must be fetched.
    pub(super) fn load(&self) -> Option<Result<(KeySet, Vec<u8>), String>> {
        let file = &self.told.file;
        let secret = |bytes: Vec<u8>| Ok((KeySet::of_secret(&bytes)?, bytes));
        if let Some(name) = &file.secret_env {
            let value = std::env::var(name).map_err(|_| format!("the variable {name} is not set"));
            return Some(value.map(String::into_bytes).and_then(secret));
        }
        if let Some(path) = &file.secret_file {
            return Some(read(Path::new(path)).and_then(secret));
        }
        let algorithm = *file.algorithms.first()?;
        let key = file.public_key.as_ref()?;
        Some(KeySet::of_public_key(key, algorithm).map(|keys| (keys, key.clone().into_bytes())))
    }

    /// Takes over keys; whether they are others than before.
    pub(super) fn put(&self, keys: KeySet, source: Vec<u8>, now_s: i64) -> bool {
        let changed = self.held.load().as_ref().is_none_or(|held| held.source != source);
        self.held.store(Some(Arc::new(Held {
            keys,
            at_s: now_s,
            source,
        })));
        changed
    }

    /// The keys, unless they are too old to count.
    pub(super) fn keys(&self, now_s: i64) -> Option<Arc<Held>> {
        let fetched = self.told.file.jwks_url.is_some();
        let held = self.held.load_full()?;
        (!fetched || now_s - held.at_s <= KEPT_S).then_some(held)
    }

    /// Notes that its keys are asked for from now on.
    pub(super) fn ask_begins(&self, now_s: i64) {
        self.asking.store(true, Ordering::Relaxed);
        self.asked_s.store(now_s, Ordering::Relaxed);
    }

    /// Notes that the question is over.
    pub(super) fn ask_ended(&self) {
        self.asking.store(false, Ordering::Relaxed);
    }

    /// A token needs keys that are not here. Whether they are being asked for, and may be here in a moment.
    pub(super) fn want(&self, now_s: i64) -> bool {
        if self.told.file.jwks_url.is_none() {
            return false;
        }
        let asked_s = self.asked_s.load(Ordering::Relaxed);
        if asked_s.saturating_add(ASK_SPACING_S) <= now_s {
            let won = self
                .asked_s
                .compare_exchange(asked_s, now_s, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
            if won {
                self.asking.store(true, Ordering::Relaxed);
                self.wanted.notify_one();
            }
        }
        self.asking.load(Ordering::Relaxed)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(SECRET_MOST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Every issuer, by the claim `iss`, and the plans that their tokens may name.
#[derive(Default)]
pub(crate) struct Issuers(HashMap<String, Arc<Issuer>>, Vec<Arc<TokenPlan>>);

impl Issuers {
    /// From what the control plane says. An issuer that is told as before keeps its keys.
    pub(crate) fn compile(&self, told: &[IssuerRecord], plans: &[Entitlement]) -> Self {
        let plan = |told: &Entitlement| {
            let profile = Profile::of(told);
            let known = self.1.iter().find(|p| *p.profile == profile);
            known.map_or_else(
                || {
                    let profile = Arc::new(profile);
                    Arc::new(TokenPlan { profile })
                },
                Arc::clone,
            )
        };
        let one = |record: &IssuerRecord| {
            let known = self.0.get(&record.file.issuer).filter(|i| i.told == *record);
            let issuer = known.map_or_else(|| Arc::new(Issuer::new(record.clone())), Arc::clone);
            (record.file.issuer.clone(), issuer)
        };
        Self(told.iter().map(one).collect(), plans.iter().map(plan).collect())
    }

    /// The plan of this name, where tokens may name it.
    pub(crate) fn plan(&self, slug: &str) -> Option<Arc<TokenPlan>> {
        self.1.iter().find(|p| p.profile.plan == slug).cloned()
    }

    /// Whether there is one for whose tokens this stands in as a key.
    pub(crate) fn has(&self, key: KeyId) -> bool {
        self.0.values().any(|issuer| issuer.told.key == key)
    }

    /// The one that calls itself so.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.0.get(name)
    }

    /// Those whose keys change while they are known.
    pub(super) fn moving(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        let moving = |i: &&Arc<Issuer>| i.told.file.jwks_url.is_some() || i.told.file.secret_file.is_some();
        self.0.values().filter(moving)
    }
}
