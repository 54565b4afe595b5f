//! Counters per worker thread, added up when somebody asks. Labels are bounded by the catalogue, and by
//! [`series::SERIES_MOST`].
//!
//! A worker's counters are written by its own thread alone, so counting is a load and a store, without a locked
//! instruction; nothing is allocated for a request.

mod histogram;
mod plans;
mod render;
mod series;
mod text;

pub(crate) use plans::number as plan_number;
pub(crate) use render::render;
pub(crate) use series::{Kind, Series};
pub(crate) use text::Text;

use crate::refusal::Refusal;
use histogram::{Histogram, WAITS_US, WORK_US};
use http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Route numbers counted apart; greater ones share the last place.
const ROUTES: usize = 1024;
/// Upstream numbers counted apart; greater ones share the last place.
const UPSTREAMS: usize = 256;
const CLASSES: usize = 5;

/// A number that one thread writes and others read.
type Counter = AtomicU64;

/// Adds without a locked instruction. Only for the thread that owns the counter.
fn bump(counter: &Counter, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// What a request passes through, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Route,
    Authenticate,
    /// With the wait for a place, where one was waited for, and for a body that had to be read.
    Admit,
    /// To the head of the upstream's answer.
    Forward,
    /// From there until the answer's head is ready to leave.
    Record,
}

/// How many there are.
pub(crate) const PHASES: usize = 5;

impl Phase {
    /// All, in their order.
    pub(crate) const ALL: [Phase; PHASES] = [
        Phase::Route,
        Phase::Authenticate,
        Phase::Admit,
        Phase::Forward,
        Phase::Record,
    ];

    /// Its place among all.
    pub(crate) fn place(self) -> usize {
        match self {
            Phase::Route => 0,
            Phase::Authenticate => 1,
            Phase::Admit => 2,
            Phase::Forward => 3,
            Phase::Record => 4,
        }
    }

    /// Its name in labels.
    pub(crate) fn word(self) -> &'static str {
        ["route", "authenticate", "admit", "forward", "record"][self.place()]
    }
}

/// What came of a question about shared rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Passes,
    Refuses,
    /// Not answered in time.
    Late,
    /// Answered with an error, or the connection was lost.
    Failed,
    /// There was no connection to ask on.
    Nobody,
}

impl Asked {
    /// All, with their names in labels.
    pub(crate) const ALL: [(Asked, &'static str); 5] = [
        (Asked::Passes, "passes"),
        (Asked::Refuses, "refuses"),
        (Asked::Late, "late"),
        (Asked::Failed, "failed"),
        (Asked::Nobody, "nobody"),
    ];
}

/// One worker's counters.
pub(crate) struct Metrics {
    series: Arc<Series>,
    requests: Box<[Counter]>,
    answers: Box<[Counter]>,
    refusals: [Counter; 128],
    answer: Histogram,
    request: Histogram,
    phases: [Histogram; PHASES],
    first_byte: Box<[Histogram]>,
    questions: [Counter; Asked::ALL.len()],
    question: Histogram,
}

fn add(counters: &[Counter], at: usize) {
    if let Some(counter) = counters.get(at) {
        bump(counter, 1);
    }
}

fn zeros(count: usize) -> Box<[Counter]> {
    (0..count).map(|_| Counter::default()).collect()
}

impl Metrics {
    /// All zero.
    pub(crate) fn new(series: Arc<Series>) -> Self {
        Self {
            series,
            requests: zeros(series::OTHER + 1),
            answers: zeros(ROUTES * CLASSES),
            refusals: std::array::from_fn(|_| Counter::default()),
            answer: Histogram::new(WAITS_US),
            request: Histogram::new(WAITS_US),
            phases: std::array::from_fn(|_| Histogram::new(WORK_US)),
            first_byte: (0..UPSTREAMS).map(|_| Histogram::new(WAITS_US)).collect(),
            questions: std::array::from_fn(|_| Counter::default()),
            question: Histogram::new(WAITS_US),
        }
    }

    /// An upstream's answer was passed on.
    pub(crate) fn answered(&self, route: u16, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        add(&self.answers, usize::from(route).min(ROUTES - 1) * CLASSES + class);
        self.answer.observe(took);
    }

    /// A request was refused.
    pub(crate) fn refused(&self, refusal: Refusal) {
        add(&self.refusals, usize::from(refusal.number()));
    }

    /// A request has its outcome. Once for each.
    pub(crate) fn request(&self, kind: Kind) {
        add(&self.requests, self.series.place(kind));
    }

    /// A request is over, its answer's body with it.
    pub(crate) fn ended(&self, took: Duration) {
        self.request.observe(took);
    }

    /// It was asked about shared rate limits; how long that took, where it was sent.
    pub(crate) fn asked(&self, asked: Asked, took: Option<Duration>) {
        let place = Asked::ALL.iter().position(|(one, _)| *one == asked);
        add(&self.questions, place.unwrap_or(usize::MAX));
        if let Some(took) = took {
            self.question.observe(took);
        }
    }

    /// A request passed a phase.
    pub(crate) fn passed(&self, phase: Phase, took: Duration) {
        self.phases[phase.place()].observe(took);
    }

    /// The head of an upstream's answer came so long after a target was chosen.
    pub(crate) fn first_byte(&self, upstream: u16, took: Duration) {
        if let Some(histogram) = self.first_byte.get(usize::from(upstream).min(UPSTREAMS - 1)) {
            histogram.observe(took);
        }
    }
}
