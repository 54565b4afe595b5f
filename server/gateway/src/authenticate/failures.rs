//! A bound on wrong credentials from one network.
//!
//! A client that tries keys is answered 429 instead of 401 once it has failed too often. A right credential from the same
//! address is let in all the while: behind one address there may be many people, and no guess among 190 bits succeeds.

use crate::bounded::Bounded;
use crate::rate::{Gcra, Rate};
use crate::refusal::{Refusal, Refused};
use model::catalogue::RateLimit;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Failures of one network before they are answered 429: sixty at once, then one a second.
const ALLOWED: RateLimit = RateLimit {
    per_second: 1,
    burst: 60,
};
/// Networks remembered; each takes about 100 bytes.
const NETWORKS_MOST: usize = 65_536;

/// Who one client is, as far as an address tells: an IPv6 client has 64 bits to choose from.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// Failures by network.
pub(super) struct Failures(Bounded<IpAddr, Arc<AtomicU64>>);

impl Failures {
    pub(super) fn new() -> Self {
        Self(Bounded::new(NETWORKS_MOST))
    }

    /// Counts a failure; what is answered in its place when there were too many. `now_ns` is steady time.
    pub(super) fn judge(&self, refused: Refused, client: IpAddr, now_ns: u64) -> Refused {
        self.decide(refused, client, |allowed, arrival| allowed.take(arrival, now_ns))
    }

    /// What would be answered in place of a failure just now.
    pub(super) fn peek(&self, refused: Refused, client: IpAddr, now_ns: u64) -> Refused {
        self.decide(refused, client, |allowed, arrival| allowed.peek(arrival, now_ns))
    }

    fn decide(&self, refused: Refused, client: IpAddr, rate: impl Fn(Gcra, &AtomicU64) -> Rate) -> Refused {
        if !matches!(refused.refusal(), Refusal::KeyUnknown | Refusal::TokenInvalid) {
            return refused;
        }
        let arrival = self.0.get_or_put(network(client), Arc::default);
        let rate = rate(Gcra::from(ALLOWED), &arrival);
        if rate.allowed {
            return refused;
        }
        let detail = "Too many wrong credentials came from your network.";
        Refused::new(Refusal::TooManyFailures, detail).retry_after(rate.seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client() {
        let net = |text: &str| network(text.parse().unwrap());
        assert_eq!(net("2001:db8:1:2:3:4:5:6"), net("2001:db8:1:2::"));
        assert_ne!(net("2001:db8:1:2::"), net("2001:db8:1:3::"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
    }
}
