//! Issuers of tokens (JWT) that the provider trusts: `[[issuers]]` in the catalogue file.
//!
//! A token says who is calling; the issuer's keys prove it. What a token may look like follows RFC 8725: each issuer has
//! its own algorithms and each key one of them, issuer and audience are compared whole, and a token has an end.
//!
//! ```toml
//! [[issuers]]
//! slug = "login"
//! issuer = "https://login.example.com"          # `iss`, letter for letter
//! audiences = ["https://api.example.com"]       # one of them must be in `aud`
//! algorithms = ["RS256", "ES256"]               # of HS256, RS256, ES256, EdDSA
//! jwks_url = "https://login.example.com/keys"   # or public_key, or for HS256 secret_env or secret_file
//! ```

use crate::access::{ConsumerName, Environment, Grant, TokenAlgorithm};
use crate::policy::PolicyError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Longest issuer, audience, address of keys or name of a claim, in bytes.
const TEXT_MOST: usize = 500;
/// Longest static key, in bytes: an RSA key of 8,192 bits is below 2,000.
const KEY_MOST: usize = 4_096;
/// Most audiences of an issuer: what a person can still oversee.
const AUDIENCES_MOST: usize = 10;
/// Most plans that an issuer's tokens may name.
pub const PLANS_MOST: usize = 20;
/// Most that clocks may differ, in seconds: further apart, one of them is broken.
const LEEWAY_MOST_S: u32 = 300;
/// Longest life of a token, in seconds: whoever finds a token has it that long.
const LIFETIME_MOST_S: u32 = 30 * 86_400;
/// What the environment variable of a secret must begin with, so that a catalogue cannot make a secret of a variable that
/// everybody knows, such as `PATH`.
pub const SECRET_ENV_PREFIX: &str = "TURNPIKE_TOKEN_SECRET_";

/// An issuer, as it is written in the catalogue file and handed to gateways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerFile {
    /// Its name in usage and logs.
    pub slug: String,
    /// The claim `iss`, letter for letter.
    pub issuer: String,
    /// The API's names: a token must have one of them in `aud`.
    pub audiences: Vec<String>,
    /// Signatures that are taken: `HS256`, `RS256`, `ES256`, `EdDSA`.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Where its public keys are (a JWK Set): `https://`, or `http://` on this machine. Asked for in the background, every
    /// five minutes and when a token names an unknown key, at most once a minute; kept for an hour while it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Its one public key, as PEM (`-----BEGIN PUBLIC KEY-----`) or as a JWK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// For HS256: the environment variable of the gateway that holds the secret, `TURNPIKE_TOKEN_SECRET_...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// For HS256: the file on the gateway's machine that holds the secret, looked at again every minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<String>,
    /// The claim that names the consumer.
    #[serde(default = "default_consumer_claim")]
    pub consumer_claim: String,
    /// What that claim holds: the consumer's `id`, or the `external_id` that the provider gave it.
    #[serde(default = "default_consumer_is")]
    pub consumer_is: ConsumerName,
    /// Whether its callers are counted and billed (`live`), or act in the `test` environment.
    #[serde(default = "default_environment")]
    pub environment: Environment,
    /// What its tokens may add to the consumer's plan; other claims are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_grant: Vec<Grant>,
    /// The claim with the slugs of features, a list of strings.
    #[serde(default = "default_features_claim")]
    pub features_claim: String,
    /// The claim with the slug of a plan that holds for the request in place of the consumer's own: its features, limits,
    /// quotas, concurrency and priority. Who has none of it is on its own plan. Counters, periods, the spend cap and what is
    /// charged stay those of the consumer's own plan, so it needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_claim: Option<String>,
    /// The plans that the claim may name; a token that names another is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<String>,
    /// How far its clock may be from ours, in seconds; at most 300.
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u32,
    /// Longest life of a token, in seconds; at most 30 days. A token that lives longer is refused.
    #[serde(default = "default_max_lifetime_s")]
    pub max_lifetime_s: u32,
}

fn default_consumer_claim() -> String {
    "sub".to_owned()
}
fn default_consumer_is() -> ConsumerName {
    ConsumerName::Id
}
fn default_environment() -> Environment {
    Environment::Live
}
fn default_features_claim() -> String {
    "features".to_owned()
}
fn default_leeway_s() -> u32 {
    30
}
fn default_max_lifetime_s() -> u32 {
    86_400
}

fn wrong<T>(field: &'static str, problem: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError {
        field,
        problem: problem.into(),
    })
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MOST && text.bytes().all(|b| b.is_ascii_graphic())
}

impl IssuerFile {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), PolicyError> {
        let texts = [
            ("issuer", &self.issuer),
            ("consumer_claim", &self.consumer_claim),
            ("features_claim", &self.features_claim),
        ];
        for (field, text) in texts {
            if !is_text(text) {
                return wrong(field, format!("must be 1 to {TEXT_MOST} visible ASCII characters"));
            }
        }
        if self.audiences.is_empty()
            || self.audiences.len() > AUDIENCES_MOST
            || !self.audiences.iter().all(|a| is_text(a))
        {
            let problem =
                format!("must be 1 to {AUDIENCES_MOST} names: a token for another API must not open this one");
            return wrong("audiences", problem);
        }
        if self.leeway_s > LEEWAY_MOST_S {
            return wrong("leeway_s", format!("must be at most {LEEWAY_MOST_S}"));
        }
        if !(1..=LIFETIME_MOST_S).contains(&self.max_lifetime_s) {
            return wrong("max_lifetime_s", format!("must be 1 to {LIFETIME_MOST_S}"));
        }
        self.check_plans()?;
        self.check_algorithms()?;
        self.check_keys()
    }

    fn check_plans(&self) -> Result<(), PolicyError> {
        let Some(claim) = &self.plan_claim else {
            return if self.plans.is_empty() {
                Ok(())
            } else {
                wrong(
                    "plans",
                    "has no use unless plan_claim says where a token names its plan",
                )
            };
        };
        if !is_text(claim) {
            let problem = format!("must be 1 to {TEXT_MOST} visible ASCII characters");
            return wrong("plan_claim", problem);
        }
        let all = &self.plans;
        if all.is_empty() || all.len() > PLANS_MOST || all.iter().enumerate().any(|(i, p)| all[..i].contains(p)) {
            let problem = format!("must list the 1 to {PLANS_MOST} plans that a token may name, each once");
            return wrong("plans", problem);
        }
        Ok(())
    }

    fn check_algorithms(&self) -> Result<(), PolicyError> {
        let all = &self.algorithms;
        if all.is_empty() || all.iter().enumerate().any(|(i, a)| all[..i].contains(a)) {
            return wrong("algorithms", "must name each algorithm that is taken, once");
        }
        if self.uses_secret() && all.len() > 1 {
            return wrong("algorithms", "HS256 stands alone: a secret is no public key");
        }
        Ok(())
    }

    fn uses_secret(&self) -> bool {
        self.algorithms.contains(&TokenAlgorithm::Hs256)
    }

    fn check_keys(&self) -> Result<(), PolicyError> {
        let given = [&self.jwks_url, &self.public_key, &self.secret_env, &self.secret_file];
        if given.iter().filter(|g| g.is_some()).count() != 1 {
            return wrong(
                "jwks_url",
                "give exactly one of jwks_url, public_key, secret_env and secret_file",
            );
        }
        let secret = self.secret_env.is_some() || self.secret_file.is_some();
        match (secret, self.uses_secret()) {
            (true, false) => return wrong("algorithms", "a secret is for HS256 alone"),
            (false, true) => return wrong("algorithms", "HS256 needs secret_env or secret_file"),
            _ => {}
        }
        if let Some(url) = &self.jwks_url {
            check_jwks_url(url)?;
        }
        if let Some(name) = &self.secret_env {
            let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            if !name.starts_with(SECRET_ENV_PREFIX) || !name.bytes().all(plain) || name.len() > TEXT_MOST {
                let problem = format!("must be the name of a variable that begins with {SECRET_ENV_PREFIX}");
                return wrong("secret_env", problem);
            }
        }
        if self
            .secret_file
            .as_ref()
            .is_some_and(|f| !f.starts_with('/') || !is_text(f))
        {
            return wrong("secret_file", "must be the whole path of a file, from / on");
        }
        self.public_key
            .as_ref()
            .map_or(Ok(()), |key| self.check_public_key(key))
    }

    fn check_public_key(&self, key: &str) -> Result<(), PolicyError> {
        let [algorithm] = self.algorithms[..] else {
            return wrong("algorithms", "public_key is one key, and a key has one algorithm");
        };
        if key.len() > KEY_MOST {
            return wrong("public_key", format!("is longer than {KEY_MOST} bytes"));
        }
        let fits = if key.trim_start().starts_with('{') {
            jwk_fits(key, algorithm)
        } else {
            pem_fits(key, algorithm)
        };
        match fits {
            Some(true) => Ok(()),
            Some(false) => wrong("public_key", format!("is no key for {algorithm}")),
            None => wrong(
                "public_key",
                "must be a public key as PEM (-----BEGIN PUBLIC KEY-----) or as a JWK without private parts",
            ),
        }
    }
}

/// An address from which keys can be had without anybody changing them on the way, and none of those at which clouds give
/// secrets to whoever asks.
fn check_jwks_url(url: &str) -> Result<(), PolicyError> {
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return wrong("jwks_url", "must begin with https://"),
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if !is_text(url) || authority.is_empty() || url.contains(['#', '\\']) || authority.contains('@') {
        return wrong("jwks_url", "must be https://host/path, without a user and without #");
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address: Option<IpAddr> = host.parse().ok();
    if address.is_some_and(is_metadata) {
        return wrong("jwks_url", "must not be a link-local address");
    }
    if secure || host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return Ok(());
    }
    wrong(
        "jwks_url",
        "must begin with https://: keys that came in clear prove nothing",
    )
}

/// Whether an address is one of those at which clouds hand out credentials: no key is ever fetched from there.
pub fn is_metadata(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::new(100, 100, 100, 200),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80 || v6.segments()[..3] == [0xfd00, 0xec2, 0],
    }
}

/// Whether a PEM text is a public key for the algorithm; none when it is no public key at all.
fn pem_fits(text: &str, algorithm: TokenAlgorithm) -> Option<bool> {
    let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
    let body = body.strip_suffix("-----END PUBLIC KEY-----")?;
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(body).ok()?;
    // The object identifiers of rsaEncryption, of the curve P-256 and of Ed25519 (RFC 3279, RFC 5480, RFC 8410).
    let wanted: &[u8] = match algorithm {
        TokenAlgorithm::Rs256 => b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
        TokenAlgorithm::Es256 => b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        TokenAlgorithm::EdDsa => b"\x06\x03\x2b\x65\x70",
        TokenAlgorithm::Hs256 => return Some(false),
    };
    Some(der.windows(wanted.len()).take(40).any(|w| w == wanted))
}

/// The same of a JWK.
fn jwk_fits(text: &str, algorithm: TokenAlgorithm) -> Option<bool> {
    let jwk: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    if ["d", "p", "q", "k"].iter().any(|private| jwk.contains_key(*private)) {
        return None;
    }
    let word = |name: &str| jwk.get(name).and_then(|v| v.as_str()).unwrap_or_default();
    let kind = match algorithm {
        TokenAlgorithm::Rs256 => ("RSA", ""),
        TokenAlgorithm::Es256 => ("EC", "P-256"),
        TokenAlgorithm::EdDsa => ("OKP", "Ed25519"),
        TokenAlgorithm::Hs256 => return Some(false),
    };
    let named = jwk.get("alg").is_none_or(|a| *a == algorithm.word());
    Some((word("kty"), word("crv")) == kind && named)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

    fn check(change: impl FnOnce(&mut IssuerFile)) -> Result<(), String> {
        let mut file: IssuerFile = serde_json::from_str(
            r#"{"slug": "login", "issuer": "https://login.example", "audiences": ["api"], "algorithms": ["EdDSA"],
                "jwks_url": "https://login.example/keys"}"#,
        )
        .unwrap();
        change(&mut file);
        file.check().map_err(|e| e.to_string())
    }

    #[test]
    fn a_token_cannot_be_made_to_mean_something_else_by_a_careless_catalogue() {
        use TokenAlgorithm::{EdDsa, Es256, Hs256, Rs256};
        assert_eq!(check(|_| {}), Ok(()));
        let secret = |f: &mut IssuerFile| (f.jwks_url, f.secret_file) = (None, Some("/run/secret".to_owned()));
        let key = |f: &mut IssuerFile, key: &str| (f.jwks_url, f.public_key) = (None, Some(key.to_owned()));
        type Change<'a> = &'a dyn Fn(&mut IssuerFile);
        let wrongs: &[(&str, Change<'_>)] = &[
            ("issuer", &|f| f.issuer.clear()),
            ("audiences", &|f| f.audiences.clear()),
            ("audiences", &|f| f.audiences.push(String::new())),
            ("algorithms", &|f| f.algorithms.clear()),
            ("algorithms", &|f| f.algorithms = vec![EdDsa, EdDsa]),
            ("algorithms", &|f| f.algorithms = vec![Hs256, Rs256]),
            ("algorithms", &|f| f.algorithms = vec![Hs256]),
            ("algorithms", &|f| secret(f)),
            ("jwks_url", &|f| f.jwks_url = None),
            ("jwks_url", &|f| f.public_key = Some(ED.to_owned())),
            ("public_key", &|f| key(f, "nonsense")),
            ("public_key", &|f| key(f, &ED.replace("PUBLIC", "PRIVATE"))),
            ("public_key", &|f| {
                key(f, r#"{"kty": "OKP", "crv": "Ed25519", "x": "a", "d": "b"}"#);
            }),
            ("public_key", &|f| {
                key(f, ED);
                f.algorithms = vec![Es256];
            }),
            ("public_key", &|f| {
                key(f, r#"{"kty": "OKP", "crv": "Ed25519", "x": "a", "alg": "ES256"}"#);
            }),
            ("algorithms", &|f| {
                key(f, ED);
                f.algorithms = vec![Es256, EdDsa];
            }),
            ("plans", &|f| f.plans.push("pro".to_owned())),
            ("plans", &|f| f.plan_claim = Some("plan".to_owned())),
            ("plans", &|f| {
                f.plan_claim = Some("plan".to_owned());
                f.plans = vec!["pro".to_owned(); 2];
            }),
            ("plan_claim", &|f| f.plan_claim = Some(String::new())),
            ("leeway_s", &|f| f.leeway_s = 301),
            ("max_lifetime_s", &|f| f.max_lifetime_s = 0),
            ("max_lifetime_s", &|f| f.max_lifetime_s = u32::MAX),
        ];
        for (i, (field, change)) in wrongs.iter().enumerate() {
            let told = check(change).unwrap_err();
            assert!(told.starts_with(field), "{i}: {told}");
        }
        assert_eq!(check(|f| key(f, ED)), Ok(()));
    }

    #[test]
    fn a_secret_is_named_and_never_written() {
        for (name, good) in [
            ("TURNPIKE_TOKEN_SECRET_LOGIN", true),
            ("PATH", false),
            ("TURNPIKE_TOKEN_SECRET_a=b", false),
        ] {
            let told = check(|f| {
                (f.jwks_url, f.secret_env) = (None, Some(name.to_owned()));
                f.algorithms = vec![TokenAlgorithm::Hs256];
            });
            assert_eq!(told.is_ok(), good, "{name}: {told:?}");
        }
        let text = r#"{"slug": "a", "issuer": "a", "audiences": ["a"], "algorithms": ["HS256"], "secret": "s"}"#;
        assert!(serde_json::from_str::<IssuerFile>(text).is_err());
    }

    /// Keys come from where nobody can change them on the way, and never from a cloud's metadata.
    #[test]
    fn keys_come_from_safe_addresses() {
        for (url, good) in [
            ("https://login.example/keys?a=b", true),
            ("http://127.0.0.1:81/keys", true),
            ("http://localhost/keys", true),
            ("http://[::1]:81/keys", true),
            ("http://login.example/keys", false),
            ("http://127.0.0.1.example/keys", false),
            ("https://169.254.169.254/latest", false),
            ("https://[fe80::1]/", false),
            ("https://[fd00:ec2::254]/", false),
            ("https://[::ffff:169.254.169.254]/", false),
            ("https://user@login.example/", false),
            ("file:///etc/passwd", false),
            ("https://", false),
            ("https:///keys", false),
        ] {
            let told = check(|f| f.jwks_url = Some(url.to_owned()));
            assert_eq!(told.is_ok(), good, "{url}: {told:?}");
        }
    }
}
