//! Tokens that must not pass.

use super::*;

/// T33: a token without a signature is none, however its algorithm is spelled.
#[tokio::test(flavor = "multi_thread")]
async fn no_signature_is_no_token() {
    let world = simple().await;
    let good = ed(ED).token(json!({}), &claims(&world));
    assert_eq!(call(&world, &good).await.status, 200);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let claims = claims(&world).to_string();
    for none in ["none", "None", "NONE", "nOnE", "", "eddsa", "EDDSA", "HS512", "null"] {
        let header = encoded(&json!({"alg": none, "typ": "JWT"}).to_string());
        for signature in ["", signature, "AA"] {
            assert_invalid(&world, none, &format!("{header}.{}.{signature}", encoded(&claims))).await;
        }
    }
    for header in [
        r#"{"typ":"JWT"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["EdDSA"]}"#,
        "[]",
        "1",
        "",
    ] {
        assert_invalid(&world, header, &ed(ED).raw(header, &claims)).await;
    }
    for token in [
        format!("{signed}."),
        signed.to_owned(),
        format!("{signed}.{signature}="),
        format!("{signed}.{signature}."),
        format!("{signed}.{signature}.{signature}"),
        format!("{signed}.{}", &signature[..signature.len() - 2]),
        format!(".{signed}.{signature}"),
        "..".to_owned(),
        ".".to_owned(),
    ] {
        assert_invalid(&world, "shape", &token).await;
    }
    // Each character of the signature counts, the last one too, which holds unused bits.
    for at in [0, 1, 40, signature.len() - 1] {
        let mut bytes = signature.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(bytes).unwrap();
        assert_invalid(&world, "changed", &format!("{signed}.{other}")).await;
    }
}

/// T34: a public key is never taken for a secret, nor a key of one kind for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_algorithm() {
    let jwk = rsa().jwk("a");
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for source in [json!(RSA_PUBLIC), json!(jwk.to_string())] {
        let world = world(json!({"algorithms": ["RS256"], "public_key": source})).await;
        let claims = claims(&world);
        assert_eq!(call(&world, &rsa().token(json!({}), &claims)).await.status, 200);
        let trimmed = RSA_PUBLIC.trim_end();
        for known in [
            RSA_PUBLIC.as_bytes(),
            trimmed.as_bytes(),
            &modulus,
            jwk.to_string().as_bytes(),
            b"",
        ] {
            assert_invalid(
                &world,
                "HS256 with the public key",
                &secret(known).token(json!({}), &claims),
            )
            .await;
        }
        assert_invalid(&world, "ES256", &ec().token(json!({}), &claims)).await;
        // The right key under the name of another algorithm.
        assert_invalid(
            &world,
            "named otherwise",
            &rsa().token(json!({"alg": "ES256"}), &claims),
        )
        .await;
        assert_invalid(&world, "PS256", &rsa().token(json!({"alg": "PS256"}), &claims)).await;
    }
    let stub = Stub::start(&[ec().jwk("one"), ed(ED).jwk("two")]).await;
    let world = world(json!({"algorithms": ["ES256", "EdDSA"], "jwks_url": stub.url()})).await;
    let claims = claims(&world);
    let good = ec().token(json!({"kid": "one"}), &claims);
    assert_eq!(judged(&world, &good).await.status, 200);
    assert_invalid(&world, "the other's name", &ec().token(json!({"kid": "two"}), &claims)).await;
    assert_invalid(
        &world,
        "an algorithm not used",
        &rsa().token(json!({"kid": "one"}), &claims),
    )
    .await;
    let point = ec().jwk("one")["x"].to_string();
    assert_invalid(
        &world,
        "HS256",
        &secret(point.as_bytes()).token(json!({"kid": "one"}), &claims),
    )
    .await;
}

/// T35: the name of a key chooses among known keys and does nothing else; unknown ones make the issuer be asked once a
/// minute.
#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_key_leads_nowhere() {
    let stub = Stub::start(&[ed(ED).jwk("known")]).await;
    let world = world(json!({"algorithms": ["EdDSA"], "jwks_url": stub.url()})).await;
    let claims = claims(&world);
    let good = ed(ED).token(json!({"kid": "known"}), &claims);
    assert_eq!(judged(&world, &good).await.status, 200);
    let asked = stub.asked();
    assert_eq!(asked, 1);
    let kids = [
        json!("../../dev/null"),
        json!("/proc/self/environ"),
        json!("' OR 1=1 --"),
        json!(stub.url()),
        json!("KNOWN"),
        json!("known\u{0}"),
        json!(""),
        json!("x".repeat(10 << 10)),
        json!("x".repeat(257)),
        json!(1),
        json!(["known"]),
        json!({"a": 1}),
    ];
    for kid in kids {
        assert_invalid(&world, "kid", &ed(OTHER).token(json!({ "kid": kid }), &claims)).await;
        assert_invalid(&world, "kid", &ed(ED).token(json!({ "kid": kid }), &claims)).await;
    }
    assert_eq!(stub.asked(), asked, "within a minute nobody is asked again");
    for round in 1..3 {
        world.clock.advance(61_000);
        let claims = super::claims(&world);
        let reply = call(&world, &ed(OTHER).token(json!({"kid": "unknown"}), &claims)).await;
        assert_eq!(reply.status, 503, "the keys are being asked for");
        for n in 0..20 {
            let reply = judged(
                &world,
                &ed(OTHER).token(json!({"kid": format!("unknown-{n}")}), &claims),
            )
            .await;
            assert_eq!(reply.status, 401);
        }
        assert_eq!(stub.asked(), asked + round);
    }
}

/// T36: keys and addresses in the header are not read, and nobody is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_brings_no_key_of_its_own() {
    let evil = Stub::start(&[ed(OTHER).jwk("evil")]).await;
    let world = simple().await;
    let claims = claims(&world);
    let extras = [
        json!({"jku": evil.url()}),
        json!({"x5u": evil.url()}),
        json!({"jwk": ed(OTHER).jwk("evil")}),
        json!({"x5c": ["MIIB"], "x5t": "a", "x5t#S256": "b"}),
        json!({"jku": evil.url(), "jwk": ed(OTHER).jwk("evil"), "kid": "evil", "x5u": evil.url()}),
    ];
    for extra in extras {
        assert_invalid(&world, "its own key", &ed(OTHER).token(extra.clone(), &claims)).await;
        assert_eq!(
            outcome(&world, &ed(ED).token(extra, &claims)).await.0,
            200,
            "what is not read does no harm"
        );
    }
    assert_eq!(evil.asked(), 0);
}

/// T37: claims and headers that are wrong, missing or of the wrong kind.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_what_they_must_be_or_nobody_is_let_in() {
    let world = simple().await;
    let with = |name: &str, value: Value| {
        let mut claims = claims(&world);
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            _ => claims[name] = value,
        }
        ed(ED).token(json!({}), &claims)
    };
    let now = world.clock.security_now().unix_s();
    // Each of these is put in alone into claims that are good otherwise.
    let table = [
        ("exp", json!((now + 300).to_string())),
        ("exp", json!(-1)),
        ("exp", json!(now as f64 + 300.5)),
        ("exp", serde_json::from_str("1e300").unwrap()),
        ("exp", json!(u64::MAX)),
        ("exp", json!([now + 300])),
        ("exp", json!(true)),
        ("exp", Value::Null),
        ("exp", json!(now + 90_000)),
        ("nbf", json!((now - 10).to_string())),
        ("nbf", json!(-1)),
        ("nbf", json!(now as f64 - 0.5)),
        ("nbf", serde_json::from_str("1e300").unwrap()),
        ("nbf", json!(now + 200)),
        ("nbf", json!({})),
        ("iat", json!("now")),
        ("iat", json!(now + 200)),
        ("iat", json!(now - 90_000)),
        ("aud", json!("https://other.example")),
        ("aud", json!([])),
        ("aud", json!(["https://other.example"])),
        ("aud", json!([AUDIENCE, 1])),
        ("aud", json!({AUDIENCE: true})),
        ("aud", json!(format!("{AUDIENCE}/"))),
        ("aud", Value::Null),
        ("iss", json!("https://login.example/")),
        ("iss", json!("https://LOGIN.example")),
        ("iss", json!([ISSUER])),
        ("iss", Value::Null),
        ("sub", json!(1)),
        ("sub", json!("")),
        ("sub", Value::Null),
    ];
    for (name, value) in table {
        let what = format!("{name} = {value}");
        assert_invalid(&world, &what, &with(name, value)).await;
    }
    assert_eq!(
        outcome(&world, &with("exp", json!(now - 300))).await,
        (401, "token-expired".to_owned())
    );
    assert_eq!(
        outcome(&world, &with("aud", json!(["https://other.example", AUDIENCE])))
            .await
            .0,
        200
    );
    assert_eq!(outcome(&world, &with("nbf", json!(now - 5))).await.0, 200);
}

/// T37: a type that is another, and whatever must be understood and is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_asks_for_more_is_refused() {
    let world = simple().await;
    for header in [
        json!({"typ": "JWE"}),
        json!({"typ": "dpop+jwt"}),
        json!({"typ": "logout+jwt"}),
        json!({"typ": 1}),
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"cty": "JWT"}),
        json!({"zip": "DEF"}),
    ] {
        assert_invalid(
            &world,
            &header.to_string(),
            &ed(ED).token(header.clone(), &claims(&world)),
        )
        .await;
    }
    for typ in [json!("at+jwt"), json!("application/at+JWT"), json!("jwt"), Value::Null] {
        assert_eq!(
            outcome(&world, &ed(ED).token(json!({ "typ": typ }), &claims(&world)))
                .await
                .0,
            200
        );
    }
}

/// A name that stands twice means two things to two readers.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_stands_twice() {
    let world = simple().await;
    let now = world.clock.security_now().unix_s();
    let good = claims(&world).to_string();
    let header = r#"{"alg":"EdDSA"}"#;
    let twice = |more: &str| good.replacen('{', &format!("{{{more},"), 1);
    for (header, claims) in [
        (header, twice("\"sub\":\"con_000000000000000000000000\"")),
        (header, twice("\"x\":1,\"x\":1")),
        (header, twice(&format!("\"exp\":{}", now + 600))),
        (header, format!("{good} {good}")),
        (header, format!("[{good}]")),
        (r#"{"alg":"none","alg":"EdDSA"}"#, good.clone()),
        (r#"{"alg":"EdDSA","alg":"EdDSA"}"#, good.clone()),
    ] {
        assert_invalid(&world, &claims, &ed(ED).raw(header, &claims)).await;
    }
    assert_eq!(outcome(&world, &ed(ED).raw(header, &good)).await.0, 200);
}

/// A clock that is a little off does no harm, one that is far off does.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_may_differ_by_the_leeway() {
    let world = world(json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC, "leeway_s": 10})).await;
    let now = world.clock.security_now().unix_s();
    let token = |iat: i64, exp: i64| {
        let mut claims = claims(&world);
        (claims["iat"], claims["exp"]) = (json!(iat), json!(exp));
        ed(ED).token(json!({}), &claims)
    };
    for (iat, exp, status) in [
        (now + 10, now + 60, 200),
        (now + 11, now + 60, 401),
        (now - 60, now - 9, 200),
        (now - 60, now - 10, 401),
    ] {
        assert_eq!(
            call(&world, &token(iat, exp)).await.status,
            status,
            "{} {}",
            iat - now,
            exp - now
        );
    }
    // What was remembered ends with the token.
    let short = token(now, now + 1);
    assert_eq!(call(&world, &short).await.status, 200);
    world.clock.advance(11_000);
    assert_eq!(call(&world, &short).await.problem(), "token-expired");
}

/// F11: the leeway is for clocks that differ a little. With one of ours that is far off nobody gets any.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_off_gives_no_leeway() {
    let world = world(json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC, "leeway_s": 300})).await;
    let now = world.clock.security_now().unix_s();
    let token = |nbf: i64, exp: i64, skew_ms: i64| {
        let mut claims = claims(&world);
        (claims["nbf"], claims["iat"], claims["exp"]) = (json!(nbf), json!(nbf), json!(exp));
        // A token for each question: those that proved good are remembered.
        claims["jti"] = json!(skew_ms);
        ed(ED).token(json!({}), &claims)
    };
    for (skew_ms, status) in [
        (0, 200),
        (239_000, 200),
        (-239_000, 200),
        (241_000, 401),
        (-241_000, 401),
    ] {
        world.clock.set_skew_ms(skew_ms);
        assert_eq!(
            call(&world, &token(now + 200, now + 600, skew_ms)).await.status,
            status,
            "{skew_ms}"
        );
        assert_eq!(
            call(&world, &token(now - 60, now - 10, skew_ms)).await.status,
            status,
            "{skew_ms}"
        );
        assert_eq!(
            call(&world, &token(now - 1, now + 60, skew_ms)).await.status,
            200,
            "{skew_ms}"
        );
    }
}

/// T39: what is encrypted, nested, compressed or huge is refused before anything is computed with it.
#[tokio::test(flavor = "multi_thread")]
async fn monsters_are_cheap_to_refuse() {
    let world = simple().await;
    let claims = claims(&world);
    let good = ed(ED).token(json!({}), &claims);
    let jwe = format!(
        "{}.a.b.c.d",
        encoded(r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}"#)
    );
    assert_invalid(&world, "JWE", &jwe).await;
    assert_invalid(&world, "nested", &ed(ED).raw(r#"{"alg":"EdDSA","cty":"JWT"}"#, &good)).await;
    assert_invalid(
        &world,
        "nested",
        &ed(ED).raw(r#"{"alg":"EdDSA"}"#, &format!("\"{good}\"")),
    )
    .await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(2_000), "]".repeat(2_000));
    assert_invalid(&world, "deep", &ed(ED).raw(r#"{"alg":"EdDSA"}"#, &deep)).await;
    let mut long = claims.clone();
    long["x"] = json!("x".repeat(7_000));
    assert_invalid(&world, "long", &ed(ED).token(json!({}), &long)).await;
    let huge = format!("{good}{}", "A".repeat(100 << 10));
    let reply = call(&world, &huge).await;
    assert!([400, 401, 431].contains(&reply.status), "{}", reply.status);
    assert_eq!(call(&world, &good).await.status, 200);
}
