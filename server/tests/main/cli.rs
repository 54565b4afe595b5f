//! The commands: what they print, and what they say to bad input.

use crate::redis_server::RedisServer;
use crate::support::{Answer, Output, Program, Upstream, call, catalogue, until};
use std::collections::HashSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use testkit::Database;

/// Never to be printed, wherever it was given.
const SECRET: &str = "hunter2hunter2";

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_checked_without_a_database() {
    let nowhere = "postgres://nobody@127.0.0.1:9/none";
    let program = Program::new(None).with("DATABASE_URL", nowhere);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let file = program.folder.write("catalogue.toml", &catalogue(address));
    let output = program
        .run(&["--json", "plan", "check", &file.display().to_string()])
        .await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.json()["plans"], 2);
    let broken = program.folder.write("broken.toml", "product = 7");
    let output = program.run(&["plan", "check", &broken.display().to_string()]).await;
    assert!(!output.status.success());
    assert!(
        output.stderr.contains("broken.toml") && output.stderr.contains("product"),
        "{output:?}"
    );
}

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
    let make = "key create --name one --environment test --consumer".split(' ');
    let key = json(&make.chain([consumer]).collect::<Vec<_>>()).await;
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
    let checked = json(&["check"]).await;
    assert_eq!(checked["failed"], 0);
    let stripe = checked["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["check"] == "stripe");
    let said = stripe.unwrap()["detail"].as_str().unwrap();
    assert!(
        said.contains("Open") && said.contains("TURNPIKE_STRIPE_SECRET_KEY"),
        "{said}"
    );
    let made = admin(&program, b"seven umbrellas under one bridge\n");
    assert!(made.status.success(), "{made:?}");
    assert!(made.json()["member_id"].as_str().unwrap().starts_with("mem_"));
}

/// `admin create` with the password where no process list shows it.
fn admin(program: &Program, password: &[u8]) -> Output {
    let line = "--json admin create --email p@example.com --password-stdin";
    let mut command = program.command(&line.split(' ').collect::<Vec<_>>());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(password).unwrap();
    let output = child.wait_with_output().unwrap();
    Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
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
async fn what_a_collector_of_traces_is_told_is_never_printed() {
    let database = Database::new().await;
    let collector = "http://127.0.0.1:4318";
    let user = format!("http://turnpike:{SECRET}@127.0.0.1:4318");
    for (name, endpoint, headers) in [
        ("TURNPIKE_TRACE_ENDPOINT", user.as_str(), "a=b"),
        ("TURNPIKE_TRACE_HEADERS", collector, SECRET),
    ] {
        let program = Program::new(Some(&database)).with("TURNPIKE_TRACE_ENDPOINT", endpoint);
        let program = program.with("TURNPIKE_TRACE_HEADERS", headers);
        for arguments in [&["serve"][..], &["check"], &["--json", "check"]] {
            let output = program.run(arguments).await;
            assert!(!output.status.success(), "{name} {arguments:?}: {output:?}");
            let text = format!("{}{}", output.stdout, output.stderr);
            assert!(
                !text.contains(SECRET) && text.contains(name),
                "{name} {arguments:?}: {text}"
            );
        }
        let help = program.run(&["serve", "--help"]).await.ok();
        assert!(!help.contains(SECRET) && help.contains(name), "{help}");
    }
}

/// A wrong address of Redis is named, its password is not; a server that refuses the password stops nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_rate_limits_from_being_shared_is_said() {
    let (database, server) = (Database::new().await, RedisServer::with(&["--requirepass", "right"]));
    let program = |url: &str| Program::new(Some(&database)).with("TURNPIKE_GATEWAY_REDIS_URL", url);
    for arguments in [&["serve"][..], &["check"], &["--json", "check"]] {
        let output = program(&format!("redis://:{SECRET}@host:port")).run(arguments).await;
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(
            !output.status.success() && !text.contains(SECRET),
            "{arguments:?}: {text}"
        );
        assert!(text.contains("TURNPIKE_GATEWAY_REDIS_URL"), "{arguments:?}: {text}");
    }
    let wrong = program(&format!("redis://:{SECRET}@{}", server.addr()));
    let text = wrong.run(&["check"]).await.stdout;
    assert!(
        text.contains("WRONG redis: redis://127.0.0.1:") && !text.contains(SECRET),
        "{text}"
    );
    let serving = wrong.serve().await;
    until("a word on Redis", || {
        let said = serving.log().contains("rate limits are not shared");
        async move { said.then_some(()) }
    })
    .await;
    assert!(!serving.log().contains(SECRET), "{}", serving.log());
    let right = program(&format!("redis://:right@{}", server.addr()));
    let text = right.run(&["check"]).await.stdout;
    assert!(text.contains("ok    redis: redis://127.0.0.1:"), "{text}");
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
