//! Frames that may not pass end a WebSocket, and both sides are told why (T93).

use crate::frames::{client_frame, client_head, client_payloads, read_frame, server_frame};
use crate::support::*;
use crate::websocket::{Server, closed_with, read_to_end, route_to, shake};
use model::policy::WebSocketPolicy;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest time from a frame to its close frame: it is at once, on a machine with other things to do, and long before any
/// silence ends it.
const AT_ONCE: Duration = Duration::from_secs(20);

async fn world(server: &Server, policy: WebSocketPolicy) -> World {
    let world = World::new().await;
    route_to(&world, server, 600_000, policy).await;
    world
}

fn small() -> WebSocketPolicy {
    WebSocketPolicy {
        max_frame_bytes: Some(1_000),
        max_message_bytes: 1_500,
        ..WebSocketPolicy::default()
    }
}

/// The code of the last frame that the upstream got, which must be a close frame; the payloads before it.
fn told_upstream(server: &Server, skip: usize) -> (u16, Vec<Vec<u8>>) {
    let mut bytes = server.bytes().split_off(skip);
    let mut frames = client_payloads(&mut bytes);
    assert!(bytes.is_empty(), "whole frames alone: {bytes:?}");
    let (first, payload) = frames.pop().unwrap();
    assert_eq!(first, 0x88);
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    (code, frames.into_iter().map(|(_, payload)| payload).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_rules_is_told_and_so_is_the_upstream() {
    let server = Server::start().await;
    let world = world(&server, small()).await;
    let fine = client_frame(0x81, b"fine");
    let two = |first, bytes| [client_frame(first, &[0; 1_000]), client_head(0x80, bytes)].concat();
    for (what, bytes, code, upstream, reason) in [
        ("a gibibyte", client_head(0x82, 1 << 30), 1009, 1009, "frame is larger"),
        ("too large", client_head(0x82, 1_001), 1009, 1009, "frame is larger"),
        ("parts too large", two(0x02, 501), 1009, 1009, "message is larger"),
        ("no mask", server_frame(0x81, b"a"), 1002, 1001, "masked"),
        ("reserved opcode", client_frame(0x83, b""), 1002, 1001, "opcode"),
        ("reserved bit", client_frame(0xC1, b"a"), 1002, 1001, "reserved bit"),
        ("part of a ping", client_frame(0x09, b""), 1002, 1001, "fragmented"),
        ("large ping", client_frame(0x89, &[0; 126]), 1002, 1001, "125 bytes"),
        ("no first part", client_frame(0x80, b"a"), 1002, 1001, "no message"),
    ] {
        let (ended, before) = (server.ended.load(Ordering::SeqCst), server.bytes().len());
        let (reply, mut stream) = shake(&world, "/v1/a", &fine).await;
        assert_eq!(reply.status, 101);
        assert_eq!(read_frame(&mut stream).await, Some((0x81, b"fine".to_vec())), "{what}");
        let began = Instant::now();
        stream.write_all(&bytes).await.unwrap();
        let (told, why) = closed_with(&mut stream).await;
        assert!(told == code && why.contains(reason), "{what}: {told} {why}");
        assert!(began.elapsed() < AT_ONCE, "{what}");
        until(|| server.ended.load(Ordering::SeqCst) == ended + 1).await;
        let (told, payloads) = told_upstream(&server, before);
        assert_eq!(told, upstream, "{what}");
        assert_eq!(payloads[0], b"fine", "{what}");
        assert!(
            payloads.len() == 1 || payloads[1].len() == 1_000,
            "{what}: nothing of what is wrong reached it"
        );
    }
    until(|| world.target("in_flight", 0) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_the_rules_is_told_and_so_is_the_client() {
    let server = Server::start().await;
    let world = world(&server, small()).await;
    for (what, hex, code, upstream) in [
        ("a mask", "818000000000", 1001, 1002),
        ("reserved bit", "c10161", 1001, 1002),
        ("reserved opcode", "8f00", 1001, 1002),
        ("length of two forms", "827e0001", 1001, 1002),
        ("a gibibyte", "827f0000000040000000", 1009, 1009),
    ] {
        let (ended, before) = (server.ended.load(Ordering::SeqCst), server.bytes().len());
        let (_, mut stream) = shake(&world, &format!("/v1/raw-{hex}"), b"").await;
        assert_eq!(closed_with(&mut stream).await.0, code, "{what}");
        drop(stream);
        until(|| server.ended.load(Ordering::SeqCst) == ended + 1).await;
        assert_eq!(told_upstream(&server, before).0, upstream, "{what}");
    }
}

/// A close frame inside another frame would be read as a part of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_inside_a_frame_is_told_nothing() {
    let server = Server::start().await;
    let world = world(&server, small()).await;
    let (_, mut stream) = shake(&world, "/v1/raw-810561", b"").await;
    let mut got = [0; 3];
    stream.read_exact(&mut got).await.unwrap();
    stream.write_all(&client_head(0x82, 1_001)).await.unwrap();
    let got = [&got[..], &read_to_end(&mut stream).await].concat();
    assert_eq!(got, [0x81, 5, 0x61], "one of five bytes, and the end");
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(
        told_upstream(&server, 0),
        (1009, vec![]),
        "the upstream was between two"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_that_was_agreed_on_passes() {
    let server = Server::start().await;
    let world = world(&server, small()).await;
    for (path, code) in [("/v1/deflate", None), ("/v1/a", Some(1002))] {
        let (_, mut stream) = shake(&world, path, b"").await;
        stream.write_all(&client_frame(0xC1, b"packed")).await.unwrap();
        match code {
            None => assert_eq!(read_frame(&mut stream).await, Some((0xC1, b"packed".to_vec()))),
            Some(code) => assert_eq!(closed_with(&mut stream).await.0, code),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_ends_and_a_heartbeat_does_not() {
    let server = Server::start().await;
    let world = world(&server, small()).await;
    for flood in [client_frame(0x89, b"?"), client_frame(0x00, b"")] {
        let (_, mut stream) = shake(&world, "/v1/a", &client_frame(0x01, b"a")).await;
        for _ in 0..20 {
            stream.write_all(&client_frame(0x89, b"!")).await.unwrap();
            while read_frame(&mut stream).await != Some((0x89, b"!".to_vec())) {}
        }
        let _ = stream.write_all(&flood.repeat(1_000)).await;
        let (code, reason) = closed_with(&mut stream).await;
        assert!(code == 1008 && reason.contains("ping"), "{code} {reason}");
    }
    until(|| server.ended.load(Ordering::SeqCst) == 2).await;
}
