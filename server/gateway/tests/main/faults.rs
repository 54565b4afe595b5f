//! What happens when parts die: processes, disks, clocks, upstreams, descriptors, and news from the control plane.

use crate::metrics::metrics;
use crate::process::*;
use crate::recorder::*;
use crate::support::*;
use model::Random;
use model::access::Environment;
use model::catalogue::RateLimit;
use model::key::PlainKey;
use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SEED: u64 = 20_261_121;

/// Longest time for what happens by itself, sooner or later.
const SOONER_OR_LATER: Duration = Duration::from_secs(60);

fn below(random: &Seeded, most: u64) -> u64 {
    let mut bytes = [0u8; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes) % most.max(1)
}

/// Asks on one connection again and again until told to stop; ids of whole answers, and how often something went wrong.
async fn client(
    addr: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<String>>>,
    errors: Arc<AtomicU64>,
) {
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        key().reveal()
    );
    'again: while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(addr).await else {
            errors.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let mut out = Vec::new();
            let sent = stream.write_all(text.as_bytes()).await.is_ok();
            while sent && !out.ends_with(b"ok") {
                let mut chunk = [0u8; 4096];
                match stream.read(&mut chunk).await {
                    Ok(n) if n > 0 => out.extend_from_slice(&chunk[..n]),
                    _ => break,
                }
            }
            if !out.ends_with(b"ok") {
                errors.fetch_add(1, Ordering::Relaxed);
                continue 'again;
            }
            let reply = Reply::parse(&out);
            assert_eq!(reply.status, 200);
            answered
                .lock()
                .unwrap()
                .push(reply.header("x-request-id").unwrap().to_owned());
        }
    }
}

/// F01: three gateways, killed one after the other; the clients of the other two notice nothing, and what anybody was
/// answered is billed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_one_gateway_is_nobody_elses() {
    let kills = if std::env::var_os("TURNPIKE_LONG_TESTS").is_some() {
        20
    } else {
        4
    };
    let upstream = Upstream::start().await;
    let folders = [Folder::new(), Folder::new(), Folder::new()];
    let random = Seeded(AtomicU64::new(SEED));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let mut lives = [0u64; 3];
    // Each starts from what is in its folder; seeds differ, so that ids do.
    let mut processes = Vec::new();
    for (i, folder) in folders.iter().enumerate() {
        lives[i] = 1000 * u64::try_from(i).unwrap();
        processes.push(Process::start(&folder.0, upstream.addr, lives[i], "", "").await);
    }
    for _ in 0..kills {
        let victim = usize::try_from(below(&random, 3)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let errors: Vec<_> = (0..3).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let clients: Vec<_> = (0..6)
            .map(|n| {
                let (addr, errors) = (processes[n % 3].addr, Arc::clone(&errors[n % 3]));
                tokio::spawn(client(addr, Arc::clone(&stop), Arc::clone(&answered), errors))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + below(&random, 200))).await;
        processes[victim].kill();
        lives[victim] += 1;
        processes[victim] = Process::start(&folders[victim].0, upstream.addr, lives[victim], "", "").await;
        stop.store(true, Ordering::Relaxed);
        for c in clients {
            c.await.unwrap();
        }
        for other in (0..3).filter(|n| *n != victim) {
            assert_eq!(
                errors[other].load(Ordering::Relaxed),
                0,
                "seed {SEED}: gateway {other} when {victim} died"
            );
        }
    }
    let mut billed = HashSet::new();
    for (process, folder) in processes.iter().zip(&folders) {
        let sink = Files(folder.0.join("sink"));
        let last = process.get("/v1/ok").await.header("x-request-id").unwrap().to_owned();
        until(|| sink.rows().iter().any(|r| r.request.to_string() == last)).await;
        for row in sink.rows().iter().filter(|r| r.units > 0) {
            assert!(
                billed.insert(row.request.to_string()),
                "seed {SEED}: {} is billed twice",
                row.request
            );
        }
    }
    let answered = answered.lock().unwrap();
    let lost: Vec<_> = answered.iter().filter(|id| !billed.contains(*id)).collect();
    assert!(lost.is_empty(), "seed {SEED}: {lost:?}");
    println!("{kills} kills of three gateways: {} answered, 0 lost", answered.len());
}

/// F02: a power cut takes pages of the ledger that were written since the last sync, any of them in any combination.
/// What was shipped stays; what is left is a beginning without a gap; nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_an_end_and_nothing_else() {
    const PAGE: usize = 4096;
    let random = Seeded(AtomicU64::new(SEED));
    for round in 0..8 {
        let mut world = World::new().await;
        for _ in 0..40 + below(&random, 60) {
            assert_eq!(world.get("/v1/ok").await.status, 200);
        }
        let shipped: HashSet<_> = world.shipped().await.iter().map(|r| r.request).collect();
        world.plane.away.store(true, Ordering::SeqCst);
        // What the ledger knows to be whole was so before; what it learns later is cut off with the rest.
        let mark = world.folder.0.join("ledger/whole");
        let whole = std::fs::read(&mark).unwrap_or_default();
        let synced = segments(&world.folder.0);
        // What is not synced spans two segments at most.
        for _ in 0..1 + below(&random, 60) {
            assert_eq!(world.get("/v1/ok").await.status, 200);
        }
        world.stop().await;
        std::fs::write(&mark, &whole).unwrap();
        for (path, written) in segments(&world.folder.0) {
            let old = synced.iter().find(|s| s.0 == path).map(|s| &s.1);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            for (n, page) in written.chunks(PAGE).enumerate() {
                // A segment's head is synced before it has its name; the rest of a new one is zeros until it is synced.
                let before = old
                    .map(|o| o[n * PAGE..n * PAGE + page.len()].to_vec())
                    .unwrap_or_else(|| {
                        let mut fresh = vec![0; page.len()];
                        if n == 0 {
                            fresh[..128].copy_from_slice(&page[..128]);
                        }
                        fresh
                    });
                if below(&random, 3) == 0 {
                    file.write_all_at(&before, u64::try_from(n * PAGE).unwrap()).unwrap();
                }
            }
        }
        world.start();
        world.plane.away.store(false, Ordering::SeqCst);
        until(|| world.gateway.as_ref().unwrap().ready()).await;
        for _ in 0..5 {
            assert_eq!(world.get("/v1/ok").await.status, 200, "seed {SEED}, round {round}");
        }
        // The plane itself refuses gaps and repeats of the sequence.
        let rows = world.shipped().await;
        let ids: HashSet<_> = rows.iter().map(|r| r.request).collect();
        assert_eq!(ids.len(), rows.len(), "seed {SEED}, round {round}: an id comes twice");
        assert!(shipped.is_subset(&ids), "seed {SEED}, round {round}");
    }
}

fn segments(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder.join("ledger"))
        .unwrap()
        .map(|e| e.unwrap().path());
    let held = entries.filter(|p| p.extension().is_some_and(|e| e == "ledger"));
    held.map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

/// F11: the machine's clock jumps. A quota is neither doubled nor lost, and nobody is shut out by a limit of the past.
#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_the_clock_changes_no_count() {
    const MINUTE_MS: i64 = 60_000;
    let jumps = [
        5 * MINUTE_MS,
        -5 * MINUTE_MS,
        60 * MINUTE_MS,
        -60 * MINUTE_MS,
        DAY_MS,
        -DAY_MS,
    ];
    let world = World::with(|e| e.meters = vec![meter(1, 12, None)]).await;
    let mut passed = 0;
    for jump in jumps.iter().chain(&jumps) {
        world.clock.jump(*jump);
        let reply = world.get("/v1/ok").await;
        passed += usize::from(reply.status == 200);
        assert!(matches!(reply.status, 200 | 429), "{jump}: {reply:?}");
    }
    assert_eq!(passed, 12, "every jump stays inside the period, and so does the quota");
    assert_eq!(world.get("/v1/ok").await.problem(), "quota-exceeded");
    let rows = world.shipped().await;
    assert_eq!(rows.iter().map(|r| r.units).sum::<u32>(), 12);
    let start = model::Time::from_unix_ms(START_MS);
    assert!(rows.iter().all(|r| r.period_start == start), "one period");
}

/// F11: a rate limit is not longer than it says because the clock went back.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_back_shuts_nobody_out() {
    for back in [-5_000, -3_600_000, -DAY_MS] {
        let world = World::with(|e| {
            e.rate_limit = RateLimit {
                per_second: 2,
                burst: 2,
            }
        })
        .await;
        while world.get("/v1/ok").await.status == 200 {}
        world.clock.jump(back);
        // Two a second: a little later there is room, whatever the clock says now.
        world.clock.advance(2_000);
        assert_eq!(world.get("/v1/ok").await.status, 200, "{back}");
    }
}

/// F12: the disk is full, here by a bound on the length of files. What is paid for and cannot be written down is refused,
/// what costs nothing goes on, nothing is lost, and once there is room it goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_what_cannot_be_recorded() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    // Who passes the bound gets an error, and no signal that ends it.
    let mut process = Process::start(&folder.0, upstream.addr, 0, "", "trap '' XFSZ;").await;
    let mut passed = 0u32;
    for _ in 0..20 {
        assert_eq!(process.get("/v1/ok").await.status, 200);
        passed += 1;
    }
    process.bound_files("512");
    let refused = loop {
        assert!(passed < 2_000, "it never notices");
        let reply = process.get("/v1/ok").await;
        if reply.status != 200 {
            break reply;
        }
        passed += 1;
    };
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (503, "ledger-unavailable")
    );
    assert!(refused.header("retry-after").is_some());
    for _ in 0..100 {
        assert_eq!(process.get("/v1/ok").await.status, 503);
        assert_eq!(
            process.get("/other").await.status,
            200,
            "its meter is none of the plan's"
        );
    }
    let quote = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nTurnpike-Quote: ?1\r\nConnection: close\r\n\r\n",
        key().reveal()
    );
    let quoted = Reply::parse(&raw(process.addr, quote.as_bytes()).await);
    assert_eq!(quoted.status, 200);
    assert!(String::from_utf8_lossy(&quoted.body).contains("ledger-unavailable"));
    process.bound_files("unlimited");
    let begun = Instant::now();
    while process.get("/v1/ok").await.status != 200 {
        assert!(begun.elapsed() < SOONER_OR_LATER, "it does not recover");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    passed += 1;
    process.terminate();
    process.ended().await;
    let rows = Files(folder.0.join("sink")).rows();
    let units = rows.iter().filter(|r| r.route == 1).map(|r| r.units).sum::<u32>();
    assert_eq!(units, passed, "what passed is written down, once");
    println!("full disk: {passed} passed");
}

/// F15: one upstream hangs with hundreds of requests; the others' clients notice nothing, and little is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_upstream_is_nobody_elses() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let process = Process::start(&folder.0, upstream.addr, 0, "", "").await;
    assert_eq!(process.get("/v1/ok").await.status, 200);
    let before = process.memory_kib();
    let mut hanging = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(process.addr).await.unwrap();
        let text = format!(
            "GET /v1/hang HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            key().reveal()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        hanging.push(stream);
    }
    until(|| upstream.requests().len() > 400).await;
    for _ in 0..200 {
        assert_eq!(process.get("/v1/ok").await.status, 200);
    }
    let grown = process.memory_kib().saturating_sub(before);
    println!("400 requests hang: {grown} KiB");
    assert!(grown < 100 << 10, "{grown} KiB");
    for mut stream in hanging {
        let mut out = Vec::new();
        stream.read_to_end(&mut out).await.unwrap();
        assert_eq!(Reply::parse(&out).problem(), "upstream-timeout");
    }
    let sink = Files(folder.0.join("sink"));
    until(|| sink.rows().iter().filter(|r| r.status == 504).count() == 400).await;
    assert_eq!(sink.rows().iter().map(|r| r.units).sum::<u32>(), 201);
}

/// F16: an upstream that resets connections at every place of an exchange. Nothing is billed twice, and nothing that
/// was answered is not billed.
#[tokio::test(flavor = "multi_thread")]
async fn resets_at_every_place_bill_nothing_twice() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (seen, kept) = (Arc::new(Mutex::new(Vec::<String>::new())), Arc::new(AtomicU64::new(0)));
    let (log, count) = (Arc::clone(&seen), Arc::clone(&kept));
    tokio::spawn(async move {
        loop {
            let mut stream = accept(&listener).await;
            let (log, count) = (Arc::clone(&log), Arc::clone(&count));
            tokio::spawn(async move {
                loop {
                    let mut chunk = [0u8; 8192];
                    let n = match stream.read(&mut chunk).await {
                        Ok(n) if n > 0 => n,
                        _ => return,
                    };
                    let Read::Whole(request, _) = read(&chunk[..n]) else {
                        return;
                    };
                    log.lock().unwrap().push(request.all("x-request-id")[0].to_owned());
                    let turn = usize::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let cut = turn % (ANSWER.len() * 2);
                    let _ = stream.write_all(&ANSWER[..cut.min(ANSWER.len())]).await;
                    if cut < ANSWER.len() {
                        // Closing at once with lingering off is a reset.
                        let _ = stream.set_zero_linger();
                        return;
                    }
                }
            });
        }
    });
    let world = World::new().await;
    world.plane.put_routing(routing(addr));
    world.synced().await;
    let mut whole = Vec::new();
    for _ in 0..ANSWER.len() * 4 {
        let text = format!(
            "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
            world.key.reveal()
        );
        let reply = Reply::parse(&raw(world.addr, text.as_bytes()).await);
        match reply.status {
            200 if reply.body == b"ok" => whole.push(reply.header("x-request-id").unwrap().to_owned()),
            200 => assert!(reply.body.len() < 2, "cut off"),
            _ => assert_eq!((reply.status, reply.problem().as_str()), (502, "upstream-broken")),
        }
    }
    let rows = world.shipped().await;
    let billed: Vec<_> = rows
        .iter()
        .filter(|r| r.units > 0)
        .map(|r| r.request.to_string())
        .collect();
    let unique: HashSet<_> = billed.iter().collect();
    assert_eq!(unique.len(), billed.len(), "billed twice");
    assert!(rows.iter().all(|r| r.units <= 1) && whole.iter().all(|id| unique.contains(id)));
    let seen = seen.lock().unwrap();
    assert!(
        billed.iter().all(|id| seen.contains(id)),
        "billed without having been sent"
    );
}

/// F21: very many keys are revoked at once, while others are used.
#[tokio::test(flavor = "multi_thread")]
async fn many_keys_revoked_at_once_are_all_refused() {
    let count: usize = if std::env::var_os("TURNPIKE_LONG_TESTS").is_some() {
        100_000
    } else {
        10_000
    };
    let world = World::new().await;
    let keys: Vec<_> = (0..count)
        .map(|_| PlainKey::generate("tp", Environment::Live, &*world.random))
        .collect();
    for key in &keys {
        world.plane.put_key(key_record(key, world.consumer));
    }
    world.synced().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, addr, own) = (Arc::clone(&stop), world.addr, world.key.reveal().to_owned());
    let other = tokio::spawn(async move {
        let text = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {own}\r\nConnection: close\r\n\r\n");
        let mut count = 0;
        while !ended.load(Ordering::Relaxed) {
            assert_eq!(Reply::parse(&raw(addr, text.as_bytes()).await).status, 200);
            count += 1;
        }
        count
    });
    for key in &keys {
        world.plane.edit_key(key.lookup().0, |k| k.revoked = true);
    }
    world.synced().await;
    let ask = async |key: &PlainKey| {
        let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
        world.send(&head, "").await.problem()
    };
    for key in keys.iter().step_by(count / 50) {
        assert_eq!(ask(key).await, "key-revoked");
    }
    stop.store(true, Ordering::Relaxed);
    println!(
        "{count} keys revoked while another was answered {} times",
        other.await.unwrap()
    );
}

/// F22: a cold start with very many keys and no control plane: ready at once, with every key.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_knows_every_key() {
    let count: usize = if std::env::var_os("TURNPIKE_LONG_TESTS").is_some() {
        1_000_000
    } else {
        20_000
    };
    let mut world = World::new().await;
    let mut some = Vec::new();
    for n in 0..count {
        let key = PlainKey::generate("tp", Environment::Live, &*world.random);
        world.plane.put_key(key_record(&key, world.consumer));
        if n.is_multiple_of(count / 40) {
            some.push(key);
        }
    }
    world.synced().await;
    world.stop().await;
    world.plane.away.store(true, Ordering::SeqCst);
    let began = Instant::now();
    world.start();
    assert!(world.gateway.as_ref().unwrap().ready(), "from disk alone");
    println!("{count} keys from disk in {:?}", began.elapsed());
    for key in some {
        let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
        assert_eq!(world.send(&head, "").await.status, 200);
    }
}

/// F27: no descriptors are left. The gateway waits until there are, goes on serving who is connected, and does not spin.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_descriptors_recovers() {
    let (folder, upstream) = (Folder::new(), Upstream::start().await);
    let mut process = Process::start(&folder.0, upstream.addr, 0, "head_timeout_ms=30000", "ulimit -n 90;").await;
    assert_eq!(process.get("/v1/ok").await.status, 200);
    let mut first = TcpStream::connect(process.addr).await.unwrap();
    let text = format!(
        "GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n",
        key().reveal()
    );
    let mut ask = async || {
        first.write_all(text.as_bytes()).await.unwrap();
        let mut out = [0u8; 4096];
        let n = first.read(&mut out).await.unwrap();
        assert!(
            out[..n].starts_with(b"HTTP/1.1 "),
            "{}",
            String::from_utf8_lossy(&out[..n])
        );
    };
    ask().await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(process.addr).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(process.descriptors() <= 91, "{}", process.descriptors());
    for _ in 0..20 {
        ask().await;
    }
    drop(crowd);
    for _ in 0..20 {
        assert_eq!(process.get("/v1/ok").await.status, 200);
    }
    process.terminate();
    process.ended().await;
}

/// F28: news that cannot be used leaves what was there; the next good news is taken.
#[tokio::test(flavor = "multi_thread")]
async fn bad_news_leave_the_last_good() {
    let world = World::new().await;
    let good = || routing(world.upstream.addr);
    let spoil: [fn(&mut model::snapshot::Routing); 5] = [
        |r| r.routes[0].path = "/v1/{*rest}/more".to_owned(),
        |r| r.routes[0].path = "no slash".to_owned(),
        |r| r.upstreams[0].url = "not a url".to_owned(),
        |r| r.routes[0].upstream = 999,
        |r| r.upstreams[0].url = "ftp://127.0.0.1:1".to_owned(),
    ];
    let rejected = || metrics(&world).sum("snapshot_rejected_total", &[]);
    assert_eq!(rejected(), 0.0);
    for (n, spoil) in spoil.iter().enumerate() {
        let before = rejected();
        let mut bad = good();
        spoil(&mut bad);
        world.plane.put_routing(bad);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(world.get("/v1/ok").await.status, 200, "bad news {n}");
        until(|| rejected() > before).await;
        // A key that comes with or after them still arrives.
        let key = PlainKey::generate("tp", Environment::Live, &*world.random);
        world.plane.put_key(key_record(&key, world.consumer));
        let head = format!("GET /v1/ok HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", key.reveal());
        let begun = Instant::now();
        while world.send(&head, "").await.status != 200 {
            assert!(begun.elapsed() < SOONER_OR_LATER, "bad news {n} hold up the keys");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let mut better = good();
    better.routes[0].path = "/v9/{*rest}".to_owned();
    world.plane.put_routing(better);
    world.synced().await;
    assert_eq!(world.get("/v9/ok").await.status, 200);
    assert_eq!(world.get("/v1/ok").await.status, 404);
    // What operators are alarmed by stands still once the news are good again.
    let then = rejected();
    world.plane.put_routing(good());
    world.synced().await;
    assert_eq!(rejected(), then);
}
