//! Two parsers and one stream: pipelines of requests, damaged at random, are sent to the gateway and read by the strict
//! reader as well. What the upstream gets must be what the reader read, in that order, and nothing behind the place
//! where the reader gave up. The seed stands in every failure.

use crate::recorder::*;
use crate::support::*;
use model::Random;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const SEED: u64 = 20_261_121;
/// Pipelines; ten times as many with `TURNPIKE_LONG_TESTS=1`.
const CASES: u64 = 640;
/// Pipelines under way at once.
const AT_ONCE: u64 = 64;

fn below(random: &Seeded, most: usize) -> usize {
    let mut bytes = [0u8; 4];
    random.fill(&mut bytes);
    usize::try_from(u32::from_le_bytes(bytes)).unwrap() % most.max(1)
}

/// What is put between, over or instead of good bytes.
const PIECES: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\t",
    b" ",
    b":",
    b";",
    b",",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xa0",
    b"0",
    b"5",
    b"+",
    b"-",
    b"0x",
    b"_",
    b"a",
    b"\r\nContent-Length: 3",
    b"\r\nContent-Length: 0",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nTransfer-Encoding: identity",
    b"\r\nTransfer-Encoding:\tchunked",
    b"\r\n folded",
    b"\r\nX: y",
    b"chunked",
    b"identity",
    b"HTTP/1.0",
    b"\r\nConnection: close",
    b"\r\nExpect: 100-continue",
    b"\r\nUpgrade: foo\r\nConnection: Upgrade",
    b"GET ",
    b"\r\nHost: b",
    b"0\r\n\r\n",
    b"1;x\r\nz\r\n",
    b"\n\n",
];

/// A pipeline of good requests, each with the case's mark in its target.
fn pipeline(world: &World, random: &Seeded, case: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..1 + below(random, 3) {
        let body = "abcdefgh"[..below(random, 9)].to_owned();
        let inner = format!("GET /v1/c{case}-inner HTTP/1.1\r\nHost: a\r\n{{key}}\r\n\r\n");
        let body = if below(random, 3) == 0 { inner } else { body };
        let method = ["GET", "POST", "PUT", "DELETE"][below(random, 4)];
        let head = format!("{method} /v1/c{case}-{number} HTTP/1.1\r\nHost: a\r\n{{key}}\r\nX-A: b\r\n");
        let text = match below(random, 3) {
            0 => format!("{head}\r\n"),
            1 => format!("{head}Content-Length: {{length}}\r\n\r\n{body}"),
            _ => format!("{head}Transfer-Encoding: chunked\r\n\r\n{{chunk}}\r\n{body}\r\n0\r\n\r\n"),
        };
        let keyed = String::from_utf8(with_key(world, text.as_bytes())).unwrap();
        let length = with_key(world, body.as_bytes()).len();
        let chunk = if length == 0 {
            "0\r\n\r\n".to_owned()
        } else {
            format!("{length:x}")
        };
        let keyed = keyed
            .replace("{length}", &length.to_string())
            .replace("{chunk}", &chunk);
        out.extend_from_slice(keyed.as_bytes());
    }
    out
}

/// Damages some bytes, at most three times.
fn damage(bytes: &mut Vec<u8>, random: &Seeded) {
    for _ in 0..below(random, 4) {
        let at = below(random, bytes.len());
        let piece = PIECES[below(random, PIECES.len())];
        match below(random, 4) {
            0 => drop(bytes.splice(at..at, piece.iter().copied())),
            1 => drop(bytes.splice(at..(at + piece.len()).min(bytes.len()), piece.iter().copied())),
            2 => drop(bytes.drain(at..(at + 1 + below(random, 6)).min(bytes.len()))),
            _ => {
                let end = (at + below(random, 40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(end..end, copy));
            }
        }
    }
}

/// All that the strict reader sees in these bytes before it gives up.
fn strictly(mut bytes: &[u8]) -> Vec<Request> {
    let mut all = Vec::new();
    loop {
        // Empty lines before a request are passed over (RFC 9112, 2.2).
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        match read(bytes) {
            Read::Whole(request, used) => {
                all.push(request);
                bytes = &bytes[used..];
            }
            Read::Part | Read::Broken(_) => return all,
        }
    }
}

/// T24: the gateway and the strict reader agree, or the gateway refuses.
#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_gets_what_a_strict_reader_reads() {
    let (world, recorder) = recorded().await;
    let long = std::env::var_os("TURNPIKE_LONG_TESTS").is_some();
    let random = Seeded(AtomicU64::new(SEED));
    let cases = if long { CASES * 10 } else { CASES };
    let mut whole = 0;
    for batch in 0..cases / AT_ONCE {
        let mut sent = Vec::new();
        for case in batch * AT_ONCE..(batch + 1) * AT_ONCE {
            let mut bytes = pipeline(&world, &random, case);
            damage(&mut bytes, &random);
            sent.push((case, Arc::new(bytes)));
        }
        let talks = sent.iter().map(|(_, bytes)| {
            let (addr, bytes) = (world.addr, Arc::clone(bytes));
            tokio::spawn(async move { exchange(addr, &bytes).await })
        });
        for talk in talks.collect::<Vec<_>>() {
            talk.await.unwrap();
        }
        let seen = recorder.requests();
        for (case, bytes) in sent {
            let mark = format!("/c{case}-");
            let mut read = strictly(&bytes).into_iter();
            for got in seen.iter().filter(|r| r.target.contains(&mark)) {
                let same = |r: &Request| (&r.method, &r.target, &r.body) == (&got.method, &got.target, &got.body);
                assert!(
                    read.any(|r| same(&r)),
                    "seed {SEED}, case {case}: {:?} became {got:?}",
                    String::from_utf8_lossy(&bytes)
                );
                whole += 1;
            }
        }
    }
    println!("{whole} requests of {cases} pipelines reached the upstream");
    assert!(
        whole > usize::try_from(cases).unwrap() / 4,
        "most damage leaves something whole: {whole}"
    );
    canary(&world, &recorder).await;
}
