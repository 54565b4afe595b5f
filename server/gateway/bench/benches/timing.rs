//! Whether the time that a key takes to be judged tells what is wrong with it, as dudect asks (Reparaz, Balasch and
//! Verbauwhede, 2017): kinds of keys in random order, one time each, and Welch's t between the kinds.
//!
//! All have the form and the checksum of a key; what has not is refused without a look at anything. Fails when medians
//! differ by more than [`MEDIANS_MOST`] among those that have not the secret: who has it is told what is wrong in words.
//!
//! And what it takes to refuse tokens that are made to be dear (T39): fails when one takes [`REFUSAL_MOST_NS`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::benching::{Bench, ISSUER, KEY_COUNT};
use model::Random;
use model::access::Environment;
use model::key::{CRC_LEN, PlainKey, crc32};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Times of each kind.
const SAMPLES: usize = 100_000;
/// Keys of each kind; each is asked with often.
const KEYS: usize = 1_000;
/// Longest times are the machine's doing: this part of all is left out, per thousand.
const CROPPED: usize = 50;
/// Most that the median of a kind may differ from that of wrong secrets: some tens of nanoseconds, which a table that is
/// missed and one that is hit are apart, and of which nothing is left behind a socket.
const MEDIANS_MOST: f64 = 0.1;

/// Times that each of the dear tokens is refused.
const REFUSALS: usize = 1_000;
/// Longest median for one of them: a millisecond. What a head may hold at most is 32 KiB, a token 8.
const REFUSAL_MOST_NS: f64 = 1e6;

/// Repeatable randomness.
struct Seeded(AtomicU64);
impl Seeded {
    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.next().to_le_bytes()[0]);
    }
}

/// A key with this text in front of its checksum.
fn sealed(signed: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut crc = [0; CRC_LEN];
    let mut rest = crc32(signed.as_bytes());
    for place in crc.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    format!("{signed}{}", String::from_utf8_lossy(&crc))
}

/// With another character in front of the checksum.
fn with_another_end(key: &str) -> String {
    let signed = &key[..key.len() - CRC_LEN];
    let (kept, last) = signed.split_at(signed.len() - 1);
    sealed(&format!("{kept}{}", if last == "a" { "b" } else { "a" }))
}

/// With another character right behind its id.
fn with_another_beginning(key: &str) -> String {
    let at = "tp_live_".len() + model::key::LOOKUP_LEN;
    let other = if &key[at..=at] == "a" { "b" } else { "a" };
    sealed(&format!("{}{other}{}", &key[..at], &key[at + 1..key.len() - CRC_LEN]))
}

fn mean_and_variance(times: &[f64]) -> (f64, f64) {
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    (mean, times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

fn welch(a: &[f64], b: &[f64]) -> f64 {
    let ((mean_a, var_a), (mean_b, var_b)) = (mean_and_variance(a), mean_and_variance(b));
    (mean_a - mean_b) / (var_a / a.len() as f64 + var_b / b.len() as f64).sqrt()
}

/// Tokens that are made to be dear, each with a name.
fn monsters() -> Vec<(&'static str, String)> {
    let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = encoded(r#"{"alg":"EdDSA"}"#);
    let signature = URL_SAFE_NO_PAD.encode([7; 64]);
    let signed = |claims: &str| format!("{header}.{}.{signature}", encoded(claims));
    let wide: Vec<String> = (0..500).map(|n| format!("\"n{n}\":{n}")).collect();
    let of_issuer = |rest: &str| format!(r#"{{"iss":"{ISSUER}","sub":"a","exp":1900000000{rest}}}"#);
    vec![
        ("100 KiB", signed(&of_issuer(&format!(",\"x\":\"{}\"", "x".repeat(75 << 10))))),
        ("8 KiB", signed(&of_issuer(&format!(",\"x\":\"{}\"", "x".repeat(5_900))))),
        (
            "encrypted, compressed (JWE)",
            format!("{}.a.b.c.d", encoded(r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}"#)),
        ),
        (
            "compressed",
            format!("{}.{}.{signature}", encoded(r#"{"alg":"EdDSA","zip":"DEF"}"#), "A".repeat(7_000)),
        ),
        ("nested", {
            let inner = signed(&of_issuer(""));
            format!("{}.{}.{signature}", encoded(r#"{"alg":"EdDSA","cty":"JWT"}"#), encoded(&inner))
        }),
        ("deep", signed(&format!("{{\"a\":{}{}}}", "[".repeat(2_900), "]".repeat(2_900)))),
        ("wide", signed(&of_issuer(&format!(",{}", wide.join(","))))),
        ("wrong signature", signed(&of_issuer(""))),
    ]
}

/// Refuses each of them very often.
fn refuse_monsters(bench: &Bench) {
    let mut slow = false;
    for (name, token) in monsters() {
        let mut times: Vec<f64> = Vec::with_capacity(REFUSALS);
        for _ in 0..REFUSALS {
            let begun = Instant::now();
            assert!(!black_box(bench.check_token(black_box(&token))), "{name}");
            times.push(begun.elapsed().as_nanos() as f64);
        }
        times.sort_by(f64::total_cmp);
        let [median, worst] = [500, 990].map(|place| times[REFUSALS * place / 1_000]);
        println!("token, {name:30} median {:7.1} us, p99 {:7.1} us", median / 1e3, worst / 1e3);
        slow |= median >= REFUSAL_MOST_NS;
    }
    assert!(!slow, "a token takes a millisecond to refuse");
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = Bench::new(folder.path()).expect("tables");
    refuse_monsters(&bench);
    let random = Seeded(AtomicU64::new(11));
    let known = |from: usize| (from..from + KEYS).filter_map(|n| bench.key_text(n));
    let kinds: [(&str, Vec<String>); 6] = [
        ("wrong secret, last character", known(0).map(with_another_end).collect()),
        (
            "wrong secret, first character",
            known(KEYS).map(with_another_beginning).collect(),
        ),
        (
            "other prefix",
            known(2 * KEYS)
                .map(|k| sealed(&format!("xx{}", &k[2..k.len() - CRC_LEN])))
                .collect(),
        ),
        (
            "unknown",
            (0..KEYS)
                .map(|_| PlainKey::generate("tp", Environment::Live, &random).reveal().to_owned())
                .collect(),
        ),
        ("revoked", known(KEY_COUNT).map(str::to_owned).collect()),
        ("valid", known(3 * KEYS).map(str::to_owned).collect()),
    ];
    let mut times: Vec<Vec<f64>> = kinds.iter().map(|_| Vec::with_capacity(SAMPLES)).collect();
    while times.iter().any(|t| t.len() < SAMPLES) {
        let kind = (random.next() % kinds.len() as u64) as usize;
        let key = &kinds[kind].1[(random.next() % KEYS as u64) as usize];
        let begun = Instant::now();
        let let_in = black_box(bench.check_text(black_box(key)));
        let took = begun.elapsed();
        assert_eq!(let_in, kinds[kind].0 == "valid", "{}", kinds[kind].0);
        times[kind].push(took.as_nanos() as f64);
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() * (1000 - CROPPED) / 1000);
    }
    let median = |times: &[f64]| times[times.len() / 2];
    let usual = median(&times[0]);
    let mut told = false;
    for ((name, _), times_of) in kinds.iter().zip(&times) {
        let (ratio, t) = (median(times_of) / usual, welch(times_of, &times[0]));
        println!(
            "{name:30} median {:5.0} ns, {ratio:.3} of the first, t {t:6.1}",
            median(times_of)
        );
        told |= (ratio - 1.0).abs() > MEDIANS_MOST && !["revoked", "valid"].contains(name);
    }
    assert!(!told, "the time tells what is wrong with a key");
}
