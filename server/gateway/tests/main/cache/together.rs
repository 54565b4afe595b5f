//! Many at once: one request to the upstream, bounded memory, and what was cut off or forgotten.

use super::*;
use gateway::Question;

/// An upstream that answers each request only when it is let.
async fn gated(cache: &str, lines: &'static str) -> (Kept, Arc<AtomicUsize>) {
    let let_through = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let gate = Arc::clone(&let_through);
    let upstream = Scripted::start(move |_| {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        tokio::task::block_in_place(|| {
            // Longer than any test here waits.
            for _ in 0..60_000 {
                if gate.load(Ordering::SeqCst) > n {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        whole("200 OK", lines, &format!("#{n}"))
    })
    .await;
    let policy = format!("{{\"cache\": {cache}}}");
    let world = upstream
        .world_with(&[("kept", "/c/{*rest}", &policy)], |told| {
            told.first_byte_timeout_ms = 120_000;
        })
        .await;
    (Kept { world, upstream }, let_through)
}

/// Whether the gateway has let so many requests in: each of them holds a unit.
fn taken(kept: &Kept, count: usize) -> bool {
    let question = Question {
        method: "GET".to_owned(),
        url: "/c/a".to_owned(),
        headers: Vec::new(),
        key: Some(kept.world.plane.key_id(kept.world.key.lookup().0)),
        client: None,
    };
    let said = kept.world.gateway.as_ref().unwrap().explain(&question).unwrap();
    let wanted = format!("{count} units taken");
    said.decisions.iter().any(|d| d.detail.starts_with(&wanted))
}

/// The same gateway, in which a request waits so long for another that fetches the same.
async fn waiting(kept: &mut Kept, wait: Duration) {
    kept.world.stop().await;
    let mut config = config(&kept.world.folder.0);
    config.limits.cache_wait = wait;
    kept.world.start_with(config);
    kept.world.synced().await;
}

fn spawn(kept: &Kept, path: &str) -> tokio::task::JoinHandle<Reply> {
    let (addr, key) = (kept.world.addr, kept.world.key.reveal().to_owned());
    let text = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
    tokio::spawn(async move { Reply::parse(&raw(addr, text.as_bytes()).await) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_ask_at_once_make_one_request() {
    let (mut kept, gate) = gated("{}", MINUTE).await;
    waiting(&mut kept, Duration::from_secs(120)).await;
    let asking: Vec<_> = (0..50).map(|_| spawn(&kept, "/c/a")).collect();
    until(|| kept.asked() == 1 && taken(&kept, 50)).await;
    gate.store(1, Ordering::SeqCst);
    let mut collapsed = 0;
    for reply in asking {
        let reply = reply.await.unwrap();
        assert_eq!((reply.status, text(&reply).as_str()), (200, "#0"));
        collapsed += usize::from(status(&reply).contains("collapsed"));
    }
    assert_eq!(kept.asked(), 1);
    assert!(collapsed > 0, "nobody waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_for_what_is_not_kept_and_nobody_waits_for_ever() {
    let (private, gate) = gated("{}", "Cache-Control: no-store\r\n").await;
    let asking: Vec<_> = (0..10).map(|_| spawn(&private, "/c/a")).collect();
    until(|| private.asked() == 1).await;
    gate.store(1, Ordering::SeqCst);
    // Let go together, not one by one: the upstream has all of them before it answers another.
    until(|| private.asked() == 10).await;
    gate.store(100, Ordering::SeqCst);
    for reply in asking {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    let (mut slow, gate) = gated("{}", MINUTE).await;
    waiting(&mut slow, Duration::from_millis(50)).await;
    let first = spawn(&slow, "/c/a");
    until(|| slow.asked() == 1).await;
    let second = spawn(&slow, "/c/a");
    until(|| slow.asked() == 2).await;
    gate.store(2, Ordering::SeqCst);
    for reply in [first, second] {
        assert_eq!(reply.await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_off_is_not_kept() {
    let upstream = Scripted::start(|request| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\n";
        match target(request) {
            "/c/length" => vec![format!("{head}Content-Length: 10\r\n\r\nhalf").into_bytes()],
            "/c/chunk" => vec![format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").into_bytes()],
            "/c/close" => vec![format!("{head}\r\nall or half").into_bytes()],
            "/c/large" => whole("200 OK", MINUTE, &"x".repeat(2_000)),
            "/c/larger" => vec![
                format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
                    "x".repeat(2_000)
                )
                .into_bytes(),
            ],
            _ => vec![
                format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").into_bytes(),
                b"5\r\n done\r\n0\r\n\r\n".to_vec(),
            ],
        }
    })
    .await;
    let world = upstream
        .world(&[("kept", "/c/{*rest}", r#"{"cache": {"max_object_bytes": 1000}}"#)])
        .await;
    let kept = Kept { world, upstream };
    for (path, is_kept) in [
        ("/c/length", false),
        ("/c/chunk", false),
        ("/c/close", false),
        ("/c/large", false),
        ("/c/larger", false),
        ("/c/whole", true),
    ] {
        let before = kept.asked();
        let _ = kept.get(path, "").await;
        let second = kept.get(path, "").await;
        assert_eq!(kept.asked() - before == 1, is_kept, "{path}");
        if is_kept {
            assert_eq!(text(&second), "half done");
        }
    }
}

/// Answers that stop on their way are held, and take neither all the room nor any for long.
#[tokio::test(flavor = "multi_thread")]
async fn what_gets_nowhere_keeps_nobody_from_keeping() {
    const PART: usize = 50_000;
    let stuck = format!(
        "HTTP/1.1 200 OK\r\n{MINUTE}Content-Length: 60000\r\n\r\n{}",
        "x".repeat(PART)
    );
    let stub = Stub::start("stuck", Deed::Bytes(stuck.leak())).await;
    let upstream = Scripted::start(|request| {
        let length: usize = target(request).rsplit('-').next().unwrap().parse().unwrap();
        whole("200 OK", MINUTE, &"x".repeat(length))
    })
    .await;
    let policy = r#"{"cache": {}}"#;
    let routes = [("kept", "/c/{*rest}", policy), ("stuck", "/stuck/{*rest}", policy)];
    let mut world = upstream
        .world_told(&routes, |told| {
            let mut service = told.upstreams[0].clone();
            (service.number, service.url) = (51, stub.url());
            told.upstreams.push(service);
            told.routes.last_mut().unwrap().upstream = 51;
        })
        .await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.cache_bytes = 1 << 20;
    world.start_with(config);
    world.synced().await;
    let kept = Kept { world, upstream };
    let held = || kept.metric("turnpike_gateway_cache_bytes ");
    let begin = async |key: &PlainKey| {
        let mut open = Vec::new();
        for n in 0..8 {
            let mut stream = TcpStream::connect(kept.world.addr).await.unwrap();
            let key = key.reveal();
            let head = format!("GET /stuck/{n} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut out = vec![0; PART];
            stream.read_exact(&mut out).await.unwrap();
            open.push(stream);
        }
        open
    };
    let _first = begin(&kept.world.key).await;
    assert!((2 * PART..3 * PART).contains(&held()), "{}", held());
    let other = kept.consumer(3, |_| {}).await;
    let is_kept = async |path: &str| {
        let _ = kept.ask(&other, "GET", path, "").await;
        status(&kept.ask(&other, "GET", path, "").await).contains("hit")
    };
    assert!(is_kept("/c/a-10000").await, "one consumer takes not all the room");
    let mut more = Vec::new();
    for number in 4..6 {
        let key = kept.consumer(number, |_| {}).await;
        more.push(begin(&key).await);
    }
    assert!(!is_kept("/c/b-40000").await && is_kept("/c/c-10000").await);
    kept.world.clock.advance(5_000);
    assert!(is_kept("/c/d-40000").await, "what gets nowhere gives way");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_and_what_is_used_stays() {
    const BYTES: usize = 1 << 20;
    let upstream = Scripted::start(|_| whole("200 OK", MINUTE, &"x".repeat(10_000))).await;
    let mut world = upstream.world(&[("kept", "/c/{*rest}", r#"{"cache": {}}"#)]).await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.cache_bytes = BYTES;
    world.start_with(config);
    world.synced().await;
    let kept = Kept { world, upstream };
    assert_eq!(kept.metric("turnpike_gateway_cache_bytes "), 0);
    let _ = kept.get("/c/used", "").await;
    for n in 0..200 {
        let _ = kept.get(&format!("/c/{n}"), "").await;
        let used = kept.get("/c/used", "").await;
        assert!(status(&used).contains("hit"), "after {n}: {}", status(&used));
        let bytes = kept.metric("turnpike_gateway_cache_bytes ");
        assert!(bytes <= BYTES, "{bytes} after {n}");
    }
    assert!(kept.metric("turnpike_gateway_cache_bytes ") > BYTES / 4);
    assert!(
        status(&kept.get("/c/0", "").await).contains("miss"),
        "what was not used went"
    );
    assert_eq!(kept.metric("turnpike_gateway_cache_requests_total{how=\"hit\"}"), 200);
}

/// Also what was on its way when the administrator said so is not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_administrator_forgets_answers() {
    let kept = kept("{}", lines(&[])).await;
    let purge = async |route, path_prefix: &str| {
        let path_prefix = path_prefix.to_owned();
        kept.world.plane.purge(Purge { route, path_prefix });
        kept.world.synced().await;
    };
    for (route, prefix, gone) in [
        (None, "/c/b", [false, true]),
        (Some(100), "", [true, true]),
        (Some(1), "", [false, false]),
        (None, "", [true, true]),
    ] {
        let before = [kept.get("/c/a", "").await, kept.get("/c/b", "").await];
        purge(route, prefix).await;
        let after = [kept.get("/c/a", "").await, kept.get("/c/b", "").await];
        for (n, gone) in gone.into_iter().enumerate() {
            assert_eq!(before[n].body != after[n].body, gone, "{route:?} {prefix:?} {n}");
        }
    }
    let (slow, gate) = gated("{}", MINUTE).await;
    let first = spawn(&slow, "/c/a");
    until(|| slow.asked() == 1).await;
    slow.world.plane.purge(Purge {
        route: None,
        path_prefix: String::new(),
    });
    slow.world.synced().await;
    gate.store(10, Ordering::SeqCst);
    assert_eq!(text(&first.await.unwrap()), "#0");
    assert_eq!(text(&slow.get("/c/a", "").await), "#1");
}
