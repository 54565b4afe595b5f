//! Commands that must fail: each says what is wrong, where, and what would have been right.

use crate::support::{Program, catalogue};
use std::net::SocketAddr;
use testkit::Database;

/// The words of a command, and what its message must hold.
type Bad = (&'static str, &'static [&'static str]);

const CASES: &[Bad] = &[
    (
        "consumer create --email x@example.com --plan nope",
        &["plan", "nope", "free, open"],
    ),
    (
        "consumer create --email x@example.com --plan open",
        &["open", "paid", "--complimentary"],
    ),
    (
        "consumer create --email x@example.com --plan open --complimentary --interval week",
        &["--interval", "week", "month", "year"],
    ),
    (
        "consumer create --email x@example.com --plan open --complimentary --interval year",
        &["interval", "open", "year"],
    ),
    ("consumer create --email nobody --plan free", &["email"]),
    ("consumer create --plan free", &["--email"]),
    ("key create --consumer con_7", &["--consumer", "con_7", "24 characters"]),
    (
        "key create --consumer key_000000000000000000000000",
        &["--consumer", "key_0", "con_"],
    ),
    (
        "key create --consumer con_000000000000000000000000",
        &["no consumer con_000000000000000000000000"],
    ),
    (
        "key create --consumer con_000000000000000000000000 --environment prod",
        &["--environment", "prod", "live", "test"],
    ),
    (
        "key create --consumer con_000000000000000000000000 --count 0",
        &["--count", "0", "1..=1000000"],
    ),
    (
        "key revoke key_000000000000000000000000",
        &["no key key_000000000000000000000000"],
    ),
    ("key revoke seven", &["seven", "key_"]),
    (
        "usage --consumer con_000000000000000000000000",
        &["no consumer con_000000000000000000000000"],
    ),
    ("plan publish missing.toml", &["missing.toml", "No such file"]),
    ("plan publish broken.toml", &["broken.toml", "slug"]),
    ("plan publish dangling.toml", &["dangling.toml", "ech"]),
    (
        "demo --catalogue missing.toml people.toml",
        &["people.toml", "No such file"],
    ),
    ("admin create --email p@example.com", &["--password"]),
    (
        "admin create --email p@example.com --password short",
        &["password", "12"],
    ),
    (
        "migrate --database-url mysql://root@localhost/x",
        &["DATABASE_URL", "postgres://"],
    ),
    (
        "migrate --portal-url ftp://portal",
        &["--portal-url", "ftp://portal", "http://host"],
    ),
    ("migrate --key-prefix a_b", &["--key-prefix", "a_b", "1 to 12"]),
    ("serve --role boss", &["--role", "boss", "portal", "gateway", "worker"]),
    ("serve --portal-listen here", &["--portal-listen", "here"]),
    ("serve --drain-seconds 9999", &["--drain-seconds", "9999", "3600"]),
    ("serve --log-format xml", &["--log-format", "xml", "text", "json"]),
    (
        "serve --trace-endpoint collector",
        &["TURNPIKE_TRACE_ENDPOINT", "http://host:port"],
    ),
    (
        "serve --trace-endpoint http://127.0.0.1:4318 --trace-headers token",
        &["TURNPIKE_TRACE_HEADERS", "name=value"],
    ),
    (
        "serve --trace-endpoint http://127.0.0.1:4318 --trace-sample 2",
        &["--trace-sample", "from 0 to 1"],
    ),
    ("serve --trace-headers a=b", &["--trace-endpoint"]),
    (
        "serve --gateway-redis-url 127.0.0.1:6379",
        &["TURNPIKE_GATEWAY_REDIS_URL", "redis://"],
    ),
    ("serve --gateway-redis-ca-file ca.pem", &["--gateway-redis-url"]),
    ("fly", &["fly"]),
];

/// What a message lacks, or has and must not have.
fn problem(text: &str, wanted: &[&str]) -> Option<String> {
    let missing: Vec<_> = wanted.iter().filter(|words| !text.contains(**words)).collect();
    let ours = text.contains("panicked") || text.contains("internal error");
    (ours || !missing.is_empty()).then(|| format!("must say {missing:?}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_with_what_is_accepted() {
    let database = Database::new().await;
    let program = Program::new(Some(&database));
    let good = catalogue(SocketAddr::from(([127, 0, 0, 1], 9)));
    program.publish(&good).await;
    program.folder.write("broken.toml", "[product]\nslug = 7\n");
    let dangling = good.replace("upstream = \"echo\"", "upstream = \"ech\"");
    program.folder.write("dangling.toml", &dangling);
    let mut wrong = Vec::new();
    for (line, wanted) in CASES {
        let words: Vec<&str> = line.split(' ').collect();
        let plain = program.run(&words).await;
        let object = program.run(&[&["--json"], words.as_slice()].concat()).await;
        let failed = !plain.status.success() && !object.status.success();
        assert!(failed, "{line}: {plain:?}");
        assert_eq!(plain.stdout, "", "{line}: errors go to stderr");
        let error = object.json()["error"].as_str().unwrap_or_default().to_owned();
        let problems = [&plain.stderr, &error]
            .into_iter()
            .filter_map(|text| problem(text, wanted));
        wrong.extend(problems.map(|p| format!("{line}: {p}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let made: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM consumers) + (SELECT count(*) FROM members)")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(made, 0, "a refused command leaves nothing behind");
}
