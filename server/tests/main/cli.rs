//! The commands: what they print, and what they say to bad input.

use crate::support::{Answer, Output, Program, Upstream, call, catalogue, until};
use std::collections::HashSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use testkit::Database;

/// Never to be printed, wherever it was given.
const SECRET: &str = "hunter2hunter2";
/// An id of the right form that nobody has.
const NOBODY: &str = "con_000000000000000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_one_object() {
    let database = Database::new().await;
    let program = Program::new(Some(&database));
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let file = program
        .folder
        .write("catalogue.toml", &catalogue(address))
        .display()
        .to_string();
    let json = async |arguments: &[&str]| {
        let output = program.run(&[&["--json"], arguments].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.json()
    };

    assert!(json(&["migrate"]).await["migrations"].as_u64().unwrap() > 0);
    let changes = json(&["plan", "publish", &file, "--dry-run"]).await;
    assert!(!changes["changes"].as_array().unwrap().is_empty());
    let published = json(&["plan", "publish", &file]).await;
    assert_eq!(published["published"].as_array().unwrap().len(), 2);
    let again = json(&["plan", "publish", &file]).await;
    assert_eq!(
        again["published"].as_array().unwrap().len(),
        0,
        "nothing is published twice"
    );
    let changes = json(&["plan", "publish", &file, "--dry-run"]).await;
    assert_eq!(changes["changes"].as_array().unwrap().len(), 0);

    let made = json(&["consumer", "create", "--email", "a@example.com", "--plan", "free"]).await;
    let consumer = made["consumer_id"].as_str().unwrap();
    let key = json(&[
        "key",
        "create",
        "--consumer",
        consumer,
        "--name",
        "one",
        "--environment",
        "test",
    ])
    .await;
    assert!(key["key"].as_str().unwrap().starts_with("tp_test_"), "{key}");
    let id = key["key_id"].as_str().unwrap();
    assert_eq!(json(&["key", "revoke", id]).await["revoked"], true);
    assert_eq!(
        json(&["key", "revoke", id]).await["revoked"],
        true,
        "again changes nothing"
    );
    let usage = json(&["usage", "--consumer", consumer]).await;
    assert_eq!(
        (&usage["plan"], &usage["meters"][0]["units"]),
        (&"free".into(), &0.into())
    );
    assert_eq!(json(&["check"]).await["failed"], 0);

    let mut command = program.command(&[
        "--json",
        "admin",
        "create",
        "--email",
        "p@example.com",
        "--password-stdin",
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"seven umbrellas under one bridge\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let output = Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(output.status.success(), "{output:?}");
    assert!(output.json()["member_id"].as_str().unwrap().starts_with("mem_"));
}

/// A command that must fail, and what its message must hold.
type Bad<'a> = (&'a [&'a str], &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_with_what_is_accepted() {
    let database = Database::new().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(SocketAddr::from(([127, 0, 0, 1], 9)))).await;
    let broken = program
        .folder
        .write("broken.toml", "[product]\nslug = 7\n")
        .display()
        .to_string();
    let upstream =
        catalogue(SocketAddr::from(([127, 0, 0, 1], 9))).replace("upstream = \"echo\"", "upstream = \"ech\"");
    let dangling = program.folder.write("dangling.toml", &upstream).display().to_string();
    let made = |more: &[&'static str]| [&["consumer", "create", "--email", "x@example.com"], more].concat();
    let cases: &[Bad] = &[
        (&made(&["--plan", "nope"]), &["plan", "nope", "free, open"]),
        (&made(&["--plan", "open"]), &["open", "paid", "--complimentary"]),
        (
            &made(&["--plan", "open", "--complimentary", "--interval", "week"]),
            &["--interval", "week", "month", "year"],
        ),
        (
            &made(&["--plan", "open", "--complimentary", "--interval", "year"]),
            &["interval", "open", "year"],
        ),
        (
            &["consumer", "create", "--email", "nobody", "--plan", "free"],
            &["email"],
        ),
        (&["consumer", "create", "--plan", "free"], &["--email"]),
        (
            &["key", "create", "--consumer", "con_7"],
            &["--consumer", "con_7", "24 characters"],
        ),
        (
            &["key", "create", "--consumer", "key_000000000000000000000000"],
            &["--consumer", "key_0", "con_"],
        ),
        (&["key", "create", "--consumer", NOBODY], &[NOBODY]),
        (
            &["key", "create", "--consumer", NOBODY, "--environment", "prod"],
            &["--environment", "prod", "live", "test"],
        ),
        (
            &["key", "create", "--consumer", NOBODY, "--count", "0"],
            &["--count", "0", "1..=1000000"],
        ),
        (
            &["key", "revoke", "key_000000000000000000000000"],
            &["key_000000000000000000000000"],
        ),
        (&["key", "revoke", "seven"], &["seven", "key_"]),
        (&["usage", "--consumer", NOBODY], &["no consumer", NOBODY]),
        (&["plan", "publish", "missing.toml"], &["missing.toml", "No such file"]),
        (&["plan", "publish", &broken], &["broken.toml", "slug"]),
        (&["plan", "publish", &dangling], &["dangling.toml", "ech"]),
        (
            &["demo", "--catalogue", "missing.toml", "people.toml"],
            &["people.toml", "No such file"],
        ),
        (&["admin", "create", "--email", "p@example.com"], &["--password"]),
        (
            &["admin", "create", "--email", "p@example.com", "--password", "short"],
            &["password", "12"],
        ),
        (
            &["migrate", "--database-url", "mysql://root@localhost/x"],
            &["DATABASE_URL"],
        ),
        (
            &["migrate", "--portal-url", "ftp://portal"],
            &["--portal-url", "ftp://portal", "http://host"],
        ),
        (&["migrate", "--key-prefix", "a b"], &["--key-prefix", "a b", "1 to 12"]),
        (
            &["serve", "--role", "boss"],
            &["--role", "boss", "portal", "gateway", "worker"],
        ),
        (&["serve", "--portal-listen", "here"], &["--portal-listen", "here"]),
        (
            &["serve", "--drain-seconds", "9999"],
            &["--drain-seconds", "9999", "3600"],
        ),
        (
            &["serve", "--log-format", "xml"],
            &["--log-format", "xml", "text", "json"],
        ),
        (&["fly"], &["fly"]),
    ];
    let mut wrong = Vec::new();
    for (arguments, wanted) in cases {
        let plain = program.run(arguments).await;
        let object = program.run(&[&["--json"], *arguments].concat()).await;
        assert!(
            !plain.status.success() && !object.status.success(),
            "{arguments:?}: {plain:?}"
        );
        assert_eq!(plain.stdout, "", "{arguments:?}: errors go to stderr");
        let error = object.json()["error"].as_str().unwrap_or_default().to_owned();
        for text in [&plain.stderr, &error] {
            let missing: Vec<_> = wanted.iter().filter(|words| !text.contains(**words)).collect();
            let ours = text.contains("panicked") || text.contains("internal error");
            if ours || !missing.is_empty() {
                wrong.push(format!("{arguments:?} must say {missing:?}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let made: i64 = sqlx::query_scalar("SELECT (SELECT count(*) FROM consumers) + (SELECT count(*) FROM members)")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(made, 0, "a refused command leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_never_printed() {
    let database = Database::new().await;
    let url = format!("postgres://turnpike:{SECRET}@[nowhere/db");
    let smtp = format!("ftp://turnpike:{SECRET}@mail");
    let pepper = format!("1:{SECRET}");
    let stripe = format!("pk_live_{SECRET}");
    let cases: [(&str, &str, &str); 4] = [
        ("TURNPIKE_PEPPERS", &pepper, "TURNPIKE_PEPPERS"),
        ("TURNPIKE_STRIPE_SECRET_KEY", &stripe, "sk_"),
        ("TURNPIKE_SMTP_URL", &smtp, "smtp://"),
        ("DATABASE_URL", &url, "DATABASE_URL"),
    ];
    let check = |output: &Output, what: &str| {
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(!text.contains(SECRET), "{what} prints the secret: {text}");
        text
    };
    for (name, value, wanted) in cases {
        let program = Program::new(Some(&database)).with(name, value);
        for arguments in [&["migrate"][..], &["--json", "migrate"], &["check"], &["serve"]] {
            let output = program.run(arguments).await;
            assert!(!output.status.success(), "{name} {arguments:?}: {output:?}");
            let text = check(&output, name);
            assert!(
                text.contains(name) && text.contains(wanted),
                "{name} {arguments:?}: {text}"
            );
        }
        for help in [&["--help"][..], &["serve", "--help"], &["admin", "create", "--help"]] {
            let output = program.run(help).await;
            assert!(output.status.success());
            check(&output, "--help");
        }
    }
    let program = Program::new(Some(&database)).with("TURNPIKE_ADMIN_PASSWORD", SECRET);
    for arguments in [
        &["admin", "create", "--help"][..],
        &["admin", "create", "--email", "nobody"],
        &["admin", "create"],
    ] {
        check(&program.run(arguments).await, "admin create");
    }
    for option in [
        "--peppers",
        "--smtp-url",
        "--stripe-secret-key",
        "--database-url",
        "--turnpike-database-url",
    ] {
        let output = program.run(&["migrate", option, SECRET]).await;
        if option == "--turnpike-database-url" {
            // The test's own address goes first.
            check(&output, option);
            continue;
        }
        assert!(!output.status.success(), "{option}");
        check(&output, option);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_keys_work_until_revoked() {
    let database = Database::new().await;
    let upstream = Upstream::start().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("keys@example.com").await;
    let serving = program.serve().await;

    let printed = program
        .run(&["key", "create", "--consumer", &consumer, "--count", "50"])
        .await
        .ok();
    let keys: Vec<&str> = printed.lines().collect();
    assert_eq!(keys.len(), 50);
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 50, "all are different");
    let gateway = program.gateway();
    for key in &keys {
        assert!(key.starts_with("tp_live_") && !key.contains(' '), "{key}");
        let answer = until("the key's acceptance", || accepted(gateway, key)).await;
        assert_eq!(answer.status, 200);
    }

    let one = program
        .run(&["--json", "key", "create", "--consumer", &consumer])
        .await
        .json();
    let (id, key) = (one["key_id"].as_str().unwrap(), one["key"].as_str().unwrap());
    until("the key's acceptance", || accepted(gateway, key)).await;
    program.run(&["key", "revoke", id]).await.ok();
    let refused = until("the revoked key's refusal", || async {
        call(gateway, "/v1/data", Some(key))
            .await
            .ok()
            .filter(|a| a.status != 200)
    })
    .await;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("/problems/key-revoked"), "{}", refused.text());
    for key in &keys {
        let answer = call(gateway, "/v1/data", Some(key)).await.unwrap();
        assert_eq!(answer.status, 200, "the others go on working");
    }
    serving.terminate();
    assert!(serving.ended().await.success());
}

async fn accepted(gateway: SocketAddr, key: &str) -> Option<Answer> {
    call(gateway, "/v1/data", Some(key))
        .await
        .ok()
        .filter(|a| a.status == 200)
}
