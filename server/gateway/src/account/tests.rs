//! Periods that follow, changes of plan, and what they cost.

use super::*;
use model::catalogue::{CacheHits, MeterTerms, RateLimit};
use model::price::TierModel;
use model::snapshot::FeatureLife;
use model::{Currency, PlanVersionId, SubscriptionId, price};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

proptest! {
    #[test]
    fn the_following_period_holds_now(start in 0i64..1_000_000, length in 1i64..100_000, later in 0i64..10_000_000) {
        let known = Period { start: Time::from_unix_ms(start), end: Time::from_unix_ms(start + length) };
        let now = Time::from_unix_ms(start + later);
        let period = period_at(known, now);
        prop_assert!(period.contains(now));
        prop_assert_eq!((period.start.unix_ms() - start) % length, 0);
    }
}

fn profiles(e: &Entitlement) -> Profiles {
    Profiles {
        now: Arc::new(Profile::of(e)),
        later: Arc::default(),
    }
}

/// What a plan charges for a meter: an allowance, then two tiers.
fn prices() -> impl Strategy<Value = MeterTerms> {
    let parts = (any::<bool>(), 0u64..300, 1u64..300, 0u32..3_000, 1u32..3_000);
    parts.prop_map(|(volume, included, step, a, b)| {
        let tier = |up_to, thousandths: u32| price::OverageTier {
            up_to,
            unit_minor: format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)
                .parse()
                .unwrap(),
        };
        let model = if volume {
            TierModel::Volume
        } else {
            TierModel::Graduated
        };
        MeterTerms {
            meter: String::new(),
            included,
            overage: Some(price::Overage {
                model,
                package_units: 1,
                tiers: vec![tier(Some(included + step), a), tier(None, b)],
            }),
            ..MeterTerms::default()
        }
    })
}

fn entitled(plan: &[MeterTerms], used: &[u64], settled: &[u64], settled_minor: i64, cap: i64) -> Entitlement {
    let period = Period {
        start: Time::from_unix_s(0),
        end: Time::from_unix_s(1_000),
    };
    let meters = (1u16..).zip(plan).zip(used.iter().zip(settled));
    Entitlement {
        consumer: ConsumerId::from_bits(1),
        environment: Environment::Live,
        external_id: None,
        subscription: Some(SubscriptionId::from_bits(2)),
        plan_version: Some(PlanVersionId::from_bits(3)),
        plan: "p".to_owned(),
        suspended: None,
        features: Vec::new(),
        feature_life: FeatureLife::default(),
        rate_limit: RateLimit {
            per_second: 1,
            burst: 1,
        },
        limits: Vec::new(),
        concurrency: None,
        priority: 0,
        cache_hits: CacheHits::default(),
        period,
        meters: meters
            .map(|((meter, terms), (used, settled))| MeterEntitlement {
                meter,
                terms: terms.clone(),
                used: *used,
                settled_units: *settled,
                used_up_at: None,
            })
            .collect(),
        currency: Currency::USD,
        spend_cap_minor: Some(cap),
        settled_minor,
        overrides: Vec::new(),
    }
}

/// What the invoices come to for units of each meter.
fn cost(plan: &[MeterTerms], units: &[u64]) -> i64 {
    let each = plan.iter().zip(units);
    each.map(|(terms, n)| price::cost(terms, *n, Currency::USD).unwrap().minor)
        .sum()
}

/// Asks for units of a meter, and records them when they are given.
fn ask(account: &Account, meter: usize, units: u32) -> bool {
    let terms = account.told();
    let limit = &terms.limits[meter];
    let given = account.take(&terms, limit, units, terms.period.start).is_ok();
    let recorded = if given { u64::from(units) } else { 0 };
    limit.slot.recorded.fetch_add(recorded, Ordering::Relaxed);
    given
}

proptest! {
    /// Whenever the plan changes: what counts under the old version at its prices, the rest at the new ones, together
    /// never above the cap by a request that was let through, and no request refused that would have stayed below.
    #[test]
    fn the_spend_cap_is_held_against_what_the_invoices_come_to(
        plans in (1usize..=2).prop_flat_map(|n| {
            (proptest::collection::vec(prices(), n), proptest::collection::vec(prices(), n))
        }),
        before in proptest::collection::vec((0usize..2, 1u32..40), 0..60),
        behind in 0u64..60,
        after in proptest::collection::vec((0usize..2, 1u32..40), 1..120),
        cap in 0i64..600,
    ) {
        let (old, new) = plans;
        let count = new.len();
        let account = Account::unknown(ConsumerId::from_bits(1), Environment::Live);
        let now = Time::from_unix_s(500);
        let first = entitled(&old, &[0, 0], &[0, 0], 0, cap);
        account.update(&first, profiles(&first), now, |_, _| 0);
        let mut taken = [0u64; 2];
        for (meter, units) in before {
            let meter = meter % count;
            if ask(&account, meter, units) {
                taken[meter] += u64::from(units);
            }
        }
        // The last units arrive after the change and are billed at the new prices.
        let settled = taken.map(|n| n.saturating_sub(behind));
        let settled_minor = cost(&old, &settled);
        let second = entitled(&new, &settled, &settled, settled_minor, cap);
        let late = |meter: u16, _: Time| taken[usize::from(meter) - 1] - settled[usize::from(meter) - 1];
        account.update(&second, profiles(&second), now, late);
        let total = |units: &[u64; 2]| settled_minor + cost(&new, &[units[0] - settled[0], units[1] - settled[1]]);
        for (meter, units) in after {
            let meter = meter % count;
            let was = total(&taken);
            let mut then = taken;
            then[meter] += u64::from(units);
            if ask(&account, meter, units) {
                prop_assert!(total(&then) <= cap.max(was), "{} to {} with a cap of {cap}", was, total(&then));
                taken = then;
                continue;
            }
            // A volume price falls where a tier begins. No units are given beyond a count that is too dear: units that
            // are given back would lead there.
            let mut border = then;
            border[meter] = settled[meter] + new[meter].overage.as_ref().unwrap().tiers[0].up_to.unwrap();
            let dearest = if border[meter] <= then[meter] { total(&then).max(total(&border)) } else { total(&then) };
            prop_assert!(dearest > cap, "refused at {dearest} with a cap of {cap}, {settled_minor} of it settled");
        }
    }
}

#[test]
fn what_was_settled_is_forgotten_with_its_period() {
    let terms = MeterTerms {
        meter: String::new(),
        included: 0,
        overage: Some(price::Overage {
            model: TierModel::Graduated,
            package_units: 1,
            tiers: vec![price::OverageTier {
                up_to: None,
                unit_minor: 1.into(),
            }],
        }),
        ..MeterTerms::default()
    };
    let account = Account::unknown(ConsumerId::from_bits(1), Environment::Live);
    let told = entitled(&[terms], &[100], &[100], 30, 50);
    account.update(&told, profiles(&told), Time::from_unix_s(500), |_, _| 0);
    let left = |account: &Account| (0..200).filter(|_| ask(account, 0, 1)).count();
    assert_eq!(left(&account), 20, "30 of 50 cents are gone");
    account.terms(Time::from_unix_s(1_500));
    assert_eq!(left(&account), 50, "the next period has the whole cap");
    account.update(&told, profiles(&told), Time::from_unix_s(1_600), |_, _| 0);
    assert_eq!(
        left(&account),
        0,
        "and what is told of the period before changes nothing"
    );
}
