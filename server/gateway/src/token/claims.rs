//! What must hold of a token's claims, once its signature is good.

use super::compact::Object;
use super::verify::{Denied, Moment, PlanClaim};
use model::issuer::IssuerFile;
use serde_json::Value;

/// The last second of the year 9999: a token that lasts longer was made by mistake.
const LAST_S: i64 = 253_402_300_799;
/// Longest name of a consumer, in bytes.
const NAME_MOST: usize = 200;
/// Most features that a token may carry, and the longest name of one, or of a plan.
const FEATURES_MOST: usize = 100;
const WORD_MOST: usize = 100;

/// A time in whole seconds since 1970; none when the claim is not there. Text, fractions and negative numbers are wrong:
/// to leave them out of the comparison would be to let them pass.
fn instant(claims: &Object, name: &str) -> Result<Option<i64>, Denied> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_i64().filter(|s| (0..=LAST_S).contains(s));
    let wrong = Denied::Invalid("Its times exp, nbf and iat must be whole seconds since 1970.");
    seconds.map(Some).ok_or(wrong)
}

/// Compares audience and times; when the token ends, in seconds since 1970.
pub(super) fn check(claims: &Object, issuer: &IssuerFile, at: Moment) -> Result<i64, Denied> {
    let now_s = at.now_s;
    let leeway = if at.lenient { i64::from(issuer.leeway_s) } else { 0 };
    let life = i64::from(issuer.max_lifetime_s);
    let (exp, nbf, iat) = (
        instant(claims, "exp")?,
        instant(claims, "nbf")?,
        instant(claims, "iat")?,
    );
    let exp = exp.ok_or(Denied::Invalid("It has no end (exp)."))?;
    if !is_meant(claims, issuer) {
        return Err(Denied::Invalid("It is not for this API (aud)."));
    }
    if now_s >= exp + leeway {
        return Err(Denied::Expired);
    }
    if nbf.into_iter().chain(iat).any(|begin| begin > now_s + leeway) {
        return Err(Denied::Invalid("Its time has not come yet (nbf, iat)."));
    }
    if exp - iat.unwrap_or(now_s) > life + leeway {
        return Err(Denied::Invalid("It lasts longer than tokens of this issuer may."));
    }
    Ok(exp + leeway)
}

fn is_meant(claims: &Object, issuer: &IssuerFile) -> bool {
    let ours = |name: &Value| name.as_str().is_some_and(|n| issuer.audiences.iter().any(|a| a == n));
    match claims.get("aud") {
        Some(Value::Array(names)) => names.iter().all(Value::is_string) && names.iter().any(ours),
        Some(name) => ours(name),
        None => false,
    }
}

/// What the token calls the consumer.
pub(super) fn consumer<'a>(claims: &'a Object, issuer: &IssuerFile) -> Result<&'a str, Denied> {
    let name = claims.get(&issuer.consumer_claim).and_then(Value::as_str);
    let name = name.filter(|n| (1..=NAME_MOST).contains(&n.len()));
    name.ok_or(Denied::Invalid("It does not name the account that is calling."))
}

/// The features that it grants.
pub(super) fn features(claims: &Object, issuer: &IssuerFile) -> Result<Vec<String>, Denied> {
    let wrong = Denied::Invalid("Its features must be a list of names.");
    match claims.get(&issuer.features_claim) {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) if all.len() <= FEATURES_MOST => all.iter().map(|f| name_of(f).ok_or(wrong)).collect(),
        Some(_) => Err(wrong),
    }
}

/// The plan that it names, where its issuer says which claim does.
pub(super) fn plan(claims: &Object, issuer: &IssuerFile) -> Result<PlanClaim, Denied> {
    let Some(claim) = &issuer.plan_claim else {
        return Ok(PlanClaim::Absent);
    };
    let Some(value) = claims.get(claim) else {
        return Ok(PlanClaim::Absent);
    };
    let slug = name_of(value).ok_or(Denied::Invalid("Its plan must be a name."))?;
    Ok(if issuer.plans.contains(&slug) {
        PlanClaim::Named(slug)
    } else {
        PlanClaim::Refused(slug)
    })
}

/// A name of letters, digits and `-_.:`.
fn name_of(value: &Value) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    let name = value.as_str().filter(|n| (1..=WORD_MOST).contains(&n.len()))?;
    name.bytes().all(plain).then(|| name.to_owned())
}
