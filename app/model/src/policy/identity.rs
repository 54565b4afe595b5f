//! How an upstream is told who is calling.

use serde::{Deserialize, Serialize};

/// How an upstream is told who is calling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityForm {
    /// In headers: `X-Consumer-Id`, `X-Key-Id`, `X-Plan`, `X-Features`, `X-Environment`.
    #[default]
    Headers,
    /// In a signed token, `X-Identity-Token`.
    Jwt,
}

impl IdentityForm {
    /// Whether it is what holds when nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
