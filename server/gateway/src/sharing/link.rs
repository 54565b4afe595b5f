//! A worker's connection to the server, and its questions on it.

use super::Sharing;
use super::server::{Connection, Driver};
use crate::metrics::{Asked, Metrics};
use crate::rate::{Question, Stand};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    connection: ArcSwapOption<Connection>,
}

impl Link {
    /// Not connected yet.
    pub(crate) fn new(sharing: Arc<Sharing>) -> Self {
        Self {
            sharing,
            connection: ArcSwapOption::empty(),
        }
    }

    /// Whether the server can be asked.
    pub(crate) fn stand(&self) -> Stand {
        match &*self.connection.load() {
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
        self.connection.store(Some(Arc::new(connection)));
        self.sharing.connected();
        let why = tokio::select! {
            () = driver => "the connection was closed".into(),
            _ = trouble.changed() => Arc::clone(&trouble.borrow_and_update()),
        };
        self.connection.store(None);
        self.sharing.disconnected(&why);
    }

    /// Asks, and takes over what is answered; of the part that is this gateway's own when nothing is.
    pub(crate) async fn ask(&self, question: &mut Question<'_>, metrics: &Metrics) -> Result<(), ()> {
        let Some(connection) = self.connection.load_full() else {
            metrics.asked(Asked::Nobody, None);
            return question.unanswered(self.sharing.gateways());
        };
        let began = Instant::now();
        let limits: smallvec::SmallVec<[_; 6]> = question.lines().collect();
        let answer = timeout(self.sharing.answer_most, connection.ask(limits.iter().copied(), None)).await;
        let took = Some(began.elapsed());
        drop(limits);
        let (outcome, why) = match answer {
            Ok(Ok(leads_ns)) => {
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
        self.note_failure(&connection, &why);
        question.unanswered(self.sharing.gateways())
    }

    /// A failure on a connection that is given up already says nothing new.
    fn note_failure(&self, connection: &Arc<Connection>, why: &str) {
        let current = self.connection.load();
        let is_current = current.as_ref().is_some_and(|c| Arc::ptr_eq(c, connection));
        if is_current && self.sharing.failed(why) {
            self.connection.store(None);
        }
    }
}
