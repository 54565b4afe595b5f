//! What a token adds to its consumer's plan.

use crate::account::Profile;
use crate::headers;
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use std::sync::Arc;

/// Features beyond the plan's.
pub(crate) struct Granted {
    features: Vec<String>,
    /// `X-Features` together with those of a plan: made once, because a plan seldom changes.
    header: ArcSwapOption<(Arc<Profile>, HeaderValue)>,
}

impl Granted {
    /// None when there is nothing.
    pub(crate) fn new(features: Vec<String>) -> Option<Arc<Self>> {
        let some = !features.is_empty();
        some.then(|| {
            Arc::new(Self {
                features,
                header: ArcSwapOption::empty(),
            })
        })
    }

    /// Whether the feature is granted.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// `X-Features` for a caller on this plan.
    pub(crate) fn header(&self, profile: &Arc<Profile>) -> HeaderValue {
        if let Some(known) = &*self.header.load()
            && Arc::ptr_eq(&known.0, profile)
        {
            return known.1.clone();
        }
        let mut all: Vec<&str> = profile.features.iter().map(String::as_str).collect();
        all.extend(
            self.features
                .iter()
                .map(String::as_str)
                .filter(|f| !profile.features.iter().any(|p| p == f)),
        );
        let header = headers::value(&all.join(","));
        self.header.store(Some(Arc::new((Arc::clone(profile), header.clone()))));
        header
    }
}
