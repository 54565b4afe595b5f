//! The store behind tower-sessions, and the list of sessions.

use super::*;
use domain::sessions::{self, Handle, LIFETIME_S, Store};
use sha2::{Digest as _, Sha256};
use tower_sessions::cookie::time::OffsetDateTime;
use tower_sessions::session::{Id, Record};
use tower_sessions::{Session, SessionStore as _};

/// A session of the member, as a log-in begins it.
async fn open(world: &World, member: MemberId) -> Id {
    let mut record = Record {
        id: Id::default(),
        data: Default::default(),
        expiry_date: OffsetDateTime::UNIX_EPOCH,
    };
    record
        .data
        .insert(sessions::MEMBER.to_owned(), member.to_string().into());
    record
        .data
        .insert(sessions::USER_AGENT.to_owned(), "Browser\r\n\u{1b}[31m".into());
    record.data.insert(sessions::IP.to_owned(), "192.0.2.7".into());
    Store::new(&world.domain).create(&mut record).await.unwrap();
    record.id
}

pub(super) async fn begin(world: &World, member: MemberId) -> Handle {
    Handle::of(&open(world, member).await)
}

#[tokio::test]
async fn a_dump_of_the_table_logs_nobody_in() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let id = open(&world, mara).await;
    let row: String = sqlx::query_scalar("SELECT sessions::text FROM sessions")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert!(row.contains(&hex(&Sha256::digest(id.0.to_le_bytes()))));
    assert!(!row.contains(&hex(&id.0.to_le_bytes())) && !row.contains(&id.to_string()));
    // The first bytes of the hash as an id.
    let hash = Sha256::digest(id.0.to_le_bytes());
    let stolen = Id(i128::from_le_bytes(hash[..16].try_into().unwrap()));
    assert!(Store::new(&world.domain).load(&stolen).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_ends_a_day_after_it_began_however_busy_it_is() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let (store, id) = (Store::new(&world.domain), open(&world, mara).await);
    for _ in 0..23 {
        world.clock.advance_s(3_600);
        let record = store.load(&id).await.unwrap().unwrap();
        store.save(&record).await.unwrap();
    }
    world.clock.advance_s(3_599);
    let line = sessions::list(&world.domain, mara).await.unwrap().remove(0);
    assert_eq!(line.created_at.plus_s(LIFETIME_S), line.expires_at);
    assert_eq!(
        (line.user_agent.as_str(), line.ip.as_str()),
        ("Browser[31m", "192.0.2.7")
    );
    assert!(store.load(&id).await.unwrap().is_some());
    world.clock.advance_s(1);
    assert!(store.load(&id).await.unwrap().is_none());
    assert!(sessions::list(&world.domain, mara).await.unwrap().is_empty());
    members::ensure_recurring(&world.domain).await.unwrap();
    work(&world).await;
    assert_eq!(world.count("SELECT count(*) FROM sessions").await, 0);
}

#[tokio::test]
async fn a_request_under_way_does_not_bring_an_ended_session_back() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let (store, id) = (Store::new(&world.domain), open(&world, mara).await);
    let record = store.load(&id).await.unwrap().unwrap();
    sessions::end(&world.domain, mara, &Handle::of(&id)).await.unwrap();
    store.save(&record).await.unwrap();
    assert!(store.load(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_planted_id_is_never_taken_over() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let store = std::sync::Arc::new(Store::new(&world.domain));
    let planted = Id(4_711);
    let session = Session::new(Some(planted), store.clone(), None);
    session.clear().await;
    session.cycle_id().await.unwrap();
    session.insert(sessions::MEMBER, mara.to_string()).await.unwrap();
    session.save().await.unwrap();
    let first = session.id().unwrap();
    assert_ne!(first, planted);
    assert!(store.load(&planted).await.unwrap().is_none());
    // The same when rights change within a session.
    session.cycle_id().await.unwrap();
    session.save().await.unwrap();
    let second = session.id().unwrap();
    assert_ne!(second, first);
    assert!(store.load(&first).await.unwrap().is_none());
    let kept = store.load(&second).await.unwrap().unwrap();
    assert_eq!(kept.data[sessions::MEMBER], mara.to_string());
    session.flush().await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM sessions").await, 0);
}

#[tokio::test]
async fn people_end_their_own_sessions_only() {
    let world = World::new().await;
    let mara = member(&world, "mara@lumen.dev").await;
    let eve = member(&world, "eve@evil.dev").await;
    let (one, two, hers) = (
        begin(&world, mara).await,
        begin(&world, mara).await,
        begin(&world, eve).await,
    );
    let theft = sessions::end(&world.domain, eve, &one).await;
    assert!(matches!(theft, Err(DomainError::NotFound)));
    assert_eq!(
        sessions::end_others_of(&world.domain, mara, Some(&two)).await.unwrap(),
        1
    );
    assert_eq!(sessions::list(&world.domain, mara).await.unwrap()[0].handle, two);
    assert_eq!(sessions::list(&world.domain, eve).await.unwrap()[0].handle, hers);
    assert_eq!(two.to_string().parse::<Handle>().unwrap(), two);
    assert!("0".parse::<Handle>().is_err() && "zz".repeat(32).parse::<Handle>().is_err());
}
