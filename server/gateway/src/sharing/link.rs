//! A worker's connection to the server, and its questions on it.

use super::server::{Connection, Driver};
use super::{FAILURES_MOST, Sharing};
use crate::metrics::{Asked, Metrics};
use crate::rate::{Question, Stand};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// First wait before connecting again; it doubles with each connection that could not be made, or did not last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one.
const LASTING: Duration = Duration::from_secs(30);

/// What a worker has of the server.
pub(crate) struct Link {
    pub(crate) sharing: Arc<Sharing>,
    /// One that answered; none while there is nobody to ask.
    open: ArcSwapOption<Open>,
}

/// A connection that requests ask on.
struct Open {
    connection: Connection,
    /// Questions in a row that were not answered on it. Others may be while this one's packets get lost on the way.
    failures: AtomicU32,
    /// Told when those are too many.
    is_silent: Notify,
}

impl Link {
    /// Not connected yet.
    pub(crate) fn new(sharing: Arc<Sharing>) -> Self {
        Self {
            sharing,
            open: ArcSwapOption::empty(),
        }
    }

    /// Whether the server can be asked.
    pub(crate) fn stand(&self) -> Stand {
        match &*self.open.load() {
            Some(_) => Stand::Together,
            None => Stand::Apart(self.sharing.gateways()),
        }
    }

    /// Connects, and again when the connection is lost or not answered on; for as long as the worker's thread runs.
    pub(crate) async fn keep(self: Arc<Self>) {
        let sharing = &self.sharing;
        let mut trouble = sharing.trouble.subscribe();
        let mut pause = PAUSE_FIRST;
        loop {
            trouble.borrow_and_update();
            match sharing.server.connect(sharing.answer_most).await {
                Ok(connected) => {
                    let since = Instant::now();
                    self.serve(connected, &mut trouble).await;
                    if since.elapsed() >= LASTING {
                        pause = PAUSE_FIRST;
                    }
                }
                Err(why) => sharing.unreachable(&why),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    /// Lets requests ask, until the connection ends or is not answered on. What still waits then is told at once.
    async fn serve(
        &self,
        (connection, driver): (Connection, Driver),
        trouble: &mut tokio::sync::watch::Receiver<Arc<str>>,
    ) {
        let open = Arc::new(Open {
            connection,
            failures: AtomicU32::new(0),
            is_silent: Notify::new(),
        });
        self.open.store(Some(Arc::clone(&open)));
        self.sharing.connected();
        let why = tokio::select! {
            () = driver => "the connection was closed".into(),
            () = open.is_silent.notified() => format!("{FAILURES_MOST} questions in a row failed on a connection").into(),
            _ = trouble.changed() => Arc::clone(&trouble.borrow_and_update()),
        };
        self.open.store(None);
        self.sharing.disconnected(&why);
    }

    /// Asks, and takes over what is answered; of the part that is this gateway's own when nothing is.
    pub(crate) async fn ask(&self, question: &mut Question<'_>, metrics: &Metrics) -> Result<(), ()> {
        let Some(open) = self.open.load_full() else {
            metrics.asked(Asked::Nobody, None);
            return question.unanswered(self.sharing.gateways());
        };
        let began = Instant::now();
        let limits: smallvec::SmallVec<[_; 6]> = question.lines().collect();
        let answer = timeout(
            self.sharing.answer_most,
            open.connection.ask(limits.iter().copied(), None),
        )
        .await;
        let took = Some(began.elapsed());
        drop(limits);
        let (outcome, why) = match answer {
            Ok(Ok(leads_ns)) => {
                open.succeeded();
                self.sharing.succeeded();
                let taken = question.answered(&leads_ns);
                metrics.asked(if taken.is_ok() { Asked::Passes } else { Asked::Refuses }, took);
                return taken;
            }
            Ok(Err(e)) => (Asked::Failed, e.to_string()),
            Err(_) => (
                Asked::Late,
                format!("no answer within {} ms", self.sharing.answer_most.as_millis()),
            ),
        };
        metrics.asked(outcome, took);
        self.note_failure(&open, &why);
        question.unanswered(self.sharing.gateways())
    }

    /// A failure on a connection that is given up already says nothing new.
    fn note_failure(&self, open: &Arc<Open>, why: &str) {
        let current = self.open.load();
        if !current.as_ref().is_some_and(|c| Arc::ptr_eq(c, open)) {
            return;
        }
        if self.sharing.failed(why) {
            self.open.store(None);
        } else if open.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MOST {
            self.open.store(None);
            open.is_silent.notify_one();
        }
    }
}

impl Open {
    /// A question was answered on it.
    fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}
