//! The targets tried for one request.

use super::connection::Connection;
use super::pool::Pool;
use crate::balance::{Lease, Unavailable};
use crate::config::Limits;
use crate::refusal::{Refusal, Refused};
use crate::route::Upstream;
use crate::seen::Entry;
use crate::trace::Left;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The target a request is at, and those that failed it.
pub(super) struct Attempts {
    pub(super) lease: Lease,
    /// A bit for each target that failed this request.
    tried: u128,
    made: u8,
    /// Told of every target that is tried.
    seen: Option<Arc<Entry>>,
    canary: bool,
    pub(super) deadline: Option<Instant>,
}

impl Attempts {
    /// At the first target. `started` is when the request began.
    pub(super) fn begin(
        upstream: &Arc<Upstream>,
        canary: bool,
        started: Instant,
        seen: Option<&Arc<Entry>>,
    ) -> Result<Self, Refused> {
        let lease = Lease::take(upstream, canary, 0, started).map_err(|why| unavailable(upstream, why))?;
        if let Some(retry) = &upstream.balance.retry {
            retry.request(&upstream.balance.memory.budget, lease.target().ms(started));
        }
        if let Some(seen) = seen {
            seen.went_to(lease.place());
        }
        Ok(Self {
            seen: seen.cloned(),
            lease,
            tried: 0,
            made: 1,
            canary,
            deadline: upstream.total.map(|t| started + t),
        })
    }

    fn upstream(&self) -> &Arc<Upstream> {
        self.lease.upstream()
    }

    /// The target answered with this status.
    pub(super) fn answered(&mut self, status: u16) {
        self.lease.answered(status);
        self.left(|| Left::Answered(status));
    }

    /// How the attempt ended, for who looks; what is said first holds.
    pub(super) fn left(&self, how: impl FnOnce() -> Left) {
        if let Some(seen) = &self.seen {
            seen.left(how);
        }
    }

    /// Whether it is part of a trace.
    pub(super) fn is_traced(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.part().is_some())
    }

    /// Makes what was written for an earlier attempt say of the trace what holds for this one.
    pub(super) fn retell(&self, written: &mut [u8]) {
        if let Some(part) = self.seen.as_ref().and_then(|seen| seen.part()) {
            part.retell(written);
        }
    }

    /// Whether an answer with this status shall be tried elsewhere.
    pub(super) fn retries(&self, status: u16) -> bool {
        self.upstream().balance.retry.as_ref().is_some_and(|r| r.takes(status))
    }

    /// Goes to another target, when there is one and attempts, time and the budget are left.
    pub(super) fn next(&mut self) -> bool {
        let upstream = Arc::clone(self.upstream());
        let Some(retry) = &upstream.balance.retry else {
            return false;
        };
        let now = Instant::now();
        if self.made >= retry.attempts || self.deadline.is_some_and(|d| now >= d) {
            return false;
        }
        let tried = self.tried | self.lease.bit();
        let Ok(lease) = Lease::take(&upstream, self.canary, tried, now) else {
            return false;
        };
        // The budget's clock is that of the first target: it stays when the others change.
        let clock = &upstream.balance.members[0].target;
        if !retry.take(&upstream.balance.memory.budget, clock.ms(now)) {
            return false;
        }
        lease.count_retry();
        if let Some(seen) = &self.seen {
            seen.went_to(lease.place());
        }
        (self.lease, self.tried) = (lease, tried);
        self.made += 1;
        true
    }

    /// Until when a connection must be there.
    pub(super) fn connect_until(&self, limits: &Limits) -> tokio::time::Instant {
        let most = self.upstream().connect.unwrap_or(limits.connect_timeout);
        let at = Instant::now() + most;
        self.deadline.map_or(at, |d| d.min(at)).into()
    }

    /// A connection to the target, or to the next ones: one from the pool (true), or a new one.
    pub(super) async fn connection(&mut self, pool: &Pool, limits: &Limits) -> Result<(Connection, bool), Refused> {
        loop {
            if let Some(connection) = pool.take(self.lease.target(), Instant::now()) {
                return Ok((connection, true));
            }
            match self.connect(limits).await {
                Ok(connection) => return Ok((connection, false)),
                Err(_) if self.next() => {}
                Err(refused) => return Err(refused),
            }
        }
    }

    /// A new connection to the target.
    pub(super) async fn connect(&mut self, limits: &Limits) -> Result<Connection, Refused> {
        let until = self.connect_until(limits);
        let opened = Connection::open(self.lease.target(), until).await;
        opened.map_err(|error| self.unreachable(&error))
    }

    /// The target took no connection.
    pub(super) fn unreachable(&mut self, error: &io::Error) -> Refused {
        self.lease.failed();
        self.left(|| Left::Failed(Refusal::UpstreamUnreachable));
        let upstream = self.upstream();
        let target = self.lease.target().identity.url.as_str();
        tracing::warn!(upstream = upstream.slug, target, %error, "cannot connect");
        let detail = format!("{} accepts no connection.", upstream.slug);
        Refused::new(Refusal::UpstreamUnreachable, detail)
    }
}

/// The refusal where no target takes a request.
pub(crate) fn unavailable(upstream: &Upstream, why: Unavailable) -> Refused {
    let wait_ms = match why {
        Unavailable::Open(wait_ms) => wait_ms,
        Unavailable::Tried => 0,
    };
    let detail = format!("{} failed too often, and is given time to recover.", upstream.slug);
    Refused::new(Refusal::UpstreamUnavailable, detail).retry_after(wait_ms.div_ceil(1000).max(1))
}
