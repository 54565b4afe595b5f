//! Signing up, in and out, through the pages.

use crate::browser::{PASSWORD, Page, Portal};
use http::StatusCode;

#[tokio::test]
async fn from_sign_up_to_the_console_and_out_again() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    assert_eq!(mara.get("/account").await.to(), "/login?next=/account");
    assert_eq!(
        mara.post("/signup", &[("email", "mara@lumen.dev"), ("password", PASSWORD)])
            .await
            .to(),
        "/verify"
    );
    let waiting = mara.get("/verify").await;
    assert!(waiting.text.contains("mara@lumen.dev") && waiting.header("cache-control") == "no-store");
    assert_eq!(
        mara.get("/account").await.to(),
        "/verify",
        "no rights before the address is confirmed"
    );

    let link = portal.mailed_link("mara@lumen.dev").await;
    let before = mara.cookie.clone();
    for _ in 0..2 {
        assert_eq!(mara.get(&link).await.status, StatusCode::OK, "looking uses nothing up");
    }
    assert_eq!(mara.post(&link, &[]).await.to(), "/home");
    assert_ne!(mara.cookie, before, "new rights, new id");
    let account = mara.get("/account").await;
    assert_eq!(
        (account.status, account.header("cache-control")),
        (StatusCode::OK, "no-store")
    );
    assert!(account.text.contains("this one"));
    assert_eq!(mara.get("/login").await.to(), "/home");

    let old = mara.clone();
    assert_eq!(mara.post("/logout", &[]).await.to(), "/");
    assert_eq!(mara.cookie, None);
    let mut thief = old;
    assert_eq!(
        thief.get("/account").await.to(),
        "/login?next=/account",
        "the row is gone, not only the cookie"
    );
}

#[tokio::test]
async fn a_sign_up_looks_the_same_for_an_address_that_has_an_account() {
    let portal = Portal::new().await;
    portal.browser().sign_up("mara@lumen.dev").await;
    portal.clock.advance_s(60);
    let (mut known, mut unknown) = (portal.browser(), portal.browser());
    let plain = |page: &Page, email: &str| {
        let mut headers = page.headers.clone();
        for secret in ["set-cookie", "content-security-policy"] {
            headers.remove(secret);
        }
        let nonce_free: String = page.text.replace(email, "ADDRESS");
        (page.status, headers, nonce_free)
    };
    let fields = |email| [("email", email), ("password", "another password")];
    for (path, form) in [
        ("/signup", true),
        ("/verify", false),
        ("/home", false),
        ("/account", false),
        ("/verify?sent=1", false),
    ] {
        let (a, b) = if form {
            (
                known.post(path, &fields("mara@lumen.dev")).await,
                unknown.post(path, &fields("li99@lumen.dev")).await,
            )
        } else {
            (known.get(path).await, unknown.get(path).await)
        };
        assert_eq!(plain(&a, "mara@lumen.dev"), plain(&b, "li99@lumen.dev"), "{path}");
        assert_eq!(
            a.headers.contains_key("set-cookie"),
            b.headers.contains_key("set-cookie")
        );
    }
    assert_eq!(
        known.post("/verify", &[]).await.to(),
        unknown.post("/verify", &[]).await.to()
    );
    // And the one who guessed is nowhere.
    assert_eq!(known.get("/keys").await.to(), "/verify");
}

#[tokio::test]
async fn a_link_opened_in_another_browser_asks_for_the_log_in_first() {
    let portal = Portal::new().await;
    let mut desk = portal.browser();
    desk.post("/signup", &[("email", "mara@lumen.dev"), ("password", PASSWORD)])
        .await;
    let link = portal.mailed_link("mara@lumen.dev").await;
    let mut phone = portal.browser();
    assert_eq!(phone.get(&link).await.to(), format!("/login?next={link}"));
    assert_eq!(phone.post(&link, &[]).await.to(), format!("/login?next={link}"));
    assert_eq!(phone.log_in("mara@lumen.dev", &link).await.to(), link);
    assert_eq!(phone.post(&link, &[]).await.to(), "/home");
    // The browser that waited goes on.
    assert_eq!(desk.get("/verify").await.to(), "/home");
}

#[tokio::test]
async fn a_log_in_keeps_what_was_typed_but_the_password_and_says_one_thing() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let mut stranger = portal.browser();
    let fields = [
        ("email", "mara@lumen.dev"),
        ("password", "not the password"),
        ("next", "/usage"),
    ];
    let wrong = stranger.post("/login", &fields).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text.contains("value=\"mara@lumen.dev\"") && wrong.text.contains("value=\"/usage\""));
    assert!(!wrong.text.contains("not the password") && wrong.text.contains("role=\"alert\""));
    for _ in 0..4 {
        stranger.post("/login", &fields).await;
    }
    let slowed = stranger.post("/login", &fields).await;
    assert_eq!(
        (slowed.status, slowed.header("retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, "1")
    );
    assert_eq!(mara.get("/account").await.status, StatusCode::OK, "her session goes on");
}

#[tokio::test]
async fn a_log_in_leads_to_own_pages_only_and_changes_the_cookie() {
    let portal = Portal::new().await;
    portal.browser().sign_up("mara@lumen.dev").await;
    for next in [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "/\r\nX: y",
    ] {
        let mut mara = portal.browser();
        mara.cookie = Some("AAAAAAAAAAAAAAAAAAAAAA".to_owned());
        assert_eq!(mara.log_in("mara@lumen.dev", next).await.to(), "/home", "{next:?}");
        assert_ne!(
            mara.cookie.as_deref(),
            Some("AAAAAAAAAAAAAAAAAAAAAA"),
            "a planted id is not taken over"
        );
    }
    let mut mara = portal.browser();
    assert_eq!(
        mara.log_in("mara@lumen.dev", "/usage?range=7d").await.to(),
        "/usage?range=7d"
    );
    let mut other = portal.browser();
    let page = other.get("/login?next=//evil.example").await;
    assert!(!page.text.contains("evil.example"));
}

#[tokio::test]
async fn a_reset_is_asked_for_alike_and_ends_all_sessions() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let mut phone = portal.browser();
    let known = phone.post("/reset", &[("email", "mara@lumen.dev")]).await;
    let unknown = phone.post("/reset", &[("email", "li99@lumen.dev")]).await;
    assert_eq!(known.text.replace("mara@", "X@"), unknown.text.replace("li99@", "X@"));
    let link = portal.mailed_link("mara@lumen.dev").await;
    assert_eq!(phone.get(&link).await.status, StatusCode::OK);
    let weak = phone.post(&link, &[("password", "short")]).await;
    assert_eq!(weak.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        phone.post(&link, &[("password", "seven slow herons")]).await.to(),
        "/home"
    );
    assert_eq!(phone.get("/account").await.status, StatusCode::OK);
    assert_eq!(mara.get("/account").await.to(), "/login?next=/account");
    assert_eq!(phone.get(&link).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let portal = Portal::new().await;
    let (mut desk, mut phone) = (portal.browser(), portal.browser());
    desk.sign_up("mara@lumen.dev").await;
    phone.log_in("mara@lumen.dev", "").await;
    let page = desk.get("/account").await;
    let handle = page.text.split("name=\"session\" value=\"").nth(1).unwrap()[..64].to_owned();
    let mut eve = portal.browser();
    eve.sign_up("eve@evil.dev").await;
    assert_eq!(
        eve.post("/account/sessions/end", &[("session", &handle)]).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        desk.post("/account/sessions/end", &[("session", &handle)]).await.to(),
        "/account?done=session"
    );
    assert_eq!(phone.get("/account").await.to(), "/login?next=/account");
    phone.log_in("mara@lumen.dev", "").await;
    assert_eq!(
        phone.post("/account/sessions/end-others", &[]).await.to(),
        "/account?done=others"
    );
    assert_eq!(desk.get("/account").await.to(), "/login?next=/account");
    let before = phone.cookie.clone();
    let fields = [("current", PASSWORD), ("password", "seven slow herons")];
    assert_eq!(
        phone.post("/account/password", &fields).await.to(),
        "/account?done=password"
    );
    assert_ne!(phone.cookie, before);
    assert_eq!(phone.get("/account").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_session_ends_after_a_day() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    portal.clock.advance_s(24 * 3_600 - 1);
    assert_eq!(mara.get("/account").await.status, StatusCode::OK);
    portal.clock.advance_s(1);
    assert_eq!(mara.get("/account").await.to(), "/login?next=/account");
}

#[tokio::test]
async fn fields_that_no_form_has_are_refused() {
    let portal = Portal::new().await;
    let mut eve = portal.browser();
    for extra in ["role", "verified", "provider_admin", "consumer"] {
        let page = eve
            .post(
                "/signup",
                &[("email", "eve@evil.dev"), ("password", PASSWORD), (extra, "true")],
            )
            .await;
        assert!(page.status.is_client_error(), "{extra}");
    }
    let members: i64 = sqlx::query_scalar("SELECT count(*) FROM members")
        .fetch_one(portal.database.pool())
        .await
        .unwrap();
    assert_eq!(members, 0);
}

#[tokio::test]
async fn the_first_admin_signs_up_once_and_runs_the_consumers() {
    let portal = Portal::new().await;
    let address = domain::bootstrap::setup_address(&portal.domain).await.unwrap().unwrap();
    let path = address.strip_prefix(&portal.domain.settings.portal_url).unwrap();
    let token = path.split_once("token=").unwrap().1;
    let mut ada = portal.browser();
    assert!(ada.get(path).await.text.contains(token));
    let fields = [("token", token), ("email", "ada@atlas.example"), ("password", PASSWORD)];
    assert_eq!(ada.post("/admin/setup", &fields).await.to(), "/admin");
    assert_eq!(
        portal.browser().post("/admin/setup", &fields).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(portal.browser().get(path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        ada.get("/account").await.status,
        StatusCode::OK,
        "also without an account of a consumer"
    );

    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let list = ada.get("/admin/consumers?search=MARA%40lumen").await;
    let href = list
        .text
        .split("href=\"/admin/consumers/con_")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let consumer = format!("/admin/consumers/con_{href}");
    assert!(ada.get(&consumer).await.text.contains("mara@lumen.dev"));
    let suspend = format!("{consumer}/suspend");
    assert_eq!(
        ada.post(&suspend, &[("reason", "")]).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(
        ada.post(&suspend, &[("reason", "<b>Scraped</b> the atlas.")])
            .await
            .to(),
        consumer
    );
    let page = ada.get(&consumer).await;
    assert!(
        page.text.contains("Scraped") && !page.text.contains("<b>Scraped"),
        "inert"
    );
    assert_eq!(ada.post(&format!("{consumer}/restore"), &[]).await.to(), consumer);

    // For everybody else there is no such page.
    for path in ["/admin/consumers", consumer.as_str()] {
        assert_eq!(mara.get(path).await.status, StatusCode::NOT_FOUND);
        assert_eq!(portal.browser().get(path).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(
        mara.post(&suspend, &[("reason", "revenge")]).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_outbox_is_not_there_in_production() {
    let portal = Portal::new().await;
    assert_eq!(
        portal.browser().get("/development/mail").await.status,
        StatusCode::NOT_FOUND
    );
}
