//! Features with a life: who has one, and in which variant, besides what plans say.
//!
//! A plan that lists a feature makes its consumers eligible. A feature without more belongs to all of them. One with a
//! *rollout* belongs to a percentage of them, chosen by a hash of feature and consumer: the same ones at every look, and
//! a greater percentage only adds. Named consumers have it whatever their plan (a beta), and so have those with a grant,
//! until its end (a trial of one feature). An override of it for one consumer ([`crate::overrides`]) goes before all of
//! these, on or off. Whoever has it gets one of its *variants*, if it has some, by their weights.
//!
//! Everything here is a pure function, so that gateway rows, pages and tests agree.

use crate::catalogue::CatalogueError;
use crate::overrides::{self, Change, Override};
use crate::{ConsumerId, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most variants of a feature, and most consumers named in one.
const MOST: usize = 100;
/// Longest name of a variant.
const NAME_MOST: usize = 20;
/// Greatest weight of a variant.
const WEIGHT_MOST: u32 = 1_000_000;

/// How a feature is switched on, as it is written beside its name in the catalogue file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Life {
    /// Switched on for a part of those whose plan lists it; none means for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Consumers that have it whatever their plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<ConsumerId>,
    /// What of it differs between those that have it, for the upstream to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
}

/// A part of those whose plan lists a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// 0 to 100.
    pub percent: u8,
}

/// One of several ways in which a feature works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Short name: `a`.
    pub name: String,
    /// Its share is this divided by the sum of all weights.
    pub weight: u32,
}

/// A feature given to one consumer, whatever its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Slug of the feature.
    pub feature: String,
    /// Its first instant without the feature; none means for ever.
    pub until: Option<Time>,
}

/// What a consumer has, from an instant on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// When it begins; none for what holds now.
    pub from: Option<Time>,
    /// Slugs.
    pub features: Vec<String>,
    /// The variant of each feature that has some.
    pub variants: BTreeMap<String, String>,
}

/// A number that a feature and a consumer always get, spread evenly over 64 bits. `what` tells draws for different
/// purposes apart.
///
/// FNV-1a, finished as in SplitMix64: it must stay as it is, because everybody would change sides.
fn draw(what: &str, feature: &str, consumer: ConsumerId) -> u64 {
    let words = what.bytes().chain([0]).chain(feature.bytes()).chain([0]);
    let bytes = words.chain(consumer.to_bits().to_le_bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3)
    });
    let z = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A draw scaled to `0..total`.
fn scaled(draw: u64, total: u64) -> u64 {
    u64::try_from((u128::from(draw) * u128::from(total)) >> 64).unwrap_or(0)
}

impl Life {
    /// Whether a consumer whose plan lists the feature has it.
    pub fn reaches(&self, feature: &str, consumer: ConsumerId) -> bool {
        let part = |r: Rollout| scaled(draw("rollout", feature, consumer), 100) < u64::from(r.percent);
        self.rollout.is_none_or(part) || self.consumers.contains(&consumer)
    }

    /// Whether every consumer whose plan lists the feature has it.
    pub fn reaches_all(&self) -> bool {
        self.rollout.is_none_or(|r| r.percent >= 100)
    }

    /// The variant of a consumer that has the feature; none when it has no variants.
    pub fn variant(&self, feature: &str, consumer: ConsumerId) -> Option<&str> {
        let total = self.variants.iter().map(|v| u64::from(v.weight)).sum();
        let mut point = scaled(draw("variant", feature, consumer), total);
        for variant in &self.variants {
            match point.checked_sub(u64::from(variant.weight)) {
                Some(rest) => point = rest,
                None => return Some(&variant.name),
            }
        }
        None
    }

    /// Whether there is nothing to say about it beyond which plans list it.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what the types do not say. `place` is where it stands in the file.
    ///
    /// # Errors
    /// The first thing wrong.
    pub(crate) fn check(&self, place: &str) -> Result<(), CatalogueError> {
        let wrong = |what: &str, problem: String| {
            Err(CatalogueError {
                place: format!("{place}.{what}"),
                problem,
            })
        };
        if self.rollout.is_some_and(|r| r.percent > 100) {
            return wrong("rollout", "percent must be 0 to 100".to_owned());
        }
        if self.consumers.len() > MOST {
            return wrong(
                "consumers",
                format!("at most {MOST}; grant it to the others one by one"),
            );
        }
        let plain = |n: &str| {
            n.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        let mut names = BTreeSet::new();
        for variant in &self.variants {
            let name = variant.name.as_str();
            if name.is_empty() || name.len() > NAME_MOST || !plain(name) || !names.insert(name) {
                let rule =
                    format!("{name:?} must be letters in lower case, digits, - and _, at most {NAME_MOST}, once");
                return wrong("variants", rule);
            }
            if variant.weight > WEIGHT_MOST {
                return wrong(
                    "variants",
                    format!("the weight of {name} must be at most {WEIGHT_MOST}"),
                );
            }
        }
        if names.len() > MOST || (!names.is_empty() && self.variants.iter().all(|v| v.weight == 0)) {
            return wrong(
                "variants",
                format!("needs a weight above 0, and at most {MOST} variants"),
            );
        }
        Ok(())
    }
}

/// What a consumer has now and from each instant on at which a grant or an override of a feature ends or begins, in the
/// order of time; never empty. `plan` are the features its plan lists, in that order; what it has besides follows by name.
pub fn stages(
    plan: &[String],
    lives: &BTreeMap<String, Life>,
    grants: &[Grant],
    own: &[Override],
    consumer: ConsumerId,
    now: Time,
) -> Vec<Stage> {
    let plain = Life::default();
    let life = |feature: &str| lives.get(feature).unwrap_or(&plain);
    let running = || grants.iter().filter(|g| g.until.is_none_or(|until| now < until));
    let ends = running().filter_map(|g| g.until);
    let changes: BTreeSet<Time> = ends.chain(overrides::changes_after(own, now)).collect();
    let stage = |from: Option<Time>| {
        let at = from.unwrap_or(now);
        let listed = plan.iter().filter(|f| life(f).reaches(f, consumer));
        let mut features: Vec<String> = listed.cloned().collect();
        let named = lives
            .iter()
            .filter(|(_, l)| l.consumers.contains(&consumer))
            .map(|(f, _)| f);
        let granted = running()
            .filter(|g| g.until.is_none_or(|until| at < until))
            .map(|g| &g.feature);
        let switched = |wanted: bool| {
            overrides::in_force(own, at).filter_map(move |o| match &o.change {
                Change::Feature { feature, on } if *on == wanted => Some(feature),
                _ => None,
            })
        };
        let more: BTreeSet<&String> = named.chain(granted).chain(switched(true)).collect();
        let more: Vec<String> = more.into_iter().filter(|f| !features.contains(f)).cloned().collect();
        features.extend(more);
        features.retain(|f| switched(false).all(|off| off != f));
        let variant = |f: &String| Some((f.clone(), life(f).variant(f, consumer)?.to_owned()));
        let variants = features.iter().filter_map(variant).collect();
        Stage {
            from,
            features,
            variants,
        }
    };
    let mut out = vec![stage(None)];
    for change in changes {
        let next = stage(Some(change));
        if out.last().is_none_or(|last| last.features != next.features) {
            out.push(next);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OverrideId;
    use proptest::prelude::*;

    fn consumer(n: u64) -> ConsumerId {
        ConsumerId::from_bits(u128::from(n) << 40)
    }

    fn rollout(percent: u8) -> Life {
        Life {
            rollout: Some(Rollout { percent }),
            ..Life::default()
        }
    }

    fn weighted(weights: &[u32]) -> Life {
        let variant = |(i, weight): (usize, &u32)| Variant {
            name: format!("v{i}"),
            weight: *weight,
        };
        Life {
            variants: weights.iter().enumerate().map(variant).collect(),
            ..Life::default()
        }
    }

    proptest! {
        #[test]
        fn a_greater_percentage_only_adds(n: u64, a in 0u8..=100, b in 0u8..=100, feature in "[a-z]{1,8}") {
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(!rollout(less).reaches(&feature, consumer(n)) || rollout(more).reaches(&feature, consumer(n)));
            prop_assert!(!rollout(0).reaches(&feature, consumer(n)) && rollout(100).reaches(&feature, consumer(n)));
        }

        #[test]
        fn a_variant_is_drawn_only_if_it_has_weight(n: u64, weights in prop::collection::vec(0u32..5, 1..5)) {
            let life = weighted(&weights);
            match life.variant("f", consumer(n)) {
                Some(name) => prop_assert!(weights[name[1..].parse::<usize>().unwrap()] > 0),
                None => prop_assert_eq!(weights.iter().sum::<u32>(), 0),
            }
        }

        /// Nobody has a feature that neither plan, name nor grant gives, and nobody loses one before its end.
        #[test]
        fn stages_follow_from_grants(
            plan in prop::collection::btree_set("[a-d]", 0..3), named in prop::collection::btree_set("[a-d]", 0..2),
            grants in prop::collection::vec(("[a-d]", prop::option::of(0i64..10)), 0..5), now in 0i64..10, at in 0i64..12,
        ) {
            let me = consumer(7);
            let plan: Vec<String> = plan.into_iter().collect();
            let life = Life { consumers: vec![me], ..Life::default() };
            let lives: BTreeMap<String, Life> = named.iter().map(|f| (f.clone(), life.clone())).collect();
            let grants: Vec<Grant> = grants
                .into_iter()
                .map(|(feature, until)| Grant { feature, until: until.map(Time::from_unix_s) })
                .collect();
            let (now, at) = (Time::from_unix_s(now), Time::from_unix_s(at.max(now)));
            let all = stages(&plan, &lives, &grants, &[], me, now);
            let then = all.iter().rfind(|s| s.from.is_none_or(|from| from <= at)).unwrap();
            for feature in ["a", "b", "c", "d"] {
                let granted = grants.iter().any(|g| g.feature == feature && g.until.is_none_or(|u| at < u));
                let wanted = plan.iter().any(|f| f == feature) || named.contains(feature) || granted;
                let has = then.features.iter().filter(|f| *f == feature).count();
                prop_assert_eq!(has, usize::from(wanted), "{} in {:?}", feature, all);
            }
            prop_assert!(all.is_sorted_by_key(|s| s.from) && all.iter().filter(|s| s.from.is_none()).count() == 1);
        }
    }

    #[test]
    fn shares_are_as_written() {
        let count = |which: &dyn Fn(ConsumerId) -> bool| (0..20_000).filter(|n| which(consumer(*n))).count();
        let tenth = count(&|c| rollout(10).reaches("search", c));
        assert!((1_800..2_200).contains(&tenth), "{tenth} of 20,000");
        let life = weighted(&[1, 3]);
        let first = count(&|c| life.variant("ranking", c) == Some("v0"));
        assert!((4_700..5_300).contains(&first), "{first} of 20,000");
        // Who is in a rollout says nothing about the variant, nor about another feature's rollout.
        let both = count(&|c| rollout(50).reaches("a", c) && rollout(50).reaches("b", c));
        assert!((4_700..5_300).contains(&both), "{both} of 20,000");
        let both = count(&|c| rollout(50).reaches("a", c) && weighted(&[1, 1]).variant("a", c) == Some("v0"));
        assert!((4_700..5_300).contains(&both), "{both} of 20,000");
    }

    /// Written down: with other numbers everybody would change sides.
    #[test]
    fn draws_never_change() {
        let draws: Vec<u64> = (1..4)
            .map(|n| scaled(draw("rollout", "search", consumer(n)), 100))
            .collect();
        assert_eq!(draws, DRAWN);
    }

    const DRAWN: [u64; 3] = [16, 96, 5];

    #[test]
    fn a_named_consumer_has_it_whatever_the_plan_and_the_percentage() {
        let me = consumer(1);
        let life = Life {
            consumers: vec![me],
            ..rollout(0)
        };
        let lives = BTreeMap::from([("beta".to_owned(), life)]);
        let has = |plan: &[&str], who| {
            let plan: Vec<String> = plan.iter().map(|f| (*f).to_owned()).collect();
            stages(&plan, &lives, &[], &[], who, Time::from_unix_s(0))
                .remove(0)
                .features
        };
        assert_eq!(has(&[], me), ["beta"]);
        assert_eq!(has(&["beta", "a"], me), ["beta", "a"]);
        assert_eq!(has(&["beta", "a"], consumer(2)), ["a"]);
    }

    #[test]
    fn an_override_goes_before_plan_and_grant_while_it_holds() {
        let own = |feature: &str, on, from, until: Option<i64>| Override {
            id: OverrideId::from_bits(1),
            change: Change::Feature {
                feature: feature.to_owned(),
                on,
            },
            starts_at: Time::from_unix_s(from),
            ends_at: until.map(Time::from_unix_s),
        };
        let all = [
            own("a", false, 10, Some(20)),
            own("b", true, 5, None),
            own("c", false, 0, None),
        ];
        let grants = [Grant {
            feature: "c".to_owned(),
            until: None,
        }];
        let plan = ["a".to_owned(), "z".to_owned()];
        let stages = stages(
            &plan,
            &BTreeMap::new(),
            &grants,
            &all,
            consumer(1),
            Time::from_unix_s(1),
        );
        let told: Vec<_> = stages
            .iter()
            .map(|s| (s.from.map(Time::unix_s), s.features.join(",")))
            .collect();
        let wanted = [
            (None, "a,z"),
            (Some(5), "a,z,b"),
            (Some(10), "z,b"),
            (Some(20), "a,z,b"),
        ];
        assert_eq!(told, wanted.map(|(from, features)| (from, features.to_owned())));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, place) in [
            ("rollout = { percent = 101 }", "features.f.rollout"),
            ("variants = [{ name = \"A\", weight = 1 }]", "features.f.variants"),
            (
                "variants = [{ name = \"a\", weight = 1 }, { name = \"a\", weight = 1 }]",
                "features.f.variants",
            ),
            ("variants = [{ name = \"a\", weight = 0 }]", "features.f.variants"),
        ] {
            let life: Life = toml::from_str(text).unwrap();
            assert!(
                life.check("features.f").unwrap_err().to_string().starts_with(place),
                "{text}"
            );
        }
        assert!(toml::from_str::<Life>("consumers = [\"key_1\"]").is_err());
    }
}
