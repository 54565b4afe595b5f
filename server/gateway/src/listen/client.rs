//! Who is at the other end of a connection, seen through the proxies that are trusted.

use crate::headers;
use http::header::{HeaderMap, HeaderValue};
use model::policy::AddressRange;
use std::net::IpAddr;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    address: IpAddr,
    header: HeaderValue,
    /// What it says of those behind it is believed.
    trusted: bool,
    /// The connection came over TLS.
    tls: bool,
}

/// The client of a request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// `X-Forwarded-For` for the upstream.
    pub(crate) header: HeaderValue,
    /// `X-Forwarded-Proto` for the upstream.
    pub(crate) scheme: &'static str,
}

impl Peer {
    /// From the socket's address, or the one a trusted balancer told.
    pub(crate) fn new(address: IpAddr, trusted: &[AddressRange], tls: bool) -> Self {
        let address = address.to_canonical();
        Self {
            header: headers::value(&address.to_string()),
            trusted: trusted.iter().any(|r| r.contains(address)),
            address,
            tls,
        }
    }

    /// Where the connection comes from.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The client of a request that came from here: the last address in `X-Forwarded-For` that is no trusted proxy's,
    /// because every proxy adds to the end whom it talked to. A line that holds something else ends what is believed.
    pub(crate) fn client(&self, headers: &HeaderMap, trusted: &[AddressRange]) -> Client {
        let scheme = if self.tls { "https" } else { "http" };
        let direct = || Client {
            address: self.address,
            header: self.header.clone(),
            scheme,
        };
        if !self.trusted {
            return direct();
        }
        let told = headers.get("x-forwarded-proto").map(HeaderValue::as_bytes);
        let scheme = match told {
            Some(b"https") => "https",
            Some(b"http") => "http",
            _ => scheme,
        };
        let mut believed = self.address;
        'hops: for line in headers.get_all(headers::X_FORWARDED_FOR).iter().rev() {
            for hop in line.as_bytes().split(|b| *b == b',').rev() {
                let hop = std::str::from_utf8(hop.trim_ascii())
                    .ok()
                    .and_then(|h| h.parse::<IpAddr>().ok());
                let Some(hop) = hop else { break 'hops };
                believed = hop.to_canonical();
                if !trusted.iter().any(|r| r.contains(believed)) {
                    break 'hops;
                }
            }
        }
        if believed == self.address {
            return Client { scheme, ..direct() };
        }
        Client {
            address: believed,
            header: crate::headers::value(&believed.to_string()),
            scheme,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_say_is_believed() {
        let trusted: Vec<AddressRange> = vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        for (peer, lines, client) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["10.0.0.3"], "10.0.0.3"),
            ("10.0.0.1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["203.0.113.9:1234"], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let peer = Peer::new(peer.parse().unwrap(), &trusted, false);
            let found = peer.client(&headers, &trusted);
            assert_eq!(found.address.to_string(), client, "{lines:?}");
            assert_eq!(found.header.to_str().unwrap(), client);
        }
    }

    #[test]
    fn the_scheme_is_the_sockets_unless_a_trusted_proxy_says_otherwise() {
        let trusted: Vec<AddressRange> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        for (peer, tls, scheme) in [
            ("192.0.2.1", false, "http"),
            ("192.0.2.1", true, "https"),
            ("10.0.0.1", false, "https"),
        ] {
            let peer = Peer::new(peer.parse().unwrap(), &trusted, tls);
            assert_eq!(peer.client(&headers, &trusted).scheme, scheme);
        }
    }
}
