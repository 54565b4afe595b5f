use super::*;

fn end(ledger: &str, shipped_through: u64) -> LedgerEnd {
    LedgerEnd {
        ledger: ledger.to_owned(),
        shipped_through,
        leases: None,
    }
}

#[test]
fn gateways_that_do_otherwise_are_noticed() {
    let tables = Tables::new();
    let ends = [None, Some(false), Some(true)].map(|leases| LedgerEnd { leases, ..end("a", 1) });
    look_for_unlike(&tables, &ends);
    assert_eq!(tables.unlike.load(Ordering::Relaxed), 1);
    look_for_unlike(&tables, &ends[..2]);
    assert_eq!(tables.unlike.load(Ordering::Relaxed), 0);
}

fn answer(everything: bool, ends: &[(&str, u64)]) -> Answer {
    Answer {
        ends: ends.iter().map(|(ledger, n)| end(ledger, *n)).collect(),
        everything,
        counts: AllTold::new(),
    }
}

fn part(ledger: &str, after: u64, through: u64) -> LedgerPart {
    LedgerPart {
        ledger: ledger.to_owned(),
        after,
        through,
    }
}

/// Asks as often as it must; the questions.
fn questions(others: &mut Others, told: &Answer, now: Time) -> Vec<Vec<LedgerPart>> {
    let mut asked = Vec::new();
    while let Next::Parts(parts) = others.next(told, now) {
        let more = others.hear(&parts, &told.ends);
        assert_eq!(more, others.next(told, now) != Next::Nothing);
        asked.push(parts);
    }
    asked
}

#[test]
fn each_record_is_asked_for_once_and_no_question_is_long() {
    let now = Time::from_unix_s(1_000_000);
    let mut others = Others::default();
    assert_eq!(others.next(&answer(true, &[("a", 7)]), now), Next::Nothing);
    assert_eq!(others.next(&answer(false, &[("a", 7)]), now), Next::Nothing);
    let told = answer(false, &[("a", 9), ("b", 45_000), ("c", 3), ("d", 0)]);
    let asked = questions(&mut others, &told, now);
    let wanted = [
        vec![part("a", 7, 9), part("b", 0, COUNTED_MOST - 2)],
        vec![part("b", COUNTED_MOST - 2, 2 * COUNTED_MOST - 2)],
        vec![part("b", 2 * COUNTED_MOST - 2, 45_000), part("c", 0, 3)],
    ];
    assert_eq!(asked, wanted);
    assert_eq!(others.next(&answer(false, &[]), now), Next::Nothing);
    assert_eq!(
        others.next(&answer(false, &[("a", 10)]), now),
        Next::Parts(vec![part("a", 9, 10)]),
        "what is not told for a while is not forgotten"
    );
}

#[test]
fn what_cannot_be_followed_is_told_with_everything() {
    let now = Time::from_unix_s(1_000_000);
    let mut others = Others::default();
    assert_eq!(others.next(&answer(false, &[]), now), Next::Nothing, "there is nobody");
    let one = answer(false, &[("a", 7)]);
    assert_eq!(
        others.next(&one, now),
        Next::Everything,
        "a stored snapshot does not say"
    );
    let begin = |others: &mut Others| {
        others.next(&answer(true, &[("a", 7)]), now);
        others.told_at = Some(now);
    };
    begin(&mut others);
    let far = answer(false, &[("a", 8 + RECORDS_MOST)]);
    assert_eq!(others.next(&far, now), Next::Everything, "too much");
    let before = answer(false, &[("a", 6)]);
    assert_eq!(others.next(&before, now), Next::Everything, "the database was set back");
    let later = now.plus_ms(UNHEARD_MS + 1);
    assert_eq!(
        others.next(&one, later),
        Next::Everything,
        "others may have come and gone"
    );
    begin(&mut others);
    assert_eq!(others.next(&one, now.plus_ms(UNHEARD_MS)), Next::Nothing);
}

#[test]
fn others_that_count_are_asked_for_often() {
    let now = Time::from_unix_s(1_000_000);
    let limits = Limits::default();
    let shortest = Duration::from_millis(10);
    let mut others = Others::default();
    assert_eq!(others.pause(&limits, now, shortest), limits.poll_interval);
    others.counted_at = Some(now);
    assert_eq!(others.pause(&limits, now.plus_s(59), shortest), limits.counts_interval);
    assert_eq!(others.pause(&limits, now.plus_s(60), shortest), limits.poll_interval);
    others.more = true;
    assert_eq!(others.pause(&limits, now, shortest), shortest);
}
