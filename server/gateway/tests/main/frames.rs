//! WebSocket frames as clients and servers write them.

use tokio::io::{AsyncRead, AsyncReadExt};

const MASK: [u8; 4] = [1, 2, 3, 4];

fn head(first: u8, bytes: usize, masked: u8) -> Vec<u8> {
    match bytes {
        0..126 => vec![first, masked | u8::try_from(bytes).unwrap()],
        126..0x1_0000 => [&[first, masked | 126][..], &u16::try_from(bytes).unwrap().to_be_bytes()].concat(),
        _ => [&[first, masked | 127][..], &u64::try_from(bytes).unwrap().to_be_bytes()].concat(),
    }
}

fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m).collect()
}

/// A client's frame; `first` holds its bits and its opcode.
pub(crate) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, payload.len(), 0x80), MASK.to_vec(), masked(payload)].concat()
}

/// The head of a client's frame that announces so many bytes.
pub(crate) fn client_head(first: u8, bytes: usize) -> Vec<u8> {
    [head(first, bytes, 0x80), MASK.to_vec()].concat()
}

/// A server's frame.
pub(crate) fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, payload.len(), 0), payload.to_vec()].concat()
}

fn length(short: u8, long: &[u8]) -> Option<(usize, usize)> {
    Some(match short & 0x7F {
        126 => (usize::from(u16::from_be_bytes(*long.first_chunk()?)), 2),
        127 => (usize::try_from(u64::from_be_bytes(*long.first_chunk()?)).unwrap(), 8),
        short => (usize::from(short), 0),
    })
}

/// Takes the whole frames of a client out of what was read: their first bytes, and their payloads in the clear.
pub(crate) fn client_payloads(held: &mut Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while held.len() >= 2 {
        let Some((bytes, long)) = length(held[1], &held[2..]) else {
            break;
        };
        let begin = 2 + long + 4;
        let Some(frame) = held.get(..begin + bytes) else { break };
        let mask = frame[begin - 4..begin].iter().cycle();
        let payload = frame[begin..].iter().zip(mask).map(|(b, m)| b ^ m).collect();
        all.push((frame[0], payload));
        held.drain(..begin + bytes);
    }
    all
}

/// The next frame of a server: its first byte and its payload; none at the end.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut start = [0; 2];
    stream.read_exact(&mut start).await.ok()?;
    assert_eq!(start[1] & 0x80, 0, "a server's frame has no mask");
    let long = [0, 2, 8][usize::from(start[1] == 126) + 2 * usize::from(start[1] == 127)];
    let mut extended = vec![0; long];
    stream.read_exact(&mut extended).await.ok()?;
    let mut payload = vec![0; length(start[1], &extended)?.0];
    stream.read_exact(&mut payload).await.ok()?;
    Some((start[0], payload))
}
