//! Several programs on one database hold a consumer to one quota.

use crate::support::{Program, Upstream, call, catalogue, until};
use std::net::SocketAddr;
use testkit::Database;

const QUOTA: usize = 100;
/// Calls until one is refused, at most twice as often as the quota lets; how many passed.
async fn passed(gateway: SocketAddr, key: &str) -> usize {
    for n in 0..2 * QUOTA {
        match call(gateway, "/v1/data", Some(key)).await.unwrap().status.as_u16() {
            200 => {}
            429 => return n,
            other => panic!("{other}"),
        }
    }
    2 * QUOTA
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_let_one_quota_pass() {
    let (database, upstream) = (Database::new().await, Upstream::start().await);
    let open = "included = 1000000\noverage = { model = \"graduated\", tiers = [{ unit = \"0.001\" }] }";
    let with_overage = catalogue(upstream.address());
    assert!(with_overage.contains(open));
    let (first, second) = (Program::new(Some(&database)), Program::new(Some(&database)));
    first
        .publish(&with_overage.replace(open, &format!("included = {QUOTA}")))
        .await;
    let consumer = first.consumer("two@example.com").await;
    let made = first.run(&["--json", "key", "create", "--consumer", &consumer]).await;
    let made = made.json();
    let (id, key) = (made["key_id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let one = first.serve().await;
    let other = second.serve().await;
    for gateway in [first.gateway(), second.gateway()] {
        until("the key's arrival", || async {
            let answer = call(gateway, "/v1/chunked", Some(key)).await.unwrap();
            (answer.status == 200).then_some(())
        })
        .await;
    }
    for _ in 0..58 {
        assert_eq!(call(first.gateway(), "/v1/data", Some(key)).await.unwrap().status, 200);
    }
    until("the second one's notice", || async {
        let asked = ["--json", "gateway", "explain", "GET", "/v1/data", "--key", id];
        let explained = second.run(&asked).await;
        explained.stdout.contains("60 units taken").then_some(())
    })
    .await;
    assert_eq!(
        passed(second.gateway(), key).await,
        40,
        "with two calls at the beginning and the 58 of the other"
    );
    until("the first one's notice", || async {
        let answer = call(first.gateway(), "/v1/data", Some(key)).await.unwrap();
        (answer.status == 429).then_some(())
    })
    .await;
    // One that starts again, and one that takes over, know it too.
    other.terminate();
    assert!(other.ended().await.success());
    let other = second.serve().await;
    until("its notice after the start", || async {
        let answer = call(second.gateway(), "/v1/data", Some(key)).await.unwrap();
        (answer.status == 429).then_some(())
    })
    .await;
    let next = first.spawn_with(&["serve", "--take-over"]);
    assert!(one.ended().await.success());
    assert_eq!(
        passed(first.gateway(), key).await,
        0,
        "a successor asks for everything first"
    );
    for serving in [next, other] {
        serving.terminate();
        assert!(serving.ended().await.success());
    }
}
