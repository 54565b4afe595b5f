//! The PROXY protocol (haproxy.org, proxy-protocol.txt): a trusted balancer in front says whose connection it is before
//! the connection's first byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its end.
const LINE_MOST: usize = 107;
/// Most bytes behind the fixed head of version 2: addresses, and extensions that are passed over.
const REST_MOST: usize = 2048;

/// Reads the header and not a byte more. The client's address; none when the balancer speaks for itself (a health
/// check).
///
/// # Errors
/// When what comes is no such header.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await?;
    if head == SIGNATURE {
        version_2(stream).await
    } else {
        version_1(stream, &head).await
    }
}

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

async fn version_1<S: AsyncRead + Unpin>(stream: &mut S, begin: &[u8; 12]) -> io::Result<Option<SocketAddr>> {
    let mut line = begin.to_vec();
    if !line.starts_with(b"PROXY ") || line.contains(&b'\n') {
        return Err(wrong("no PROXY header"));
    }
    // A byte at a time, so that nothing of the request is taken.
    while line.last() != Some(&b'\n') {
        if line.len() >= LINE_MOST {
            return Err(wrong("the PROXY line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").and_then(|l| std::str::from_utf8(l).ok());
    let mut words = line
        .ok_or_else(|| wrong("the PROXY line is malformed"))?
        .split(' ')
        .skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let (source, _, port) = (words.next(), words.next(), words.next());
    let address: Option<IpAddr> = source.and_then(|s| s.parse().ok());
    let port: Option<u16> = port.and_then(|p| p.parse().ok());
    match (family, address, port) {
        (Some("TCP4"), Some(address @ IpAddr::V4(_)), Some(port)) => Ok(Some((address, port).into())),
        (Some("TCP6"), Some(address @ IpAddr::V6(_)), Some(port)) => Ok(Some((address, port).into())),
        _ => Err(wrong("the PROXY line is malformed")),
    }
}

async fn version_2<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let kind = stream.read_u8().await?;
    let family = stream.read_u8().await?;
    let length = usize::from(stream.read_u16().await?);
    if length > REST_MOST {
        return Err(wrong("the PROXY header is too long"));
    }
    let mut rest = vec![0u8; length];
    stream.read_exact(&mut rest).await?;
    match (kind, family, rest.as_slice()) {
        (0x20, ..) => Ok(None),
        (0x21, 0x11, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            let address = IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d));
            Ok(Some((address, u16::from_be_bytes([*high, *low])).into()))
        }
        (0x21, 0x21, rest) => {
            let source: Option<[u8; 16]> = rest.get(..16).and_then(|s| s.try_into().ok());
            let port: Option<[u8; 2]> = rest.get(32..34).and_then(|p| p.try_into().ok());
            let both = source.zip(port).ok_or_else(|| wrong("the PROXY header is too short"))?;
            Ok(Some((Ipv6Addr::from(both.0), u16::from_be_bytes(both.1)).into()))
        }
        (0x21, 0x00, _) => Ok(None),
        _ => Err(wrong("a PROXY header of an unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parsed(bytes: &[u8]) -> io::Result<(Option<SocketAddr>, Vec<u8>)> {
        let mut rest = bytes;
        let address = read(&mut rest).await?;
        Ok((address, rest.to_vec()))
    }

    #[tokio::test]
    async fn both_versions_are_read_to_their_end() {
        let v2 = |kind: u8, family: u8, rest: &[u8]| {
            let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
            [&SIGNATURE[..], &[kind, family], &length, rest, b"GET"].concat()
        };
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let mut six = Ipv6Addr::LOCALHOST.octets().to_vec();
        six.extend([0; 16]);
        six.extend([0x1f, 0x90, 0, 80]);
        for (bytes, address) in [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\nGET".to_vec(),
                Some("192.0.2.7:8080"),
            ),
            (b"PROXY TCP6 ::1 ::2 8080 80\r\nGET".to_vec(), Some("[::1]:8080")),
            (b"PROXY UNKNOWN\r\nGET".to_vec(), None),
            (v2(0x21, 0x11, &four), Some("192.0.2.7:8080")),
            (
                v2(0x21, 0x11, &[&four[..], &[4, 0, 1, 9]].concat()),
                Some("192.0.2.7:8080"),
            ),
            (v2(0x21, 0x21, &six), Some("[::1]:8080")),
            (v2(0x20, 0x00, &[]), None),
        ] {
            let (got, rest) = parsed(&bytes).await.unwrap();
            assert_eq!(got.map(|a| a.to_string()).as_deref(), address, "{bytes:?}");
            assert_eq!(rest, b"GET", "nothing of the request is taken");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200], b"\r\n"].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 ::1 ::2 8080 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\n",
            &long,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd",
            b"PRO",
        ] {
            assert!(parsed(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
