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
        let more = self.features.iter().map(String::as_str);
        let more = more.filter(|f| !profile.features.iter().any(|p| p == f));
        // The plan's own are said with their variants.
        let of_plan = profile.features_header.to_str().ok().filter(|said| !said.is_empty());
        let all: Vec<&str> = of_plan.into_iter().chain(more).collect();
        let header = headers::value(&all.join(","));
        self.header.store(Some(Arc::new((Arc::clone(profile), header.clone()))));
        header
    }
}
