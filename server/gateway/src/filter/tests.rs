//! The filter against documents made from trees, so that what must be left is known without parsing.

use super::*;
use model::policy::FieldPath;
use proptest::prelude::*;
use serde_json::Value;

/// A value with every byte of its spelling.
#[derive(Debug, Clone)]
enum Tree {
    Scalar(String),
    /// White space in an empty container, or the elements.
    Array(String, Vec<Element>),
    Object(String, Vec<Member>),
}

#[derive(Debug, Clone)]
struct Element {
    before: String,
    value: Tree,
    after: String,
}

#[derive(Debug, Clone)]
struct Member {
    /// As it is read.
    name: String,
    before: String,
    /// From the opening quote to the value.
    spelled: String,
    value: Tree,
    after: String,
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(String::new()), 2 => Just(" ".to_owned()), 1 => "[ \t\r]{1,3}", 1 => Just("\n  ".to_owned())]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["a.b", "", "é", "\"", "A", "\u{1F600}", "*", "[*]"]).prop_map(str::to_owned),
    ]
}

/// A name in quotes, with some characters as escapes.
fn spelled(name: &str, escape: &[bool]) -> String {
    let mut out = "\"".to_owned();
    for (c, escape) in name.chars().zip(escape.iter().chain(std::iter::repeat(&false))) {
        if *escape || c == '"' {
            let mut units = [0u16; 2];
            for (i, unit) in c.encode_utf16(&mut units).iter().enumerate() {
                let upper = i % 2 == 0;
                out += &if upper {
                    format!("\\u{unit:04X}")
                } else {
                    format!("\\u{unit:04x}")
                };
            }
        } else {
            out.push(c);
        }
    }
    out + "\""
}

fn scalar() -> impl Strategy<Value = Tree> {
    let spellings = vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-12.50e+3",
        "1E9",
        "0.10",
        "\"\"",
        "\"a\"",
        "\"{\\\"a\\\":1}\"",
        "\"\\\\\"",
        "\"\\u0061\\/\\n\"",
        "\"],}\"",
        "\"é\u{1F600}\"",
    ];
    prop::sample::select(spellings).prop_map(|s| Tree::Scalar(s.to_owned()))
}

fn tree() -> impl Strategy<Value = Tree> {
    scalar().prop_recursive(5, 60, 6, |inner| {
        let element =
            (space(), inner.clone(), space()).prop_map(|(before, value, after)| Element { before, value, after });
        let member = (
            name(),
            prop::collection::vec(any::<bool>(), 3),
            space(),
            space(),
            space(),
            inner,
            space(),
        )
            .prop_map(|(name, escape, before, left, right, value, after)| Member {
                spelled: format!("{}{left}:{right}", spelled(&name, &escape)),
                name,
                before,
                value,
                after,
            });
        prop_oneof![
            1 => (space(), prop::collection::vec(element, 0..5)).prop_map(|(s, e)| Tree::Array(s, e)),
            3 => (space(), prop::collection::vec(member, 0..6)).prop_map(|(s, m)| Tree::Object(s, m)),
        ]
    })
}

fn step() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec![".a", ".b", ".c", ".é"]).prop_map(str::to_owned),
        1 => Just("[\"a.b\"]".to_owned()),
        1 => Just("[*]".to_owned()),
        1 => Just(".*".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = FieldPath> {
    prop::collection::vec(step(), 1..5).prop_map(|steps| steps.concat().trim_start_matches('.').parse().unwrap())
}

type Steps = Vec<model::policy::FieldStep>;

/// The rest of each path behind a step, and whether one ends there.
fn after(paths: &[Steps], step: impl Fn(&model::policy::FieldStep) -> bool) -> (Vec<Steps>, bool) {
    let through = paths.iter().filter(|p| p.first().is_some_and(&step));
    let rest: Vec<Steps> = through.map(|p| p[1..].to_vec()).collect();
    let ends = rest.iter().any(Vec::is_empty);
    (rest, ends)
}

fn into_name(paths: &[Steps], name: &str) -> (Vec<Steps>, bool) {
    use model::policy::FieldStep::*;
    after(paths, |s| matches!(s, AnyName) || matches!(s, Name(n) if n == name))
}

fn into_element(paths: &[Steps]) -> (Vec<Steps>, bool) {
    after(paths, |s| *s == model::policy::FieldStep::AnyElement)
}

/// What must be left of a document, byte for byte.
fn render(tree: &Tree, paths: &[Steps], out: &mut String) {
    let (open, close, empty, parts): (_, _, _, Vec<(&str, &str, &Tree, &str, _)>) = match tree {
        Tree::Scalar(text) => return out.push_str(text),
        Tree::Array(empty, elements) => {
            let parts = elements
                .iter()
                .map(|e| (&*e.before, "", &e.value, &*e.after, into_element(paths)));
            ('[', ']', empty, parts.collect())
        }
        Tree::Object(empty, members) => {
            let parts = members
                .iter()
                .map(|m| (&*m.before, &*m.spelled, &m.value, &*m.after, into_name(paths, &m.name)));
            ('{', '}', empty, parts.collect())
        }
    };
    out.push(open);
    if parts.is_empty() {
        out.push_str(empty);
    }
    let mut kept = false;
    let last = parts.len();
    for (i, (before, spelled, value, after, (rest, goes))) in parts.into_iter().enumerate() {
        if goes {
            out.push_str(if i + 1 == last { after } else { "" });
            continue;
        }
        out.push_str(if kept { "," } else { "" });
        kept = true;
        out.push_str(before);
        out.push_str(spelled);
        render(value, &rest, out);
        out.push_str(after);
    }
    out.push(close);
}

fn whole(tree: &Tree) -> String {
    let mut out = String::new();
    render(tree, &[], &mut out);
    out
}

/// The reference for the meaning: a parsed document without what the paths name.
fn without(value: &mut Value, paths: &[Steps]) {
    match value {
        Value::Object(members) => members.retain(|name, value| {
            let (rest, goes) = into_name(paths, name);
            without(value, &rest);
            !goes
        }),
        Value::Array(elements) => {
            let (rest, goes) = into_element(paths);
            elements.iter_mut().for_each(|e| without(e, &rest));
            if goes {
                elements.clear();
            }
        }
        _ => {}
    }
}

fn compiled(paths: &[FieldPath]) -> Arc<Paths> {
    Arc::new(Paths::new(paths.iter().map(|p| (0, p)), str::to_owned))
}

/// Pieces as the cuts say, in turn.
fn run(filter: &mut Filter, bytes: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |c| (*c).clamp(1, rest.len()));
        filter.push(&rest[..cut], &mut out)?;
        rest = &rest[cut..];
    }
    filter.end()?;
    Ok(out)
}

fn filtered(text: &str, paths: &[&str], form: Form) -> Result<String, Malformed> {
    let paths: Vec<FieldPath> = paths.iter().map(|p| p.parse().unwrap()).collect();
    let mut filter = Filter::new(compiled(&paths), 1, form);
    run(&mut filter, text.as_bytes(), &[1]).map(|out| String::from_utf8(out).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_left_is_left_byte_for_byte(
        tree in tree(), paths in prop::collection::vec(path(), 0..5), cuts in prop::collection::vec(1usize..12, 0..6),
    ) {
        let text = whole(&tree);
        let mut filter = Filter::new(compiled(&paths), 1, Form::Document);
        let got = String::from_utf8(run(&mut filter, text.as_bytes(), &cuts).unwrap()).unwrap();
        let steps: Vec<Steps> = paths.iter().map(|p| p.steps().to_vec()).collect();
        let mut wanted = String::new();
        render(&tree, &steps, &mut wanted);
        prop_assert_eq!(&got, &wanted, "{}", text);
        let mut meant: Value = serde_json::from_str(&text).unwrap();
        without(&mut meant, &steps);
        prop_assert_eq!(serde_json::from_str::<Value>(&got).unwrap(), meant);
    }

    /// Whatever a stream has shown when it is broken off is the beginning of what it would have shown.
    #[test]
    fn a_document_cut_off_shows_no_more_than_the_whole(
        tree in tree(), paths in prop::collection::vec(path(), 1..4), cut in 0usize..200, flip: u8,
    ) {
        let text = whole(&tree);
        let paths = compiled(&paths);
        let all = run(&mut Filter::new(Arc::clone(&paths), 1, Form::Document), text.as_bytes(), &[]).unwrap();
        let cut = cut.min(text.len());
        let mut out = Vec::new();
        let mut filter = Filter::new(paths, 1, Form::Document);
        filter.push(&text.as_bytes()[..cut], &mut out).unwrap();
        prop_assert!(all.starts_with(&out));
        let _ = filter.push(&[flip], &mut Vec::new());
    }

    /// Accepts what serde_json accepts, and nothing else; never panics.
    #[test]
    fn only_json_passes(
        tree in tree(), place in 0usize..200, with in prop::collection::vec(any::<u8>(), 0..3), gone in 0usize..3,
        cuts in prop::collection::vec(1usize..12, 0..6), paths in prop::collection::vec(path(), 0..3),
    ) {
        let mut bytes = whole(&tree).into_bytes();
        let place = place.min(bytes.len());
        bytes.splice(place..(place + gone).min(bytes.len()), with);
        let valid = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        let mut filter = Filter::new(compiled(&paths), 1, Form::Document);
        let passed = run(&mut filter, &bytes, &cuts);
        let blank = bytes.iter().all(|b| b" \n\r\t".contains(b));
        let unreadable_name = std::str::from_utf8(&bytes).is_err() || bytes.windows(2).any(|w| w == b"\\u");
        if paths.is_empty() || !unreadable_name {
            prop_assert_eq!(passed.is_ok(), valid || blank, "{}", String::from_utf8_lossy(&bytes));
        } else {
            prop_assert!(valid || passed.is_err());
        }
    }

    #[test]
    fn any_bytes_in_any_pieces_do_no_harm(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u0a \n".to_vec())], 0..80),
        cuts in prop::collection::vec(1usize..9, 0..4), paths in prop::collection::vec(path(), 0..3), lines: bool,
    ) {
        let form = if lines { Form::Lines } else { Form::Document };
        let _ = run(&mut Filter::new(compiled(&paths), 1, form), &bytes, &cuts);
    }
}

#[test]
fn examples() {
    for (text, paths, left) in [
        (r#"{"a": 1, "b": 2, "c": 3}"#, &["b"][..], r#"{"a": 1, "c": 3}"#),
        (r#"{"a": 1, "b": 2, "c": 3}"#, &["a"], r#"{ "b": 2, "c": 3}"#),
        (r#"{"a": 1, "b": 2, "c": 3}"#, &["c", "b"], r#"{"a": 1}"#),
        (r#"{"a": 1, "b": 2}"#, &["*"], r#"{}"#),
        ("{\n  \"a\": 1,\n  \"b\": 2\n}\n", &["b"], "{\n  \"a\": 1\n}\n"),
        ("{\n  \"a\": 1,\n  \"b\": 2\n}", &["a", "b"], "{\n}"),
        (
            r#"{"p": {"h": [1,{"h":2}], "n": 1e2}}"#,
            &["p.h"],
            r#"{"p": { "n": 1e2}}"#,
        ),
        (
            r#"{"n":[{"t":1,"x":1},7,{"x":2,"t":2},[{"t":3}]]}"#,
            &["n[*].t"],
            r#"{"n":[{"x":1},7,{"x":2},[{"t":3}]]}"#,
        ),
        (r#"{"n":[1,2, 3 ],"m":[ ]}"#, &["n[*]", "m[*]"], r#"{"n":[ ],"m":[ ]}"#),
        (r#"[{"a":1},{"a":2}]"#, &["[*].a"], r#"[{},{}]"#),
        (r#"{"a":1,"\u0061":2,"\u0061b":3,"a":4}"#, &["a"], r#"{"\u0061b":3}"#),
        (
            r#"{"x":"{\"a\":1}","y":{"a":1}}"#,
            &["*.a"],
            r#"{"x":"{\"a\":1}","y":{}}"#,
        ),
        (r#"{"A":1}"#, &["a"], r#"{"A":1}"#),
        ("\u{feff}{\"a\":1}", &["a"], "\u{feff}{}"),
        ("12", &["a"], "12"),
        ("", &["a"], ""),
    ] {
        assert_eq!(
            filtered(text, paths, Form::Document).as_deref(),
            Ok(left),
            "{text} {paths:?}"
        );
    }
}

#[test]
fn each_line_is_a_document() {
    let lines = |text| filtered(text, &["a"], Form::Lines);
    assert_eq!(
        lines("{\"a\":1,\"b\":1}\r\n\n[{\"a\":2}]\n3\n\"a\"\n{\"a\":4}").as_deref(),
        Ok("{\"b\":1}\r\n\n[{\"a\":2}]\n3\n\"a\"\n{}")
    );
    for text in ["{\"b\":\n1}", "{}{}", "[\n{\"a\":1}\n]", "{} {}", "{\"b\":1}\n{"] {
        assert!(lines(text).is_err(), "{text}");
    }
    assert!(filtered("{}\n{}", &["a"], Form::Document).is_err());
}

#[test]
fn only_the_gates_asked_for_are_closed() {
    let paths: Vec<FieldPath> = vec!["a.x".parse().unwrap(), "a".parse().unwrap(), "b".parse().unwrap()];
    let tree = Arc::new(Paths::new(paths.iter().enumerate(), str::to_owned));
    let text = br#"{"a":{"x":1,"y":2},"b":3}"#;
    for (gates, left) in [
        (0, r#"{"a":{"x":1,"y":2},"b":3}"#),
        (0b001, r#"{"a":{"y":2},"b":3}"#),
        (0b010, r#"{"b":3}"#),
        (0b100, r#"{"a":{"x":1,"y":2}}"#),
        (0b101, r#"{"a":{"y":2}}"#),
        (0b111, "{}"),
    ] {
        let got = run(&mut Filter::new(Arc::clone(&tree), gates, Form::Document), text, &[3]).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), left, "{gates:b}");
    }
}

/// What is kept back and how deep it goes is bounded, and a long document needs no more than a short one.
#[test]
fn memory_is_bounded() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(filtered(&deep(1024), &["a"], Form::Document).is_ok());
    assert_eq!(filtered(&deep(1025), &["a"], Form::Document), Err(Malformed::TooDeep));
    let long = " ".repeat(HELD_MOST + 1);
    for text in [
        format!("{{{long}\"b\":1}}"),
        format!("{{\"a\":1{long}}}"),
        format!("{{\"{long}\":1}}"),
    ] {
        assert_eq!(filtered(&text, &["a"], Form::Document), Err(Malformed::TooLong));
    }
    let kept = format!("{long}{{\"b\"{long}:{long}\"{long}\"{long}}}{long}");
    assert_eq!(filtered(&kept, &["a"], Form::Document), Ok(kept));

    let paths: Vec<FieldPath> = vec!["rows[*].a.b".parse().unwrap(), "rows[*].*.c".parse().unwrap()];
    let mut filter = Filter::new(compiled(&paths), 1, Form::Document);
    let mut out = Vec::new();
    filter.push(b"{\"rows\":[0", &mut out).unwrap();
    let mut most = 0;
    for i in 0..20_000 {
        out.clear();
        filter
            .push(b",{\"a\":{\"b\":1,\"x\":[1]},\"x\":{\"c\":[]}}", &mut out)
            .unwrap();
        assert_eq!(out, b",{\"a\":{\"x\":[1]},\"x\":{}}");
        let used = filter.held.capacity() + filter.places.capacity() + filter.levels.capacity();
        if i == 10 {
            most = used;
        }
    }
    assert_eq!(
        filter.held.capacity() + filter.places.capacity() + filter.levels.capacity(),
        most
    );
}
