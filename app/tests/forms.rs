//! Every form with input that is wrong: the answer says what to mend, keeps what was typed, and puts the focus there.

use crate::browser::{Browser, PASSWORD, Page, Portal};
use axum::body::Body;
use http::{Method, Request, StatusCode, header};

/// 10 KiB in one field.
fn long() -> String {
    "long ".repeat(2_048).trim_end().to_owned()
}

/// The page's text as a browser reads it.
fn read(html: &str) -> String {
    html.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

/// The page is a form again with the value, a message, and the browser's focus on what is to be mended.
fn assert_mendable(page: &Page, what: &str, kept: &str) {
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {}", page.text);
    assert!(page.text.contains("role=\"alert\""), "{what} says nothing");
    assert!(page.text.contains("autofocus"), "{what} leaves the focus at the top");
    let kept = format!("value=\"{kept}\"");
    assert!(read(&page.text).contains(&kept), "{what} loses {kept} in {}", page.text);
    assert!(!page.text.contains("panic"), "{what}");
}

/// Path, fields, and the field whose value must come back.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);

#[tokio::test]
async fn what_is_typed_wrong_comes_back_to_be_mended() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    let long = long();
    let odd = "\u{1f5dd}\u{fe0f} \u{202e}<b>\"&amp;";
    let cases: Vec<Case<'_>> = vec![
        ("/keys/new", vec![("name", ""), ("environment", "live")], "name"),
        ("/keys/new", vec![("name", &long), ("environment", "live")], "name"),
        ("/keys/new", vec![("name", odd), ("environment", "moon")], "name"),
        (
            "/keys/new",
            vec![("name", odd), ("environment", "live"), ("expires", "-1")],
            "name",
        ),
        (
            "/keys/new",
            vec![("name", odd), ("environment", "live"), ("routes", "some")],
            "name",
        ),
        ("/budget", vec![("cap", "a lot")], "cap"),
        ("/budget", vec![("cap", odd)], "cap"),
        ("/budget", vec![("cap", &long)], "cap"),
        ("/budget", vec![("cap", "-1")], "cap"),
        ("/budget", vec![("cap", "0.001")], "cap"),
        ("/budget", vec![("cap", "99999999999999999999999999999999")], "cap"),
        ("/account/name", vec![("name", "")], "name"),
        ("/account/name", vec![("name", &long)], "name"),
    ];
    for (path, fields, field) in cases {
        let typed = fields.iter().find(|(name, _)| *name == field).unwrap().1;
        let page = mara.post(path, &fields).await;
        let shown: String = typed.chars().take(40).collect();
        assert_mendable(&page, &format!("{path} with {field} {shown:?}"), typed);
    }
    let wrong = mara
        .post("/account/password", &[("current", "no"), ("password", PASSWORD)])
        .await;
    assert!(wrong.text.contains("autofocus") && !wrong.text.contains(PASSWORD));
}

#[tokio::test]
async fn the_way_in_keeps_the_address_and_never_the_password() {
    let portal = Portal::new().await;
    let long = long();
    let mut eve = portal.browser();
    for email in ["", "no address", &long, "\u{1f5dd}@x", "a@b@c", "<script>@x.dev"] {
        for path in ["/signup", "/reset"] {
            let fields = [("email", email), ("password", PASSWORD)];
            let page = eve
                .post(path, if path == "/reset" { &fields[..1] } else { &fields })
                .await;
            assert_mendable(&page, &format!("{path} with {:?}", email.get(..20)), email);
            assert!(!page.text.contains(PASSWORD));
        }
    }
    let page = eve
        .post("/signup", &[("email", "eve@evil.dev"), ("password", "short")])
        .await;
    assert_mendable(&page, "a short password", "eve@evil.dev");
    let page = eve
        .post("/signup", &[("email", "eve@evil.dev"), ("password", &long)])
        .await;
    assert_mendable(&page, "a very long password", "eve@evil.dev");
}

#[tokio::test]
async fn a_form_from_an_older_page_or_of_the_wrong_kind_is_answered_in_words() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    for (path, fields) in [
        ("/account/name", vec![("nom", "Lumen")]),
        ("/account/name", vec![("name", "Lumen"), ("name", "Twice")]),
        ("/account/sessions/end", vec![("session", "none")]),
    ] {
        let page = mara.post(path, &fields).await;
        assert!(page.status.is_client_error(), "{path}");
        assert!(page.text.contains("<h1>"), "{path}: {}", page.text);
        assert!(page.text.contains("/home"), "who is signed in stays so");
    }
    let long = "x".repeat(70_000);
    let page = mara.post("/keys/new", &[("name", &long)]).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(page.text.contains("longer than any form here takes"), "{}", page.text);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/account/name")
        .header("sec-fetch-site", "same-origin")
        .header(header::COOKIE, format!("__Host-sid={}", mara.cookie.clone().unwrap()))
        .header(header::CONTENT_TYPE, "text/plain");
    let page = portal.send(request.body(Body::from("name=Lumen")).unwrap()).await;
    assert_eq!(page.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(page.text.contains("<h1>") && page.text.contains("Nothing was changed"));
}

/// As a browser sends it: with the length of the form.
async fn send(portal: &Portal, browser: &Browser<'_>, path: &str, body: &str) -> Page {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("sec-fetch-site", "same-origin")
        .header(header::CONTENT_LENGTH, body.len())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(
            header::COOKIE,
            format!("__Host-sid={}", browser.cookie.clone().unwrap_or_default()),
        );
    portal.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn what_was_typed_outlives_the_session_but_no_password_does() {
    let portal = Portal::new().await;
    let mut mara = portal.browser();
    mara.sign_up("mara@lumen.dev").await;
    portal.clock.advance_s(24 * 3_600);
    let page = send(&portal, &mara, "/keys/new", "name=a+%22b%22+%3Cc%3E&environment=test").await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    assert_eq!(page.header("cache-control"), "no-store");
    for part in [
        "action=\"/keys/new\"",
        "name=\"name\" value=\"a &quot;b&quot; &lt;c&gt;\"",
        "name=\"environment\" value=\"test\"",
        "href=\"/login\"",
    ] {
        assert!(page.text.contains(part), "{part} is missing in {}", page.text);
    }
    let secret = format!("current={}&password=another+secret+here", PASSWORD.replace(' ', "+"));
    let page = send(&portal, &mara, "/account/password", &secret).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    assert!(!page.text.contains(PASSWORD) && !page.text.contains("another secret here"));
    // From another site nothing is shown again.
    let request = Request::builder()
        .method(Method::POST)
        .uri("/keys/new")
        .header("sec-fetch-site", "cross-site")
        .header(header::CONTENT_LENGTH, 10)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let page = portal.send(request.body(Body::from("name=evil9")).unwrap()).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(!page.text.contains("evil9"));
}
