//! What an open stream stands on, looked at again for as long as it is open.
//!
//! A stream was let in once. Whatever refuses the same request later ends it: a revoked key, a key or a token whose time
//! is over, an issuer that is trusted no more, a suspended consumer, a scope without the route, a plan without a feature
//! that the route, or a gate it passed, needs. What counts requests (rates, quotas, the spend cap) does not: it was counted
//! when it began. A WebSocket that is counted by its time ends with its quota, too (`tunnel`).

use crate::admit;
use crate::authenticate::Hold;
use crate::feature_gates::Passed;
use crate::refusal::Refused;
use crate::route::Route;
use crate::worker::Shared;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How often it is looked at. Revocations and suspensions are told at once; nobody tells when a time is over.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Ready when a stream must end, with what the same request would be told now.
pub(crate) type Cut = Pin<Box<dyn Future<Output = Refused> + Send>>;

/// What a stream stands on.
pub(crate) struct Ground {
    hold: Hold,
    route: Arc<Route>,
    /// Gates that its request passed because its caller had their features.
    passed: Passed,
}

impl Ground {
    /// For a request that was let in.
    pub(crate) fn new(hold: Hold, route: Arc<Route>, passed: Passed) -> Self {
        Self { hold, route, passed }
    }

    /// Looks at it from now on.
    pub(crate) fn watch(self, shared: &Arc<Shared>) -> Cut {
        let shared = Arc::clone(shared);
        let mut changes = shared.tables.watch_cuts();
        Box::pin(async move {
            loop {
                if let Err(refused) = self.check(&shared) {
                    return refused;
                }
                // Told, or late: both times it is looked at again. Who tells is there as long as the tables are.
                let _ = timeout(LOOK_EVERY, changes.changed()).await;
            }
        })
    }

    fn check(&self, shared: &Shared) -> Result<(), Refused> {
        let now = shared.clock.now();
        let machine_now = shared.clock.security_now();
        let caller = self.hold.caller(&shared.tables, now, machine_now)?;
        let terms = caller.terms(now);
        admit::check_state(&terms)?;
        admit::check_scope(&caller, &self.route)?;
        admit::check_feature(&caller, &self.route, &terms)?;
        let has = |feature: &str| admit::has(&caller, &terms, feature);
        self.route.gates.check_passed(self.passed, has, &terms.profile.plan)
    }
}
