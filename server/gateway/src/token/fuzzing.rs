//! Tokens read from bytes alone, for the fuzz targets.

use super::keys::KeySet;
use super::{Issuers, Moment, compact, verify};
use model::KeyId;
use model::access::TokenAlgorithm;
use model::issuer::IssuerFile;
use model::snapshot::IssuerRecord;

/// What a token asks for: its algorithm, and the name of the key. `None` when it has not the form of one.
pub(crate) fn header(token: &[u8]) -> Option<(TokenAlgorithm, Option<String>)> {
    let token = compact::parse(token).ok()?;
    Some((token.algorithm, token.kid))
}

/// How many keys a JWK Set holds that signatures may be checked with.
pub(crate) fn keys(body: &[u8]) -> Option<usize> {
    let all = [TokenAlgorithm::Rs256, TokenAlgorithm::Es256, TokenAlgorithm::EdDsa];
    KeySet::of_jwks(body, &all).ok().map(|keys| keys.len())
}

/// Whom a token names, when it is good under this secret at this time (seconds since 1970).
pub(crate) fn caller(token: &[u8], issuer: IssuerFile, secret: &[u8], now_s: i64) -> Option<String> {
    let name = issuer.issuer.clone();
    let told = IssuerRecord {
        key: KeyId::from_bits(1),
        file: issuer,
    };
    let issuers = Issuers::default().compile(&[told], &[]);
    issuers
        .get(&name)?
        .put(KeySet::of_secret(secret).ok()?, secret.to_vec(), now_s);
    let at = Moment { now_s, lenient: true };
    verify(token, &issuers, at).ok().map(|proven| proven.consumer.1)
}
