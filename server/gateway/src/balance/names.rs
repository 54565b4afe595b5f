//! Addresses behind a host's name.
//!
//! The system's resolver tells no lifetimes, so names are looked up again from time to time, and when no address known
//! takes a connection.

use arc_swap::ArcSwap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

/// Most addresses of a name that are tried.
const ADDRESSES_MOST: usize = 16;
/// An address is given at least this time before the next one is tried.
const SHARE_LEAST: Duration = Duration::from_millis(100);

/// Where a host can be reached.
#[derive(Debug)]
pub(crate) struct Addresses {
    host: String,
    port: u16,
    /// Whether the host is an address itself.
    fixed: bool,
    known: ArcSwap<Vec<SocketAddr>>,
    /// Place of the address that took the last connection.
    good: AtomicUsize,
}

impl Addresses {
    /// Of a name, or of an address alone.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        let fixed = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        Self {
            host: host.to_owned(),
            port,
            fixed: fixed.is_some(),
            known: ArcSwap::from_pointee(fixed.into_iter().collect()),
            good: AtomicUsize::new(0),
        }
    }

    /// Whether they can change.
    pub(crate) fn is_name(&self) -> bool {
        !self.fixed
    }

    /// Whether a connection to this address is still one to the host.
    pub(crate) fn holds(&self, peer: Option<SocketAddr>) -> bool {
        self.fixed || peer.is_some_and(|p| self.known.load().contains(&p))
    }

    /// Looks the name up again. What was known stays when that fails, or finds nothing.
    pub(crate) async fn resolve(&self) -> io::Result<Arc<Vec<SocketAddr>>> {
        if !self.fixed {
            let found = lookup_host((self.host.as_str(), self.port)).await?;
            let found = in_turns(found.take(ADDRESSES_MOST).collect());
            if !found.is_empty() && **self.known.load() != found {
                self.known.store(Arc::new(found));
            }
        }
        Ok(self.known.load_full())
    }

    /// Connects to the address that was good last, else to the others in turn, else to what a new lookup finds.
    pub(crate) async fn connect(&self, until: Instant) -> io::Result<(TcpStream, SocketAddr)> {
        let mut known = self.known.load_full();
        if known.is_empty() {
            known = timeout_at(until, self.resolve()).await??;
        }
        let failed = match self.try_all(&known, until).await {
            Ok(connected) => return Ok(connected),
            Err(error) if self.fixed || Instant::now() >= until => return Err(error),
            Err(error) => error,
        };
        let mut again = Vec::clone(&*timeout_at(until, self.resolve()).await??);
        again.retain(|a| !known.contains(a));
        if again.is_empty() {
            return Err(failed);
        }
        self.try_all(&again, until).await
    }

    async fn try_all(&self, addresses: &[SocketAddr], until: Instant) -> io::Result<(TcpStream, SocketAddr)> {
        let first = self.good.load(Ordering::Relaxed);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for turn in 0..addresses.len() {
            let place = (first + turn) % addresses.len();
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - turn).unwrap_or(1);
            let until = until.min(Instant::now() + share.max(SHARE_LEAST));
            match timeout_at(until, TcpStream::connect(addresses[place])).await {
                Ok(Ok(stream)) => {
                    self.good.store(place, Ordering::Relaxed);
                    return Ok((stream, addresses[place]));
                }
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }
}

/// One of each family after the other (RFC 8305, section 4), the resolver's first one first.
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|a| a.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut out = Vec::new();
    loop {
        let before = out.len();
        for next in one.next().into_iter().chain(other.next()) {
            if !out.contains(&next) {
                out.push(next);
            }
        }
        if out.len() == before && one.len() == 0 && other.len() == 0 {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn families_take_turns() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = parse(&["[::1]:1", "[::2]:1", "10.0.0.1:1", "[::1]:1"]);
        assert_eq!(in_turns(found), parse(&["[::1]:1", "10.0.0.1:1", "[::2]:1"]));
    }

    #[tokio::test]
    async fn a_name_is_looked_up_again_when_what_is_known_of_it_is_dead() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let addresses = Addresses::new("localhost", addr.port());
        let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
        addresses.known.store(Arc::new(vec![dead]));
        let (stream, peer) = addresses.connect(soon()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        assert!(addresses.holds(Some(peer)) && !addresses.holds(Some(dead)));
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let addresses = Addresses::new("localhost", addr.port());
        let dead = |n: u8| SocketAddr::from(([127, 0, 0, n], 1));
        addresses.known.store(Arc::new(vec![dead(1), dead(2), addr]));
        assert_eq!(addresses.connect(soon()).await.unwrap().1, addr);
        assert_eq!(
            addresses.good.load(Ordering::Relaxed),
            2,
            "and asked first the next time"
        );
    }
}
