//! `turnpike override` beside a running gateway, which goes on by itself when the database is gone.

use crate::support::{Program, Upstream, call, catalogue, until};
use model::Time;

const DAY_S: i64 = 86_400;

/// Calls until the gateway answers so; gives the answer's text.
async fn answers(program: &Program, key: &str, status: u16) -> String {
    until("the override's effect", || async {
        let answer = call(program.gateway(), "/v1/data", Some(key)).await.ok()?;
        (answer.status == status).then(|| answer.text())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_reaches_a_running_gateway_and_ends_without_the_database() {
    let upstream = Upstream::start().await;
    let program = Program::new(None);
    let offset = program.folder.write("offset", "0");
    let program = program.with("TURNPIKE_CLOCK_OFFSET_FILE", &offset.display().to_string());
    let _serving = program.serve().await;
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("more@example.com").await;
    let made = program.run(&["--json", "key", "create", "--consumer", &consumer]).await;
    let made = made.json();
    let (id, key) = (made["key_id"].as_str().unwrap(), made["key"].as_str().unwrap());
    answers(&program, key, 200).await;
    let json = async |arguments: &[&str]| {
        let all = [&["--json", "override"][..], arguments].concat();
        let output = program.run(&all).await;
        assert!(output.status.success(), "{output:?}");
        output.json()
    };
    let stop = [
        "add",
        "--consumer",
        &consumer,
        "--quota",
        "calls=0",
        "--kind",
        "hard",
        "--reason",
        "Too much.",
    ];

    let added = json(&stop).await;
    let first = added["override_id"].as_str().unwrap();
    assert!(first.starts_with("ovr_"), "{added}");
    assert!(answers(&program, key, 429).await.contains("quota-exceeded"));
    let listed = json(&["list", "--consumer", &consumer]).await;
    let line = &listed["overrides"][0];
    assert_eq!(
        (&line["state"], &line["reason"]),
        (&"active".into(), &"Too much.".into())
    );
    let began: Time = serde_json::from_value(line["starts_at"].clone()).unwrap();
    let again = program.run(&[&["override"][..], &stop].concat()).await;
    assert!(!again.status.success() && again.stderr.contains(first), "{again:?}");
    assert_eq!(json(&["end", first]).await["ended"], true);
    answers(&program, key, 200).await;

    let end = began.plus_s(DAY_S).to_string();
    let stop = [&stop[..], &["--until", &end]].concat();
    let second = json(&stop).await["override_id"].as_str().unwrap().to_owned();
    answers(&program, key, 429).await;
    let explained = program
        .run(&["gateway", "explain", "GET", "/v1/data", "--key", id])
        .await
        .ok();
    let wanted = format!("quota: The override {second} (until {end}); the plan says 1000000 (soft).");
    assert!(explained.contains(&wanted), "{explained}");
    let words = program.run(&["override", "list", "--consumer", &consumer]).await.ok();
    assert!(
        words.starts_with(&format!("{second} active: quota calls=0 hard, from ")),
        "{words}"
    );
    assert!(words.contains(&format!("{first} ended: ")), "{words}");

    program.folder.crash_postgres();
    answers(&program, key, 429).await;
    program.folder.write("offset", &DAY_S.to_string());
    answers(&program, key, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_overridden_is_said() {
    let database = testkit::Database::new().await;
    let program = Program::new(Some(&database));
    program.publish(&catalogue(([127, 0, 0, 1], 9).into())).await;
    let consumer = program.consumer("less@example.com").await;
    let add = ["override", "add", "--consumer", &consumer, "--reason", "It is a test."];
    for (more, wanted) in [
        (
            &["--quota", "bytes=5"][..],
            "The plan Open has no meter \"bytes\"; it has calls.",
        ),
        (
            &["--limit", "gets=5"],
            "The plan Open has no limit \"gets\"; it has rate.",
        ),
        (&["--feature", "search=on"], "The catalogue has no features."),
        (&["--feature", "search=maybe"], "SLUG=on or SLUG=off is wanted"),
        (&["--quota", "calls"], "NAME=NUMBER is wanted"),
        (&["--limit", "rate=many"], "a whole number"),
        (&["--limit", "rate=0"], "from 1 to 1,000,000,000"),
        (&["--limit", "rate=5", "--kind", "hard"], "cannot be used with"),
        (&["--feature", "search=on", "--burst", "5"], "cannot be used with"),
        (&["--limit", "rate=5", "--quota", "calls=5"], "cannot be used with"),
        (
            &["--quota", "calls=5", "--until", "2020-01-01"],
            "Choose an end that is not over.",
        ),
        (&["--quota", "calls=5", "--until", "soon"], "a day (2026-12-24)"),
        (&[], "--quota"),
    ] {
        let output = program.run(&[&add[..], more].concat()).await;
        assert!(!output.status.success(), "{more:?}: {output:?}");
        assert!(output.stderr.contains(wanted), "{more:?}: {}", output.stderr);
    }
    let nobody = "ovr_000000000000000000000000";
    let output = program.run(&["override", "end", nobody]).await;
    assert!(
        output.stderr.contains(&format!("there is no override {nobody}")),
        "{output:?}"
    );
    let none = program.run(&["override", "list", "--consumer", &consumer]).await.ok();
    assert!(none.contains("has no overrides"), "{none}");
    let output = program
        .run(&["override", "list", "--consumer", "con_000000000000000000000000"])
        .await;
    assert!(output.stderr.contains("there is no consumer"), "{output:?}");
}
