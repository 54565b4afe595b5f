//! Answers that the gateway keeps, and the provider's page that makes it forget them.

use crate::support::{Answer, Connection, Program, Upstream, call, catalogue, until};
use testkit::Database;

const PASSWORD: &str = "three green kites";

/// The provider's browser: it keeps its cookie, and sends forms from the portal's own pages.
struct Browser<'a> {
    program: &'a Program,
    cookie: String,
}

impl<'a> Browser<'a> {
    async fn log_in(program: &'a Program, email: &str) -> Self {
        let mut browser = Self {
            program,
            cookie: String::new(),
        };
        let password = PASSWORD.replace(' ', "+");
        let form = format!("email={email}&password={password}&next=");
        let answer = browser.post("/login", &form).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/admin"));
        browser.cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        browser
    }

    async fn post(&self, path: &str, form: &str) -> Answer {
        let mut connection = Connection::open(self.program.portal()).await.unwrap();
        connection.post_form(path, &self.cookie, form).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_has_forgotten_is_fetched_anew() {
    let (database, upstream) = (Database::new().await, Upstream::start().await);
    let program = Program::new(Some(&database));
    let cached = |name: &str| {
        let cache = "policy = { cache = { shared_by = \"consumer\", default_ttl_s = 3600 } }";
        (format!("slug = \"{name}\"\n"), format!("slug = \"{name}\"\n{cache}\n"))
    };
    let mut text = catalogue(upstream.address());
    for (plain, kept) in ["data", "chunked"].map(cached) {
        text = text.replace(&plain, &kept);
    }
    program.publish(&text).await;
    let admin = ["admin", "create", "--email", "pia@provider.dev", "--password", PASSWORD];
    program.run(&admin).await.ok();
    let consumer = program.consumer("a@example.com").await;
    let key = program.key(&consumer).await;
    let serving = program.serve().await;
    let browser = Browser::log_in(&program, "pia@provider.dev").await;
    // The upstream answers with the id of the request that it saw.
    let (data, chunked) = (
        async || call(program.gateway(), "/v1/data", Some(&key)).await.unwrap().text(),
        async || call(program.gateway(), "/v1/chunked", Some(&key)).await.unwrap().text(),
    );
    let (first, other) = (data().await, chunked().await);
    assert_eq!((data().await, chunked().await), (first.clone(), other.clone()), "kept");

    let wrong = browser.post("/admin/cache", "route=nothing&path=").await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("There is no route") && wrong.text().contains("value=\"nothing\""));
    let wrong = browser.post("/admin/cache", "route=&path=v1").await;
    assert!(wrong.status == 422 && wrong.text().contains("Begin it with a slash"));
    assert_eq!(data().await, first, "what was refused does nothing");

    let done = browser.post("/admin/cache", "route=data&path=/v1/data").await;
    assert_eq!(
        (done.status.as_u16(), done.header("location")),
        (303, "/admin/cache?purged=1")
    );
    let second = until("the purge", || async {
        let now = data().await;
        (now != first).then_some(now)
    })
    .await;
    assert_eq!(data().await, second, "and what came then is kept");
    assert_eq!(chunked().await, other, "another route's answers stay");

    let done = browser.post("/admin/cache", "route=&path=").await;
    assert_eq!(done.status, 303);
    until("the purge of everything", || async {
        let gone = data().await != second && chunked().await != other;
        gone.then_some(())
    })
    .await;
    let stranger = Browser {
        program: &program,
        cookie: String::new(),
    };
    let refused = stranger.post("/admin/cache", "route=&path=").await;
    assert_eq!(
        refused.status, 404,
        "who is not the provider sees no such page: {refused:?}"
    );
    serving.terminate();
    assert!(serving.ended().await.success());
}
