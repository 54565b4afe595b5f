//! Who may: every address as everybody, and what each is answered.

use super::probe::{Probe, is_open};
use super::world::{Page, Tenant, World};
use app::routes::{Entry, Who};
use http::Method;
use model::MemberId;
use model::access::Role;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Nobody,
    Unverified,
    Member(Role),
    Provider,
}

const EVERYBODY: [Asker; 7] = [
    Asker::Nobody,
    Asker::Unverified,
    Asker::Member(Role::Viewer),
    Asker::Member(Role::Developer),
    Asker::Member(Role::Admin),
    Asker::Member(Role::Owner),
    Asker::Provider,
];

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Served,
    LogIn,
    ConfirmFirst,
    NotYours,
    NotThere,
    /// One of the provider's people has no account of a consumer.
    ToAdmin,
    NotSigned,
    Failed,
}

fn expected(entry: &Entry, asker: Asker) -> Class {
    // For the person, whatever accounts it acts for.
    let personal = matches!(
        entry.path,
        "/account" | "/account/password" | "/account/sessions/end" | "/account/sessions/end-others"
    );
    match (entry.who, asker) {
        (Who::Anyone, _) => Class::Served,
        (Who::Signature, _) => Class::NotSigned,
        (Who::Provider, Asker::Provider) => Class::Served,
        (Who::Provider, _) => Class::NotThere,
        (_, Asker::Nobody) => Class::LogIn,
        (_, Asker::Unverified) => Class::ConfirmFirst,
        (Who::Viewer, Asker::Provider) if personal => Class::Served,
        (_, Asker::Provider) => Class::ToAdmin,
        (Who::Viewer, Asker::Member(_)) => Class::Served,
        (Who::KeyManager, Asker::Member(role)) if role != Role::Viewer => Class::Served,
        (Who::BillingManager, Asker::Member(Role::Owner | Role::Admin)) => Class::Served,
        (Who::KeyManager | Who::BillingManager, Asker::Member(_)) => Class::NotYours,
    }
}

fn class(entry: &Entry, page: &Page) -> Class {
    let login = match entry.method {
        Method::GET => page.to().starts_with("/login?next="),
        _ => page.to() == "/login",
    };
    match page.status.as_u16() {
        303 if login && entry.who != Who::Anyone => Class::LogIn,
        303 if page.to() == "/verify" && entry.who != Who::Anyone => Class::ConfirmFirst,
        303 if page.to() == "/admin" && entry.who != Who::Anyone => Class::ToAdmin,
        400 if entry.who == Who::Signature => Class::NotSigned,
        401 => Class::LogIn,
        403 => Class::NotYours,
        404 if !is_open(entry) => Class::NotThere,
        405 => Class::Failed,
        200..=499 => Class::Served,
        _ => Class::Failed,
    }
}

fn member(world: &World, tenant: &Tenant, asker: Asker) -> Option<MemberId> {
    match asker {
        Asker::Nobody => None,
        Asker::Unverified => Some(tenant.unverified),
        Asker::Member(role) => Some(tenant.member(role)),
        Asker::Provider => Some(world.provider),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_serves_who_may_and_nobody_else() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for entry in &world.entries {
        for asker in EVERYBODY {
            // A tenant of its own for each try: what one does is not in the way of the next.
            let tenant = world.tenant().await;
            let member = member(&world, &tenant, asker);
            let probe = Probe::new(&world, entry, &tenant, member, true).await;
            let session = match member {
                Some(member) => Some(world.session(member).await),
                None => None,
            };
            let before = world.rows(&[]).await;
            let page = probe.send_from_here(&world, session.as_deref()).await;
            let (expected, got) = (expected(entry, asker), class(entry, &page));
            let what = format!("{} {} as {asker:?}", entry.method, entry.path);
            if got != expected {
                wrong.push(format!(
                    "{what}: {expected:?} is wanted, {got:?} came: {} {}",
                    page.status,
                    page.to()
                ));
            }
            if expected != Class::Served && world.rows(&[]).await != before {
                wrong.push(format!("{what}: refused, and rows changed"));
            }
            if let Err(problem) = super::answers::check(&page, member.is_some() && entry.who != Who::Signature, &what) {
                wrong.push(problem);
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_server_function_is_in_the_table() {
    let (_, entries) = app::routes::table().split();
    for (path, method) in server_fn::axum::server_fn_paths() {
        let known = entries.iter().any(|e| e.path == path && e.method == method);
        assert!(
            known,
            "{method} {path} is registered as a server function and not in app::routes::table()"
        );
    }
}

#[test]
fn every_address_is_listed_once() {
    let (_, entries) = app::routes::table().split();
    let mut seen = std::collections::HashSet::new();
    for entry in &entries {
        assert!(
            seen.insert((entry.path, entry.method.clone())),
            "{} {} is listed twice",
            entry.method,
            entry.path
        );
        let own = entry.path.starts_with('/') && matches!(entry.method, Method::GET | Method::POST);
        assert!(own, "{} {}", entry.method, entry.path);
        let admin = entry.path.starts_with("/admin") && entry.path != "/admin/setup";
        assert_eq!(admin, entry.who == Who::Provider, "{} {:?}", entry.path, entry.who);
    }
    assert!(entries.len() > 50, "the table is the whole portal's");
}
