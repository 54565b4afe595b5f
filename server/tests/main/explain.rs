//! `turnpike gateway explain`, asked of a gateway that runs and of the database.

use crate::support::{Program, Upstream, call, catalogue};
use testkit::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_explained_by_the_gateway_and_without_one_by_the_database() {
    let (database, upstream) = (Database::new().await, Upstream::start().await);
    let log = tempfile_path();
    let program = Program::new(Some(&database)).with("TURNPIKE_ACCESS_LOG", &log);
    program.publish(&catalogue(upstream.address())).await;
    let consumer = program.consumer("a@example.com").await;
    let made = program
        .run(&["--json", "key", "create", "--consumer", &consumer])
        .await
        .json();
    let (id, key) = (made["key_id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let arguments = [
        "--json",
        "gateway",
        "explain",
        "get",
        "http://api.example/v1/data?a=1",
        "--key",
        id,
    ];
    let ask = async |more: &[&str]| {
        let output = program.run(&[&arguments[..], more].concat()).await;
        assert!(output.status.success(), "{output:?}");
        assert!(!output.stdout.contains(key), "{output:?}");
        output.json()
    };

    let from_database = ask(&[]).await;
    assert_eq!(from_database["live"], false);
    assert_eq!(from_database["refusal"], serde_json::Value::Null, "{from_database}");

    let serving = program.serve().await;
    let answer = call(program.gateway(), "/v1/data", Some(key)).await.unwrap();
    assert_eq!(answer.status, 200);
    for _ in 0..2 {
        let live = ask(&["--header", "X-Api-Key: nonsense"]).await;
        assert_eq!(
            (&live["live"], &live["refusal"]),
            (&true.into(), &serde_json::Value::Null)
        );
        let all = live["decisions"].as_array().unwrap();
        let quota = all.iter().find(|d| d["about"] == "quota and spend cap").unwrap();
        let said = quota["detail"].as_str().unwrap();
        assert!(
            said.starts_with("1 units taken"),
            "what is used is known, and a question uses nothing: {said}"
        );
    }
    let words = program
        .run(&["gateway", "explain", "GET", "/nothing", "--key", id])
        .await
        .ok();
    assert!(words.contains("It would be refused: 404 no-route."), "{words}");
    let words = program
        .run(&["gateway", "explain", "GET", "/.well-known/turnpike/jwks.json"])
        .await
        .ok();
    assert!(words.contains("The gateway would answer it by itself: 200."), "{words}");
    let wrong = program
        .run(&["gateway", "explain", "GET", "/v1/data", "--header", "no colon"])
        .await;
    assert!(
        !wrong.status.success() && wrong.stderr.contains("NAME:VALUE"),
        "{wrong:?}"
    );
    serving.terminate();
    assert!(serving.ended().await.success());

    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines.lines().count(), 1, "questions are no requests: {lines}");
    assert!(lines.contains("\"path\":\"/v1/data\"") && !lines.contains(key));
    std::fs::remove_file(&log).unwrap();
}

fn tempfile_path() -> String {
    let name = format!("turnpike-access-{}.log", std::process::id());
    std::env::temp_dir().join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_of_the_access_log_stops_the_start_with_its_name() {
    let program = Program::new(None);
    for (name, value) in [
        ("TURNPIKE_ACCESS_LOG", ""),
        ("TURNPIKE_ACCESS_LOG_SAMPLE", "2"),
        ("TURNPIKE_ACCESS_LOG_SAMPLE", "half"),
    ] {
        let mut command = program.command(&["serve"]);
        command.env(name, value);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let flag = name["TURNPIKE_".len()..].to_ascii_lowercase().replace('_', "-");
        assert!(
            !output.status.success() && said.contains(&flag) && said.contains("wanted"),
            "{name}={value}: {said}"
        );
    }
}
