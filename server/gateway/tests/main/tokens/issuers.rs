//! The keys of issuers: where they come from, how they change, and what happens while they cannot be had.

use super::*;

/// Every algorithm and every place of a key.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_works() {
    let folder = Folder::new();
    let file = folder.0.join("secret");
    let shared = "a secret of at least thirty-two bytes";
    std::fs::write(&file, format!("{shared}\n")).unwrap();
    let path = file.to_str().unwrap();
    for (issuer, signer) in [
        (json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC}), ed(ED)),
        (
            json!({"algorithms": ["EdDSA"], "public_key": ed(ED).jwk("a").to_string()}),
            ed(ED),
        ),
        (json!({"algorithms": ["ES256"], "public_key": EC_PUBLIC}), ec()),
        (
            json!({"algorithms": ["ES256"], "public_key": ec().jwk("a").to_string()}),
            ec(),
        ),
        (json!({"algorithms": ["RS256"], "public_key": RSA_PUBLIC}), rsa()),
        (
            json!({"algorithms": ["HS256"], "secret_file": path}),
            secret(shared.as_bytes()),
        ),
    ] {
        let world = world(issuer.clone()).await;
        for header in [json!({}), json!({"kid": "any"})] {
            let reply = call(&world, &signer.token(header, &claims(&world))).await;
            assert_eq!(reply.status, 200, "{issuer}");
        }
        assert_invalid(&world, "another's", &ed(OTHER).token(json!({}), &claims(&world))).await;
    }
}

/// A secret that is missing or too short lets nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_there_lets_nobody_in() {
    let folder = Folder::new();
    let file = folder.0.join("secret");
    std::fs::write(&file, "short").unwrap();
    for issuer in [
        json!({"algorithms": ["HS256"], "secret_file": file.to_str().unwrap()}),
        json!({"algorithms": ["HS256"], "secret_file": "/nowhere"}),
        json!({"algorithms": ["HS256"], "secret_env": "TURNPIKE_TOKEN_SECRET_NOT_SET"}),
    ] {
        let world = world(issuer).await;
        for bytes in [&b"short"[..], b""] {
            let outcome = outcome(&world, &secret(bytes).token(json!({}), &claims(&world))).await;
            assert_eq!(outcome, (503, "issuer-unavailable".to_owned()));
        }
    }
}

/// New keys are taken over before they are needed, or when a token needs them; a key that is gone counts no more, not
/// even for a token that was let in a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate() {
    let begun = Instant::now();
    let stub = Stub::start(&[ed(ED).jwk("old")]).await;
    let world = world(json!({"algorithms": ["EdDSA"], "jwks_url": stub.url()})).await;
    let mut claims = claims(&world);
    claims["exp"] = json!(claims["exp"].as_i64().unwrap() + 3_000);
    let old = ed(ED).token(json!({"kid": "old"}), &claims);
    let new = ed(OTHER).token(json!({"kid": "new"}), &claims);
    assert_eq!(judged(&world, &old).await.status, 200);
    stub.publish(&[ed(ED).jwk("old"), ed(OTHER).jwk("new")]);
    world.clock.advance(61_000);
    assert_eq!(judged(&world, &new).await.status, 200);
    assert_eq!(call(&world, &old).await.status, 200);
    // A fetch that a machine cuts off by standing still for three seconds is made again.
    let asked =
        |least: usize| (least as u64..=least as u64 + begun.elapsed().as_secs() / 3).contains(&(stub.asked() as u64));
    assert!(asked(2), "{}", stub.asked());
    stub.publish(&[ed(OTHER).jwk("new")]);
    world.clock.advance(61_000);
    assert_eq!(
        judged(&world, &ed(ED).token(json!({"kid": "unknown"}), &claims))
            .await
            .status,
        401
    );
    assert!(asked(3), "{}", stub.asked());
    assert_invalid(&world, "its key is gone", &old).await;
    assert_eq!(call(&world, &new).await.status, 200);
}

/// T38: while an issuer is away, slow, wrong or flooding, its last keys count for an hour; then nobody is let in.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_keys_count_for_an_hour() {
    let good = json!({"keys": [ed(ED).jwk("a")]}).to_string().into_bytes();
    let evil = Stub::start(&[ed(OTHER).jwk("a")]).await;
    let stub = Stub::start(&[ed(ED).jwk("a")]).await;
    let world = world(json!({"algorithms": ["EdDSA"], "jwks_url": stub.url()})).await;
    let mut claims = claims(&world);
    claims["exp"] = json!(claims["exp"].as_i64().unwrap() + 20_000);
    let token = ed(ED).token(json!({"kid": "a"}), &claims);
    assert_eq!(judged(&world, &token).await.status, 200);
    let mut huge = good.clone();
    huge.extend(vec![b' '; 10 << 20]);
    let troubles: Vec<(&str, String, Vec<u8>)> = vec![
        ("500 Oops", String::new(), good.clone()),
        ("302 Found", format!("Location: {}\r\n", evil.url()), Vec::new()),
        ("200 OK", String::new(), huge),
        ("200 OK", String::new(), b"<html>".to_vec()),
        ("200 OK", String::new(), b"{\"keys\":[]}".to_vec()),
        (
            "200 OK",
            String::new(),
            json!({"keys": vec![ed(OTHER).jwk("a"); 65]}).to_string().into_bytes(),
        ),
    ];
    for (status, lines, body) in troubles {
        stub.say(status, &lines, body);
        let asked = stub.asked();
        world.clock.advance(61_000);
        let unknown = ed(OTHER).token(json!({"kid": "unknown"}), &claims);
        assert_eq!(judged(&world, &unknown).await.status, 401, "{status}");
        assert!(stub.asked() > asked);
        assert_eq!(call(&world, &token).await.status, 200, "{status}");
    }
    assert_eq!(evil.asked(), 0, "no redirect is followed");
    stub.say("500 Oops", "", Vec::new());
    world.clock.advance(3_601_000);
    assert_eq!(outcome(&world, &token).await, (503, "issuer-unavailable".to_owned()));
    stub.publish(&[ed(ED).jwk("a")]);
    world.clock.advance(61_000);
    assert_eq!(judged(&world, &token).await.status, 200, "it is back");
}

/// T38: an issuer that answers too slowly is given up, and no request waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_issuer_keeps_nobody_waiting() {
    let stub = Stub::start(&[ed(ED).jwk("a")]).await;
    stub.says.lock().unwrap().pause = Duration::from_secs(600);
    let world = world(json!({"algorithms": ["EdDSA"], "jwks_url": stub.url()})).await;
    let token = ed(ED).token(json!({"kid": "a"}), &claims(&world));
    let begun = Instant::now();
    assert_eq!(outcome(&world, &token).await.1, "issuer-unavailable");
    assert_eq!(world.get("/v1/ok").await.status, 200, "keys go on working");
    assert!(
        begun.elapsed() < Duration::from_secs(300),
        "nobody waited for the issuer"
    );
    stub.publish(&[ed(ED).jwk("a")]);
    assert_eq!(
        judged(&world, &token).await.status,
        200,
        "it was given up and asked again"
    );
}

/// Keys in a set that are secret, for something else or of another kind are passed over.
#[tokio::test(flavor = "multi_thread")]
async fn only_fit_keys_are_taken_from_a_set() {
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let octets =
        json!({"kty": "oct", "kid": "oct", "k": encoded("a secret of at least thirty-two bytes"), "alg": "HS256"});
    let stub = Stub::start(&[
        json!({"kty": "new kind"}),
        json!(1),
        octets,
        with(ed(ED).jwk("enc"), "use", json!("enc")),
        with(ed(ED).jwk("sign"), "key_ops", json!(["sign"])),
        with(ed(ED).jwk("alg"), "alg", json!("ES256")),
        with(ed(ED).jwk("private"), "d", json!("AA")),
        ec().jwk("good"),
    ])
    .await;
    let world = world(json!({"algorithms": ["ES256", "EdDSA", "RS256"], "jwks_url": stub.url()})).await;
    let claims = claims(&world);
    assert_eq!(
        judged(&world, &ec().token(json!({"kid": "good"}), &claims))
            .await
            .status,
        200
    );
    assert_eq!(
        call(&world, &ec().token(json!({}), &claims)).await.status,
        200,
        "the only key needs no name"
    );
    for kid in ["enc", "sign", "alg", "private"] {
        assert_invalid(&world, kid, &ed(ED).token(json!({ "kid": kid }), &claims)).await;
    }
    let known = secret(b"a secret of at least thirty-two bytes");
    assert_invalid(&world, "oct", &known.token(json!({"kid": "oct"}), &claims)).await;
}

/// The catalogue adds, changes and removes issuers while the gateway runs, and a start without the control plane knows
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn issuers_come_and_go_without_a_restart() {
    let mut world = World::new().await;
    let token = ed(ED).token(json!({}), &claims(&world));
    assert_eq!(outcome(&world, &token).await.0, 401);
    let issuer = json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC});
    trust(&world, vec![record(issuer.clone())]).await;
    assert_eq!(outcome(&world, &token).await.0, 200);
    let mut strict = issuer.clone();
    strict["audiences"] = json!(["https://other.example"]);
    trust(&world, vec![record(strict)]).await;
    assert_invalid(&world, "the audience changed", &token).await;
    trust(&world, vec![record(issuer)]).await;
    assert_eq!(outcome(&world, &token).await.0, 200);
    world.stop().await;
    world.plane.away.store(true, Ordering::SeqCst);
    world.start();
    assert_eq!(outcome(&world, &token).await.0, 200);
    world.plane.away.store(false, Ordering::SeqCst);
    trust(&world, Vec::new()).await;
    assert_invalid(&world, "nobody is trusted", &token).await;
}
