//! A time limit that is set often and reached hardly ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep_until};

/// A time limit. Moving it later costs nothing: the runtime's own timer stays where it was, and when it fires too early
/// it is set anew. So a limit that begins again with every request is one write, not two changes of the timer wheel.
#[derive(Default)]
pub(crate) struct Timer {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// The limit is now at `at`.
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = Some(at);
    }
    /// There is no limit.
    pub(crate) fn clear(&mut self) {
        self.at = None;
    }
    /// Whether there is a limit.
    pub(crate) fn is_set(&self) -> bool {
        self.at.is_some()
    }

    /// Ready once the limit is reached; without a limit never.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    async fn is_pending(timer: &mut Timer) -> bool {
        poll_fn(|cx| Poll::Ready(timer.poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_limit_set_is_the_one_that_holds() {
        let begun = Instant::now();
        let mut timer = Timer::default();
        timer.set(begun + Duration::from_secs(5));
        assert!(is_pending(&mut timer).await);
        timer.set(begun + Duration::from_secs(20));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 20, "moved later while it ran");
        timer.set(Instant::now() + Duration::from_secs(60));
        assert!(is_pending(&mut timer).await);
        timer.set(Instant::now() + Duration::from_secs(1));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 21, "moved earlier while it ran");
        timer.clear();
        assert!(!timer.is_set());
        assert!(is_pending(&mut timer).await);
    }
}
