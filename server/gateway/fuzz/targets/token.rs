//! A token counts only when it is signed with the issuer's secret, in time, for this API, and asks for nothing that is not
//! understood; whatever bytes its header and its claims hold.
#![no_main]
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE_64;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;
use model::issuer::IssuerFile;
use serde_json::Value;
use std::sync::LazyLock;

const SECRET: &[u8] = b"a secret of more than thirty-two bytes";
const OTHER: &[u8] = b"another secret of as many bytes as the";
const NOW_S: i64 = 1_700_000_000;

static ISSUER: LazyLock<IssuerFile> = LazyLock::new(|| {
    let told = r#"slug = "own"
issuer = "i"
audiences = ["a"]
algorithms = ["HS256"]
may_grant = ["features"]
plan_claim = "plan"
plans = ["pro"]
secret_file = "/nowhere""#;
    toml::from_str(told).expect("an issuer")
});

fn token(header: &[u8], claims: &[u8], secret: &[u8]) -> Vec<u8> {
    let signed = format!("{}.{}", BASE_64.encode(header), BASE_64.encode(claims));
    let signature =
        crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).expect("a signature");
    format!("{signed}.{signature}").into_bytes()
}

fuzz_target!(|bytes: &[u8]| {
    gateway::fuzzing::token_header(bytes);
    gateway::fuzzing::token_keys(bytes);
    let mut parts = bytes.splitn(2, |b| *b == 0);
    let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let caller = |secret| gateway::fuzzing::token_caller(&token(header, claims, secret), &ISSUER, SECRET, NOW_S);
    assert_eq!(caller(OTHER), None, "another's signature counts");
    let Some(name) = caller(SECRET) else { return };
    let header: Value = serde_json::from_slice(header).expect("a header is JSON");
    let claims: Value = serde_json::from_slice(claims).expect("claims are JSON");
    assert_eq!(header["alg"], "HS256");
    assert!(
        ["crit", "b64", "zip", "enc", "cty"]
            .iter()
            .all(|name| header.get(name).is_none()),
        "{header}"
    );
    assert_eq!(claims["sub"], name.as_str());
    assert_eq!(claims["iss"], "i");
    let meant = claims["aud"] == "a"
        || claims["aud"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == "a"));
    assert!(meant, "{claims}");
    assert!(claims["exp"].as_i64().is_some_and(|exp| exp + 30 > NOW_S), "{claims}");
    assert!(
        claims
            .get("nbf")
            .is_none_or(|nbf| nbf.as_i64().is_some_and(|nbf| nbf <= NOW_S + 30)),
        "{claims}"
    );
});
