//! The decisions so far, and the first of them that ends the request.

use super::{Decision, Explanation, Verdict};
use crate::refusal::Refused;
use http::StatusCode;

/// The decisions so far.
pub(super) struct Notes {
    /// The one that decisions are part of from now on.
    pub(super) phase: &'static str,
    all: Explanation,
}

impl Notes {
    /// None yet.
    pub(super) fn new(live: bool) -> Self {
        Self {
            phase: "route",
            all: Explanation {
                decisions: Vec::new(),
                refusal: None,
                status: None,
                live,
            },
        }
    }

    /// All of them.
    pub(super) fn explanation(self) -> Explanation {
        self.all
    }

    pub(super) fn add(&mut self, about: &str, verdict: Verdict, detail: impl Into<String>) {
        self.all.decisions.push(Decision {
            phase: self.phase.to_owned(),
            about: about.to_owned(),
            verdict,
            detail: detail.into(),
        });
    }

    pub(super) fn says(&mut self, about: &str, detail: impl Into<String>) {
        self.add(about, Verdict::Says, detail);
    }

    pub(super) fn passes(&mut self, about: &str, detail: impl Into<String>) {
        self.add(about, Verdict::Passes, detail);
    }

    /// The gateway answers by itself, unless it has refused before. What follows is told all the same.
    pub(super) fn answers(&mut self, about: &str, status: StatusCode, detail: &str) {
        self.says(about, format!("{}: {detail}", status.as_u16()));
        self.all.status = self.all.status.or(Some(status.as_u16()));
    }

    /// Notes what a decision came to; what it gives, when it lets the request pass.
    pub(super) fn decided<T>(
        &mut self,
        about: &str,
        decision: Result<T, Refused>,
        passes: impl Into<String>,
    ) -> Option<T> {
        match decision {
            Ok(given) => {
                self.passes(about, passes);
                Some(given)
            }
            Err(refused) => {
                let refusal = refused.refusal();
                let detail = format!("{} {}: {}", refusal.status().as_u16(), refusal.slug(), refused.detail());
                self.add(about, Verdict::Refuses, detail);
                if self.all.status.is_none() {
                    self.all.refusal = Some(refusal.slug().to_owned());
                    self.all.status = Some(refusal.status().as_u16());
                }
                None
            }
        }
    }
}
