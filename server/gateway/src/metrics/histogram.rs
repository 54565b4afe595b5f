//! Histograms with fixed bounds.

use super::text::{Label, Seconds, Text};
use super::{Counter, bump};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Upper bounds for waits on the network, in microseconds.
pub(super) const WAITS_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 10_000_000,
];
/// Upper bounds for work that is done at once most often, in microseconds.
pub(super) const WORK_US: &[u64] = &[
    1, 2, 5, 10, 25, 50, 100, 250, 1_000, 10_000, 100_000, 1_000_000, 10_000_000,
];

/// One worker's counts.
pub(super) struct Histogram {
    bounds_us: &'static [u64],
    buckets: Box<[Counter]>,
    sum_ns: Counter,
}

impl Histogram {
    /// All zero.
    pub(super) fn new(bounds_us: &'static [u64]) -> Self {
        Self {
            bounds_us,
            buckets: (0..=bounds_us.len()).map(|_| Counter::default()).collect(),
            sum_ns: Counter::default(),
        }
    }

    /// Counts one.
    pub(super) fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let last = self.bounds_us.len();
        let place = self.bounds_us.iter().position(|b| ns <= b * 1_000).unwrap_or(last);
        if let Some(bucket) = self.buckets.get(place) {
            bump(bucket, 1);
        }
        bump(&self.sum_ns, ns);
    }
}

/// The sum of several workers' counts, as samples of the family begun last.
pub(super) fn render<'a>(text: &mut Text, labels: &[Label<'_>], all: impl Iterator<Item = &'a Histogram> + Clone) {
    let Some(bounds_us) = all.clone().next().map(|h| h.bounds_us) else {
        return;
    };
    let mut below = 0;
    for place in 0..=bounds_us.len() {
        let here = all.clone().filter_map(|h| h.buckets.get(place));
        below += here.map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
        let bound = bounds_us
            .get(place)
            .map_or("+Inf".to_owned(), |b| Seconds(*b).to_string());
        let mut labels = labels.to_vec();
        labels.push(("le", &bound));
        text.suffixed("_bucket", &labels, below);
    }
    let sum_ns: u64 = all.map(|h| h.sum_ns.load(Ordering::Relaxed)).sum();
    text.suffixed("_sum", labels, Seconds(sum_ns / 1_000));
    text.suffixed("_count", labels, below);
}
