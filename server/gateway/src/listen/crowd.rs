//! How many connections each client address has open.

use crate::config::Config;
use model::policy::AddressRange;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Open connections by client address, of all threads. Never has more entries than there are open connections.
pub(crate) struct Crowd {
    most: usize,
    uncounted: Vec<AddressRange>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place; free again when it is dropped.
pub(crate) struct Seat(Option<(Arc<Crowd>, IpAddr)>);

impl Crowd {
    /// Nobody yet.
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            most: config.limits.connections_per_address,
            uncounted: [&config.uncounted[..], &config.trusted_proxies].concat(),
            open: Mutex::default(),
        })
    }

    /// A place for one more connection from this address; `None` when it has as many as it may.
    pub(crate) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        if self.uncounted.iter().any(|range| range.contains(address)) {
            return Some(Seat(None));
        }
        let who = counted_as(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(who).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat(Some((Arc::clone(self), who))))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((crowd, who)) = self.0.take() else { return };
        let mut open = crowd.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&who) {
            *count -= 1;
            if *count == 0 {
                open.remove(&who);
            }
        }
    }
}

/// One subscriber has a whole /64 of IPv6.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(most: usize) -> Arc<Crowd> {
        let mut config = Config::new(([127, 0, 0, 1], 0).into(), std::path::PathBuf::new());
        config.limits.connections_per_address = most;
        Crowd::new(&config)
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let crowd = crowd(2);
        let seat = |text: &str| crowd.seat(text.parse().unwrap());
        let first = (seat("203.0.113.7").unwrap(), seat("::ffff:203.0.113.7").unwrap());
        assert!(seat("203.0.113.7").is_none() && seat("203.0.113.8").is_some());
        let _six = (seat("2001:db8::1").unwrap(), seat("2001:db8::2:0:0:1").unwrap());
        assert!(seat("2001:db8:0:0:9::").is_none(), "one /64");
        assert!(seat("2001:db8:0:1::1").is_some(), "another /64");
        drop(first);
        assert!(seat("203.0.113.7").is_some());
        assert_eq!(crowd.open.lock().unwrap().len(), 1, "nothing stays of who has gone");
    }

    #[test]
    fn a_proxy_nearby_is_not_counted() {
        let crowd = crowd(0);
        for near in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.9",
            "::1",
            "fd00::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(crowd.seat(near.parse().unwrap()).is_some(), "{near}");
        }
        for far in ["203.0.113.7", "172.32.0.1", "2001:db8::1"] {
            assert!(crowd.seat(far.parse().unwrap()).is_none(), "{far}");
        }
    }
}
