//! The snapshot in memory: keys in shards, accounts, routes. Readers hold a shard's lock for the copy of one entry.

use crate::account::{Account, ForeignUse, Profile, Profiles};
use crate::config::Limits;
use crate::flight::RouteFlights;
use crate::gate::Gate;
use crate::key_limit::{Chains, KeyLimit};
use crate::leases::Desk;
use crate::ledger::{Ledger, UnitsKey};
use crate::rate::Arrivals;
use crate::route::{Heritage, Routes};
use crate::token::Issuers;
use arc_swap::{ArcSwap, ArcSwapOption};
use model::access::Environment;
use model::overrides;
use model::snapshot::{Changes, Entitlement, IssuerRecord, KeyRecord, Routing};
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, Time};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{Notify, watch};

/// Shards of the key table: a change of one key makes readers of one in 64 wait, for nanoseconds.
const SHARDS: u64 = 64;

/// Spreads lookups, which are random already, over all bits.
#[derive(Default)]
pub(crate) struct LookupHasher(u64);

impl Hasher for LookupHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A key as it is kept: about 100 bytes.
#[derive(Clone)]
pub(crate) struct KeyEntry {
    pub(crate) id: KeyId,
    pub(crate) mac: [u8; 32],
    pub(crate) account: Arc<Account>,
    expires_ms: i64,
    pub(crate) pepper: u16,
    pub(crate) revoked: bool,
    pub(crate) routes: Option<Arc<[u16]>>,
    /// What its owner lets it use.
    pub(crate) limit: Option<Arc<KeyLimit>>,
}

impl KeyEntry {
    /// The first key of the chain of rotations that it counts with.
    pub(crate) fn root(&self) -> KeyId {
        self.limit.as_ref().and_then(|limit| limit.root()).unwrap_or(self.id)
    }
    /// What stands for a key where the caller has none: it matches no text, never ends and may use every route.
    pub(crate) fn standing_in(id: KeyId, account: Arc<Account>) -> Self {
        Self {
            id,
            mac: [0; 32],
            account,
            expires_ms: i64::MAX,
            pepper: 0,
            revoked: false,
            routes: None,
            limit: None,
        }
    }

    /// When its time is over; none for never.
    pub(crate) fn expires(&self) -> Option<Time> {
        (self.expires_ms != i64::MAX).then(|| Time::from_unix_ms(self.expires_ms))
    }

    /// Whether its time is over.
    pub(crate) fn expired(&self, now: Time) -> bool {
        now.unix_ms() >= self.expires_ms
    }
}

/// Keys in the order they came, and where each lookup lies: a hash table is half empty, so it holds only numbers.
/// Keys are never removed, only revoked.
#[derive(Default)]
struct Keys {
    places: HashMap<u64, u32, BuildHasherDefault<LookupHasher>>,
    entries: Vec<KeyEntry>,
}

impl Keys {
    fn get(&self, lookup: u64) -> Option<&KeyEntry> {
        self.entries.get(usize::try_from(*self.places.get(&lookup)?).ok()?)
    }

    fn put(&mut self, lookup: u64, entry: KeyEntry) {
        let next = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let place = *self.places.entry(lookup).or_insert(next);
        match self.entries.get_mut(usize::try_from(place).unwrap_or(usize::MAX)) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }
}

type Shard = RwLock<Keys>;
type AccountKey = (ConsumerId, Environment);

/// Everything the request path reads.
pub(crate) struct Tables {
    /// Where limits are leased; none where they are not.
    pub(crate) desk: Option<Arc<Desk>>,
    /// Other gateways heard of lately that lease where this one does not, or the other way round.
    pub(crate) unlike: AtomicU64,
    shards: Vec<Shard>,
    accounts: Mutex<HashMap<AccountKey, Arc<Account>>>,
    profiles: Mutex<Vec<Arc<Profile>>>,
    pub(crate) routes: ArcSwapOption<Routes>,
    /// What keys with limits have used.
    chains: Mutex<Chains>,
    /// Where rate limits stand that no account keeps itself.
    pub(crate) arrivals: Arrivals,
    /// Requests in flight by route.
    pub(crate) flights: RouteFlights,
    /// Of the upstreams that have a bound, by number.
    gates: ArcSwap<HashMap<u16, Arc<Gate>>>,
    version: AtomicI64,
    /// Everything is to be asked for again, whatever the version.
    all_anew: AtomicBool,
    /// Whether it is known what tokens used of meters that their consumers' own plans lack.
    foreign_recalled: AtomicBool,
    /// Whether the control plane answered the last question.
    connected: AtomicBool,
    /// When it last had told all it knows, in nanoseconds of steady time.
    pub(crate) heard_ns: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// For chances that shall differ between gateways.
    pub(crate) seed: AtomicU64,
    /// Held while a routing table is compiled; no request waits for it.
    compiling: Mutex<()>,
    /// Whose tokens are taken.
    pub(crate) issuers: ArcSwap<Issuers>,
    /// Told when there are other issuers.
    pub(crate) issuers_changed: Notify,
    /// Consumers by the name that the provider gave them.
    named: Mutex<HashMap<String, ConsumerId>>,
    /// Grows when issuers, their keys or names of consumers change: a token that proved good before must prove it again.
    trust: AtomicU64,
    /// Grows when a key is revoked or a consumer suspended; open streams look then.
    cut: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tables {
    /// Nothing known yet.
    pub(crate) fn new() -> Self {
        Self {
            desk: None,
            unlike: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            accounts: Mutex::default(),
            profiles: Mutex::default(),
            chains: Mutex::default(),
            routes: ArcSwapOption::empty(),
            arrivals: Arrivals::new(),
            flights: RouteFlights::new(),
            gates: ArcSwap::default(),
            version: AtomicI64::new(0),
            all_anew: AtomicBool::new(false),
            foreign_recalled: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            heard_ns: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            seed: AtomicU64::new(0),
            compiling: Mutex::new(()),
            issuers: ArcSwap::default(),
            issuers_changed: Notify::new(),
            named: Mutex::default(),
            trust: AtomicU64::new(0),
            cut: watch::Sender::new(0),
        }
    }

    fn shard(&self, lookup: u64) -> Option<&Shard> {
        self.shards.get(usize::try_from(lookup % SHARDS).unwrap_or(0))
    }

    /// A copy of the key's entry.
    pub(crate) fn key(&self, lookup: u64) -> Option<KeyEntry> {
        let shard = self.shard(lookup)?.read().unwrap_or_else(PoisonError::into_inner);
        shard.get(lookup).cloned()
    }

    /// A key's lookup and entry by its id; looks through all keys, so it is for people's questions alone.
    pub(crate) fn key_by_id(&self, id: KeyId) -> Option<(u64, KeyEntry)> {
        self.shards.iter().find_map(|shard| {
            let keys = shard.read().unwrap_or_else(PoisonError::into_inner);
            let found = |(lookup, place): (&u64, &u32)| {
                let entry = keys.entries.get(usize::try_from(*place).ok()?)?;
                (entry.id == id).then(|| (*lookup, entry.clone()))
            };
            keys.places.iter().find_map(found)
        })
    }

    /// Tells when a key was revoked or a consumer suspended.
    pub(crate) fn watch_cuts(&self) -> watch::Receiver<u64> {
        self.cut.subscribe()
    }

    /// The version reached.
    pub(crate) fn version(&self) -> i64 {
        self.version.load(Ordering::Acquire)
    }
    /// Whether everything is to be asked for again.
    pub(crate) fn all_anew(&self) -> bool {
        self.all_anew.load(Ordering::Acquire)
    }

    /// Whether everything is to be asked for again, from now on.
    pub(crate) fn ask_all_anew(&self, wanted: bool) {
        self.all_anew.store(wanted, Ordering::Release);
    }

    /// Whether the control plane answered the last question: then an unknown key does not exist.
    pub(crate) fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
    /// Notes whether the control plane answered.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }
    /// How long ago all was heard, in nanoseconds.
    pub(crate) fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.heard_ns.load(Ordering::Relaxed))
    }
    /// How long all was not heard, in nanoseconds, where that is longer than it may be.
    pub(crate) fn stale_ns(&self, limits: &Limits, now_ns: u64) -> Option<u64> {
        let (age_ns, most) = (self.age_ns(now_ns), limits.stale_after?);
        (u128::from(age_ns) > most.as_nanos()).then_some(age_ns)
    }
    /// Keys known.
    pub(crate) fn key_count(&self) -> usize {
        let count = |s: &Shard| s.read().unwrap_or_else(PoisonError::into_inner).entries.len();
        self.shards.iter().map(count).sum()
    }

    /// Takes changes over: entitlements first, so that a key never arrives before what it may do; routes last, because the
    /// gateway says that it is ready once it has some.
    ///
    /// # Errors
    /// When the ledger cannot be read; nothing is taken over then.
    pub(crate) fn apply(&self, changes: Changes, ledger: &Ledger, now: Time) -> std::io::Result<()> {
        let through = changes.shipped_through;
        let told = changes.entitlements.into_iter().map(|e| (e, through)).collect();
        self.apply_entitlements(told, ledger, now)?;
        let revoked = changes.keys.iter().any(|k| k.revoked);
        self.apply_keys(changes.keys.into_iter().map(|k| (k, through)).collect(), ledger, now)?;
        if let Some(routing) = changes.routing {
            self.recall_foreign(&routing.issuers, &[], ledger.first() - 1, ledger);
            self.apply_routing(routing);
        }
        self.version.fetch_max(changes.version, Ordering::AcqRel);
        if revoked {
            self.cut.send_modify(|n| *n += 1);
        }
        Ok(())
    }

    /// Entitlements, each with the last sequence number of our ledger that its `used` holds.
    pub(crate) fn apply_entitlements(
        &self,
        told: Vec<(Entitlement, u64)>,
        ledger: &Ledger,
        now: Time,
    ) -> std::io::Result<()> {
        let Some(oldest) = told.iter().map(|t| t.1).min() else {
            return Ok(());
        };
        let through: HashMap<AccountKey, u64> = told.iter().map(|(e, s)| ((e.consumer, e.environment), *s)).collect();
        let own = ledger.units_after(oldest, |r| {
            through.get(&(r.consumer, r.environment)).is_some_and(|s| r.seq > *s)
        })?;
        let mut suspended = false;
        for (e, _) in &told {
            let own = |meter, start| {
                own.get(&(e.consumer, e.environment, meter, start))
                    .copied()
                    .unwrap_or(0)
            };
            suspended |= e.suspended.is_some();
            let account = self.account(e.consumer, e.environment);
            let name = account.external_id.load_full();
            account.update(e, self.profiles(e, now), now, own);
            self.rename(e.consumer, name.as_deref(), e.external_id.as_ref());
        }
        if suspended {
            self.cut.send_modify(|n| *n += 1);
        }
        self.begin_graces(&told, ledger)
    }

    /// Looks in the ledger since when quotas with a grace are used up that were not in what is told.
    fn begin_graces(&self, told: &[(Entitlement, u64)], ledger: &Ledger) -> std::io::Result<()> {
        let mut lacking = HashMap::new();
        let has_grace = |e: &Entitlement| e.meters.iter().any(|m| m.terms.grace.is_some());
        for (e, through) in told.iter().filter(|(e, _)| has_grace(e)) {
            let account = self.account(e.consumer, e.environment);
            for (meter, start, lacked) in account.lacking(e) {
                lacking.insert((e.consumer, e.environment, meter, start), (*through, lacked));
            }
        }
        for ((consumer, environment, meter, start), since) in ledger.reached(lacking)? {
            self.account(consumer, environment).used_up(meter, start, since);
        }
        Ok(())
    }

    /// Goes on counting what callers whose tokens name plans used of meters that their consumers' own plans lack, when there
    /// first are issuers that let them: from what was stored, and what our ledger holds beyond it. `through` is the sequence
    /// number beyond which it is looked for where nothing was stored.
    pub(crate) fn recall_foreign(
        &self,
        issuers: &[IssuerRecord],
        stored: &[ForeignUse],
        through: u64,
        ledger: &Ledger,
    ) {
        let naming = issuers.iter().filter(|i| i.file.plan_claim.is_some());
        let callers: HashSet<KeyId> = naming.map(|i| i.key).collect();
        if callers.is_empty() || self.foreign_recalled.swap(true, Ordering::AcqRel) {
            return;
        }
        let place = |s: &ForeignUse| (s.consumer, s.environment, s.meter, s.period_start);
        let known: HashMap<UnitsKey, &ForeignUse> = stored.iter().map(|s| (place(s), s)).collect();
        let oldest = stored.iter().map(|s| s.through).fold(through, u64::min);
        let is_more = |r: &UsageRecord| {
            let stored = known.get(&(r.consumer, r.environment, r.meter, r.period_start));
            callers.contains(&r.key) && r.seq > stored.map_or(through, |s| s.through)
        };
        let mut more = ledger.units_after(oldest, is_more).unwrap_or_else(|error| {
            tracing::error!(%error, "what tokens used of meters beyond their consumers' plans is not known whole");
            HashMap::new()
        });
        for key in known.keys() {
            more.entry(*key).or_default();
        }
        for (key, units) in more {
            let (consumer, environment, meter, start) = key;
            if let Some(account) = self.known_account(consumer, environment) {
                account.recall_foreign(meter, start, known.get(&key).copied(), units);
            }
        }
    }

    /// Takes over the name that the provider gave a consumer.
    fn rename(&self, consumer: ConsumerId, before: Option<&String>, now: Option<&String>) {
        if before == now {
            return;
        }
        let mut named = lock(&self.named);
        if let Some(before) = before
            && named.get(before) == Some(&consumer)
        {
            named.remove(before);
        }
        if let Some(now) = now {
            named.insert(now.clone(), consumer);
        }
        drop(named);
        self.trust_changed();
    }

    /// The consumer that the provider gave this name.
    pub(crate) fn named(&self, name: &str) -> Option<ConsumerId> {
        lock(&self.named).get(name).copied()
    }

    /// What tokens are judged by, as a number that grows with every change of it.
    pub(crate) fn trust(&self) -> u64 {
        self.trust.load(Ordering::Acquire)
    }

    /// Makes every token prove itself again.
    pub(crate) fn trust_changed(&self) {
        self.trust.fetch_add(1, Ordering::AcqRel);
    }

    /// A table that cannot be compiled is left aside: the last good one stays.
    pub(crate) fn apply_routing(&self, routing: Routing) {
        let _one_at_a_time = lock(&self.compiling);
        self.compile(routing);
    }

    /// Compiles the table anew when files that it names hold something else by now.
    pub(crate) fn reload_files(&self) {
        let _one_at_a_time = lock(&self.compiling);
        if let Some(routes) = self.routes.load_full()
            && routes.upstreams.values().any(|u| u.is_stale())
        {
            self.compile(routes.told.clone());
        }
    }

    fn compile(&self, routing: Routing) {
        let before = self.routes.load_full();
        let heritage = Heritage {
            before: before.as_deref(),
            seed: self.seed.load(Ordering::Relaxed),
        };
        match Routes::compile(routing, heritage) {
            Ok(routes) => {
                self.apply_bounds(&routes.told);
                let issuers = self
                    .issuers
                    .load()
                    .compile(&routes.told.issuers, &routes.told.token_plans);
                self.routes.store(Some(Arc::new(routes)));
                self.issuers.store(Arc::new(issuers));
                self.trust_changed();
                self.issuers_changed.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, "the new routing table is unusable; the last good one stays");
                self.rejected.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Gates stay across changes, with who is in flight and who waits; where there is no bound any more all are let in.
    fn apply_bounds(&self, routing: &Routing) {
        let old = self.gates.load_full();
        let bounded = routing
            .upstreams
            .iter()
            .filter_map(|u| Some((u.number, u.policy.max_in_flight?)));
        let gate = |(number, most)| {
            let gate = old.get(&number).map_or_else(|| Gate::new(most), Arc::clone);
            gate.set_most(most);
            (number, gate)
        };
        let gates: HashMap<u16, Arc<Gate>> = bounded.map(gate).collect();
        for (_, gate) in old.iter().filter(|(number, _)| !gates.contains_key(number)) {
            gate.set_most(u32::MAX);
        }
        self.gates.store(Arc::new(gates));
    }

    /// The gate of an upstream that has a bound.
    pub(crate) fn gate(&self, upstream: u16) -> Option<Arc<Gate>> {
        self.gates.load().get(&upstream).map(Arc::clone)
    }

    /// The keys of a chain of rotations, by its first.
    pub(crate) fn keys_of(&self, root: KeyId) -> Vec<KeyId> {
        lock(&self.chains).keys_of(root)
    }

    /// Keys, each with the last sequence number of our ledger that is in what is told of its use.
    pub(crate) fn apply_keys(&self, keys: Vec<(KeyRecord, u64)>, ledger: &Ledger, now: Time) -> std::io::Result<()> {
        let chains = lock(&self.chains).note(&keys);
        let own = ledger.key_units_after(&chains)?;
        for (key, _) in keys {
            self.apply_key(key, now, |root, meter, start| {
                own.get(&(root, meter, start)).copied().unwrap_or(0)
            });
        }
        Ok(())
    }

    fn apply_key(&self, key: KeyRecord, now: Time, own: impl Fn(KeyId, u16, Time) -> u64) {
        let limit = key
            .limits
            .as_ref()
            .map(|told| Arc::new(lock(&self.chains).limit(key.id, told, now, own)));
        let entry = KeyEntry {
            id: key.id,
            mac: key.mac,
            account: self.account(key.consumer, key.environment),
            expires_ms: key.expires_at.map_or(i64::MAX, Time::unix_ms),
            pepper: key.pepper,
            revoked: key.revoked,
            routes: key.routes.map(Arc::from),
            limit,
        };
        if let Some(shard) = self.shard(key.lookup) {
            shard
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .put(key.lookup, entry);
        }
    }

    /// An account that is known already.
    pub(crate) fn known_account(&self, consumer: ConsumerId, environment: Environment) -> Option<Arc<Account>> {
        lock(&self.accounts).get(&(consumer, environment)).cloned()
    }

    fn account(&self, consumer: ConsumerId, environment: Environment) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        let account = accounts.entry((consumer, environment));
        let unknown = || Account::unknown(consumer, environment).leasing_at(self.desk.clone());
        Arc::clone(account.or_insert_with(|| Arc::new(unknown())))
    }

    /// What holds by an entitlement at `now`, and from each later instant on at which something begins or ends.
    fn profiles(&self, e: &Entitlement, now: Time) -> Profiles {
        let of_features = e.feature_life.later.iter().map(|later| later.from);
        let later = of_features.filter(|from| now < *from);
        let later: BTreeSet<Time> = later.chain(overrides::changes_after(&e.overrides, now)).collect();
        Profiles {
            later: later.into_iter().map(|from| (from, self.profile(e, from))).collect(),
            now: self.profile(e, now),
        }
    }

    fn profile(&self, e: &Entitlement, at: Time) -> Arc<Profile> {
        let wanted = Profile::at(e, at);
        if !wanted.overrides.is_empty() {
            // Nobody else has it: it would only make the search longer.
            return Arc::new(wanted);
        }
        let mut profiles = lock(&self.profiles);
        if let Some(known) = profiles.iter().find(|p| ***p == wanted) {
            return Arc::clone(known);
        }
        // Profiles follow published plans, so there are few; those no account holds any more go.
        profiles.retain(|p| Arc::strong_count(p) > 1);
        let made = Arc::new(wanted);
        profiles.push(Arc::clone(&made));
        made
    }

    /// Every account, for the copy on disk.
    pub(crate) fn all_accounts(&self) -> Vec<Arc<Account>> {
        lock(&self.accounts).values().cloned().collect()
    }

    /// Calls `each` with every key, shard by shard.
    pub(crate) fn each_key(&self, mut each: impl FnMut(KeyRecord)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let known = shard
                .places
                .keys()
                .filter_map(|lookup| Some((lookup, shard.get(*lookup)?)));
            for (lookup, key) in known {
                each(KeyRecord {
                    id: key.id,
                    lookup: *lookup,
                    mac: key.mac,
                    pepper: key.pepper,
                    consumer: key.account.consumer,
                    environment: key.account.environment,
                    revoked: key.revoked,
                    expires_at: (key.expires_ms != i64::MAX).then(|| Time::from_unix_ms(key.expires_ms)),
                    routes: key.routes.as_deref().map(<[u16]>::to_vec),
                    limits: None,
                });
            }
        }
    }

    /// The limits of every key that has some.
    pub(crate) fn key_limits(&self) -> Vec<(KeyId, Arc<KeyLimit>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(
                shard
                    .entries
                    .iter()
                    .filter_map(|k| Some((k.id, Arc::clone(k.limit.as_ref()?)))),
            );
        }
        all
    }

    /// Sets the version of what was loaded from disk.
    pub(crate) fn set_version(&self, version: i64) {
        self.version.store(version, Ordering::Release);
    }
}
