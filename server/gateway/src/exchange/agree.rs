//! The rest of phase three where rate limits are shared: what all gateways together have left of them.
//!
//! It is asked when everything that is known here has let the request pass, and before anything that takes long or is sent
//! on. A refusal gives the units back that the request reserved, as every late one does; a request that a quota or a spend cap
//! refuses has not been counted by shared limits.

use super::{Exchange, Ready};
use crate::admit::{self, Place};
use crate::listen::Client;
use crate::metrics::Asked;
use crate::rate::{self, Question, Stand};
use crate::refusal::Refused;
use std::sync::Arc;

impl Exchange<'_> {
    /// Takes the request's places from the shared limits.
    pub(super) async fn agree(&self, client: &Client, ready: &mut Ready) -> Result<(), Refused> {
        let Some(link) = &self.worker.link else { return Ok(()) };
        let (shared, metrics) = (&self.worker.shared, &self.worker.metrics);
        if ready.admission.stand != Stand::Together {
            metrics.asked(Asked::Nobody, None);
            return Ok(());
        }
        let terms = Arc::clone(&ready.admission.terms);
        let request = admit::Request::new(&ready.caller, &ready.route, client.address, &ready.parts);
        let from = (&shared.tables.arrivals, &link.sharing.names);
        let mut question = Question::new(from, &request.asked(), &terms, shared.clock.steady_ns());
        let taken = link.ask(&mut question, metrics).await;
        let left = question.left(taken);
        ready.admission.agreed(left, &ready.route, self.now)
    }

    /// Takes a quote's place from the plan's overall rate limit, wherever that is counted.
    pub(super) async fn place_of_quote(&self, request: &admit::Request<'_>, now_ns: u64) -> Place {
        let (shared, metrics) = (&self.worker.shared, &self.worker.metrics);
        let (arrivals, stand) = (&shared.tables.arrivals, self.worker.stand());
        let terms = request.caller.terms(self.now);
        let known = rate::ask(arrivals, &request.asked(), &terms, (stand, now_ns));
        let Some(link) = self.worker.link.as_ref().filter(|_| known.is_ok()) else {
            return known;
        };
        if stand != Stand::Together {
            metrics.asked(Asked::Nobody, None);
            return known;
        }
        let from = (arrivals, &link.sharing.names);
        let mut question = Question::new(from, &request.asked(), &terms, now_ns).overall();
        let taken = link.ask(&mut question, metrics).await;
        question.foreseen(taken)
    }
}
