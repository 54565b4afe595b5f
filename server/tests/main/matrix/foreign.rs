//! Two accounts: nobody reads or changes a row of the other's, by an id in a path, a query or a form.

use super::probe::{Probe, is_open};
use super::world::{Page, World};
use app::routes::Who;
use http::Method;
use model::access::Role;

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_another_account_are_ids_that_do_not_exist() {
    let world = World::new().await;
    let mut tried = 0;
    for entry in &world.entries {
        let (ours, theirs) = (world.tenant().await, world.tenant().await);
        let foreign = Probe::new(&world, entry, &theirs, None, true).await;
        if foreign.owned.is_empty() || entry.who == Who::Provider {
            continue;
        }
        tried += 1;
        let absent = Probe::new(&world, entry, &theirs, None, false).await;
        let session = world.session(ours.member(Role::Owner)).await;
        let before = world.rows(&[]).await;
        let answer = foreign.send_from_here(&world, Some(&session)).await;
        let nothing = absent.send_from_here(&world, Some(&session)).await;
        let what = format!("{} {}", entry.method, foreign.path);
        assert_eq!(answer.status, 404, "{what}");
        assert_eq!(nothing.status, 404, "{what}");
        let same = |page: &Page, probe: &Probe| page.without(&probe.owned);
        assert_eq!(
            same(&answer, &foreign),
            same(&nothing, &absent),
            "{what}: the two answers differ"
        );
        assert_eq!(world.rows(&[]).await, before, "{what}: refused, and rows changed");
    }
    assert!(tried >= 6, "only {tried} addresses have ids of an account");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_account_whatever_the_query_names() {
    let world = World::new().await;
    let (ours, theirs) = (world.tenant().await, world.tenant().await);
    let session = world.session(ours.member(Role::Owner)).await;
    let (consumer, key) = (theirs.consumer.to_string(), theirs.key.to_string());
    let query = format!(
        "consumer={consumer}&consumer_id={consumer}&key={key}&key_id={key}&id={key}&member={0}&member_id={0}&invoice={1}",
        theirs.member(Role::Owner),
        theirs.invoice
    );
    for entry in world.entries.iter().filter(|e| e.method == Method::GET) {
        let probe = Probe::new(&world, entry, &ours, Some(ours.member(Role::Owner)), true).await;
        let join = if probe.path.contains('?') { '&' } else { '?' };
        let page = world.get(&format!("{}{join}{query}", probe.path), Some(&session)).await;
        assert!(!page.status.is_server_error(), "{}: {}", probe.path, page.status);
        assert!(
            !page.text.contains(&theirs.mark),
            "{} shows another account's names",
            probe.path
        );
        if page.status == 200 && !is_open(entry) && !entry.path.starts_with("/_pages") {
            assert!(page.text.contains(&ours.mark), "{} shows whose it is", probe.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_sets_what_it_shows_and_nothing_else() {
    let world = World::new().await;
    let theirs = world.tenant().await;
    let more = |name: &'static str, value: &str| (name, value.to_owned());
    let (consumer, member) = (theirs.consumer.to_string(), theirs.member(Role::Owner).to_string());
    let extra = [
        more("role", "owner"),
        more("consumer", &consumer),
        more("consumer_id", &consumer),
        more("member", &member),
        more("member_id", &member),
        more("provider_admin", "true"),
        more("admin", "true"),
        more("verified_at", "2026-01-01T00:00:00Z"),
        more("price", "0"),
        more("amount", "0"),
        more("unit_amount", "0"),
        more("total_minor", "0"),
        more("plan_version_id", "pv_000000000000000000000000"),
        more("stripe_customer", "cus_theirs"),
        more("settlement", "complimentary"),
        more("status", "active"),
        more("spend_cap_minor", "1"),
        more("version", "1"),
        more("created_at", "2020-01-01T00:00:00Z"),
    ];
    let traces = theirs.traces();
    for entry in world
        .entries
        .iter()
        .filter(|e| e.method == Method::POST && e.who != Who::Provider)
    {
        let ours = world.tenant().await;
        let role = match entry.who {
            Who::Viewer => Role::Viewer,
            Who::KeyManager => Role::Developer,
            _ => Role::Admin,
        };
        let mut probe = Probe::new(&world, entry, &ours, Some(ours.member(role)), true).await;
        probe.fields.extend(extra.iter().cloned());
        let session = world.session(ours.member(role)).await;
        let before = (world.rows(&traces).await, rights(&world).await);
        let page = probe.send_from_here(&world, Some(&session)).await;
        world.work().await;
        assert!(!page.status.is_server_error(), "{}: {}", entry.path, page.status);
        let after = (world.rows(&traces).await, rights(&world).await);
        assert_eq!(before.0, after.0, "{} changed another account", entry.path);
        assert_eq!(before.1, after.1, "{} gave rights or money away", entry.path);
    }
}

/// What no form of a consumer's may raise.
async fn rights(world: &World) -> [i64; 4] {
    [
        world.count("SELECT count(*) FROM members WHERE provider_admin").await,
        // Signing up makes an account with its owner, and no other membership.
        world
            .count("SELECT (SELECT count(*) FROM memberships WHERE role = 'owner') - (SELECT count(*) FROM consumers)")
            .await
            - world
                .count("SELECT count(*) FROM memberships s JOIN members m ON m.id = s.member_id WHERE m.verified_at IS NULL AND m.email LIKE 'new.%'")
                .await,
        world.count("SELECT count(*) FROM subscriptions WHERE settlement <> 'free' AND status = 'active'").await,
        world.count("SELECT count(*) FROM consumers WHERE stripe_customer = 'cus_theirs' OR spend_cap_minor = 1").await,
    ]
}
