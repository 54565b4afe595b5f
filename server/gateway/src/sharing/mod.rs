//! Rate limits that all gateways share, through one Redis or Valkey.
//!
//! A request that everything else let pass, and of which the gateway does not know already that a limit refuses it
//! ([`crate::rate`]), is asked about there: one script takes a place from every limit that holds for it, or from none, by the
//! server's own clock. So there is one count however many gateways there are, and it is exact. Questions of a worker go
//! over one connection, behind one another and without waiting for each other's answers.
//!
//! Nobody waits long for it. A question has [`ANSWER_MOST`]; after [`FAILURES_MOST`] in a row that were not answered, all
//! workers drop their connections, what still waits is told at once, and nobody asks. A worker whose own questions alone
//! are not answered drops its own: something on the way may swallow one connection. A task of each worker then connects
//! again in the background, at intervals that double, and lets requests ask only on a connection that has answered a trial
//! in time: no request is ever the trial. Meanwhile, and for a question that failed, each gateway lets a part of each limit
//! through by itself ([`crate::rate::Gcra::narrowed`]). It goes on from what was last heard of the shared count.
//!
//! A question that was not answered in time may be counted all the same when the server gets to it: then the shared limit
//! lets less through for a moment, never more. What is let through while nobody can be asked is not brought in
//! afterwards, and a server that forgets begins anew: hard quotas and money are not counted here.
//!
//! Why a client crate: `redis` leaves the socket, its TLS and the task that drives it to us, so it runs on a worker's own
//! thread; it drops what nobody waits for any more, and matches answers to questions by their order. What it would do
//! besides (connecting again, time limits) is switched off and done here.

mod config;
mod link;
mod metrics;
#[cfg(test)]
#[path = "../../tests/main/redis_server.rs"]
#[expect(dead_code, reason = "not every test needs all of it")]
mod redis_server;
mod server;
#[cfg(test)]
mod tests;

pub use config::{RedisConfig, RedisUrl};
pub(crate) use link::Link;
pub(crate) use metrics::render;

use crate::config::Peppers;
use crate::rate::{Names, Stand};
use server::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for an answer: what a request may lose by it. An answer takes a fraction of a millisecond in one network.
pub(crate) const ANSWER_MOST: Duration = Duration::from_millis(30);
/// After so many failures in a row nobody asks any more: one may be a lost packet, five are none.
const FAILURES_MOST: u32 = 5;

/// What is said of the server in the log.
const NOTHING: u8 = 0;
const IS_HERE: u8 = 1;
const IS_AWAY: u8 = 2;

/// What all workers know of the server.
pub(crate) struct Sharing {
    server: Server,
    pub(crate) names: Names,
    answer_most: Duration,
    /// Workers.
    threads: usize,
    /// Those of them that have a connection.
    links: AtomicUsize,
    /// Questions in a row that were not answered.
    failures: AtomicU32,
    /// Gateways that count, this one with them.
    gateways: AtomicU32,
    /// Why nobody is to ask on the connections there are; told when that is so.
    trouble: watch::Sender<Arc<str>>,
    told: AtomicU8,
}

impl Sharing {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When the authorities cannot be read; in words.
    pub(crate) fn new(
        config: &RedisConfig,
        peppers: &Peppers,
        (threads, answer_most): (usize, Duration),
    ) -> Result<Self, String> {
        Ok(Self {
            server: Server::new(config)?,
            names: Names::new(peppers.clone()),
            answer_most,
            threads,
            links: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            gateways: AtomicU32::new(1),
            trouble: watch::Sender::new("".into()),
            told: AtomicU8::new(NOTHING),
        })
    }

    /// Where the server is.
    pub(crate) fn url(&self) -> &RedisUrl {
        self.server.url()
    }

    /// Gateways that counted something lately, this one with them.
    pub(crate) fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed)
    }

    /// Other gateways counted something lately.
    pub(crate) fn hear_of(&self, others: usize) {
        let all = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        self.gateways.store(all, Ordering::Relaxed);
    }

    /// Whether the server can be asked, for the gateway as a whole.
    pub(crate) fn stand(&self) -> Stand {
        match self.links.load(Ordering::Relaxed) {
            0 => Stand::Apart(self.gateways()),
            _ => Stand::Together,
        }
    }

    /// A question was answered.
    fn succeeded(&self) {
        // Most often nothing is to be written, and the line stays with every core.
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A question was not answered; whether it was one too many.
    fn failed(&self, why: &str) -> bool {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES_MOST {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        let why = format!("{FAILURES_MOST} questions in a row failed: {why}");
        self.trouble.send_replace(why.into());
        true
    }

    /// A worker has a connection.
    fn connected(&self) {
        self.links.fetch_add(1, Ordering::Relaxed);
        if self.told.swap(IS_HERE, Ordering::Relaxed) != IS_HERE {
            let url = self.url();
            tracing::info!(%url, "rate limits are shared by all gateways");
        }
    }

    /// A worker has none any more.
    fn disconnected(&self, why: &str) {
        if self.links.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.say_away(why);
        }
    }

    /// A worker could not connect.
    fn unreachable(&self, why: &str) {
        if self.links.load(Ordering::Relaxed) == 0 {
            self.say_away(why);
        }
    }

    fn say_away(&self, why: &str) {
        if self.told.swap(IS_AWAY, Ordering::Relaxed) != IS_AWAY {
            let (url, gateways) = (self.url(), self.gateways());
            tracing::error!(%url, why, gateways, "rate limits are not shared: each gateway holds a part of them by itself");
        }
    }
}
