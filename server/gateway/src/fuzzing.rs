//! What reads bytes from outside, for the targets in `fuzz/`. Not part of the crate's interface.

use crate::client::fuzzing as client;
use crate::filter::fuzzing as filter;
use crate::ledger::{Ledger, record};
use crate::listen::proxy_header;
use crate::route;
use crate::token::fuzzing as token;
use crate::tunnel::fuzzing as tunnel;
use crate::upstream::fuzzing as upstream;
use bytes::BytesMut;
use model::Random;
use model::access::TokenAlgorithm;
use model::issuer::IssuerFile;
use model::policy::FieldPath;
use model::usage::UsageRecord;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The path that is matched, when this one is let through.
pub fn path(raw: &str) -> Option<String> {
    route::canonical(raw).ok().map(std::borrow::Cow::into_owned)
}

/// The requests that a client's bytes hold when they come in pieces of this size, each with method, target and body, and
/// whether everything was good so far.
pub fn requests(bytes: &[u8], piece: usize) -> (Vec<(String, String, Vec<u8>)>, bool) {
    client::requests(bytes.chunks(piece.max(1)))
}

/// One answer's status, body and what follows it, from bytes that come in pieces of this size; `None` when it is
/// refused or not whole.
pub fn answer(bytes: &[u8], piece: usize, head_request: bool) -> Option<(u16, Vec<u8>, Vec<u8>)> {
    let mut pieces = bytes.chunks(piece.max(1));
    let mut read = BytesMut::new();
    upstream::answer(&mut read, head_request, || pieces.next()).map(|(status, body)| {
        let rest = pieces.flatten().copied();
        (status, body, read.iter().copied().chain(rest).collect())
    })
}

/// A document (or one a line) without what the paths name, when it comes in pieces of this size; `None` when it is no JSON.
pub fn filtered(bytes: &[u8], piece: usize, paths: &[FieldPath], lines: bool) -> Option<Vec<u8>> {
    filter::without(bytes.chunks(piece.max(1)), paths, lines).ok()
}

/// What a token's header asks for: its algorithm, and the name of the key. `None` when it is no token.
pub fn token_header(token: &[u8]) -> Option<(TokenAlgorithm, Option<String>)> {
    token::header(token)
}

/// How many keys a JWK Set holds that signatures may be checked with; `None` when it is none.
pub fn token_keys(body: &[u8]) -> Option<usize> {
    token::keys(body)
}

/// Whom a token names, when it is good under this issuer's secret at this time (seconds since 1970).
pub fn token_caller(token: &[u8], issuer: &IssuerFile, secret: &[u8], now_s: i64) -> Option<String> {
    token::caller(token, issuer.clone(), secret, now_s)
}

/// A trusted proxy's header, and how many bytes it took.
///
/// # Errors
/// When it is none.
pub fn proxy(bytes: &[u8]) -> io::Result<(Option<SocketAddr>, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut rest = bytes;
    let told = runtime.block_on(proxy_header::read(&mut rest))?;
    Ok((told, bytes.len() - rest.len()))
}

/// How many bytes of WebSocket frames pass when they come in pieces of this size, how many of the frames are idle, and
/// whether what follows is wrong. Frames may have 1,000 bytes, messages 1,500.
pub fn frames(bytes: &[u8], piece: usize, of_client: bool, compressed: bool) -> (usize, u32, bool) {
    tunnel::frames(bytes.chunks(piece.max(1)), of_client, compressed)
}

/// The record that lies in these bytes, and the bytes that it is written as again.
pub fn ledger_record(bytes: &[u8; record::RECORD_LEN]) -> Option<(UsageRecord, [u8; record::RECORD_LEN])> {
    let found = record::decode(bytes)?;
    let mut again = record::encode(&found);
    record::seal(&mut again, found.seq);
    Some((found, again))
}

/// Gives bytes the checksum and the number of a record.
pub fn seal(bytes: &mut [u8; record::RECORD_LEN], seq: u64) {
    record::seal(bytes, seq);
}

struct Counting(AtomicU64);
impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        }
    }
}

/// Opens a folder's ledger as a starting gateway does, adds one record, and reads everything back: the sequence numbers
/// found, and how many were there before.
///
/// # Errors
/// When the folder is refused.
pub fn ledger_folder(folder: &Path, capacity: u32) -> io::Result<(Vec<u64>, u64)> {
    let ledger = Ledger::open(folder, capacity, &Counting(AtomicU64::new(1)))?;
    let before = ledger.committed();
    let added = record::encode(&UsageRecord {
        seq: 0,
        request: model::RequestId::from_bits(1),
        continues: false,
        at: model::Time::from_unix_ms(1),
        consumer: model::ConsumerId::from_bits(1),
        environment: model::access::Environment::Live,
        subscription: None,
        plan_version: None,
        period_start: model::Time::from_unix_ms(1),
        key: model::KeyId::from_bits(1),
        route: 1,
        meter: 1,
        units: 1,
        status: 200,
        refusal: 0,
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 1,
        variants: 0,
    });
    ledger.append(added, [None, None])?;
    // Read as after another start: everything that was kept, in order.
    drop(ledger);
    let ledger = Ledger::open(folder, capacity, &Counting(AtomicU64::new(1)))?;
    let found = ledger.read(1, usize::MAX)?;
    Ok((found.iter().map(|r| r.seq).collect(), before))
}
