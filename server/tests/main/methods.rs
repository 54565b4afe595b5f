//! Methods beyond the usual ones, from the catalogue to the gateway, and those that cannot be sold.

use crate::support::{Program, Upstream, catalogue};
use testkit::Database;

fn with(upstream: &Upstream, methods: &str) -> String {
    let plain = "slug = \"data\"\n";
    catalogue(upstream.address()).replace(plain, &format!("{plain}methods = [{methods}]\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_sold_by_its_name_and_refused_with_a_reason() {
    let (database, upstream) = (Database::new().await, Upstream::start().await);
    let program = Program::new(Some(&database));
    program
        .publish(&with(&upstream, "\"GET\", \"PROPFIND\", \"OPTIONS\""))
        .await;
    let consumer = program.consumer("a@example.com").await;
    let made = program
        .run(&["--json", "key", "create", "--consumer", &consumer])
        .await
        .json();
    let key = made["key_id"].as_str().unwrap();
    let explain = async |method: &str| {
        let asked = ["gateway", "explain", method, "/v1/data", "--key", key];
        program.run(&asked).await.ok()
    };
    for method in ["GET", "HEAD", "PROPFIND", "OPTIONS"] {
        let told = explain(method).await;
        assert!(told.contains("It would be forwarded."), "{method}: {told}");
    }
    assert!(
        explain("MKCOL")
            .await
            .contains("Allowed here: GET, HEAD, OPTIONS, PROPFIND.")
    );
    for (methods, why) in [
        ("\"TRACE\"", "TRACE cannot be sold"),
        ("\"GET\", \"CONNECT\"", "CONNECT cannot be sold"),
        ("\"get\"", "write it in capitals, \"GET\""),
        ("\"*\"", "is no method"),
    ] {
        let file = program.folder.write("bad.toml", &with(&upstream, methods));
        let output = program.run(&["plan", "publish", &file.display().to_string()]).await;
        assert!(
            !output.status.success() && output.stderr.contains(why),
            "{methods}: {output:?}"
        );
    }
    assert!(
        explain("PROPFIND").await.contains("It would be forwarded."),
        "the last good one stays"
    );
}
