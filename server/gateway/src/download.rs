//! An answer's body as it comes from the upstream, without the fields its caller may not see.

use crate::body::BodyError;
use crate::filter::Filter;
use crate::tunnel::Far;
use crate::upstream::{Incoming, Pool};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// How much of a filtered body is read before its head leaves, if it is there: a body that turns out to be malformed
/// within it is answered with a problem instead of being broken off.
const AHEAD_BYTES: usize = 64 << 10;

/// An answer's body.
pub(crate) struct Download {
    incoming: Incoming,
    filtering: Option<Box<Filtering>>,
    /// Taken out and put back, before all else.
    front: Bytes,
}

struct Filtering {
    filter: Filter,
    /// Filtered, and not handed on yet.
    ahead: Bytes,
    /// The document is whole.
    ended: bool,
}

impl Filtering {
    /// What is left of a part, and of the whole when it is the last one.
    fn take(&mut self, data: &[u8], last: bool) -> Result<Bytes, BodyError> {
        let mut out = Vec::with_capacity(data.len());
        self.filter.push(data, &mut out).map_err(BodyError::Malformed)?;
        if last {
            self.filter.end().map_err(BodyError::Malformed)?;
            self.ended = true;
        }
        Ok(Bytes::from(out))
    }
}

impl Download {
    /// A body, and what is to be left out of it.
    pub(crate) fn new(incoming: Incoming, filter: Option<Filter>) -> Self {
        let filtering = |filter| {
            Box::new(Filtering {
                filter,
                ahead: Bytes::new(),
                ended: false,
            })
        };
        Self {
            incoming,
            filtering: filter.map(filtering),
            front: Bytes::new(),
        }
    }

    /// The next part, as it comes.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if !self.front.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.front))));
        }
        let Some(filtering) = &mut self.filtering else {
            return self.incoming.poll_data(cx);
        };
        loop {
            if !filtering.ahead.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut filtering.ahead))));
            }
            if filtering.ended {
                return Poll::Ready(None);
            }
            let (data, last) = match ready!(self.incoming.poll_data(cx)).transpose()? {
                Some(data) => (data, self.incoming.is_end()),
                None => (Bytes::new(), true),
            };
            filtering.ahead = filtering.take(&data, last)?;
        }
    }

    /// Waits for the first part of a filtered body, and takes what else is there.
    ///
    /// # Errors
    /// When the body cannot be filtered, or breaks off.
    pub(crate) async fn look_ahead(&mut self) -> Result<(), BodyError> {
        if self.filtering.is_none() {
            return Ok(());
        }
        let mut ahead = BytesMut::new();
        if let Some(first) = poll_fn(|cx| self.poll_data(cx)).await.transpose()? {
            ahead.extend_from_slice(&first);
        }
        while ahead.len() < AHEAD_BYTES {
            match poll_fn(|cx| Poll::Ready(self.poll_data(cx))).await {
                Poll::Ready(Some(more)) => ahead.extend_from_slice(&more?),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if let Some(filtering) = &mut self.filtering {
            filtering.ahead = ahead.freeze();
        }
        Ok(())
    }

    /// All of it, when it came together with the head, or was read ahead; then it is through.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.filtering {
            _ if !self.front.is_empty() => None,
            None => self.incoming.take_whole(),
            Some(filtering) if filtering.ended && !filtering.ahead.is_empty() => {
                Some(std::mem::take(&mut filtering.ahead))
            }
            Some(_) => None,
        }
    }

    /// Puts back what was taken, in front of what is to come.
    pub(crate) fn put_back(&mut self, taken: Bytes) {
        self.front = taken;
    }

    /// Whether it is through.
    pub(crate) fn is_end(&self) -> bool {
        match &self.filtering {
            _ if !self.front.is_empty() => false,
            None => self.incoming.is_end(),
            Some(filtering) => filtering.ended && filtering.ahead.is_empty(),
        }
    }

    /// Whether its end can be told from a connection that broke.
    pub(crate) fn ends_for_sure(&self) -> bool {
        self.incoming.ends_for_sure()
    }

    /// How much is to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.filtering {
            _ if !self.front.is_empty() => SizeHint::default(),
            None => self.incoming.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }

    /// The end of a tunnel, behind a 101.
    pub(crate) fn into_far(self) -> Option<Far> {
        self.incoming.into_far()
    }

    /// What came behind the body; of a filtered one it may no longer hold, so there is none.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        let passes = self.filtering.is_none();
        self.incoming.take_trailers().filter(|_| passes)
    }

    /// Gives the connection back to be used again, when the body is through and nothing follows it; else closes it.
    pub(crate) fn give_back(&mut self, pool: &Pool, now: Instant, most: usize) {
        self.incoming.give_back(pool, now, most);
    }
}
