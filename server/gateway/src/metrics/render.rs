//! All counters, as Prometheus reads them.

use super::series::{Kind, OTHER};
use super::text::Text;
use super::{Asked, CLASSES, Counter, Metrics, Phase, ROUTES, UPSTREAMS, histogram, plans};
use crate::refusal::Refusal;
use crate::route::Routes;
use crate::worker::Shared;
use model::snapshot::UpstreamRecord;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn sum(all: &[Arc<Metrics>], of: impl Fn(&Metrics) -> Option<&Counter>) -> u64 {
    all.iter()
        .filter_map(|m| of(m))
        .map(|c| c.load(Ordering::Relaxed))
        .sum()
}

/// Slugs by number: of a route and of its upstream.
type Names<'a> = HashMap<u16, (&'a str, &'a str)>;

/// The text of the Prometheus exposition format.
pub(crate) fn render(text: &mut Text, all: &[Arc<Metrics>], shared: &Shared, shipped: u64) {
    let routes = shared.tables.routes.load_full();
    let named = routes.as_deref().map(named).unwrap_or_default();
    let names: Names<'_> = named.iter().map(|(n, route, up)| (*n, (*route, *up))).collect();
    requests(text, all, &names);
    answers(text, all, &named);
    times(text, all, routes.as_deref());
    state(text, shared, shipped);
    kept(text, shared);
    load(text, routes.as_deref(), shared);
    if shared.sharing.is_some() {
        questions(text, all);
    }
    leases(text, shared);
}

/// Questions about rate limits that all gateways share.
fn questions(text: &mut Text, all: &[Arc<Metrics>]) {
    text.family(
        "shared_limits_questions_total",
        "counter",
        "Requests whose rate limits all gateways share, by what came of asking about them.",
    );
    for (place, (_, outcome)) in Asked::ALL.iter().enumerate() {
        let n = sum(all, |m| m.questions.get(place));
        text.sample(&[("outcome", outcome)], n);
    }
    text.family(
        "shared_limits_seconds",
        "histogram",
        "From a question about shared rate limits to its answer, or to giving up.",
    );
    histogram::render(text, &[], all.iter().map(|m| &m.question));
}

fn answers(text: &mut Text, all: &[Arc<Metrics>], named: &[(u16, &str, &str)]) {
    text.family("answers_total", "counter", "Answers of upstreams passed on.");
    for (number, route, upstream) in named {
        for class in 0..CLASSES {
            let at = usize::from(*number).min(ROUTES - 1) * CLASSES + class;
            let n = sum(all, |m| m.answers.get(at));
            let class = format!("{}xx", class + 1);
            text.sample(&[("route", route), ("upstream", upstream), ("class", &class)], n);
        }
    }
    text.family("refusals_total", "counter", "Requests refused by the gateway.");
    for refusal in Refusal::ALL {
        let n = sum(all, |m| m.refusals.get(usize::from(refusal.number())));
        text.sample(&[("reason", &refusal.slug())], n);
    }
}

/// Whose doing it is that a request got no good answer; none where that is said by the reason alone.
fn fault(kind: Kind) -> Option<&'static str> {
    match kind.refusal {
        None => (kind.class() == 5).then_some("upstream"),
        Some(
            Refusal::UpstreamUnreachable
            | Refusal::UpstreamBroken
            | Refusal::UpstreamTimeout
            | Refusal::UpstreamUnavailable,
        ) => Some("upstream"),
        Some(Refusal::BodyTimeout | Refusal::BodyBroken | Refusal::ClientGone) => Some("client"),
        Some(refusal) => refusal.status().is_server_error().then_some("gateway"),
    }
}

fn requests(text: &mut Text, all: &[Arc<Metrics>], names: &Names<'_>) {
    let plans = plans::names();
    let count = |place: usize| sum(all, |m| m.requests.get(place));
    let series = all.first().map(|m| Arc::clone(&m.series)).unwrap_or_default();
    let mut seen: Vec<(Kind, u64)> = series.seen().map(|(place, kind)| (kind, count(place))).collect();
    seen.sort_by_key(|(kind, _)| (kind.route, kind.plan, kind.status, kind.refusal.map(Refusal::number)));
    let mut faults: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    text.family(
        "requests_total",
        "counter",
        "Requests by route, plan, class of status and reason of refusal.",
    );
    for (kind, n) in seen {
        let (route, upstream) = match kind.route {
            None => ("", ""),
            Some(number) => match names.get(&number) {
                Some(names) => *names,
                // The route is gone.
                None => continue,
            },
        };
        let plan = plans::name(&plans, kind.plan);
        let class = format!("{}xx", kind.class());
        let reason = kind.refusal.map_or("", Refusal::slug);
        let labels: [(&'static str, &dyn Display); 4] = [
            ("route", &route),
            ("plan", &plan),
            ("class", &class),
            ("reason", &reason),
        ];
        text.sample(&labels, n);
        if let Some(fault) = fault(kind) {
            let reason = kind.refusal.map_or("answered", Refusal::slug);
            *faults.entry((upstream, fault, reason)).or_default() += n;
        }
    }
    let other: [(&'static str, &dyn Display); 4] = [
        ("route", &"other"),
        ("plan", &"other"),
        ("class", &"other"),
        ("reason", &"other"),
    ];
    text.sample(&other, count(OTHER));
    text.family(
        "failures_total",
        "counter",
        "Requests without a good answer, by upstream and whose doing it was.",
    );
    for ((upstream, fault, reason), n) in faults {
        text.sample(&[("upstream", &upstream), ("fault", &fault), ("reason", &reason)], n);
    }
}

fn times(text: &mut Text, all: &[Arc<Metrics>], routes: Option<&Routes>) {
    text.family(
        "answer_seconds",
        "histogram",
        "From a request's beginning to the head of the upstream's answer.",
    );
    histogram::render(text, &[], all.iter().map(|m| &m.answer));
    text.family(
        "request_seconds",
        "histogram",
        "From a request's beginning to the end of its answer's body, or to its refusal.",
    );
    histogram::render(text, &[], all.iter().map(|m| &m.request));
    text.family(
        "phase_seconds",
        "histogram",
        "Time in each phase, of requests that passed it.",
    );
    for phase in Phase::ALL {
        let phases = all.iter().filter_map(|m| m.phases.get(phase.place()));
        histogram::render(text, &[("phase", &phase.word())], phases);
    }
    text.family(
        "upstream_first_byte_seconds",
        "histogram",
        "From the choice of a target to the head of the answer, with connecting and further tries.",
    );
    for upstream in routes.iter().flat_map(|r| &r.told.upstreams) {
        let place = usize::from(upstream.number).min(UPSTREAMS - 1);
        let histograms = all.iter().filter_map(|m| m.first_byte.get(place));
        histogram::render(text, &[("upstream", &upstream.slug)], histograms);
    }
}

/// The ledger and the snapshot.
fn state(text: &mut Text, shared: &Shared, shipped: u64) {
    let age_ms = shared.tables.age_ns(shared.clock.steady_ns()) / 1_000_000;
    let (ledger, tables) = (&shared.ledger, &shared.tables);
    let mut say = |name, kind, help, value: &dyn Display| text.family(name, kind, help).sample(&[], value);
    say("ledger_records", "gauge", "Records in the ledger.", &ledger.committed());
    let unsynced = ledger.committed().saturating_sub(ledger.synced());
    say(
        "ledger_unsynced_records",
        "gauge",
        "Records not on the disk yet.",
        &unsynced,
    );
    let unshipped = ledger.committed().saturating_sub(shipped);
    say(
        "ledger_unshipped_records",
        "gauge",
        "Records that the database does not have yet.",
        &unshipped,
    );
    let writable = u8::from(ledger.writable());
    say(
        "ledger_writable",
        "gauge",
        "Whether usage can be written down.",
        &writable,
    );
    say(
        "ledger_unrecorded_total",
        "counter",
        "Requests that cost nothing and went on while usage could not be written down.",
        &ledger.unrecorded(),
    );
    say(
        "snapshot_version",
        "gauge",
        "The version of the snapshot.",
        &tables.version(),
    );
    say(
        "snapshot_age_milliseconds",
        "gauge",
        "Since the control plane last had told all it knows.",
        &age_ms,
    );
    let stale = u8::from(shared.stale_ns(shared.clock.steady_ns()).is_some());
    say(
        "snapshot_stale",
        "gauge",
        "Whether that is so long ago that calls which are paid for are refused.",
        &stale,
    );
    let connected = u8::from(tables.connected());
    say(
        "snapshot_connected",
        "gauge",
        "Whether the control plane answered the last question.",
        &connected,
    );
    let rejected = tables.rejected.load(Ordering::Relaxed);
    say(
        "snapshot_rejected_total",
        "counter",
        "Routing tables that could not be used.",
        &rejected,
    );
    say(
        "keys",
        "gauge",
        "Keys known, revoked ones with them.",
        &tables.key_count(),
    );
}

/// Answers that are kept.
fn kept(text: &mut Text, shared: &Shared) {
    let bytes = shared.cache.bytes();
    text.family("cache_bytes", "gauge", "Memory that kept answers take.")
        .sample(&[], bytes);
    text.family(
        "cache_requests_total",
        "counter",
        "Requests of routes that keep answers, by how they came by theirs.",
    );
    for (how, n) in shared.cache.results() {
        text.sample(&[("how", &how)], n);
    }
    text.family(
        "idempotency_bytes",
        "gauge",
        "Memory that idempotency keys and their answers take.",
    )
    .sample(&[], shared.once.bytes());
    text.family(
        "whole_bodies_bytes",
        "gauge",
        "Memory that request bodies take which are read whole before they go on.",
    )
    .sample(&[], shared.bodies.taken());
}

/// What is leased, where limits are; and whether others do as this gateway does.
fn leases(text: &mut Text, shared: &Shared) {
    let unlike = shared.tables.unlike.load(Ordering::Relaxed);
    text.family(
        "leases_unlike",
        "gauge",
        "Other gateways heard of lately that lease limits where this one does not, or the other way round.",
    )
    .sample(&[], unlike);
    let Some(desk) = &shared.tables.desk else { return };
    text.family("leases_held", "gauge", "Counters that something is leased for.")
        .sample(&[], desk.held.load(Ordering::Relaxed));
    text.family(
        "lease_questions_total",
        "counter",
        "Questions for leases, by what became of them.",
    );
    text.sample(&[("outcome", &"answered")], desk.answered.load(Ordering::Relaxed));
    text.sample(&[("outcome", &"failed")], desk.failed.load(Ordering::Relaxed));
}

/// Requests in flight and waiting, here and of the upstreams that have a bound; subjects that rate limits know.
fn load(text: &mut Text, routes: Option<&Routes>, shared: &Shared) {
    let bounded = |u: &UpstreamRecord| Some((u.slug.clone(), shared.tables.gate(u.number)?.counts()));
    let upstreams = routes.iter().flat_map(|r| &r.told.upstreams);
    let counts: Vec<(String, (u32, usize))> = upstreams.filter_map(bounded).collect();
    let gates: Vec<(u32, usize)> = shared.gates.iter().map(|g| g.counts()).collect();
    let mut say = |name, help, value: &dyn Display| text.family(name, "gauge", help).sample(&[], value);
    let in_flight: u32 = gates.iter().map(|g| g.0).sum();
    say("in_flight", "Requests in flight.", &in_flight);
    let waiting: usize = gates.iter().map(|g| g.1).sum();
    say("waiting", "Requests that wait for a place on a thread.", &waiting);
    let subjects = shared.tables.arrivals.len();
    say(
        "limit_subjects",
        "Subjects that rate limits keep outside of accounts.",
        &subjects,
    );
    let help = "Requests in flight at an upstream that has a bound.";
    text.family("upstream_in_flight", "gauge", help);
    for (slug, (in_flight, _)) in &counts {
        text.sample(&[("upstream", slug)], in_flight);
    }
    text.family(
        "upstream_waiting",
        "gauge",
        "Requests that wait for a place at an upstream.",
    );
    for (slug, (_, waiting)) in &counts {
        text.sample(&[("upstream", slug)], waiting);
    }
}

fn named(routes: &Routes) -> Vec<(u16, &str, &str)> {
    let upstreams = routes.told.upstreams.iter().map(|u| (u.number, u.slug.as_str()));
    let upstreams: HashMap<u16, &str> = upstreams.collect();
    let told = routes.told.routes.iter();
    told.map(|r| {
        (
            r.number,
            r.slug.as_str(),
            upstreams.get(&r.upstream).copied().unwrap_or_default(),
        )
    })
    .collect()
}
