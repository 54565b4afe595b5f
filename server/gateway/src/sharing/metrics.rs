//! Counters of shared limits, as Prometheus reads them.

use super::Sharing;
use crate::metrics::Text;
use std::sync::atomic::Ordering;

/// Whether limits are shared just now, and by how many gateways they are divided when they are not.
pub(crate) fn render(text: &mut Text, sharing: &Sharing) {
    let circuit = match sharing.links.load(Ordering::Relaxed) {
        0 => 2,
        links if links < sharing.threads => 1,
        _ => 0,
    };
    text.family(
        "shared_limits_circuit",
        "gauge",
        "Whether Redis is asked about rate limits: 0 by all threads, 1 by some, 2 by none.",
    )
    .sample(&[], circuit);
    text.family(
        "shared_limits_gateways",
        "gauge",
        "Gateways that share rate limits and counted something lately.",
    )
    .sample(&[], sharing.gateways());
}
