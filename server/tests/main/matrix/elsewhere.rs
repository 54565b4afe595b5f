//! Forms that another site sends, or a program that does not say from where, change nothing.

use super::probe::Probe;
use super::world::World;
use app::routes::Who;
use http::Method;
use model::access::Role;

#[tokio::test(flavor = "multi_thread")]
async fn forms_from_elsewhere_are_refused_at_every_address() {
    let world = World::new().await;
    let origin = world.domain.settings.portal_url.clone();
    let elsewhere: [&[(&str, &str)]; 8] = [
        &[],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "cross-site"), ("origin", &origin)],
        &[("referer", &format!("{origin}/keys"))],
    ];
    let mut tried = 0;
    for entry in world
        .entries
        .iter()
        .filter(|e| e.method == Method::POST && e.who != Who::Signature)
    {
        let tenant = world.tenant().await;
        let member = match entry.who {
            Who::Provider => world.provider,
            _ => tenant.member(Role::Owner),
        };
        let probe = Probe::new(&world, entry, &tenant, Some(member), true).await;
        let session = world.session(member).await;
        let before = world.rows(&[]).await;
        for headers in elsewhere {
            let page = probe.send(&world, Some(&session), headers).await;
            assert_eq!(page.status, 403, "{} with {headers:?}", entry.path);
            super::answers::check(&page, true, entry.path).unwrap();
            assert!(page.header("set-cookie").is_empty(), "{} with {headers:?}", entry.path);
        }
        assert_eq!(world.rows(&[]).await, before, "{} changed rows", entry.path);
        tried += 1;
    }
    assert!(tried >= 20, "only {tried} forms");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_changes_nothing() {
    let world = World::new().await;
    for entry in world.entries.iter().filter(|e| e.method == Method::GET) {
        let tenant = world.tenant().await;
        let member = match entry.who {
            Who::Provider => world.provider,
            _ => tenant.member(Role::Owner),
        };
        let probe = Probe::new(&world, entry, &tenant, Some(member), true).await;
        let session = world.session(member).await;
        let before = world.rows(&[]).await;
        // As a link on another site would lead here.
        let page = probe
            .send(&world, Some(&session), &[("sec-fetch-site", "cross-site")])
            .await;
        assert!(!page.status.is_server_error(), "{}: {}", entry.path, page.status);
        assert_eq!(world.rows(&[]).await, before, "GET {} changed rows", entry.path);
    }
}
