//! Targets in Prometheus' text format. They are named by their upstream and their place in the catalogue, never by
//! their address.

use super::Target;
use super::circuit::Gate;
use crate::route::Routes;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;

type Value = fn(&Target, Instant) -> u64;

const VALUES: [(&str, &str, Value); 9] = [
    ("in_flight", "gauge", |t, _| {
        u64::from(t.in_flight.load(Ordering::Relaxed))
    }),
    ("requests_total", "counter", |t, _| t.requests.load(Ordering::Relaxed)),
    ("failures_total", "counter", |t, _| t.failures.load(Ordering::Relaxed)),
    ("retries_total", "counter", |t, _| t.retries.load(Ordering::Relaxed)),
    ("ejections_total", "counter", |t, _| t.ejections.load(Ordering::Relaxed)),
    ("tunnel_bytes_up_total", "counter", |t, _| {
        t.tunnel_bytes_up.load(Ordering::Relaxed)
    }),
    ("tunnel_bytes_down_total", "counter", |t, _| {
        t.tunnel_bytes_down.load(Ordering::Relaxed)
    }),
    ("healthy", "gauge", |t, _| u64::from(t.healthy.load(Ordering::Relaxed))),
    // 0 closed, 1 half-open, 2 open.
    ("circuit", "gauge", |t, now| match t.circuit.gate(t.ms(now)) {
        Gate::Closed => 0,
        Gate::HalfOpen => 1,
        Gate::Open(_) => 2,
    }),
];

/// Every target of the routing table.
pub(crate) fn render(out: &mut String, routes: &Routes, now: Instant) {
    // Writing to a string cannot fail, so the results below are not looked at.
    let mut upstreams: Vec<_> = routes.upstreams.values().collect();
    upstreams.sort_by_key(|u| u.number);
    for (name, kind, value) in VALUES {
        let _ = writeln!(out, "# TYPE turnpike_gateway_target_{name} {kind}");
        for upstream in &upstreams {
            for (place, member) in upstream.balance.members.iter().enumerate() {
                let group = if place < upstream.balance.usual {
                    "usual"
                } else {
                    "canary"
                };
                let n = value(&member.target, now);
                let slug = &upstream.slug;
                let _ = writeln!(
                    out,
                    "turnpike_gateway_target_{name}{{upstream=\"{slug}\",target=\"{place}\",group=\"{group}\"}} {n}"
                );
            }
        }
    }
}
