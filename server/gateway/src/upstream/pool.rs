//! Connections between two requests.

use super::connection::Connection;
use crate::route::Upstream;
use crate::tables::LookupHasher;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An idle connection older than this is not used again: upstreams commonly close theirs after 60 s or more.
const IDLE_LIFE: Duration = Duration::from_secs(30);

struct Idle {
    connection: Connection,
    upstream: Arc<Upstream>,
    since: Instant,
}

impl Idle {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE_LIFE
    }
}

type Idles = HashMap<u16, Vec<Idle>, BuildHasherDefault<LookupHasher>>;

/// Idle connections of one worker thread, by the upstream's number.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Idles>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if one is still good.
    pub(super) fn take(&self, upstream: &Arc<Upstream>, now: Instant) -> Option<Connection> {
        let mut idles = self.lock();
        let idle = idles.get_mut(&upstream.number)?;
        while let Some(mut found) = idle.pop() {
            let same = Arc::ptr_eq(&found.upstream, upstream)
                || (found.upstream.host == upstream.host && found.upstream.port == upstream.port);
            if same && found.is_fresh(now) && found.connection.is_quiet() {
                return Some(found.connection);
            }
        }
        None
    }

    /// Keeps a connection whose last answer is through, unless `most` of this upstream are kept already.
    pub(super) fn put(&self, mut connection: Connection, upstream: &Arc<Upstream>, now: Instant, most: usize) {
        let mut idles = self.lock();
        let kept = idles.entry(upstream.number).or_default();
        if kept.len() < most {
            connection.rest();
            kept.push(Idle {
                connection,
                upstream: Arc::clone(upstream),
                since: now,
            });
        }
    }

    /// Closes connections that were idle for too long, and those their upstream closed.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        for kept in self.lock().values_mut() {
            kept.retain_mut(|idle| idle.is_fresh(now) && idle.connection.is_quiet());
        }
    }
}
