//! Text that nobody types by accident: it is refused or kept as text, never obeyed, and never an error of ours.

use super::probe::Probe;
use super::world::{Page, World};
use app::routes::{Entry, Who};
use http::Method;
use model::MemberId;
use model::access::Role;

const TEXTS: [&str; 9] = [
    "",
    "\0",
    "a\0b",
    "'; DROP TABLE members; --",
    "<script>alert(1)</script>\"'><img src=x>",
    "-1",
    "99999999999999999999999999",
    "\u{202e}\u{ff11}\r\nSet-Cookie: a=b",
    "%s%n{{7*7}}${7*7}../../etc/passwd",
];
/// Of these, what each name in an address is tried with: there are many.
const IN_ADDRESSES: [&str; 4] = [TEXTS[2], TEXTS[3], TEXTS[4], TEXTS[6]];
/// Every name that a page reads from its address, or could.
const NAMES: [&str; 24] = [
    "after",
    "at",
    "before",
    "class",
    "done",
    "env",
    "environment",
    "filter",
    "from",
    "group",
    "interval",
    "key",
    "next",
    "page",
    "plan",
    "published",
    "q",
    "range",
    "route",
    "saved",
    "search",
    "session_id",
    "state",
    "to",
];

fn asker(world: &World, entry: &Entry, owner: MemberId) -> MemberId {
    if entry.who == Who::Provider {
        world.provider
    } else {
        owner
    }
}

fn check(page: &Page, what: &str) -> Result<(), String> {
    if page.status.is_server_error() {
        return Err(format!("{what}: {}", page.status));
    }
    if page.text.contains("<script>alert") || page.text.contains("<img src=x") {
        return Err(format!("{what}: markup came back as markup"));
    }
    if page.header("set-cookie").contains("a=b") {
        return Err(format!("{what}: a header was split"));
    }
    super::answers::check(page, true, what)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_in_a_form_is_obeyed() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for entry in world
        .entries
        .iter()
        .filter(|e| e.method == Method::POST && e.who != Who::Signature)
    {
        let tenant = world.tenant().await;
        let member = asker(&world, entry, tenant.member(Role::Owner));
        let count = Probe::new(&world, entry, &tenant, Some(member), true)
            .await
            .fields
            .len();
        for (field, text) in (0..count).flat_map(|field| TEXTS.map(|text| (field, text))) {
            let mut probe = Probe::new(&world, entry, &tenant, Some(member), true).await;
            text.clone_into(&mut probe.fields[field].1);
            let session = world.session(member).await;
            let page = probe.send_from_here(&world, Some(&session)).await;
            let what = format!("POST {} with {} = {text:?}", entry.path, probe.fields[field].0);
            wrong.extend(check(&page, &what).err());
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_in_an_address_is_obeyed() {
    let world = World::new().await;
    let tenant = world.tenant().await;
    let mut wrong = Vec::new();
    for entry in world.entries.iter().filter(|e| e.method == Method::GET) {
        let member = asker(&world, entry, tenant.member(Role::Owner));
        let session = world.session(member).await;
        let probe = Probe::new(&world, entry, &tenant, Some(member), true).await;
        let path = probe.path.split('?').next().unwrap_or_default().to_owned();
        for text in IN_ADDRESSES {
            let value = app::session::escape(text);
            for name in NAMES {
                let page = world.get(&format!("{path}?{name}={value}"), Some(&session)).await;
                wrong.extend(check(&page, &format!("{path}?{name}={text:?}")).err());
            }
            if let (Some((start, _)), Some(end)) = (entry.path.split_once('{'), entry.path.find('}')) {
                let part = value.replace('/', "%2F");
                let page = world
                    .get(&format!("{start}{part}{}", &entry.path[end + 1..]), Some(&session))
                    .await;
                wrong.extend(check(&page, &format!("{} with {text:?}", entry.path)).err());
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
