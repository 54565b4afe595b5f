//! The form of a ledger record: 128 bytes, two cache lines, whatever the request was.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | CRC-32 of the rest |
//! | 4..12 | sequence number |
//! | 12..27 | request id (120 bits) |
//! | 27..34 | when, in microseconds since 1970 |
//! | 34..49, 49..64, 64..79 | consumer, subscription (0: none), plan version (0: none) |
//! | 79..86 | start of the billing period, in microseconds since 1970 |
//! | 86..101 | key |
//! | 101..103, 103..105 | route, meter |
//! | 105..109 | units |
//! | 109..111 | status in the low fifteen bits; the highest says that it continues a request with a record |
//! | 111 | refusal in the low seven bits, test environment in the highest |
//! | 112..117, 118..123 | bytes of the request's and of the answer's body |
//! | 117, 123 | combination of feature variants, low byte and high byte |
//! | 124..128 | duration in microseconds |
//!
//! Numbers are little-endian. A number too large for its field is stored as the largest that fits. Records from before
//! there were variants have zeros at their places, which says that there were none: bodies had six bytes for their
//! length, and none was ever so long.

use jiff::Timestamp;
use model::access::Environment;
use model::usage::UsageRecord;
use model::{ConsumerId, KeyId, PlanVersionId, RequestId, SubscriptionId, Time};

/// Bytes of a record.
pub(crate) const RECORD_LEN: usize = 128;
const TEST_BIT: u8 = 0x80;
const CONTINUES_BIT: u16 = 0x8000;

/// A record as it lies in a segment.
pub(crate) type Encoded = [u8; RECORD_LEN];

fn put(out: &mut Encoded, at: usize, len: usize, value: u128) {
    let largest = (1u128 << (8 * len)) - 1;
    let bytes = value.min(largest).to_le_bytes();
    out[at..at + len].copy_from_slice(&bytes[..len]);
}

fn get(from: &Encoded, at: usize, len: usize) -> u128 {
    let mut bytes = [0u8; 16];
    bytes[..len].copy_from_slice(&from[at..at + len]);
    u128::from_le_bytes(bytes)
}

fn micros(t: Time) -> u128 {
    u128::try_from(t.jiff().as_microsecond()).unwrap_or(0)
}

fn time(micros: u128) -> Time {
    let stamp = i64::try_from(micros)
        .ok()
        .and_then(|us| Timestamp::from_microsecond(us).ok());
    stamp.map_or_else(|| Time::from_unix_ms(0), Time::from)
}

/// A record without its sequence number and checksum, which [`seal`] adds.
pub(crate) fn encode(r: &UsageRecord) -> Encoded {
    let mut out = [0u8; RECORD_LEN];
    put(&mut out, 12, 15, r.request.to_bits());
    put(&mut out, 27, 7, micros(r.at));
    put(&mut out, 34, 15, r.consumer.to_bits());
    put(&mut out, 49, 15, r.subscription.map_or(0, SubscriptionId::to_bits));
    put(&mut out, 64, 15, r.plan_version.map_or(0, PlanVersionId::to_bits));
    put(&mut out, 79, 7, micros(r.period_start));
    put(&mut out, 86, 15, r.key.to_bits());
    out[101..103].copy_from_slice(&r.route.to_le_bytes());
    out[103..105].copy_from_slice(&r.meter.to_le_bytes());
    out[105..109].copy_from_slice(&r.units.to_le_bytes());
    let continues = if r.continues { CONTINUES_BIT } else { 0 };
    out[109..111].copy_from_slice(&((r.status & !CONTINUES_BIT) | continues).to_le_bytes());
    let test = if r.environment == Environment::Test {
        TEST_BIT
    } else {
        0
    };
    out[111] = (r.refusal & !TEST_BIT) | test;
    put(&mut out, 112, 5, u128::from(r.request_bytes));
    put(&mut out, 118, 5, u128::from(r.response_bytes));
    [out[117], out[123]] = r.variants.to_le_bytes();
    out[124..128].copy_from_slice(&r.duration_us.to_le_bytes());
    out
}

/// Gives a record its place and its checksum.
pub(crate) fn seal(out: &mut Encoded, seq: u64) {
    out[4..12].copy_from_slice(&seq.to_le_bytes());
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The sequence number, when the checksum is right.
pub(crate) fn check(from: &Encoded) -> Option<u64> {
    let crc = u32::try_from(get(from, 0, 4)).ok()?;
    (crc == crc32fast::hash(&from[4..])).then_some(())?;
    u64::try_from(get(from, 4, 8)).ok()
}

/// The record; `None` when it is torn, empty or not a record.
pub(crate) fn decode(from: &Encoded) -> Option<UsageRecord> {
    let seq = check(from)?;
    let flags = from[111];
    let status = u16::from_le_bytes([from[109], from[110]]);
    let some = |bits: u128| (bits != 0).then_some(bits);
    Some(UsageRecord {
        seq,
        request: RequestId::from_bits(get(from, 12, 15)),
        continues: status & CONTINUES_BIT != 0,
        at: time(get(from, 27, 7)),
        consumer: ConsumerId::from_bits(get(from, 34, 15)),
        environment: if flags & TEST_BIT == 0 {
            Environment::Live
        } else {
            Environment::Test
        },
        subscription: some(get(from, 49, 15)).map(SubscriptionId::from_bits),
        plan_version: some(get(from, 64, 15)).map(PlanVersionId::from_bits),
        period_start: time(get(from, 79, 7)),
        key: KeyId::from_bits(get(from, 86, 15)),
        route: u16::try_from(get(from, 101, 2)).ok()?,
        meter: u16::try_from(get(from, 103, 2)).ok()?,
        units: u32::try_from(get(from, 105, 4)).ok()?,
        status: status & !CONTINUES_BIT,
        refusal: flags & !TEST_BIT,
        variants: u16::from_le_bytes([from[117], from[123]]),
        request_bytes: u64::try_from(get(from, 112, 5)).ok()?,
        response_bytes: u64::try_from(get(from, 118, 5)).ok()?,
        duration_us: u32::try_from(get(from, 124, 4)).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn records()(
            seq in 1u64.., ids in proptest::array::uniform5(1u128..(1 << 120)), none: (bool, bool), live: bool, continues: bool,
            at in 0i64..4_000_000_000_000_000, start in 0i64..4_000_000_000_000_000,
            numbers: (u16, u16, u32, u16, u32), refusal in 0u8..128,
            bytes in proptest::array::uniform2(0u64..(1 << 40)), variants: u16,
        ) -> UsageRecord {
            UsageRecord {
                seq,
                request: RequestId::from_bits(ids[0]),
                continues,
                at: time(u128::try_from(at).unwrap()),
                consumer: ConsumerId::from_bits(ids[1]),
                environment: if live { Environment::Live } else { Environment::Test },
                subscription: none.0.then(|| SubscriptionId::from_bits(ids[2])),
                plan_version: none.1.then(|| PlanVersionId::from_bits(ids[3])),
                period_start: time(u128::try_from(start).unwrap()),
                key: KeyId::from_bits(ids[4]),
                route: numbers.0,
                meter: numbers.1,
                units: numbers.2,
                status: numbers.3 & !CONTINUES_BIT,
                refusal,
                variants,
                request_bytes: bytes[0],
                response_bytes: bytes[1],
                duration_us: numbers.4,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in records()) {
            let mut out = encode(&record);
            seal(&mut out, record.seq);
            prop_assert_eq!(decode(&out), Some(record));
        }

        #[test]
        fn a_changed_bit_is_seen(record in records(), bit in 0usize..RECORD_LEN * 8) {
            let mut out = encode(&record);
            seal(&mut out, record.seq);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&out), None);
        }

        #[test]
        fn a_torn_record_is_no_record(record in records(), written in 0usize..RECORD_LEN) {
            let mut out = encode(&record);
            seal(&mut out, record.seq);
            let whole = out;
            out[written..].fill(0);
            prop_assume!(out != whole);
            prop_assert_eq!(decode(&out), None);
        }
    }

    /// A record as it was written before there were variants.
    #[test]
    fn an_old_record_has_no_variants() {
        let mut out = [0u8; RECORD_LEN];
        put(&mut out, 112, 6, 1_000_000);
        put(&mut out, 118, 6, (1 << 40) - 1);
        seal(&mut out, 1);
        let read = decode(&out).unwrap();
        assert_eq!(
            (read.variants, read.request_bytes, read.response_bytes),
            (0, 1_000_000, (1 << 40) - 1)
        );
    }

    #[test]
    fn an_empty_place_is_no_record() {
        assert_eq!(decode(&[0u8; RECORD_LEN]), None);
    }
}
