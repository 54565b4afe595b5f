//! Connections between two requests.

use super::connection::Connection;
use super::http2::Links;
use crate::balance::Target;
use crate::tables::LookupHasher;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An idle connection older than this is not used again: upstreams commonly close theirs after 60 s or more.
const IDLE_LIFE: Duration = Duration::from_secs(30);

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE_LIFE
    }
}

type Idles = HashMap<u64, Vec<Idle>, BuildHasherDefault<LookupHasher>>;

/// Connections of one worker thread, by the target's number.
#[derive(Default)]
pub(crate) struct Pool {
    idles: Mutex<Idles>,
    /// Those of HTTP/2, which many requests share.
    pub(super) links: Links,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idles> {
        self.idles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if one is still good.
    pub(super) fn take(&self, target: &Target, now: Instant) -> Option<Connection> {
        let mut idles = self.lock();
        let idle = idles.get_mut(&target.id)?;
        while let Some(mut found) = idle.pop() {
            if found.is_fresh(now) && found.connection.is_quiet() {
                return Some(found.connection);
            }
        }
        None
    }

    /// Keeps a connection whose last answer is through, unless `most` of this target are kept already, or its name
    /// means other addresses now.
    pub(super) fn put(&self, mut connection: Connection, target: &Target, now: Instant, most: usize) {
        let mut idles = self.lock();
        let kept = idles.entry(target.id).or_default();
        if kept.len() < most && target.addresses.holds(Some(connection.peer)) {
            connection.rest();
            kept.push(Idle { connection, since: now });
        }
    }

    /// Closes connections that were idle for too long, and those their upstream closed.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let mut idles = self.lock();
        for kept in idles.values_mut() {
            kept.retain_mut(|idle| idle.is_fresh(now) && idle.connection.is_quiet());
        }
        idles.retain(|_, kept| !kept.is_empty());
        drop(idles);
        self.links.expire(now);
    }
}
