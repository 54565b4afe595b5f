//! Connections of HTTP/2 and the places on them.

use super::super::connection::Io;
use crate::balance::Target;
use crate::tables::LookupHasher;
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout_at;

/// Most requests on a connection at a time, also when the upstream allows more: a lost connection takes no more of them.
const STREAMS_MOST: usize = 100;
/// Most connections to a target per worker thread; beyond, requests wait for a place.
const LINKS_MOST: usize = 8;
/// Bytes of an answer that may be under way before the client takes any.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of all answers on a connection.
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Largest list of headers, in bytes: as for HTTP/1.1.
const HEADERS_MOST: u32 = 64 << 10;
/// A connection without requests is closed after this.
const IDLE_LIFE: Duration = Duration::from_secs(30);

/// What requests that share a connection know of it.
struct State {
    open: AtomicUsize,
    gone: AtomicBool,
}

#[derive(Clone)]
struct Link {
    send: SendRequest<Bytes>,
    state: Arc<State>,
    peer: SocketAddr,
    used: Instant,
}

impl Link {
    /// Whether it takes new requests.
    fn is_good(&mut self, target: &Target) -> bool {
        let ready = self.send.poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.state.gone.load(Ordering::Relaxed)
            && !matches!(ready, Poll::Ready(Err(_)))
            && target.addresses.holds(Some(self.peer))
    }

    fn has_place(&self) -> bool {
        let most = self.send.current_max_send_streams().min(STREAMS_MOST);
        self.state.open.load(Ordering::Relaxed) < most
    }
}

/// A place on a connection, until it is dropped.
pub(super) struct Place {
    pub(super) send: SendRequest<Bytes>,
    state: Arc<State>,
}

impl Place {
    fn on(link: &mut Link, now: Instant) -> Self {
        link.used = now;
        link.state.open.fetch_add(1, Ordering::Relaxed);
        Self {
            send: link.send.clone(),
            state: Arc::clone(&link.state),
        }
    }

    /// The connection takes no more requests: it failed one in a way that others would meet, too.
    pub(super) fn give_up(&self) {
        self.state.gone.store(true, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far the opening of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Begun,
    Done,
    Failed,
}

#[derive(Default)]
struct Entry {
    links: Vec<Link>,
    opening: Option<watch::Receiver<Opening>>,
}

enum Found {
    Place(Place),
    /// Somebody opens a connection.
    Wait(watch::Receiver<Opening>),
    /// To be opened by who asked.
    Open(watch::Sender<Opening>),
}

/// Connections of one worker thread, by the target's number.
#[derive(Default)]
pub(crate) struct Links(Mutex<HashMap<u64, Entry, BuildHasherDefault<LookupHasher>>>);

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry, BuildHasherDefault<LookupHasher>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection to the target. One is opened when there is none; meanwhile others wait for the same.
    pub(super) async fn place(&self, target: &Target, until: tokio::time::Instant) -> io::Result<Place> {
        loop {
            match self.find(target) {
                Found::Place(place) => return Ok(place),
                Found::Wait(mut opening) => {
                    // It ends without a word when the request that opened went away.
                    let _ = timeout_at(until, opening.changed()).await?;
                    if *opening.borrow() == Opening::Failed {
                        return Err(io::Error::other("another request could not connect either"));
                    }
                }
                Found::Open(opening) => {
                    let opened = open(target, until).await;
                    opening.send_replace(if opened.is_ok() { Opening::Done } else { Opening::Failed });
                    let mut link = opened?;
                    let place = Place::on(&mut link, Instant::now());
                    self.lock().entry(target.id).or_default().links.push(link);
                    return Ok(place);
                }
            }
        }
    }

    fn find(&self, target: &Target) -> Found {
        let mut all = self.lock();
        let entry = all.entry(target.id).or_default();
        entry.links.retain_mut(|link| link.is_good(target));
        let now = Instant::now();
        if let Some(link) = entry.links.iter_mut().find(|l| l.has_place()) {
            return Found::Place(Place::on(link, now));
        }
        let open = |l: &&mut Link| l.state.open.load(Ordering::Relaxed);
        if entry.links.len() >= LINKS_MOST
            && let Some(link) = entry.links.iter_mut().min_by_key(open)
        {
            return Found::Place(Place::on(link, now));
        }
        // Whoever opens holds the sender: without one nobody does.
        let opening = entry
            .opening
            .as_ref()
            .filter(|o| o.has_changed().is_ok_and(|changed| !changed));
        if let Some(opening) = opening {
            return Found::Wait(opening.clone());
        }
        let (sender, receiver) = watch::channel(Opening::Begun);
        entry.opening = Some(receiver);
        Found::Open(sender)
    }

    /// Closes connections that nobody uses.
    pub(crate) fn expire(&self, now: Instant) {
        let mut all = self.lock();
        for entry in all.values_mut() {
            entry.links.retain(|link| {
                let fresh = now.saturating_duration_since(link.used) <= IDLE_LIFE;
                let used = link.state.open.load(Ordering::Relaxed) > 0;
                !link.state.gone.load(Ordering::Relaxed) && (fresh || used)
            });
        }
        all.retain(|_, entry| {
            !entry.links.is_empty() || entry.opening.as_ref().is_some_and(|o| o.has_changed().is_ok())
        });
    }
}

/// Begins HTTP/2 on a connection.
pub(crate) async fn shake_hands(io: Io) -> Result<(SendRequest<Bytes>, Connection<Io, Bytes>), h2::Error> {
    Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(STREAMS_MOST)
        .max_header_list_size(HEADERS_MOST)
        .handshake(io)
        .await
}

async fn open(target: &Target, until: tokio::time::Instant) -> io::Result<Link> {
    let (io, peer) = Io::connect(target, until).await?;
    let shaken = timeout_at(until, shake_hands(io)).await?;
    let (send, connection) = shaken.map_err(io::Error::other)?;
    let state = Arc::new(State {
        open: AtomicUsize::new(0),
        gone: AtomicBool::new(false),
    });
    let driven = Arc::clone(&state);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of HTTP/2 ended");
        }
        driven.gone.store(true, Ordering::Relaxed);
    });
    Ok(Link {
        send,
        state,
        peer,
        used: Instant::now(),
    })
}
