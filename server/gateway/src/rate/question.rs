//! A question to the place where all gateways count, and what comes of its answer.

use super::name::Names;
use super::{
    All, Arrivals, Asked, Gcra, Held, Left, Limited, Stand, all_pass, foreseen, holding, limited, settle, take_part,
};
use crate::account::Terms;
use smallvec::SmallVec;

/// The limits that hold for a request, and which of them are asked about.
pub(crate) struct Question<'a> {
    all: All<'a>,
    terms: &'a Terms,
    /// What those that are asked about are called, in the order of `all`.
    names: SmallVec<[String; super::INLINE]>,
    /// Steady time before it is asked.
    now_ns: u64,
}

impl<'a> Question<'a> {
    /// About every limit that holds for a request.
    pub(crate) fn new(
        (arrivals, names): (&Arrivals, &Names),
        asked: &Asked<'a>,
        terms: &'a Terms,
        now_ns: u64,
    ) -> Self {
        let all = holding(arrivals, asked, terms, (Stand::Together, now_ns));
        let names = all.iter().map(|held| names.name(held.rule, asked, terms)).collect();
        Self {
            all,
            terms,
            names,
            now_ns,
        }
    }

    /// About the plan's overall limit alone.
    pub(crate) fn overall(mut self) -> Self {
        self.names.truncate(1);
        self
    }

    /// What is asked about.
    pub(crate) fn lines(&self) -> impl ExactSizeIterator<Item = (&str, Gcra)> {
        let limits = self.all.iter().map(|held| held.limit);
        self.names.iter().map(String::as_str).zip(limits)
    }

    fn in_question(&mut self) -> &mut [Held<'a>] {
        let count = self.names.len().min(self.all.len());
        &mut self.all[..count]
    }

    /// Takes over how far each shared arrival time lay ahead. It was later than `now_ns`, so our own come no further.
    pub(crate) fn answered(&mut self, leads_ns: &[u64]) -> Result<(), ()> {
        let now_ns = self.now_ns;
        let asked = self.in_question();
        for (held, lead_ns) in asked.iter_mut().zip(leads_ns) {
            held.rate = held.limit.told(*lead_ns);
        }
        let taken = all_pass(asked);
        for (held, lead_ns) in asked.iter().zip(leads_ns) {
            let more = if taken.is_ok() { held.limit.every_ns() } else { 0 };
            Gcra::learn(held.arrival(), now_ns, lead_ns.saturating_add(more));
        }
        taken
    }

    /// Nobody answered: takes of the part that is ours, as one of this many gateways.
    pub(crate) fn unanswered(&mut self, gateways: u32) -> Result<(), ()> {
        let now_ns = self.now_ns;
        let asked = self.in_question();
        for held in &mut *asked {
            held.limit = held.limit.narrowed(gateways);
            held.rate = held.limit.peek(held.arrival(), now_ns);
        }
        take_part(asked, now_ns)
    }

    /// What is left for a call, when places were taken or not.
    pub(crate) fn left(mut self, taken: Result<(), ()>) -> Result<Left, Box<Limited>> {
        settle(&mut self.all, taken, self.terms)
    }

    /// What is left for a quote, when its place was taken or not, and who else would refuse the call.
    pub(crate) fn foreseen(self, taken: Result<(), ()>) -> Result<(Left, Option<Box<Limited>>), Box<Limited>> {
        match taken {
            Ok(()) => Ok(foreseen(&self.all, self.terms)),
            Err(()) => Err(Box::new(limited(&self.all[..1], self.terms))),
        }
    }
}
