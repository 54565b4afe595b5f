//! What is left of a document is the document without what the paths name, wherever its bytes are cut, and what is not JSON
//! is refused.
#![no_main]
use libfuzzer_sys::fuzz_target;
use model::policy::{FieldPath, FieldStep};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::sync::LazyLock;

static PATHS: LazyLock<Vec<FieldPath>> = LazyLock::new(|| {
    let all = ["a", "b.c", "*.d", "b[*].x", "[*].y", "*[*].a", "b[*]", "[*][*]"];
    all.iter().map(|path| path.parse().expect("a path")).collect()
});

/// A value in which names may stand twice. Numbers as they are read, so that two spellings of one are the same.
#[derive(Debug, PartialEq)]
enum Tree {
    Scalar(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Scalar("null".to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Scalar(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Scalar(format!("{value:?}")))
            }
            fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::Scalar(format!("{value:?}")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(element) = elements.next_element()? {
                    all.push(element);
                }
                Ok(Tree::Array(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = members.next_entry()? {
                    all.push(member);
                }
                Ok(Tree::Object(all))
            }
        }
        from.deserialize_any(Any)
    }
}

/// Without what the paths name; whether the value itself goes.
fn prune(tree: &mut Tree, paths: &[&[FieldStep]]) -> bool {
    if paths.iter().any(|path| path.is_empty()) {
        return true;
    }
    let below = |fits: &dyn Fn(&FieldStep) -> bool| -> Vec<&[FieldStep]> {
        let first = paths.iter().filter_map(|path| path.split_first());
        first.filter(|(step, _)| fits(step)).map(|(_, rest)| rest).collect()
    };
    match tree {
        Tree::Scalar(_) => {}
        Tree::Array(all) => {
            let rest = below(&|step| *step == FieldStep::AnyElement);
            all.retain_mut(|element| !prune(element, &rest));
        }
        Tree::Object(all) => all.retain_mut(|(name, value)| {
            let named = |step: &FieldStep| match step {
                FieldStep::Name(own) => own == name,
                FieldStep::AnyName => true,
                FieldStep::AnyElement => false,
            };
            !prune(value, &below(&named))
        }),
    }
    false
}

fuzz_target!(|input: (u8, u8, bool, &[u8])| {
    let (piece, chosen, lines, bytes) = input;
    let named = |at: &usize| chosen & (1 << at) != 0;
    let paths: Vec<FieldPath> = (0..PATHS.len()).filter(named).map(|at| PATHS[at].clone()).collect();
    let whole = gateway::fuzzing::filtered(bytes, usize::MAX, &paths, lines);
    assert_eq!(
        gateway::fuzzing::filtered(bytes, usize::from(piece), &paths, lines),
        whole,
        "pieces of {piece}"
    );
    let Some(left) = whole else { return };
    if lines {
        return;
    }
    // A byte order mark is let through, which this reader is not.
    let (before, after) = (
        bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes),
        left.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&left),
    );
    let mut before: Tree = match serde_json::from_slice(before) {
        Ok(tree) => tree,
        // Bounds of this reader, and texts that no feature hangs on.
        Err(error) => {
            let said = error.to_string();
            let bounds = [
                "recursion limit",
                "number out of range",
                "surrogate",
                "escape",
                "unicode",
                "EOF while parsing a value",
            ];
            assert!(bounds.iter().any(|bound| said.contains(bound)), "not JSON: {said}");
            return;
        }
    };
    let steps: Vec<&[FieldStep]> = paths.iter().map(FieldPath::steps).collect();
    prune(&mut before, &steps);
    let after: Tree = serde_json::from_slice(after).expect("what is left is JSON");
    assert_eq!(after, before);
});
