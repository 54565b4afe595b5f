//! An open WebSocket that is counted by its time: every second that has begun is one request's worth of units.
//!
//! The handshake's record holds the first second. From then on a slice is taken beforehand, as a request's units are, and
//! recorded when it is over, so a hard quota or a cap is never passed and a crash loses one slice at most. When no second
//! more is given the tunnel ends; what was taken and not begun is given back.

use crate::admit::{self, Lack, Unpaid};
use crate::authenticate::{Caller, Hold};
use crate::exchange;
use crate::leases::{self, Asked};
use crate::record::{self, Units};
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use crate::timer::Timer;
use crate::worker::Worker;
use http::StatusCode;
use model::lease::Limiting;
use model::usage::UsageRecord;
use model::{RequestId, Time};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Longest slice, in seconds: the most that a crash loses, and the longest time in which a quota that others use up
/// goes unnoticed. Shorter ones would be more records for the same seconds.
const SLICE_S: u32 = 3;

/// The time of one WebSocket.
pub(crate) struct Seconds {
    worker: Arc<Worker>,
    hold: Hold,
    route: Arc<Route>,
    request: RequestId,
    timer: Timer,
    /// When what was taken is over.
    until: Instant,
    /// When the next slice is tried again, while it lacks a lease.
    retry: Option<Instant>,
    slice: Option<Slice>,
    /// Bytes that passed so far, up and down; and those that are recorded.
    moved: [u64; 2],
    recorded: [u64; 2],
}

/// Seconds that were taken and are not recorded.
struct Slice {
    caller: Caller,
    units: Units,
    /// Business time.
    at: Time,
    began: Instant,
    seconds: u32,
}

impl Seconds {
    /// For a request whose record holds the first second, which begins now.
    pub(crate) fn after_first(worker: &Arc<Worker>, hold: Hold, route: &Arc<Route>, request: RequestId) -> Self {
        Self {
            worker: Arc::clone(worker),
            hold,
            route: Arc::clone(route),
            request,
            timer: Timer::default(),
            until: Instant::now() + Duration::from_secs(1),
            retry: None,
            slice: None,
            moved: [0; 2],
            recorded: [0; 2],
        }
    }

    /// Ready when no second more is given. `moved` are the bytes that passed so far, up and down.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, moved: [u64; 2]) -> Poll<Refused> {
        self.moved = moved;
        loop {
            self.timer.set(self.retry.unwrap_or(self.until).into());
            ready!(self.timer.poll(cx));
            if let Err(refused) = self.record().and_then(|()| self.take_or_wait()) {
                return Poll::Ready(refused);
            }
        }
    }

    /// The tunnel has ended, and `moved` so much.
    pub(crate) fn end(mut self, moved: [u64; 2]) {
        self.moved = moved;
    }

    /// Takes the next slice, or says when it is to be tried again.
    fn take_or_wait(&mut self) -> Result<(), Refused> {
        self.retry = None;
        let Err(Unpaid { refused, lack }) = self.take() else {
            return Ok(());
        };
        let desk = self.worker.shared.tables.desk.clone().zip(lack);
        let Some((desk, lack)) = desk.filter(|(desk, _)| self.until.elapsed() < desk.wait) else {
            return Err(refused);
        };
        if let Asked::Known(rest) = desk.ask(lack.subject, &lack.slot, self.route.weight.into())
            && let Some(by) = leases::limiting(rest)
        {
            return Err(self.used_up(&lack, by));
        }
        self.retry = Some(Instant::now() + leases::TRY_EVERY);
        Ok(())
    }

    /// The refusal by a limit that is used up everywhere.
    fn used_up(&self, lack: &Lack, by: Limiting) -> Refused {
        let shared = &self.worker.shared;
        let now = shared.clock.now();
        match self.hold.caller(&shared.tables, now, shared.clock.security_now()) {
            Ok(caller) => admit::used_up(lack, by, &caller, &caller.terms(now), now),
            Err(refused) => refused,
        }
    }

    /// Takes the next slice, or as much of it as there is.
    fn take(&mut self) -> Result<(), Unpaid> {
        let shared = &self.worker.shared;
        let now = shared.clock.now();
        let caller = self.hold.caller(&shared.tables, now, shared.clock.security_now())?;
        let terms = caller.terms(now);
        let account = &caller.key.account;
        let billed = record::is_billed(account.environment, caller.key.id, &terms, self.route.meter);
        exchange::check_countable(billed, &shared.ledger, shared.stale_ns(shared.clock.steady_ns()))?;
        let mut seconds = SLICE_S;
        let reserved = loop {
            let units = self.route.weight.saturating_mul(seconds);
            match admit::reserve(&caller, &self.route, &terms, units, now) {
                Ok(reserved) => break reserved,
                Err(_) if seconds > 1 => seconds -= 1,
                Err(unpaid) => return Err(unpaid),
            }
        };
        let taken = Units::new(terms, self.route.meter, reserved.units, reserved.key_slot);
        let began = self.until;
        self.until += Duration::from_secs(seconds.into());
        self.slice = Some(Slice {
            caller,
            units: taken,
            at: now,
            began,
            seconds,
        });
        Ok(())
    }

    /// Records the seconds of the slice that have begun, and gives the others back.
    fn record(&mut self) -> Result<(), Refused> {
        let Some(slice) = self.slice.take() else { return Ok(()) };
        let passed = [0, 1].map(|way| self.moved[way] - self.recorded[way]);
        let written = slice.write(&self.worker, &self.route, self.request, passed);
        self.recorded = self.moved;
        written.map_err(|_| Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down."))
    }
}

impl Drop for Seconds {
    fn drop(&mut self) {
        // What went wrong is logged there, and nothing is left to be ended.
        let _ = self.record();
    }
}

impl Slice {
    fn write(mut self, worker: &Worker, route: &Route, request: RequestId, passed: [u64; 2]) -> io::Result<()> {
        let took = self.began.elapsed().min(Duration::from_secs(self.seconds.into()));
        let whole = u32::try_from(took.as_secs()).unwrap_or(self.seconds);
        let begun = (whole + u32::from(took.subsec_nanos() > 0)).clamp(1, self.seconds);
        self.units.keep(route.weight.saturating_mul(begun));
        let (terms, account) = (&self.units.terms, &self.caller.key.account);
        let record = UsageRecord {
            seq: 0,
            request,
            continues: true,
            at: self.at,
            consumer: account.consumer,
            environment: account.environment,
            subscription: terms.subscription,
            plan_version: terms.plan_version,
            period_start: terms.period.start,
            key: self.caller.key.id,
            route: route.number,
            meter: route.meter,
            units: self.units.count,
            status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
            refusal: 0,
            variants: terms.profile.variants.number,
            request_bytes: passed[0],
            response_bytes: passed[1],
            duration_us: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
        };
        self.units.write(&worker.shared.ledger, &record)
    }
}
