//! Retries, bounded so that they do not multiply load on upstreams that fail under it.

use super::window::{Counts, Window};
use model::policy::Retries;

/// Time over which the share of retries is looked at, in milliseconds: long enough to hold a share of few requests, short
/// enough to let an upstream that came back have its retries back.
const WINDOW_MS: u64 = 10_000;

/// Whether and how an upstream's requests are tried again.
#[derive(Debug)]
pub(crate) struct Retry {
    /// Most attempts for a request, the first included.
    pub(crate) attempts: u8,
    statuses: Vec<u16>,
    percent: u64,
    /// Always allowed in a window.
    least: u64,
}

impl Retry {
    /// From a policy; none when there are no retries.
    pub(crate) fn compile(policy: &Retries) -> Option<Self> {
        (policy.attempts > 1).then(|| Self {
            attempts: policy.attempts,
            statuses: policy.statuses.clone(),
            percent: u64::from(policy.budget_percent),
            least: u64::from(policy.budget_min_per_second) * WINDOW_MS / 1000,
        })
    }

    /// Whether an answer with this status is tried elsewhere.
    pub(crate) fn takes(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    /// Counts a request.
    pub(crate) fn request(&self, window: &Window, now_ms: u64) {
        window.update(now_ms, WINDOW_MS, |c| Some(Counts { all: c.all + 1, ..c }));
    }

    /// Takes a retry from the budget, when one is left.
    pub(crate) fn take(&self, window: &Window, now_ms: u64) -> bool {
        let taken = window.update(now_ms, WINDOW_MS, |c| {
            let most = (c.all * self.percent / 100).max(self.least);
            (c.marked < most).then_some(Counts {
                marked: c.marked + 1,
                ..c
            })
        });
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_or_a_few_a_second() {
        let retry = Retry::compile(&Retries {
            budget_percent: 10,
            budget_min_per_second: 1,
            ..Retries::default()
        })
        .unwrap();
        let window = Window::default();
        let taken = |now_ms| (0..1000).filter(|_| retry.take(&window, now_ms)).count();
        assert_eq!(taken(0), 10, "one a second for ten seconds");
        for _ in 0..500 {
            retry.request(&window, 0);
        }
        assert_eq!(taken(0), 40, "10 percent of 500, of which 10 are taken");
        assert_eq!(taken(60_000), 10);
    }
}
