//! The portal as `serve` puts it together: what stands around the table of addresses.

use crate::support::{Program, call};
use testkit::Database;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_the_portal_is_guarded() {
    let database = Database::new().await;
    let program = Program::new(Some(&database));
    let serving = program.serve().await;
    for (path, statuses) in [
        ("/", &[200][..]),
        ("/login", &[200]),
        ("/home", &[303]),
        ("/nothing", &[404]),
        ("/pkg/none.js", &[404]),
        ("/pkg/..%2f..%2fCargo.toml", &[404]),
        // Built files are there only after the site was built.
        ("/favicon.svg", &[200, 404]),
        ("/robots.txt", &[200, 404]),
    ] {
        let answer = call(program.portal(), path, None).await.unwrap();
        assert!(statuses.contains(&answer.status.as_u16()), "{path}: {}", answer.status);
        // Where there is no file there is no body that could be taken for something.
        let file = path.starts_with("/pkg/") || path.contains('.');
        if !file || answer.status == 200 {
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        }
        if !file {
            assert!(
                answer
                    .header("content-security-policy")
                    .starts_with("default-src 'none'"),
                "{path}"
            );
            assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        }
        if answer.status == 404 && !file {
            assert!(
                answer.text().contains("<h1>Not found</h1>"),
                "{path} has a page: {}",
                answer.text()
            );
        }
        assert!(!answer.text().contains("[workspace]"), "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let here = call(program.operations(), path, None).await.unwrap();
        assert_eq!(here.status, 200, "{path}");
        let elsewhere = call(program.portal(), path, None).await.unwrap();
        assert_eq!(elsewhere.status, 404, "{path} is for operators alone");
    }
    let metrics = call(program.operations(), "/metrics", None).await.unwrap().text();
    for name in [
        "turnpike_database_up 1\n",
        "turnpike_jobs{state=\"dead\"} 0\n",
        "turnpike_database_notification_queue 0",
        "turnpike_data_free_bytes ",
        "turnpike_data_size_bytes ",
        "turnpike_open_files ",
        "turnpike_open_files_limit ",
        "turnpike_clock_skew_milliseconds 0\n",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    serving.terminate();
    assert!(serving.ended().await.success());
}
