//! Who is calling, said to an upstream in a way that it can check: a short-lived signed token in `X-Identity-Token`,
//! where the upstream's policy says `identity = "jwt"`.
//!
//! The token is EdDSA (Ed25519) with the claims `iss` (the gateway's address), `aud` (the upstream's slug), `sub` (the
//! consumer, or `anonymous`), `plan`, `features`, `environment`, `iat` and `exp` five minutes later. One is signed for each
//! consumer, upstream and plan, and used for half its life, so a request costs a look-up and no signature.
//!
//! The public keys are at `/.well-known/turnpike/jwks.json` of the gateway. They follow from the pepper and the month (see
//! `keys`), so every gateway has the same without being told, and none is stored.

mod keys;

use crate::account::Profile;
use crate::authenticate::Caller;
use crate::bounded::Bounded;
use crate::config::Peppers;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use keys::Keys;
use model::ConsumerId;
use model::access::Environment;
use serde_json::json;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// Where the public keys are.
pub(crate) const JWKS_PATH: &str = "/.well-known/turnpike/jwks.json";
/// What who asks there is answered.
pub(crate) fn status(method: &Method) -> StatusCode {
    match *method {
        Method::GET | Method::HEAD => StatusCode::OK,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    }
}

/// Life of a token, in seconds.
const LIFE_S: i64 = 300;
/// How long a token is used, in seconds: the upstream has the rest of its life to look at it.
const USED_S: i64 = LIFE_S / 2;
/// Tokens kept; each takes about 1 KB.
const TOKENS_MOST: usize = 32_768;

/// Who is told, about whom, and what (plan and features, hashed): a consumer whose tokens grant now this and now that is
/// not signed for anew each time.
type Subject = (ConsumerId, Environment, u16, u64);

/// A token, and what it says.
struct Signed {
    token: HeaderValue,
    issuer: String,
    plan: HeaderValue,
    features: HeaderValue,
    /// In seconds since 1970.
    signed_s: i64,
}

/// Signs, and keeps what is signed.
pub(crate) struct Identities {
    keys: Keys,
    tokens: Bounded<Subject, Arc<Signed>>,
}

/// What a token is about.
pub(crate) struct About<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) profile: &'a Profile,
    /// `X-Features` as it would be.
    pub(crate) features: &'a HeaderValue,
    /// Number and slug of the upstream.
    pub(crate) upstream: (u16, &'a str),
    /// The gateway's address.
    pub(crate) gateway_url: &'a str,
}

impl Identities {
    /// With keys that follow from the peppers.
    pub(crate) fn new(peppers: Peppers) -> Self {
        Self {
            keys: Keys::new(peppers),
            tokens: Bounded::new(TOKENS_MOST),
        }
    }

    /// The token for a request; none when there is no key to sign with. `now_s` is the machine's time.
    pub(crate) fn token(&self, about: &About<'_>, now_s: i64) -> Option<HeaderValue> {
        let account = &about.caller.key.account;
        let plan = &about.profile.plan_header;
        let mut said = DefaultHasher::new();
        (plan, about.features).hash(&mut said);
        let subject = (account.consumer, account.environment, about.upstream.0, said.finish());
        let fits = |s: &Arc<Signed>| {
            let young = (0..USED_S).contains(&(now_s - s.signed_s));
            young && s.plan == *plan && s.features == *about.features && s.issuer == about.gateway_url
        };
        if let Some(known) = self.tokens.get(&subject).filter(fits) {
            return Some(known.token.clone());
        }
        let features = about.features.to_str().unwrap_or_default();
        let features: Vec<&str> = features.split(',').filter(|f| !f.is_empty()).collect();
        let claims = json!({
            "iss": about.gateway_url,
            "aud": about.upstream.1,
            "sub": account.header.to_str().unwrap_or_default(),
            "plan": about.profile.plan,
            "features": features,
            "environment": account.environment,
            "iat": now_s,
            "exp": now_s + LIFE_S,
        });
        let token = self.keys.sign(&claims, now_s)?;
        let token = HeaderValue::try_from(token).ok()?;
        let signed = Arc::new(Signed {
            token: token.clone(),
            issuer: about.gateway_url.to_owned(),
            plan: plan.clone(),
            features: about.features.clone(),
            signed_s: now_s,
        });
        self.tokens.put(subject, signed);
        Some(token)
    }

    /// The public keys, as an answer.
    pub(crate) fn answer(&self, method: &Method, now_s: i64) -> Response<Bytes> {
        let mut answer = Response::new(Bytes::new());
        let headers = answer.headers_mut();
        let status = status(method);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            *answer.status_mut() = status;
            return answer;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        *answer.body_mut() = self.keys.published(now_s);
        answer
    }
}
