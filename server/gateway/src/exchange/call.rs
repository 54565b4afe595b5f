//! Phases two and three: who calls, and whether they may.

use super::{Early, Exchange, Ready};
use crate::admit::{self, Admission, Lack};
use crate::authenticate::{self, Arrival, Caller};
use crate::body::{self, Answer};
use crate::cache::Ask;
use crate::client::ClientBody;
use crate::gate::{Passes, Shed};
use crate::headers;
use crate::leases::{self, Asked, Desk};
use crate::ledger::Ledger;
use crate::listen::Client;
use crate::memory::Taken;
use crate::methods;
use crate::metrics::Phase;
use crate::record::Open;
use crate::refusal::{Refusal, Refused};
use crate::route::Route;
use crate::upload::{Bounds, Upload};
use crate::upstream::BodyLength;
use crate::{feature_gates, quote};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use model::lease::Rest;
use std::sync::Arc;
use std::time::Instant;
/// Seconds after which a call may be tried again that was refused because the control plane is away.
const STALE_RETRY_S: u64 = 5;

impl Exchange<'_> {
    /// Phase two: who calls.
    pub(super) fn caller(
        &self,
        client: &Client,
        route: &Route,
        parts: &mut Parts,
    ) -> Result<(Caller, Open, u64), Early> {
        let shared = &self.worker.shared;
        route.check_address(client.address).map_err(|r| Early::new(None, r))?;
        let arrival = Arrival {
            client: client.address,
            now: self.now,
            machine_now: self.machine_now,
            skew_ms: shared.clock.skew_ms(),
            now_ns: self.now_ns,
        };
        let who = authenticate::authenticate(shared.known(), &route.auth, parts, arrival);
        let caller = who.map_err(|(caller, r)| Early::new(caller.map(|c| self.open(&c, route)), r))?;
        let open = self.open(&caller, route);
        Ok((caller, open, arrival.now_ns))
    }

    /// Whether what the call takes can be counted.
    fn countable(&self, open: &Open, route: &Route, now_ns: u64) -> Result<(), Refused> {
        let shared = &self.worker.shared;
        let takes = route.weight > 0 && open.is_billed();
        check_countable(takes, &shared.ledger, shared.stale_ns(now_ns))
    }

    /// Says what the call would cost, in place of making it. The record says that it was asked: 200, and no units.
    pub(super) async fn quote(
        &self,
        client: &Client,
        route: &Route,
        mut parts: Parts,
    ) -> Result<Response<Answer>, Early> {
        let shared = &self.worker.shared;
        let (caller, mut open, now_ns) = self.caller(client, route, &mut parts)?;
        let asked = admit::Request::new(&caller, route, client.address, &parts);
        let place = self.place_of_quote(&asked, now_ns).await;
        let mut foresight = match admit::foresee(&asked, place, self.now) {
            Ok(foresight) => foresight,
            Err(refused) => return Err(Early::new(Some(open), refused)),
        };
        if let Err(refused) = self.countable(&open, route, now_ns) {
            foresight.refused = Some(refused);
        }
        let routes = shared.tables.routes.load();
        let told = routes.as_ref().map(|r| &r.told);
        let meter = told.and_then(|t| t.meters.iter().find(|m| m.number == route.meter));
        let meter = meter.map_or("", |m| m.slug.as_str());
        let portal = told.map_or("", |t| t.portal_url.as_str());
        let body = Bytes::from(quote::body(&foresight, route, meter, portal).to_string());
        open.answered(StatusCode::OK.as_u16(), false);
        open.sent(body.len());
        self.worker
            .metrics
            .answered(route.number, StatusCode::OK, self.started.elapsed());
        if open.write().is_err() {
            let refused = Refused::new(Refusal::LedgerUnavailable, "Usage could not be written down.");
            return Err(Early::new(Some(open), refused.retry_after(1)));
        }
        let mut answer = Response::new(Answer::Whole(Some(body)));
        let out = answer.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        out.insert(headers::X_REQUEST_ID, self.id_text.value());
        foresight.add_headers(out, route, self.now);
        Ok(answer)
    }

    /// Phases two and three.
    pub(super) fn prepare(
        &self,
        client: &Client,
        route: Arc<Route>,
        mut parts: Parts,
        body: Option<ClientBody>,
    ) -> Result<Ready, Early> {
        let shared = &self.worker.shared;
        let (caller, mut open, now_ns) = self.caller(client, &route, &mut parts)?;
        if let Err(refused) = self.countable(&open, &route, now_ns) {
            return Err(Early::new(Some(open), refused));
        }
        self.passed(Phase::Authenticate, Instant::now());
        let length = match body.as_ref().map(ClientBody::left) {
            None => BodyLength::Absent,
            Some(None) => BodyLength::Chunked,
            Some(Some(bytes)) => BodyLength::Exact(bytes),
        };
        let bounds = Bounds::of(&route, self.grpc);
        if let Err(refused) = bounds.check(length, &shared.limits) {
            return Err(Early::new(Some(open), refused));
        }
        let asked = admit::Request::new(&caller, &route, client.address, &parts);
        let stand = self.worker.stand();
        let mut admission = match admit::admit(&asked, &shared.tables, self.now, (stand, now_ns)) {
            Ok(admission) => admission,
            Err(refused) => return Err(Early::new(Some(open), refused)),
        };
        let has_body = !matches!(length, BodyLength::Absent | BodyLength::Exact(0)) || self.websocket;
        let ask = route.cache.as_ref().map(|_| Box::new(Ask::of(&parts, has_body)));
        if admission.unpaid.is_some()
            && admission.lack.is_none()
            && !may_hit_free(ask.as_deref(), &admission)
            && !self.may_be_repeat(client, (&route, &caller), &parts)
            && let Some(refused) = admission.unpaid.take()
        {
            return Err(Early::new(Some(open), *refused));
        }
        let passed = route.gates.passed(admission.closed, &parts);
        let touches = (route.changes && !methods::is_safe(&parts.method))
            .then(|| shared.cache.place(caller.key.account.environment, &parts));
        if route.gates.hides(admission.closed) {
            route.gates.ask_plainly(admission.closed, &mut parts.headers);
        }
        let upload = body.map(|body| Upload::new(body, bounds, self.started, &shared.limits));
        open.admitted(&mut admission, upload.as_ref().map(|u| Arc::clone(u.progress())));
        Ok(Ready {
            route,
            caller,
            admission,
            open,
            parts,
            length,
            upload,
            ask,
            fetch: None,
            went_by: None,
            passed,
            touches,
        })
    }

    /// Waits for units that have to be leased first, where they are all that is lacking. Refuses what cannot be answered
    /// without them.
    pub(super) async fn wait_for_lease(&self, client: &Client, ready: &mut Ready) -> Result<(), Refused> {
        let (route, caller, admission) = (&ready.route, &ready.caller, &mut ready.admission);
        let Some(desk) = caller.key.account.desk.as_ref().filter(|_| admission.lack.is_some()) else {
            return Ok(());
        };
        let deadline = Instant::now() + desk.wait;
        while let Some(lack) = admission.lack.take() {
            let rest = wait_for_answer(desk, &lack, route.weight, deadline).await;
            if let Some(by) = rest.and_then(leases::limiting) {
                let refused = admit::used_up(&lack, by, caller, &admission.terms, self.now);
                admission.refuse(refused, None, route, self.now);
                break;
            }
            admission.reserve_again(caller, route, self.now);
            let Some(lack) = &admission.lack else { break };
            if rest.is_none() || Instant::now() >= deadline {
                lack.slot.held().shut();
                admission.lack = None;
            } else if rest == Some(Rest::Leased) {
                tokio::time::sleep(leases::TRY_EVERY).await;
            }
        }
        ready.open.given(admission);
        let free = may_hit_free(ready.ask.as_deref(), admission);
        if !free
            && admission.unpaid.is_some()
            && !self.may_be_repeat(client, (route, caller), &ready.parts)
            && let Some(refused) = ready.admission.unpaid.take()
        {
            return Err(*refused);
        }
        Ok(())
    }

    pub(super) fn open(&self, caller: &Caller, route: &Route) -> Open {
        let place = (route.number, route.meter);
        let open = Open::new(Arc::clone(self.worker), caller, place, self.id, self.now, self.started);
        open.seen_by(self.seen.clone())
    }

    /// Waits for a place at the upstream and on this thread, where they are taken. The upstream's comes first, so that a
    /// queue before one upstream takes no place of the thread's.
    pub(super) async fn let_in(&self, ready: &mut Ready) -> Result<(), Refused> {
        let shared = &self.worker.shared;
        let (priority, upstream) = (ready.admission.terms.profile.priority, &ready.route.upstream);
        let consumer = ready.caller.key.account.consumer;
        let shed = |Shed| {
            let detail = "More is asked for than can be served, and this request waited too long, or others go first.";
            Refused::new(Refusal::Overloaded, detail).retry_after(1)
        };
        let mut passes = Passes::default();
        if let Some(wait) = upstream.max_wait
            && let Some(gate) = shared.tables.gate(upstream.number)
        {
            passes[0] = Some(gate.enter(priority, consumer, wait).await.map_err(shed)?);
        }
        let wait = shared.limits.in_flight_wait;
        passes[1] = Some(self.worker.gate.enter(priority, consumer, wait).await.map_err(shed)?);
        ready.open.let_in(passes);
        Ok(())
    }
}

/// Whether a kept answer would do that costs nothing.
fn may_hit_free(ask: Option<&Ask>, admission: &Admission) -> bool {
    let looks = ask.is_some_and(|ask| ask.goes_by().is_none());
    looks && !admission.terms.profile.cache_hits.count()
}

/// Asks for units that are lacking; what the control plane says, or none when it does not in time.
async fn wait_for_answer(desk: &Desk, lack: &Lack, units: u32, deadline: Instant) -> Option<Rest> {
    let held = lack.slot.held();
    let number = match desk.ask(lack.subject, &lack.slot, units.into()) {
        Asked::Known(rest) => return leases::limiting(rest).map(Rest::UsedUp),
        Asked::Wait(number) => number,
    };
    loop {
        let told = held.told().notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if let Some(rest) = held.answer(number, units.into()) {
            return Some(rest);
        }
        tokio::time::timeout_at(deadline.into(), told).await.ok()?;
    }
}

/// Whether what a call takes can be counted, for somebody who is known to be entitled to it. One that takes nothing of
/// anybody's passes always. `stale_ns` says how long the control plane was not heard, where that is too long.
pub(crate) fn check_countable(takes: bool, ledger: &Ledger, stale_ns: Option<u64>) -> Result<(), Refused> {
    if !takes {
        return Ok(());
    }
    if !ledger.writable() {
        let detail = "Usage cannot be written down just now. Calls that cost nothing go on.";
        return Err(Refused::new(Refusal::LedgerUnavailable, detail).retry_after(1));
    }
    let Some(stale_ns) = stale_ns else { return Ok(()) };
    let minutes = stale_ns / 60_000_000_000;
    let detail = format!(
        "The gateway has not heard of its control plane for {minutes} minutes, so it cannot tell any more who may call. \
         Calls that cost nothing go on."
    );
    Err(Refused::new(Refusal::SnapshotStale, detail).retry_after(STALE_RETRY_S))
}

/// Reads and checks a body in which something may need a feature that the caller has not.
pub(super) async fn pass_gates(ready: &mut Ready) -> Result<(), Refused> {
    let (gates, closed, headers) = (&ready.route.gates, ready.admission.closed, &ready.parts.headers);
    let Some(upload) = ready.upload.as_mut().filter(|_| closed.any()) else {
        return Ok(());
    };
    if gates.reads_body(closed, headers)? {
        let shared = &ready.open.worker().shared;
        let room = Taken::nothing(&shared.bodies, &ready.caller.key.account);
        let read = upload.read(feature_gates::BODY_MOST, room, shared.limits.whole_body_time);
        let bytes = read.await.map_err(body::refused)?;
        gates.check_body(closed, headers, &bytes, &ready.admission.terms.profile.plan)?;
    }
    Ok(())
}
