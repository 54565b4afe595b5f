//! What operators see of single requests: the access log, and traces ([`crate::trace`]).
//!
//! Nothing of this exists while both are switched off. While one is on, a request gathers an [`Entry`] on its way; when it
//! is over, what is to be told goes through a bounded channel to a thread or a task of its own, and is dropped and counted
//! when that is full. No request waits for a disk, a pipe or a collector.

mod context;
mod file;
mod line;
mod log;

pub(crate) use context::{Context, TRACEPARENT, TRACESTATE};
pub(crate) use log::AccessLog;

use crate::account::Terms;
use crate::metrics::{PHASES, Phase};
use crate::refusal::Refusal;
use crate::route::Route;
use crate::trace::{Left, Part};
use http::request::Parts;
use model::{ConsumerId, KeyId, RequestId, Time, key};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longest method and path that are kept, in bytes: the channel's memory is bounded by them.
const METHOD_MOST: usize = 32;
const PATH_MOST: usize = 1024;
/// No target was chosen.
const NO_TARGET: usize = usize::MAX;

/// A request, as far as it is known by now.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) request: RequestId,
    /// The machine's time.
    pub(crate) at: Time,
    pub(crate) method: Box<str>,
    /// Without the query, in which keys and secrets may stand.
    path: Box<str>,
    pub(crate) client: IpAddr,
    /// What the caller says of a trace.
    context: Option<Context>,
    /// What it is of a trace, where traces are made.
    part: Option<Part>,
    route: OnceLock<Arc<Route>>,
    /// The place of the target chosen last.
    target: AtomicUsize,
    phases_ns: [AtomicU64; PHASES],
}

/// How a request ended.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) refusal: Option<Refusal>,
    /// Who asked, and under which terms.
    pub(crate) caller: Option<(ConsumerId, KeyId, Arc<Terms>)>,
    /// What it was charged with.
    pub(crate) units: u32,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Of a request whose caller is not known.
    pub(crate) fn of_nobody(status: u16, refusal: Option<Refusal>, took: Duration) -> Self {
        Self {
            status,
            refusal,
            caller: None,
            units: 0,
            request_bytes: 0,
            response_bytes: 0,
            took,
        }
    }

    /// Who pays, unless it is nobody in particular.
    pub(crate) fn consumer(&self) -> Option<ConsumerId> {
        self.caller
            .as_ref()
            .map(|c| c.0)
            .filter(|c| *c != ConsumerId::ANONYMOUS)
    }
    /// With which key.
    pub(crate) fn key(&self) -> Option<KeyId> {
        self.caller.as_ref().map(|c| c.1).filter(|k| *k != KeyId::NONE)
    }
    /// On which plan.
    pub(crate) fn plan(&self) -> Option<&str> {
        self.caller.as_ref().map(|c| c.2.profile.plan.as_str())
    }
}

/// The path with a word in place of each segment that is a key: somebody put it in the wrong place.
fn without_keys(path: &str) -> Cow<'_, str> {
    let is_key = |s: &str| key::parse(s.as_bytes()).is_some();
    if !path.split('/').any(is_key) {
        return Cow::Borrowed(path);
    }
    let shown = path.split('/').map(|s| if is_key(s) { "[key]" } else { s });
    Cow::Owned(shown.collect::<Vec<_>>().join("/"))
}

/// The beginning of a text, at most so many bytes of it.
pub(crate) fn short(text: &str, most: usize) -> Box<str> {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().into()
}

impl Entry {
    /// A request that came; of what is no request there are no parts.
    pub(crate) fn new(request: RequestId, at: Time, client: IpAddr, parts: Option<&Parts>) -> Self {
        Self {
            request,
            at,
            client,
            method: short(parts.map_or("", |p| p.method.as_str()), METHOD_MOST),
            path: short(parts.map_or("", |p| p.uri.path()), PATH_MOST),
            context: parts.and_then(|p| Context::read(&p.headers)),
            part: None,
            route: OnceLock::new(),
            target: AtomicUsize::new(NO_TARGET),
            phases_ns: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// With what it is of a trace; `make` is given what the caller says of one.
    pub(crate) fn traced(mut self, make: impl FnOnce(Option<Context>) -> Part) -> Self {
        self.part = Some(make(self.context));
        self
    }

    /// What it is of a trace, where traces are made.
    pub(crate) fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// The trace it is in: its own, or the one that the caller speaks of.
    fn trace(&self) -> Option<u128> {
        let own = self.part.as_ref().map(Part::trace);
        own.or(self.context.map(|c| c.trace))
    }

    /// The path as it may be shown.
    pub(crate) fn shown_path(&self) -> Cow<'_, str> {
        without_keys(&self.path)
    }

    /// Its route was found.
    pub(crate) fn found(&self, route: &Arc<Route>) {
        // A request has one route.
        let _ = self.route.set(Arc::clone(route));
    }

    /// It passed a phase.
    pub(crate) fn passed(&self, phase: Phase, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.phases_ns[phase.place()].store(ns, Ordering::Relaxed);
    }

    /// A target was chosen.
    pub(crate) fn went_to(&self, target: usize) {
        self.target.store(target, Ordering::Relaxed);
        if let Some(part) = &self.part {
            part.went_to(target);
        }
    }

    /// What became of it at the target chosen last.
    pub(crate) fn left(&self, how: impl FnOnce() -> Left) {
        if let Some(part) = &self.part {
            part.left(how);
        }
    }

    /// The route, once it is found.
    pub(crate) fn route(&self) -> Option<&Route> {
        self.route.get().map(|r| &**r)
    }

    fn phase_ns(&self, phase: Phase) -> u64 {
        self.phases_ns[phase.place()].load(Ordering::Relaxed)
    }

    /// The upstream's slug and the target's address.
    fn upstream(&self) -> (Option<&str>, Option<&str>) {
        let upstream = self.route.get().map(|r| &r.upstream);
        let members = upstream.map_or(&[][..], |u| &u.balance.members);
        let target = members.get(self.target.load(Ordering::Relaxed));
        let slug = upstream.map(|u| u.slug.as_str());
        (slug, target.map(|m| m.target.identity.url.as_str()))
    }
}
