//! Targets in Prometheus' text format. They are named by their upstream and their place in the catalogue, never by
//! their address.

use super::Target;
use super::circuit::Gate;
use crate::metrics::Text;
use crate::route::Routes;
use std::sync::atomic::Ordering;
use std::time::Instant;

type Value = fn(&Target, Instant) -> u64;

/// Name, kind, help, and where the value comes from.
const VALUES: [(&str, &str, &str, Value); 9] = [
    ("target_in_flight", "gauge", "Requests open at a target.", |t, _| {
        u64::from(t.in_flight.load(Ordering::Relaxed))
    }),
    (
        "target_requests_total",
        "counter",
        "Requests sent to a target.",
        |t, _| t.requests.load(Ordering::Relaxed),
    ),
    ("target_failures_total", "counter", "Failures of a target.", |t, _| {
        t.failures.load(Ordering::Relaxed)
    }),
    (
        "target_retries_total",
        "counter",
        "Requests that another target failed before.",
        |t, _| t.retries.load(Ordering::Relaxed),
    ),
    (
        "target_ejections_total",
        "counter",
        "Times a target was left out after failures.",
        |t, _| t.ejections.load(Ordering::Relaxed),
    ),
    (
        "target_tunnel_bytes_up_total",
        "counter",
        "Bytes of WebSockets to a target.",
        |t, _| t.tunnel_bytes_up.load(Ordering::Relaxed),
    ),
    (
        "target_tunnel_bytes_down_total",
        "counter",
        "Bytes of WebSockets from a target.",
        |t, _| t.tunnel_bytes_down.load(Ordering::Relaxed),
    ),
    (
        "target_healthy",
        "gauge",
        "What the health checks say: 1 well, 0 ill.",
        |t, _| u64::from(t.healthy.load(Ordering::Relaxed)),
    ),
    (
        "target_circuit",
        "gauge",
        "The breaker: 0 closed, 1 half-open, 2 open.",
        |t, now| match t.circuit.gate(t.ms(now)) {
            Gate::Closed => 0,
            Gate::HalfOpen => 1,
            Gate::Open(_) => 2,
        },
    ),
];

/// Every target of the routing table.
pub(crate) fn render(text: &mut Text, routes: &Routes, now: Instant) {
    let mut upstreams: Vec<_> = routes.upstreams.values().collect();
    upstreams.sort_by_key(|u| u.number);
    for (name, kind, help, value) in VALUES {
        text.family(name, kind, help);
        for upstream in &upstreams {
            for (place, member) in upstream.balance.members.iter().enumerate() {
                let usual = place < upstream.balance.usual;
                let group = if usual { "usual" } else { "canary" };
                let labels: [(&'static str, &dyn std::fmt::Display); 3] =
                    [("upstream", &upstream.slug), ("target", &place), ("group", &group)];
                text.sample(&labels, value(&member.target, now));
            }
        }
    }
}
