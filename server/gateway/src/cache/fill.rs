//! An answer on its way through that is to be kept: gathered beside the client, and published only when it came whole.

use super::object::{Keeping, Object, Origin};
use super::{Cache, Ticket};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use model::Time;
use std::sync::Arc;

/// Dropped before [`Fill::finish`], it keeps nothing, and those who wait go themselves.
pub(crate) struct Fill {
    ticket: Ticket,
    head: Option<(Keeping, StatusCode, HeaderMap)>,
    origin: Option<Origin>,
    body: BytesMut,
    most: usize,
    now: Time,
    /// Too large, or there is no room to gather it in.
    failed: bool,
}

impl Fill {
    pub(super) fn new(
        ticket: Ticket,
        head: (Keeping, StatusCode, HeaderMap),
        origin: Origin,
        most: usize,
        now: Time,
    ) -> Self {
        Self {
            ticket,
            head: Some(head),
            origin: Some(origin),
            body: BytesMut::new(),
            most,
            now,
            failed: false,
        }
    }

    fn cache(&self) -> &Arc<Cache> {
        &self.ticket.cache
    }

    /// Another part of the body.
    pub(crate) fn push(&mut self, data: &Bytes) {
        if self.failed {
            return;
        }
        let fits = self.body.len() + data.len() <= self.most;
        if fits && self.cache().gather(data.len()) {
            self.body.extend_from_slice(data);
            return;
        }
        self.give_up();
    }

    fn give_up(&mut self) {
        self.failed = true;
        self.cache().gathered(self.body.len());
        self.body = BytesMut::new();
        self.ticket.not_kept();
    }

    /// The body came whole.
    pub(crate) fn finish(mut self) {
        let (Some((keeping, status, headers)), Some(origin)) = (self.head.take(), self.origin.take()) else {
            return;
        };
        if self.failed {
            return;
        }
        let object = Object::new(keeping, status, &headers, &self.body, origin, self.now);
        self.ticket.keep(Arc::new(object));
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        if !self.failed {
            self.cache().gathered(self.body.len());
        }
    }
}
