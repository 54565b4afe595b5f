//! Counters per worker thread, added up when somebody asks. Labels are bounded by the catalogue.

use crate::refusal::Refusal;
use crate::route::Routes;
use crate::server::Shared;
use http::StatusCode;
use model::snapshot::UpstreamRecord;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Route numbers counted apart; greater ones share the last place.
const ROUTES: usize = 1024;
const CLASSES: usize = 5;
/// Upper bounds of the latency histogram, in microseconds.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 10_000_000,
];

/// One worker's counters.
pub(crate) struct Metrics {
    answers: Vec<AtomicU64>,
    refusals: [AtomicU64; 128],
    latency: [AtomicU64; BOUNDS_US.len() + 1],
    latency_sum_us: AtomicU64,
}

fn add(counters: &[AtomicU64], at: usize) {
    if let Some(counter) = counters.get(at) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self {
            answers: (0..ROUTES * CLASSES).map(|_| AtomicU64::new(0)).collect(),
            refusals: std::array::from_fn(|_| AtomicU64::new(0)),
            latency: std::array::from_fn(|_| AtomicU64::new(0)),
            latency_sum_us: AtomicU64::new(0),
        }
    }

    /// An upstream's answer was passed on.
    pub(crate) fn answered(&self, route: u16, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        add(&self.answers, usize::from(route).min(ROUTES - 1) * CLASSES + class);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(
            &self.latency,
            BOUNDS_US.iter().position(|b| us <= *b).unwrap_or(BOUNDS_US.len()),
        );
        self.latency_sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// A request was refused.
    pub(crate) fn refused(&self, refusal: Refusal) {
        add(&self.refusals, usize::from(refusal.number()));
    }
}

fn sum(all: &[Arc<Metrics>], of: impl Fn(&Metrics) -> Option<&AtomicU64>) -> u64 {
    all.iter()
        .filter_map(|m| of(m))
        .map(|c| c.load(Ordering::Relaxed))
        .sum()
}

/// The text of the Prometheus exposition format.
pub(crate) fn render(all: &[Arc<Metrics>], shared: &Shared, shipped: u64) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail, so the results below are not looked at.
    let routes = shared.tables.routes.load_full();
    let _ = writeln!(out, "# TYPE turnpike_gateway_answers_total counter");
    for (number, route, upstream) in routes.iter().flat_map(|r| named(r)) {
        for class in 0..CLASSES {
            let at = usize::from(number).min(ROUTES - 1) * CLASSES + class;
            let n = sum(all, |m| m.answers.get(at));
            let _ = writeln!(
                out,
                "turnpike_gateway_answers_total{{route=\"{route}\",upstream=\"{upstream}\",class=\"{}xx\"}} {n}",
                class + 1
            );
        }
    }
    let _ = writeln!(out, "# TYPE turnpike_gateway_refusals_total counter");
    for refusal in Refusal::ALL {
        let n = sum(all, |m| m.refusals.get(usize::from(refusal.number())));
        let _ = writeln!(
            out,
            "turnpike_gateway_refusals_total{{reason=\"{}\"}} {n}",
            refusal.slug()
        );
    }
    let _ = writeln!(out, "# TYPE turnpike_gateway_answer_seconds histogram");
    let mut below = 0;
    for (i, bound) in BOUNDS_US
        .iter()
        .map(|b| format!("{}", Seconds(*b)))
        .chain(["+Inf".to_owned()])
        .enumerate()
    {
        below += sum(all, |m| m.latency.get(i));
        let _ = writeln!(out, "turnpike_gateway_answer_seconds_bucket{{le=\"{bound}\"}} {below}");
    }
    let total = Seconds(sum(all, |m| Some(&m.latency_sum_us)));
    let _ = writeln!(
        out,
        "turnpike_gateway_answer_seconds_sum {total}\nturnpike_gateway_answer_seconds_count {below}"
    );
    let age_ms = shared.clock.security_now().unix_ms() - shared.tables.synced_ms.load(Ordering::Relaxed);
    let ledger = &shared.ledger;
    for (name, value) in [
        ("ledger_records", ledger.committed().to_string()),
        (
            "ledger_unsynced_records",
            ledger.committed().saturating_sub(ledger.synced()).to_string(),
        ),
        (
            "ledger_unshipped_records",
            ledger.committed().saturating_sub(shipped).to_string(),
        ),
        ("ledger_writable", u8::from(ledger.writable()).to_string()),
        ("snapshot_version", shared.tables.version().to_string()),
        ("snapshot_age_milliseconds", age_ms.to_string()),
        ("snapshot_connected", u8::from(shared.tables.connected()).to_string()),
        (
            "snapshot_rejected_total",
            shared.tables.rejected.load(Ordering::Relaxed).to_string(),
        ),
        ("keys", shared.tables.key_count().to_string()),
    ] {
        let _ = writeln!(
            out,
            "# TYPE turnpike_gateway_{name} gauge\nturnpike_gateway_{name} {value}"
        );
    }
    out + &load(routes.as_deref(), shared)
}

/// Requests in flight and waiting, here and of the upstreams that have a bound; subjects that rate limits know.
fn load(routes: Option<&Routes>, shared: &Shared) -> String {
    let bounded = |u: &UpstreamRecord| Some((u.slug.clone(), shared.tables.gate(u.number)?.counts()));
    let upstreams = routes.iter().flat_map(|r| &r.told.upstreams);
    let counts: Vec<(String, (u32, usize))> = upstreams.filter_map(bounded).collect();
    let gates: Vec<(u32, usize)> = shared.gates.iter().map(|g| g.counts()).collect();
    let in_flight: u32 = gates.iter().map(|g| g.0).sum();
    let waiting: usize = gates.iter().map(|g| g.1).sum();
    let subjects = shared.tables.arrivals.len();
    let mut out = format!(
        "# TYPE turnpike_gateway_in_flight gauge\nturnpike_gateway_in_flight {in_flight}\n\
         # TYPE turnpike_gateway_waiting gauge\nturnpike_gateway_waiting {waiting}\n\
         # TYPE turnpike_gateway_limit_subjects gauge\nturnpike_gateway_limit_subjects {subjects}\n"
    );
    let _ = writeln!(out, "# TYPE turnpike_gateway_upstream_in_flight gauge");
    for (slug, (in_flight, _)) in &counts {
        let _ = writeln!(
            out,
            "turnpike_gateway_upstream_in_flight{{upstream=\"{slug}\"}} {in_flight}"
        );
    }
    let _ = writeln!(out, "# TYPE turnpike_gateway_upstream_waiting gauge");
    for (slug, (_, waiting)) in &counts {
        let _ = writeln!(
            out,
            "turnpike_gateway_upstream_waiting{{upstream=\"{slug}\"}} {waiting}"
        );
    }
    out
}

fn named(routes: &Routes) -> Vec<(u16, &str, &str)> {
    let upstream = |number| {
        routes
            .told
            .upstreams
            .iter()
            .find(|u| u.number == number)
            .map_or("", |u| u.slug.as_str())
    };
    routes
        .told
        .routes
        .iter()
        .map(|r| (r.number, r.slug.as_str(), upstream(r.upstream)))
        .collect()
}

/// Microseconds, shown as seconds.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
