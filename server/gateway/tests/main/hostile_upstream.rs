//! Upstreams that answer what no server should. Whatever they say, the client gets one answer that everybody reads
//! alike, the connection is not used again, and the next client gets what is its own.

use crate::recorder::*;
use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An upstream that sends these bytes for every target that ends with `/bad`, and says which connection served it.
async fn upstream(bad: &'static [u8]) -> (World, Recorder) {
    let recorder = Recorder::answering(move |request| {
        if request.target.ends_with("/bad") {
            return bad.to_vec();
        }
        let body = &request.target;
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    (before(&recorder).await, recorder)
}

/// T23: answers whose frame or head is not good are the upstream's fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_answer_is_the_upstreams_fault_and_leaks_to_nobody() {
    for bad in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\rX-Plan: scale\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 1000 High\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 abc No\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
        b"\0\0\x12\x04\0\0\0\0\0\0\0\x03\0\0\0d\r\n\r\n",
        b"<html>hello</html>\r\n\r\n",
    ] {
        let (world, recorder) = upstream(bad).await;
        let shown = String::from_utf8_lossy(bad).into_owned();
        let reply = world.get("/v1/bad").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (502, "upstream-broken"),
            "{shown:?}"
        );
        assert!(!reply.headers.iter().any(|h| h.1 == "scale"), "{shown:?}");
        for _ in 0..3 {
            canary(&world, &recorder).await;
        }
        assert!(recorder.bytes().len() > 1, "{shown:?}: its connection was used again");
        assert_eq!(
            world.shipped().await.iter().filter(|r| r.units > 0).count(),
            3,
            "{shown:?}"
        );
    }
}

/// T23: chunks that are none.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_chunks_that_are_none_has_no_end() {
    for bad in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
    ] {
        let (world, recorder) = upstream(bad).await;
        let shown = String::from_utf8_lossy(bad).into_owned();
        let text = format!(
            "GET /v1/bad HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            world.key.reveal()
        );
        let out = String::from_utf8_lossy(&raw(world.addr, text.as_bytes()).await).into_owned();
        let reply = Reply::parse(out.as_bytes());
        let (length, chunked) = (reply.header("content-length"), reply.header("transfer-encoding"));
        assert!(length.is_none() || chunked.is_none(), "{shown:?}: {out}");
        // Either refused, or cut off before an end.
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        let cut = chunked.is_some() && !body.ends_with("0\r\n\r\n");
        assert!(reply.status == 502 || cut, "{shown:?}: {out}");
        for _ in 0..3 {
            canary(&world, &recorder).await;
        }
        assert!(recorder.bytes().len() > 1, "{shown:?}: its connection was used again");
    }
}

/// T23: what comes behind an answer belongs to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_unasked_reaches_nobody() {
    for bad in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"[..],
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nsecond",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n\r\n",
    ] {
        let (world, recorder) = upstream(bad).await;
        let shown = String::from_utf8_lossy(bad).into_owned();
        for _ in 0..4 {
            let reply = world.get("/v1/bad").await;
            assert!(matches!(reply.status, 200 | 204 | 304), "{shown:?}: {reply:?}");
            assert!(!String::from_utf8_lossy(&reply.body).contains("second"), "{shown:?}: {reply:?}");
            canary(&world, &recorder).await;
        }
    }
}

/// T23: interim answers without an end are not waited for without an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_interim_answers_is_cut_off() {
    let sent = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        loop {
            let mut stream = accept(&listener).await;
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut chunk = [0u8; 4096];
                let _ = stream.read(&mut chunk).await;
                while stream
                    .write_all(b"HTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\n")
                    .await
                    .is_ok()
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let world = World::new().await;
    world.plane.put_routing(routing(addr));
    world.synced().await;
    let reply = world.get("/v1/ok").await;
    assert!(matches!(reply.status, 502 | 504), "{reply:?}");
    let after = sent.load(Ordering::Relaxed);
    until(|| Arc::strong_count(&sent) == 2).await;
    println!("{after} interim answers until the gateway said no");
}

/// T23: a head, a header or a trailer without an end takes a bounded part of the memory and of the time.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_head_has_a_bound() {
    for unit in [&b"X-A: 1\r\n"[..], b"x", b"HTTP/1.1 200 OK "] {
        for start in [&b"HTTP/1.1 200 OK\r\n"[..], b""] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let serving = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                drown(&mut stream, start, unit).await
            });
            let world = World::new().await;
            world.plane.put_routing(routing(addr));
            world.synced().await;
            let reply = world.get("/v1/ok").await;
            assert!(matches!(reply.status, 502 | 504), "{reply:?}");
            let taken = tokio::time::timeout(Duration::from_secs(20), serving)
                .await
                .unwrap()
                .unwrap();
            // What lies in the kernel's buffers is part of it.
            assert!(taken < 32 << 20, "{taken} bytes of {unit:?} were taken");
        }
    }
}

/// Sends one thing for ever; how many bytes were taken until the gateway closed.
async fn drown(stream: &mut TcpStream, start: &[u8], unit: &[u8]) -> usize {
    let mut chunk = [0u8; 4096];
    let _ = stream.read(&mut chunk).await;
    let block = unit.repeat(8192 / unit.len());
    let mut taken = 0;
    if stream.write_all(start).await.is_err() {
        return taken;
    }
    while stream.write_all(&block).await.is_ok() {
        taken += block.len();
    }
    taken
}
