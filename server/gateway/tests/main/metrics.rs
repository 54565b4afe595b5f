//! What Prometheus reads: in its format, bounded, and true.

use crate::overload::narrow;
use crate::support::*;
use std::collections::{BTreeMap, HashMap};

/// A name that has to be escaped.
const PLAN: &str = "pro \"max\" \\ 2";

/// Samples by name and labels, and the kinds of families.
pub(crate) struct Exposition {
    pub(crate) samples: HashMap<(String, BTreeMap<String, String>), f64>,
    kinds: HashMap<String, String>,
}

impl Exposition {
    /// Reads the text format 0.0.4 and fails at whatever it does not allow.
    pub(crate) fn parse(text: &str) -> Self {
        let mut read = Self {
            samples: HashMap::new(),
            kinds: HashMap::new(),
        };
        assert!(text.ends_with('\n'));
        let (mut family, mut helped) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.ends_with('.') && helped != name, "{line}");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, helped, "a help goes before each type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let again = read.kinds.insert(name.to_owned(), kind.to_owned());
                assert!(again.is_none(), "{name} comes twice");
                family = name.to_owned();
            } else {
                read.sample(line, &family);
            }
        }
        read.check_histograms();
        read
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = match series.split_once('{') {
            None => (series, BTreeMap::new()),
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
        };
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("{line} is in {family}"));
        let allowed: &[&str] = match self.kinds[family].as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line}");
        let again = self.samples.insert((name.to_owned(), labels), value);
        assert!(again.is_none(), "{line} comes twice");
    }

    /// Buckets only grow, and the last one is the count.
    fn check_histograms(&self) {
        for family in self.kinds.iter().filter(|k| k.1 == "histogram").map(|k| k.0) {
            let mut buckets: HashMap<BTreeMap<String, String>, Vec<(f64, f64)>> = HashMap::new();
            for ((name, labels), value) in &self.samples {
                if *name == format!("{family}_bucket") {
                    let mut labels = labels.clone();
                    let le = labels.remove("le").unwrap().replace("+Inf", "inf").parse().unwrap();
                    buckets.entry(labels).or_default().push((le, *value));
                }
            }
            for (labels, mut found) in buckets {
                found.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(found.windows(2).all(|w| w[0].1 <= w[1].1), "{family} {labels:?}");
                let last = found.last().unwrap();
                assert!(last.0.is_infinite());
                assert_eq!(last.1, self.samples[&(format!("{family}_count"), labels.clone())]);
                assert!(self.samples.contains_key(&(format!("{family}_sum"), labels)));
            }
        }
    }

    /// The sum of the samples that have these labels among theirs; the name is without the gateway's prefix.
    pub(crate) fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let has =
            |labels: &BTreeMap<String, String>| wanted.iter().all(|(n, v)| labels.get(*n).is_some_and(|l| l == v));
        let name = format!("turnpike_gateway_{name}");
        let fits = self.samples.iter().filter(|((n, labels), _)| *n == name && has(labels));
        fits.map(|(_, value)| value).sum()
    }
}

fn labels(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c}"),
                }),
                (end, '"') => break end,
                (_, c) => value.push(c),
            }
        };
        found.insert(name.to_owned(), value);
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    found
}

pub(crate) fn metrics(world: &World) -> Exposition {
    Exposition::parse(&world.gateway.as_ref().unwrap().metrics())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_route_plan_class_and_reason() {
    let world = World::with(|e| e.plan = PLAN.to_owned()).await;
    for path in [
        "/v1/ok",
        "/v1/ok",
        "/v1/status/503",
        "/v1/chunked",
        "/down",
        "/slow/hang",
        "/export",
        "/nothing",
    ] {
        world.get(path).await;
    }
    world.send("GET /v1/ok HTTP/1.1\r\nHost: a\r\n", "").await;
    world.send("GET /v1/ok HTTP/9.9\r\nHost: a\r\n", "").await;
    let read = metrics(&world);
    let requests = |labels: &[(&str, &str)]| read.sum("requests_total", labels);
    for (wanted, route, plan, class, reason) in [
        (3.0, "all", PLAN, "2xx", ""),
        (1.0, "all", PLAN, "5xx", ""),
        (1.0, "down", PLAN, "5xx", "upstream-unreachable"),
        (1.0, "slow", PLAN, "5xx", "upstream-timeout"),
        (1.0, "export", PLAN, "4xx", "feature-missing"),
        (1.0, "all", "", "4xx", "key-missing"),
        (1.0, "", "", "4xx", "no-route"),
        (1.0, "", "", "4xx", "bad-request"),
        (0.0, "other", "other", "other", "other"),
    ] {
        let labels = [("route", route), ("plan", plan), ("class", class), ("reason", reason)];
        assert_eq!(requests(&labels), wanted, "{labels:?}");
    }
    assert_eq!(requests(&[]), 10.0, "each exactly once");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_whose_doing_they_were() {
    let world = World::new().await;
    for path in ["/v1/ok", "/v1/status/503", "/down", "/slow/hang", "/export", "/nothing"] {
        world.get(path).await;
    }
    let read = metrics(&world);
    let failures = |upstream, fault, reason| {
        read.sum(
            "failures_total",
            &[("upstream", upstream), ("fault", fault), ("reason", reason)],
        )
    };
    assert_eq!(failures("main", "upstream", "answered"), 1.0);
    assert_eq!(failures("down", "upstream", "upstream-unreachable"), 1.0);
    assert_eq!(failures("slow", "upstream", "upstream-timeout"), 1.0);
    assert_eq!(
        read.sum("failures_total", &[]),
        3.0,
        "no refusal of a caller is anybody's failure"
    );
    assert_eq!(read.sum("target_failures_total", &[("upstream", "down")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn phases_are_timed_as_far_as_a_request_comes() {
    let world = World::new().await;
    for path in ["/v1/ok", "/v1/chunked", "/slow/hang", "/export", "/nothing"] {
        world.get(path).await;
    }
    world.send("GET /v1/ok HTTP/1.1\r\nHost: a\r\n", "").await;
    until(|| metrics(&world).sum("request_seconds_count", &[]) == 6.0).await;
    let read = metrics(&world);
    let phases = ["route", "authenticate", "admit", "forward", "record"];
    let counts = phases.map(|phase| read.sum("phase_seconds_count", &[("phase", phase)]));
    assert_eq!(counts, [5.0, 4.0, 3.0, 2.0, 2.0]);
    assert_eq!(
        read.sum("upstream_first_byte_seconds_count", &[("upstream", "main")]),
        2.0
    );
    assert_eq!(
        read.sum("upstream_first_byte_seconds_count", &[("upstream", "slow")]),
        0.0
    );
    let spent: f64 = phases
        .map(|p| read.sum("phase_seconds_sum", &[("phase", p)]))
        .iter()
        .sum();
    assert!(
        spent > 0.0 && spent <= read.sum("request_seconds_sum", &[]),
        "phases are parts of the whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_shed_is_the_gateways_doing_and_who_leaves_is_the_clients() {
    let world = narrow(1, 20).await;
    let held = crate::overload::occupy(&world).await;
    assert_eq!(world.get("/v1/ok").await.status, 503);
    let read = metrics(&world);
    let labels = [("upstream", "main"), ("fault", "gateway"), ("reason", "overloaded")];
    assert_eq!(read.sum("failures_total", &labels), 1.0);
    drop(held);
    let mut leaving = tokio::net::TcpStream::connect(world.addr).await.unwrap();
    let text = format!(
        "GET /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        world.key.reveal()
    );
    until(|| metrics(&world).sum("upstream_in_flight", &[("upstream", "main")]) == 0.0).await;
    tokio::io::AsyncWriteExt::write_all(&mut leaving, text.as_bytes())
        .await
        .unwrap();
    until(|| metrics(&world).sum("upstream_in_flight", &[("upstream", "main")]) == 1.0).await;
    drop(leaving);
    let gone = [("upstream", "main"), ("fault", "client"), ("reason", "client-gone")];
    until(|| metrics(&world).sum("failures_total", &gone) == 1.0).await;
    assert_eq!(metrics(&world).sum("refusals_total", &[("reason", "client-gone")]), 1.0);
}
