//! What a request is of a trace: its span, the one that asked, and the attempts at upstreams.

use crate::refusal::Refusal;
use crate::seen::{Context, short};
use http::header::HOST;
use http::request::Parts;
use memchr::memmem;
use model::Random;
use smallvec::SmallVec;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bits of a span's id that number the attempts of its request; a request has at most five.
const TRY_BITS: u64 = 7;
/// Characters of a `traceparent` up to the digit that those bits are in: version, trace, and span without its last digit.
const TOLD_ALIKE: usize = "00-".len() + 32 + "-".len() + 15;
/// Longest host that is kept, in bytes: longer than any name.
const HOST_MOST: usize = 256;

/// What a request is of a trace.
#[derive(Debug)]
pub(crate) struct Part {
    /// Its trace, its own span, and whether it is recorded. The lowest bits of the span are zero.
    own: Context,
    /// The span that asked, when the trace is the caller's.
    caller: Option<u64>,
    pub(super) started: Instant,
    /// The scheme it came by, where it is a request at all.
    pub(super) scheme: Option<&'static str>,
    /// The host that it asks, as it is written.
    pub(super) host: Box<str>,
    tries: Mutex<Tries>,
}

/// Most requests have one attempt.
type Tries = SmallVec<[Try; 1]>;

/// An attempt at an upstream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    /// The target's place.
    pub(super) target: usize,
    pub(super) began: Instant,
    /// When it was over, and how.
    pub(super) left: Option<(Instant, Left)>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// With the head of an answer.
    Answered(u16),
    /// Without one.
    Failed(Refusal),
}

impl Part {
    /// Of a request that says this of a trace, and began then; `sampled` is whether it is recorded.
    pub(super) fn new(said: Option<Context>, sampled: bool, started: Instant, random: &dyn Random) -> Self {
        let mut id = [0; 8];
        random.fill(&mut id);
        let trace = said.map_or_else(|| new_trace(random), |said| said.trace);
        // Zero is no id.
        let parent = (u64::from_be_bytes(id) & !TRY_BITS).max(TRY_BITS + 1);
        Self {
            own: Context { trace, parent, sampled },
            caller: said.map(|said| said.parent),
            started,
            scheme: None,
            host: Box::default(),
            tries: Mutex::default(),
        }
    }

    /// With the scheme that it came by and the host that it asks, where they are going to be looked at.
    pub(super) fn of(mut self, scheme: &'static str, parts: &Parts) -> Self {
        if self.own.sampled {
            let header = || parts.headers.get(HOST).and_then(|h| h.to_str().ok());
            let host = parts.uri.authority().map(|a| a.as_str()).or_else(header);
            self.scheme = Some(scheme);
            self.host = short(host.unwrap_or_default(), HOST_MOST);
        }
        self
    }

    /// Its trace.
    pub(crate) fn trace(&self) -> u128 {
        self.own.trace
    }
    /// Whether it is recorded.
    pub(crate) fn is_sampled(&self) -> bool {
        self.own.sampled
    }
    /// Whether its trace begins here.
    pub(crate) fn begins(&self) -> bool {
        self.caller.is_none()
    }
    /// Its own span.
    pub(super) fn span(&self) -> u64 {
        self.own.parent
    }
    /// The span that asked.
    pub(super) fn caller(&self) -> Option<u64> {
        self.caller
    }
    /// The span of an attempt, counted from zero.
    pub(super) fn span_of(&self, attempt: usize) -> u64 {
        let number = u64::try_from(attempt).unwrap_or(TRY_BITS).saturating_add(1);
        self.own.parent | number.min(TRY_BITS)
    }

    fn lock(&self) -> MutexGuard<'_, Tries> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attempts made.
    pub(super) fn tries(&self) -> Vec<Try> {
        self.lock().to_vec()
    }

    /// Spans that come of it.
    pub(super) fn spans(&self) -> u64 {
        u64::try_from(self.lock().len()).unwrap_or(0).saturating_add(1)
    }

    /// An attempt begins. One that is not over yet was broken off.
    pub(crate) fn went_to(&self, target: usize) {
        if !self.own.sampled {
            return;
        }
        self.left(|| Left::Failed(Refusal::UpstreamBroken));
        self.lock().push(Try {
            target,
            began: Instant::now(),
            left: None,
        });
    }

    /// The attempt is over, unless that is known already.
    pub(crate) fn left(&self, how: impl FnOnce() -> Left) {
        if let Some(last) = self.lock().last_mut().filter(|last| last.left.is_none()) {
            last.left = Some((Instant::now(), how()));
        }
    }

    /// What the upstream is told: the attempt that is being made, or the request itself where nothing is recorded.
    pub(crate) fn told(&self) -> Context {
        let parent = match self.lock().len() {
            0 => self.own.parent,
            made => self.span_of(made - 1),
        };
        Context { parent, ..self.own }
    }

    /// Makes what was written for an earlier attempt, a head or the value of a `traceparent`, say this one.
    pub(crate) fn retell(&self, written: &mut [u8]) {
        if self.lock().len() < 2 {
            return;
        }
        let told = self.told().to_string();
        let (alike, rest) = told.split_at(TOLD_ALIKE);
        // Nobody else knows the span: it stands where it was written, and nowhere else.
        if let Some(at) = memmem::find(written, alike.as_bytes())
            && let (Some(digit), Some(new)) = (written.get_mut(at + TOLD_ALIKE), rest.bytes().next())
        {
            *digit = new;
        }
    }
}

fn new_trace(random: &dyn Random) -> u128 {
    let mut id = [0; 16];
    random.fill(&mut id);
    // Zero is no id.
    u128::from_be_bytes(id).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU8, Ordering};

    struct Counting(AtomicU8);
    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    struct Zeros;
    impl Random for Zeros {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    fn part(said: Option<Context>, sampled: bool) -> Part {
        Part::new(said, sampled, Instant::now(), &Counting(AtomicU8::new(1)))
    }

    const SAID: Context = Context {
        trace: 0xa11,
        parent: 0xb0b,
        sampled: true,
    };

    #[test]
    fn a_trace_goes_on_and_the_span_is_new() {
        let going = part(Some(SAID), false);
        assert_eq!(
            (going.trace(), going.caller(), going.begins()),
            (0xa11, Some(0xb0b), false)
        );
        assert_eq!(
            going.told().to_string(),
            format!("00-{:032x}-0102030405060708-00", 0xa11)
        );
        let new = part(None, true);
        assert!(new.begins() && new.trace() != 0 && new.is_sampled());
        let poor = Part::new(None, true, Instant::now(), &Zeros);
        assert!(poor.trace() != 0 && poor.span() != 0, "zero is no id");
    }

    #[test]
    fn every_attempt_is_told_its_own_span() {
        let part = part(Some(SAID), true);
        part.went_to(4);
        let head = format!("GET / HTTP/1.1\r\ntraceparent: {}\r\nx: 1\r\n\r\n", part.told());
        let mut written = head.clone().into_bytes();
        part.retell(&mut written);
        assert_eq!(written, head.as_bytes(), "there is only one");
        part.left(|| Left::Answered(503));
        part.left(|| Left::Answered(200));
        let mut seen = vec![part.told().parent];
        for target in 5..8 {
            part.went_to(target);
            part.retell(&mut written);
            let wanted = format!("GET / HTTP/1.1\r\ntraceparent: {}\r\nx: 1\r\n\r\n", part.told());
            assert_eq!(String::from_utf8_lossy(&written), wanted);
            seen.push(part.told().parent);
        }
        assert_eq!(seen, [0, 1, 2, 3].map(|n| part.span_of(n)));
        assert!(!seen.contains(&part.span()));
        let tries = part.tries();
        let ends: Vec<_> = tries.iter().map(|t| t.left.map(|left| left.1)).collect();
        let broken = Some(Left::Failed(Refusal::UpstreamBroken));
        assert_eq!(ends, [Some(Left::Answered(503)), broken, broken, None]);
        assert_eq!((part.spans(), tries[1].target), (5, 5));
    }

    #[test]
    fn of_what_is_not_recorded_nothing_is_gathered() {
        let part = part(None, false);
        part.went_to(0);
        assert!(part.tries().is_empty());
        assert_eq!(part.told().parent, part.span());
    }
}
