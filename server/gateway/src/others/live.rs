//! Which other gateways are at work: those whose ledgers grew lately.

use model::Time;
use model::snapshot::LedgerEnd;
use std::collections::HashMap;

/// A ledger that did not grow for this long is nobody's that lets requests through, in milliseconds: a minute. One that is
/// told for the first time is taken for one that grew.
const LIVE_MS: i64 = 60_000;

/// How far other ledgers are, and since when.
#[derive(Debug, Default)]
pub(super) struct Live(HashMap<String, (u64, Time)>);

impl Live {
    /// Takes over how far they are; how many grew lately.
    pub(super) fn count(&mut self, ends: &[LedgerEnd], now: Time) -> usize {
        self.0.retain(|ledger, _| ends.iter().any(|end| end.ledger == *ledger));
        for end in ends {
            let known = self
                .0
                .get(&end.ledger)
                .filter(|(through, _)| *through == end.shipped_through);
            let since = known.map_or(now, |(_, since)| *since);
            self.0.insert(end.ledger.clone(), (end.shipped_through, since));
        }
        self.0
            .values()
            .filter(|(_, since)| since.ms_until(now) < LIVE_MS)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_that_count_nothing_for_a_minute_are_left_out() {
        let mut live = Live::default();
        let at = |s: i64| Time::from_unix_s(1_000_000 + s);
        let ends = |all: &[(&str, u64)]| -> Vec<LedgerEnd> {
            let end = |(ledger, through): &(&str, u64)| LedgerEnd {
                ledger: (*ledger).to_owned(),
                shipped_through: *through,
            };
            all.iter().map(end).collect()
        };
        assert_eq!(live.count(&ends(&[]), at(0)), 0);
        assert_eq!(
            live.count(&ends(&[("a", 5), ("b", 7)]), at(1)),
            2,
            "both may be at work"
        );
        assert_eq!(live.count(&ends(&[("a", 6), ("b", 7)]), at(40)), 2);
        assert_eq!(live.count(&ends(&[("a", 6), ("b", 7)]), at(61)), 1, "b is silent");
        assert_eq!(live.count(&ends(&[("a", 6), ("b", 8)]), at(90)), 2, "and back");
        assert_eq!(live.count(&ends(&[("b", 8)]), at(91)), 1);
        assert_eq!(live.count(&ends(&[("b", 8)]), at(150)), 0);
    }
}
