//! Adding up the records of a batch.

use model::usage::UsageRecord;

/// What the records with the same key come to, in the order of the keys. Rows are touched in that order, so that two
/// batches never wait for each other in a circle.
pub(crate) fn summed<'a, K: Ord, V: Default>(
    records: impl Iterator<Item = &'a UsageRecord>,
    key: impl Fn(&UsageRecord) -> K,
    add: impl Fn(&mut V, &UsageRecord),
) -> Vec<(K, V)> {
    // Sorting is half the work of a map when most records have keys of their own.
    let mut keyed: Vec<(K, &UsageRecord)> = records.map(|r| (key(r), r)).collect();
    keyed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut sums: Vec<(K, V)> = Vec::new();
    for (key, record) in keyed {
        if let Some((_, sum)) = sums.last_mut().filter(|(last, _)| *last == key) {
            add(sum, record);
            continue;
        }
        let mut sum = V::default();
        add(&mut sum, record);
        sums.push((key, sum));
    }
    sums
}
