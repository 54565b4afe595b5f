//! The way of requests to the collector.

use super::config::TraceConfig;
use super::export::{Counts, Exporter, Told};
use super::part::Part;
use crate::config::Config;
use crate::metrics::Text;
use crate::seen::{Context, Entry, Outcome};
use http::request::Parts;
use model::{Random, RequestId};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Requests that wait to be sent; what comes while so many wait is dropped. At most about 15 megabytes, a few as a rule.
const WAITING_MOST: usize = 8_192;

/// Time to send the last spans, also where the drain time is over.
const END_LEAST: Duration = Duration::from_millis(500);
/// Longest time to send the last spans, to a collector that is slow.
const END_MOST: Duration = Duration::from_secs(5);

/// Decides which requests are recorded, and takes those that are over.
pub(crate) struct Tracer {
    /// Requests of 2 to the power of 32 that are recorded when nobody who is trusted has decided.
    sample: u64,
    trusts: bool,
    waiting: SyncSender<Told>,
    counts: Arc<Counts>,
    /// By when everything must be sent.
    stop: watch::Sender<Option<Instant>>,
    exporting: Mutex<Option<JoinHandle<()>>>,
}

impl Tracer {
    /// Starts the task that sends, for the gateway of this name, where traces are wanted. To be called in a tokio runtime.
    pub(crate) fn start(config: &Config, instance: &str) -> Option<Self> {
        // Clients' addresses are sent where the access log shows them, too.
        let shows_client = config.access_log.is_some();
        Some(Self::sending(config.trace.as_ref()?, instance, shows_client))
    }

    fn sending(config: &TraceConfig, instance: &str, shows_client: bool) -> Self {
        let (waiting, taken) = sync_channel(WAITING_MOST);
        let counts = Arc::<Counts>::default();
        let stop = watch::Sender::new(None);
        let exporter = Exporter::new(
            config,
            taken,
            Arc::clone(&counts),
            stop.subscribe(),
            (instance, shows_client),
        );
        Self {
            sample: config.sample.lots(),
            trusts: config.trust_parent,
            waiting,
            counts,
            exporting: Mutex::new(Some(tokio::spawn(exporter.run()))),
            stop,
        }
    }

    /// What a request is of a trace: one that began then, says this of a trace and, where it is a request at all, came by
    /// this scheme.
    pub(crate) fn begin(
        &self,
        (request, started): (RequestId, Instant),
        said: Option<Context>,
        asked: Option<(&'static str, &Parts)>,
        random: &dyn Random,
    ) -> Part {
        // The low half of the id is random, and the gateway's own.
        let lot = request.to_bits() & u128::from(u32::MAX);
        let sampled = match said {
            Some(said) if self.trusts => said.sampled,
            _ => lot < u128::from(self.sample),
        };
        let part = Part::new(said, sampled, started, random);
        match asked {
            Some((scheme, parts)) => part.of(scheme, parts),
            None => part,
        }
    }

    /// Takes a request that is over.
    pub(crate) fn tell(&self, entry: &Arc<Entry>, outcome: &Outcome) {
        let Some(part) = entry.part().filter(|part| part.is_sampled()) else {
            return;
        };
        if self.waiting.try_send((Arc::clone(entry), outcome.clone())).is_err() {
            self.counts.dropped.fetch_add(part.spans(), Ordering::Relaxed);
        }
    }

    /// Sends what waits, by the end of the drain time, and ends; the rest is dropped.
    pub(crate) async fn stop(&self, drained: Instant) {
        let now = Instant::now();
        self.stop
            .send_replace(Some(drained.clamp(now + END_LEAST, now + END_MOST)));
        let exporting = self.exporting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(exporting) = exporting {
            let _ = exporting.await;
        }
    }

    /// How many spans were sent, and how many were not.
    pub(crate) fn render(&self, text: &mut Text) {
        let sent = self.counts.sent.load(Ordering::Relaxed);
        text.family("trace_spans_total", "counter", "Spans that the collector took.")
            .sample(&[], sent);
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        let help = "Spans dropped because the collector did not take them, or not fast enough.";
        text.family("trace_spans_dropped_total", "counter", help)
            .sample(&[], dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Share;
    use model::Time;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::AtomicU64;

    struct Counting(AtomicU64);
    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                let n = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
                *byte = (n ^ (n >> 29)).to_be_bytes()[0];
            }
        }
    }

    fn tracer(sample: &str, trust_parent: bool) -> (Tracer, Counting) {
        let config = TraceConfig {
            endpoint: "http://127.0.0.1:1".parse().unwrap(),
            headers: super::super::CollectorHeaders::default(),
            sample: sample.parse::<Share>().unwrap(),
            trust_parent,
        };
        (Tracer::sending(&config, "gw", false), Counting(AtomicU64::new(1)))
    }

    fn recorded(tracer: &Tracer, said: Option<bool>, random: &Counting) -> usize {
        let at = Time::from_unix_s(1_800_000_000);
        let said = said.map(|sampled| Context {
            trace: 1,
            parent: 1,
            sampled,
        });
        let parts = (0..1_000).map(|_| tracer.begin((RequestId::new(at, random), Instant::now()), said, None, random));
        parts.filter(Part::is_sampled).count()
    }

    #[tokio::test]
    async fn a_stranger_decides_nothing() {
        let (none, random) = tracer("0", false);
        assert_eq!(recorded(&none, Some(true), &random), 0);
        let (all, random) = tracer("1", false);
        assert_eq!(recorded(&all, Some(false), &random), 1_000);
        assert_eq!(recorded(&all, None, &random), 1_000);
        let (half, random) = tracer("0.5", false);
        let count = recorded(&half, Some(true), &random);
        assert!((400..600).contains(&count), "{count}");
    }

    #[tokio::test]
    async fn who_is_trusted_decides() {
        let (none, random) = tracer("0", true);
        assert_eq!(recorded(&none, Some(true), &random), 1_000);
        assert_eq!(recorded(&none, None, &random), 0);
        let (all, random) = tracer("1", true);
        assert_eq!(recorded(&all, Some(false), &random), 0);
    }

    #[tokio::test]
    async fn what_finds_no_place_is_dropped_and_counted() {
        let (tracer, random) = tracer("1", false);
        let at = Time::from_unix_s(1_800_000_000);
        let entry = |tries: usize| {
            let id = RequestId::new(at, &random);
            let entry = Entry::new(id, at, IpAddr::V4(Ipv4Addr::LOCALHOST), None);
            let entry = entry.traced(|said| tracer.begin((id, Instant::now()), said, None, &random));
            (0..tries).for_each(|target| entry.went_to(target));
            Arc::new(entry)
        };
        let outcome = Outcome::of_nobody(404, None, Duration::ZERO);
        // The task that sends has not had its turn yet.
        for _ in 0..WAITING_MOST {
            tracer.tell(&entry(0), &outcome);
        }
        assert_eq!(tracer.counts.dropped.load(Ordering::Relaxed), 0);
        tracer.tell(&entry(2), &outcome);
        assert_eq!(tracer.counts.dropped.load(Ordering::Relaxed), 3);
        // At the end everything that waits is given up, because nobody takes it.
        tracer.stop(Instant::now()).await;
        let waited = u64::try_from(WAITING_MOST).unwrap();
        assert_eq!(tracer.counts.dropped.load(Ordering::Relaxed), waited + 3);
        assert_eq!(tracer.counts.sent.load(Ordering::Relaxed), 0);
    }
}
