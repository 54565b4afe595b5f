//! The body of an answer that came over HTTP/2.

use super::super::silence::Silence;
use super::links::Place;
use super::pump::Pump;
use crate::body::BodyError;
use crate::headers;
use crate::timer::Timer;
use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use std::task::{Context, Poll};

/// A body on its stream; dropped before its end, it resets the stream.
pub(crate) struct AnswerBody {
    stream: RecvStream,
    left: Option<u64>,
    trailers: Option<HeaderMap>,
    silence: Silence,
    timer: Timer,
    pump: Option<Pump>,
    _place: Place,
}

impl AnswerBody {
    /// A body of which nothing was read yet; `left` is its length, when it was said.
    pub(super) fn new(
        stream: RecvStream,
        left: Option<u64>,
        silence: Silence,
        pump: Option<Pump>,
        place: Place,
    ) -> Self {
        Self {
            stream,
            left,
            trailers: None,
            silence,
            timer: Timer::default(),
            pump,
            _place: place,
        }
    }

    /// The next part, as it comes.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.silence.is_too_long() {
            return Poll::Ready(Some(Err(BodyError::TooLong)));
        }
        match self.poll_stream(cx) {
            Poll::Pending => {}
            ready => {
                self.silence.heard();
                return ready;
            }
        }
        self.silence.poll(&mut self.timer, cx).map(|error| Some(Err(error)))
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while let Some(data) = std::task::ready!(self.stream.poll_data(cx)) {
            let data = match data {
                Ok(data) => data,
                Err(error) => return Poll::Ready(Some(Err(self.broken(&error)))),
            };
            let _ = self.stream.flow_control().release_capacity(data.len());
            if !data.is_empty() {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.left = self.left.map(|left| left.saturating_sub(length));
                return Poll::Ready(Some(Ok(data)));
            }
        }
        match std::task::ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                self.trailers = trailers.map(passed_on).filter(|t| !t.is_empty());
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(self.broken(&error)))),
        }
    }

    fn broken(&mut self, error: &h2::Error) -> BodyError {
        if self.pump.as_mut().is_some_and(Pump::failed) {
            return BodyError::Request;
        }
        tracing::warn!(%error, "an answer over HTTP/2 broke off");
        BodyError::Broken
    }

    /// What came behind the body.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether it is through, and no trailers follow.
    pub(crate) fn is_end(&self) -> bool {
        self.trailers.is_none() && self.stream.is_end_stream()
    }

    /// Bytes still to come, when that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        if self.stream.is_end_stream() {
            Some(0)
        } else {
            self.left
        }
    }
}

/// Trailers without what may not stand there (RFC 9110, section 6.5.1).
fn passed_on(trailers: HeaderMap) -> HeaderMap {
    let framing = [
        header::CONTENT_LENGTH,
        header::HOST,
        header::AUTHORIZATION,
        header::SET_COOKIE,
    ];
    let mut last = None;
    let mut out = HeaderMap::new();
    for (name, value) in trailers {
        last = name.or(last);
        if let Some(name) = last
            .as_ref()
            .filter(|n| headers::reaches_client(n.as_str()) && !framing.contains(n))
        {
            out.append(name, value);
        }
    }
    out
}
