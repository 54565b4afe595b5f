//! Phase five: what happened is written down, always, and before the last byte of the answer leaves.
//!
//! An [`Open`] exists from the moment the caller is known. However the request ends (answered, refused, broken off, or
//! dropped because the client went away), exactly one ledger record comes of it. While the ledger takes none, what costs
//! nobody anything goes on without, and is counted.

use crate::account::Terms;
use crate::admit::Admission;
use crate::authenticate::Caller;
use crate::cost;
use crate::flight::Places;
use crate::gate::Passes;
use crate::ledger::{self, Ledger};
use crate::limit::Slot;
use crate::metrics::Kind;
use crate::refusal::Refusal;
use crate::seen::{Entry, Outcome};
use crate::upload::Progress;
use crate::worker::Worker;
use http::HeaderMap;
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, RequestId, Time};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Status in the record of a request whose client went away before the answer: nobody saw one.
const CLIENT_GONE: u16 = 499;

/// Units that are taken from counters until they are recorded or given back.
pub(crate) struct Units {
    pub(crate) terms: Arc<Terms>,
    meter: u16,
    /// Taken from the meter's counter and not given back.
    pub(crate) count: u32,
    /// Where they are counted for the key, too.
    key_slot: Option<Arc<Slot>>,
}

impl Units {
    /// Units of a meter under these terms.
    pub(crate) fn new(terms: Arc<Terms>, meter: u16, count: u32, key_slot: Option<Arc<Slot>>) -> Self {
        Self {
            terms,
            meter,
            count,
            key_slot,
        }
    }

    /// Gives back all but so many.
    pub(crate) fn keep(&mut self, count: u32) {
        let back = u64::from(self.count.saturating_sub(count));
        self.count = self.count.min(count);
        if back == 0 {
            return;
        }
        if let Some(limit) = self.terms.limit(self.meter) {
            limit.slot.release(back);
        }
        if let Some(slot) = &self.key_slot {
            slot.release(back);
        }
    }

    /// Writes a record of them. While the ledger takes nothing, what has no units that are anybody's goes on without.
    ///
    /// # Errors
    /// When the ledger takes no more; they are given back.
    pub(crate) fn write(&mut self, ledger: &Ledger, record: &UsageRecord) -> io::Result<()> {
        let limit = self.terms.limit(self.meter).filter(|_| self.count > 0);
        let counted = limit.map(|l| (&l.slot.recorded, u64::from(self.count)));
        let of_key = self.key_slot.as_ref().filter(|_| self.count > 0);
        let of_key = of_key.map(|s| (&s.recorded, u64::from(self.count)));
        match ledger.append(ledger::encode(record), [counted, of_key]) {
            Err(_) if self.count == 0 || !is_billed(record.environment, record.key, &self.terms, self.meter) => {
                ledger.pass_unrecorded();
                self.keep(0);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "usage could not be recorded");
                self.keep(0);
                Err(error)
            }
            Ok(_) => {
                if let Some(limit) = limit {
                    limit.note_recorded(record.at);
                }
                Ok(())
            }
        }
    }
}

/// A request whose record is not written yet.
pub(crate) struct Open {
    worker: Arc<Worker>,
    request: RequestId,
    at: Time,
    started: Instant,
    consumer: ConsumerId,
    environment: Environment,
    key: KeyId,
    route: u16,
    units: Units,
    status: u16,
    refusal: u8,
    /// The upstream did what counts, although the client is refused its answer.
    withheld: bool,
    upload: Option<Arc<Progress>>,
    response_bytes: u64,
    written: bool,
    /// When it was over, where that was noted.
    over: Option<Instant>,
    /// What is told of it, where somebody looks.
    seen: Option<Arc<Entry>>,
    /// Its places among the requests in flight, given back when this is dropped.
    places: Places,
}

impl Open {
    /// For a caller at a route (number, meter).
    pub(crate) fn new(
        worker: Arc<Worker>,
        caller: &Caller,
        route: (u16, u16),
        request: RequestId,
        at: Time,
        started: Instant,
    ) -> Self {
        let account = &caller.key.account;
        Self {
            worker,
            request,
            at,
            started,
            consumer: account.consumer,
            environment: account.environment,
            key: caller.key.id,
            route: route.0,
            units: Units::new(caller.terms(at), route.1, 0, None),
            status: 0,
            refusal: 0,
            withheld: false,
            upload: None,
            response_bytes: 0,
            written: false,
            over: None,
            seen: None,
            places: Places::default(),
        }
    }

    /// With what is told of it when it is over.
    pub(crate) fn seen_by(mut self, seen: Option<Arc<Entry>>) -> Self {
        self.seen = seen;
        self
    }

    /// The request was admitted: from now on its units are held here.
    pub(crate) fn admitted(&mut self, admission: &mut Admission, upload: Option<Arc<Progress>>) {
        self.places.flight = std::mem::take(&mut admission.flight);
        self.given(admission);
        self.upload = upload;
    }

    /// Units were given, or were not: from now on they are held here.
    pub(crate) fn given(&mut self, admission: &mut Admission) {
        let (reserved, terms) = (&mut admission.reserved, Arc::clone(&admission.terms));
        self.units = Units::new(terms, self.units.meter, reserved.units, reserved.key_slot.take());
    }

    /// The request was let in: from now on its places are held here.
    pub(crate) fn let_in(&mut self, passes: Passes) {
        self.places.passes = passes;
    }

    /// Its places among the requests in flight, for what outlives the record.
    pub(crate) fn take_places(&mut self) -> Places {
        std::mem::take(&mut self.places)
    }

    /// The head of the upstream's answer is known; units that do not count are given back.
    pub(crate) fn answered(&mut self, status: u16, counts: bool) {
        self.status = status;
        if !counts {
            self.units.keep(0);
        }
    }

    /// The upstream answered, and the client is refused that answer: units that count stay taken.
    pub(crate) fn withheld(&mut self, counts: bool) {
        self.withheld = counts;
    }

    /// The gateway refused, or failed to get an answer. Nothing is counted, unless an answer is withheld.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.status = refusal.status().as_u16();
        self.refusal = refusal.number();
        if !self.withheld {
            self.units.keep(0);
        }
    }

    /// Says that this cost nothing, and what is left of the budget, where the meter has a price.
    pub(crate) fn say_cost(&self, headers: &mut HeaderMap) {
        if self.withheld {
            // It cost something, which was said when it was withheld.
            return;
        }
        cost::say(headers, &self.units.terms, self.units.meter, (0, 0), None);
    }

    /// Bytes of the answer's body that are about to leave.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.response_bytes = self
            .response_bytes
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
    /// Notes that all of it is over, so that nobody asks the clock again when this is dropped.
    pub(crate) fn over(&mut self, now: Instant) {
        self.over = Some(now);
    }
    /// Since the request began.
    pub(crate) fn age(&self) -> std::time::Duration {
        self.started.elapsed()
    }
    /// Whether the record is written.
    pub(crate) fn is_written(&self) -> bool {
        self.written
    }
    /// The worker that serves it.
    pub(crate) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// Whether its units are somebody's.
    pub(crate) fn is_billed(&self) -> bool {
        is_billed(self.environment, self.key, &self.units.terms, self.units.meter)
    }

    /// Writes the record, once. While the ledger takes nothing, what has no units that are anybody's goes on without.
    ///
    /// # Errors
    /// When the ledger takes no more; then the answer must not be finished.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        self.write_at(Instant::now())
    }

    /// The same, at a moment that was just asked for.
    pub(crate) fn write_at(&mut self, now: Instant) -> io::Result<()> {
        if std::mem::replace(&mut self.written, true) {
            return Ok(());
        }
        self.worker.metrics.request(Kind {
            route: Some(self.route),
            plan: self.units.terms.profile.plan_number,
            status: self.status,
            refusal: Refusal::from_number(self.refusal),
        });
        let record = UsageRecord {
            seq: 0,
            request: self.request,
            continues: false,
            at: self.at,
            consumer: self.consumer,
            environment: self.environment,
            subscription: self.units.terms.subscription,
            plan_version: self.units.terms.plan_version,
            period_start: self.units.terms.period.start,
            key: self.key,
            route: self.route,
            meter: self.units.meter,
            units: self.units.count,
            status: self.status,
            refusal: self.refusal,
            variants: self.units.terms.profile.variants.number,
            request_bytes: self.upload.as_ref().map_or(0, |u| u.bytes()),
            response_bytes: self.response_bytes,
            duration_us: u32::try_from((now - self.started).as_micros()).unwrap_or(u32::MAX),
        };
        self.units.write(&self.worker.shared.ledger, &record)
    }
}

/// Whether a request's units are somebody's: they are paid for, or an allowance is less by them. Test keys are never billed,
/// what strangers use is nobody's, and a meter that the plan does not mention has neither price nor limit.
pub(crate) fn is_billed(environment: Environment, key: KeyId, terms: &Terms, meter: u16) -> bool {
    let (live, known) = (environment == Environment::Live, key != KeyId::NONE);
    live && known && terms.limit(meter).is_some()
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.written {
            if self.status == 0 {
                self.refused(Refusal::ClientGone);
                self.status = CLIENT_GONE;
                self.worker.metrics.refused(Refusal::ClientGone);
            }
            // An answer that broke off after its head counts as its status says: the upstream did the work.
            let _ = self.write();
        }
        let took = self.over.map_or_else(|| self.age(), |over| over - self.started);
        self.worker.metrics.ended(took);
        if let Some(seen) = &self.seen {
            let outcome = Outcome {
                status: self.status,
                refusal: Refusal::from_number(self.refusal),
                caller: Some((self.consumer, self.key, Arc::clone(&self.units.terms))),
                units: self.units.count,
                request_bytes: self.upload.as_ref().map_or(0, |u| u.bytes()),
                response_bytes: self.response_bytes,
                took,
            };
            self.worker.shared.tell(seen, outcome);
        }
    }
}
