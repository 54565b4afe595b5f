//! The steps of a request one by one, with 10,000 keys of 1,000 consumers.

use criterion::{Criterion, criterion_group, criterion_main};
use gateway::benching::{Bench, KEY_COUNT};
use std::hint::black_box;

/// Coprime to the number of keys, so that all are met and no two neighbours follow each other.
const STRIDE: usize = 7_919;

fn steps(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = Bench::new(folder.path()).expect("a gateway's tables");
    let mut n = 0;
    let mut next = || {
        n = (n + STRIDE) % KEY_COUNT;
        n
    };
    criterion.bench_function("route match", |b| b.iter(|| black_box(bench.find_route())));
    criterion.bench_function("key check", |b| b.iter(|| black_box(bench.check_key(next()))));
    criterion.bench_function("rate limit (GCRA)", |b| b.iter(|| black_box(bench.take_rate())));
    criterion.bench_function("admit", |b| {
        b.iter_batched(
            || bench.caller(n),
            |caller| black_box(bench.admit(&caller)),
            criterion::BatchSize::SmallInput,
        );
    });
    criterion.bench_function("ledger append", |b| b.iter(|| black_box(bench.append())));
}

criterion_group!(all, steps);
criterion_main!(all);
