//! Which other gateways are at work: those whose ledgers grew lately.

use model::Time;
use model::snapshot::LedgerEnd;
use std::collections::HashMap;

/// A ledger that did not grow for this long is nobody's that lets requests through, in milliseconds: a minute.
const LIVE_MS: i64 = 60_000;

/// How far other ledgers are, and since when; no time where that was so when they were first heard of.
#[derive(Debug, Default)]
pub(super) struct Live(Option<HashMap<String, (u64, Option<Time>)>>);

impl Live {
    /// Takes over how far they are; how many grew lately. A ledger that is new has grown, unless it may be an old one: in the
    /// first answer, and where everything is told.
    pub(super) fn count(&mut self, ends: &[LedgerEnd], everything: bool, now: Time) -> usize {
        let is_first = self.0.is_none();
        let known = self.0.get_or_insert_default();
        for end in ends {
            let before = known.get(&end.ledger);
            let since = match before {
                Some((through, since)) if *through == end.shipped_through => *since,
                None if is_first || everything => None,
                Some(_) | None => Some(now),
            };
            known.insert(end.ledger.clone(), (end.shipped_through, since));
        }
        let is_live = |since: &Option<Time>| since.is_some_and(|since| since.ms_until(now) < LIVE_MS);
        known.values().filter(|(_, since)| is_live(since)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_at_work_for_a_minute_after_their_ledger_grew() {
        let mut live = Live::default();
        let mut count = |ends: &[(&str, u64)], everything: bool, s: i64| {
            let end = |(ledger, through): &(&str, u64)| LedgerEnd {
                ledger: (*ledger).to_owned(),
                shipped_through: *through,
                leases: None,
            };
            let ends: Vec<LedgerEnd> = ends.iter().map(end).collect();
            live.count(&ends, everything, Time::from_unix_s(1_000_000 + s))
        };
        assert_eq!(count(&[("a", 5), ("b", 7)], false, 0), 0, "they may be long gone");
        assert_eq!(count(&[("a", 6), ("b", 7)], false, 1), 1);
        assert_eq!(count(&[("a", 6), ("b", 8)], false, 40), 2);
        assert_eq!(count(&[("a", 6), ("b", 8)], false, 61), 1, "a is silent");
        assert_eq!(count(&[("a", 9), ("b", 8)], false, 62), 2, "and back");
        assert_eq!(count(&[("old", 4), ("a", 9), ("b", 8)], true, 63), 2);
        assert_eq!(count(&[("a", 9), ("c", 1)], false, 64), 3, "one that is new");
        assert_eq!(count(&[], false, 200), 0);
    }
}
