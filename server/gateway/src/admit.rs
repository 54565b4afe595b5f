//! Phase three: whether the caller may make this request now. The first refusal wins; units are reserved before the
//! request is forwarded, so a hard quota and a spend cap hold whatever runs at the same time.

use crate::account::Terms;
use crate::authenticate::Caller;
use crate::cost;
use crate::feature_gates::Closed;
use crate::flight::{Flight, Full};
use crate::headers::{self, RATELIMIT, RATELIMIT_POLICY, TURNPIKE_GRACE};
use crate::key_limit::KeyOver;
use crate::limit::{Limit, Over, Slot};
use crate::rate::{self, Asked, Left, Limited, Stand};
use crate::refusal::{Refusal, Refused};
use crate::route::{self, Route};
use crate::tables::Tables;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use model::access::{Method, Suspension};
use model::lease::{LeaseSubject, Limiting};
use model::{Money, Time};
use std::net::IpAddr;
use std::sync::Arc;

/// The right to make one request, with the units it took.
pub(crate) struct Admission {
    pub(crate) terms: Arc<Terms>,
    pub(crate) reserved: Reserved,
    /// Why its units were not given: then it may be answered with what is there already and costs nothing, and is refused
    /// otherwise.
    pub(crate) unpaid: Option<Box<Refused>>,
    /// What it may wait for, where units were not given for want of a lease alone.
    pub(crate) lack: Option<Box<Lack>>,
    /// Gates of the route that the caller does not pass.
    pub(crate) closed: Closed,
    /// Its place among the requests in flight.
    pub(crate) flight: Flight,
    /// Who counts the rate limits. Where all gateways do, they are still to be asked.
    pub(crate) stand: Stand,
    /// What is left of the rate limits.
    left: Left,
}

/// A counter of which no more is leased to this gateway.
pub(crate) struct Lack {
    pub(crate) subject: LeaseSubject,
    pub(crate) slot: Arc<Slot>,
}

/// Why units were not given.
pub(crate) struct Unpaid {
    pub(crate) refused: Refused,
    pub(crate) lack: Option<Box<Lack>>,
}

impl From<Refused> for Unpaid {
    fn from(refused: Refused) -> Self {
        Self { refused, lack: None }
    }
}

/// Units that a call took.
pub(crate) struct Reserved {
    /// Taken from the route's meter; given back when the answer does not count.
    pub(crate) units: u32,
    /// The meter's count with these units in it.
    taken: u64,
    /// Where the key counts them, too.
    pub(crate) key_slot: Option<Arc<Slot>>,
    /// What is left of the key's own budget, in minor units.
    key_budget_left: Option<i64>,
}

impl Reserved {
    fn nothing(caller: &Caller, route: &Route, terms: &Terms) -> Self {
        Self {
            units: 0,
            taken: 0,
            key_slot: None,
            key_budget_left: key_budget_left(caller, route, terms),
        }
    }
}

/// A request, as far as it decides which limits hold.
pub(crate) struct Request<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) route: &'a Route,
    pub(crate) method: Option<Method>,
    /// The client's.
    pub(crate) address: IpAddr,
    /// Its head.
    pub(crate) parts: &'a Parts,
}

impl<'a> Request<'a> {
    /// Of a caller at a route, from a client's address, with this head.
    pub(crate) fn new(caller: &'a Caller, route: &'a Route, address: IpAddr, parts: &'a Parts) -> Self {
        Self {
            caller,
            route,
            method: route::known_method(&parts.method),
            address,
            parts,
        }
    }

    pub(crate) fn asked(&self) -> Asked<'a> {
        Asked {
            account: &self.caller.key.account,
            key: self.caller.number(),
            route: self.route,
            method: self.method,
            address: self.address,
        }
    }
}

/// Decides. `now_ns` is steady time in nanoseconds; `now` is business time. Rate limits that all gateways count together are
/// only held against what is known of them here. Where only the units are not given, it is for
/// the caller of this to find an answer that costs none, or to refuse ([`Admission::unpaid`]).
pub(crate) fn admit(
    request: &Request<'_>,
    tables: &Tables,
    now: Time,
    (stand, now_ns): (Stand, u64),
) -> Result<Admission, Refused> {
    let Request { caller, route, .. } = *request;
    let account = &caller.key.account;
    let terms = caller.terms(now);
    let closed = permitted(request, &terms)?;
    let concurrency = terms.profile.concurrency;
    let routes = (&tables.flights, route.number, route.concurrency);
    let (flight, in_flight_left) = match Flight::take((account, concurrency), routes) {
        Ok(taken) => taken,
        Err(full) => return Err(too_many(full, &terms, route, now)),
    };
    let mut left = match rate::take(&tables.arrivals, &request.asked(), &terms, (stand, now_ns)) {
        Ok(left) => left,
        Err(limited) => return Err(with_limits(over_rate(&limited), &terms, route, &limited.left, now)),
    };
    left.concurrency = concurrency.zip(in_flight_left);
    let (reserved, unpaid, lack) = match reserve(caller, route, &terms, route.weight, now) {
        Ok(reserved) => (reserved, None, None),
        Err(Unpaid { refused, lack }) => {
            let refused = with_limits(refused, &terms, route, &left, now);
            (Reserved::nothing(caller, route, &terms), Some(Box::new(refused)), lack)
        }
    };
    Ok(Admission {
        terms,
        reserved,
        unpaid,
        lack,
        closed,
        flight,
        stand,
        left,
    })
}

/// What is left of the key's own budget just now, in minor units.
fn key_budget_left(caller: &Caller, route: &Route, terms: &Terms) -> Option<i64> {
    let own = caller.key.limit.as_ref()?;
    own.peek(terms, route.meter, 0).ok()?
}

/// Takes units of a route's meter from the consumer's counter and from the key's. What a key may use holds also for a meter that the
/// plan does not mention.
pub(crate) fn reserve(
    caller: &Caller,
    route: &Route,
    terms: &Terms,
    units: u32,
    now: Time,
) -> Result<Reserved, Unpaid> {
    let account = &caller.key.account;
    let lack = |root, slot: &Arc<Slot>| {
        let (subject, slot) = (account.subject(terms, root, route.meter), Arc::clone(slot));
        Some(Box::new(Lack { subject, slot }))
    };
    let limit = terms.limit(route.meter);
    let taken = match limit {
        None => 0,
        Some(limit) => {
            let taken = account.take(terms, limit, units, now);
            taken.map_err(|over| Unpaid {
                refused: over_limit(over, terms, limit, now),
                lack: (over == Over::Lease).then(|| lack(None, &limit.slot)).flatten(),
            })?
        }
    };
    let (mut key_slot, mut key_budget_left) = (None, None);
    if let Some(own) = &caller.key.limit {
        let root = caller.key.root();
        match own.take((account, root), terms, (route.meter, units), now) {
            Ok(given) => (key_slot, key_budget_left) = (Some(given.slot), given.budget_left_minor),
            Err(over) => {
                if let Some(limit) = limit {
                    limit.slot.release(units.into());
                }
                let of_key = || lack(Some(root), &own.slot(terms, route.meter)?);
                return Err(Unpaid {
                    refused: over_key(over, caller, terms, now),
                    lack: (over == KeyOver::Lease).then(of_key).flatten(),
                });
            }
        }
    }
    Ok(Reserved {
        units,
        taken,
        key_slot,
        key_budget_left,
    })
}

/// What a call would meet: the refusal, if any, of everything that would refuse it just now.
pub(crate) struct Foresight {
    pub(crate) terms: Arc<Terms>,
    pub(crate) refused: Option<Refused>,
    /// What is left of the key's own budget before the call, in minor units.
    pub(crate) key_budget_left: Option<i64>,
    left: Left,
}

/// What came of taking a place of the plan's overall rate limit: what is left of all limits, and who else would refuse.
pub(crate) type Place = Result<(Left, Option<Box<Limited>>), Box<Limited>>;

/// Looks ahead without making the call: a place of the plan's overall rate limit was taken, so that asking has a bound, and
/// nothing else is.
pub(crate) fn foresee(request: &Request<'_>, place: Place, now: Time) -> Result<Foresight, Refused> {
    let route = request.route;
    let terms = request.caller.terms(now);
    let limited = |limited: Box<rate::Limited>| {
        let refused = over_rate(&limited);
        with_limits(refused, &terms, route, &limited.left, now)
    };
    let (left, others) = place.map_err(limited)?;
    let refused = permitted(request, &terms).err();
    let refused = refused.or_else(|| others.map(|l| over_rate(&l)));
    let refused = refused.or_else(|| {
        let quota = terms
            .limit(route.meter)
            .map_or(Ok(()), |limit| peek_limit(request, &terms, limit, now));
        quota.and_then(|()| peek_key(request, &terms, now).map(drop)).err()
    });
    Ok(Foresight {
        key_budget_left: key_budget_left(request.caller, route, &terms),
        terms,
        refused,
        left,
    })
}

/// Refuses what a meter's quota or the spend cap would not let through just now.
pub(crate) fn peek_limit(request: &Request<'_>, terms: &Terms, limit: &Limit, now: Time) -> Result<(), Refused> {
    let over = |over| over_limit(over, terms, limit, now);
    terms.peek(limit, request.route.weight, now).map_err(over)
}

/// Refuses what the key's owner would not let through just now; what would be left of the key's budget, in minor units.
pub(crate) fn peek_key(request: &Request<'_>, terms: &Terms, now: Time) -> Result<Option<i64>, Refused> {
    let Request { caller, route, .. } = *request;
    let Some(own) = caller.key.limit.as_ref() else {
        return Ok(None);
    };
    let peeked = own.peek(terms, route.meter, route.weight);
    peeked.map_err(|over| over_key(over, caller, terms, now))
}

impl Foresight {
    /// Says what is left.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap, route: &Route, now: Time) {
        add_limits(headers, &self.terms, route, &self.left, now);
    }
}

/// Whether the caller may use the route at all; the gates of the route that it does not pass.
fn permitted(request: &Request<'_>, terms: &Terms) -> Result<Closed, Refused> {
    check_state(terms)?;
    check_scope(request.caller, request.route)?;
    check_feature(request.caller, request.route, terms)?;
    check_gates(request, terms)
}

/// Refuses a key whose scope does not hold the route.
pub(crate) fn check_scope(caller: &Caller, route: &Route) -> Result<(), Refused> {
    if let Some(routes) = &caller.key.routes
        && !routes.contains(&route.number)
    {
        let detail = format!("This key's scope does not hold the route {}.", route.slug);
        return Err(Refused::new(Refusal::InsufficientScope, detail));
    }
    Ok(())
}

/// Whether a caller has a feature, from its plan or its token.
pub(crate) fn has(caller: &Caller, terms: &Terms, feature: &str) -> bool {
    terms.profile.features.iter().any(|f| f == feature) || caller.is_granted(feature)
}

/// Refuses a caller without the feature that the route needs.
pub(crate) fn check_feature(caller: &Caller, route: &Route, terms: &Terms) -> Result<(), Refused> {
    if let Some(feature) = &route.feature
        && !has(caller, terms, feature)
    {
        let detail = match terms.profile.feature_override(feature) {
            Some(o) => format!("The provider switched {feature} off for this account, {}.", o.until()),
            None => format!("The plan {} does not include {feature}.", terms.profile.plan),
        };
        return Err(Refused::new(Refusal::FeatureMissing, detail));
    }
    Ok(())
}

/// The gates of the route that the caller does not pass; refuses a request that needs one as a whole or by its query.
pub(crate) fn check_gates(request: &Request<'_>, terms: &Terms) -> Result<Closed, Refused> {
    let gates = &request.route.gates;
    let closed = gates.closed(|feature| has(request.caller, terms, feature), request.parts);
    gates.check_head(closed, request.parts.uri.query(), &terms.profile.plan)?;
    Ok(closed)
}

/// The refusal by one rate limit.
pub(crate) fn limited_by(limit: &rate::Peeked) -> Refused {
    Refused::new(Refusal::RateLimited, format!("At most {}.", limit.words)).retry_after(limit.rate.seconds())
}

fn over_rate(limited: &rate::Limited) -> Refused {
    Refused::new(Refusal::RateLimited, format!("At most {}.", limited.words))
        .violating(limited.violated.iter().map(String::as_str))
        .retry_after(limited.retry_s)
}

/// Seconds after which a caller may try again: a place may be free at any moment, and clients wait whole seconds.
const BUSY_RETRY_S: u64 = 1;

/// Seconds after which a call may be tried again that found no lease.
const LEASE_RETRY_S: u64 = 1;

/// The consumer's own bound is answered 429, as Stripe does: it has a hand in it. That of a route is not of its making:
/// 503, which the RateLimit draft calls a temporarily reduced capacity.
pub(crate) fn too_many(full: Full, terms: &Terms, route: &Route, now: Time) -> Refused {
    let refused = match full {
        Full::Plan(most) => {
            let detail = format!("At most {most} requests in flight. Wait for the answer to one of them.");
            let left = Left::none_in_flight(most);
            let refused = Refused::new(Refusal::TooManyAtOnce, detail).violating(["concurrency"]);
            with_limits(refused, terms, route, &left, now)
        }
        Full::Route(most) => {
            let detail = format!("At most {most} requests in flight to {}, of all callers.", route.slug);
            Refused::new(Refusal::RouteBusy, detail)
        }
    };
    refused.retry_after(BUSY_RETRY_S)
}

/// Refuses accounts that may do nothing.
pub(crate) fn check_state(terms: &Terms) -> Result<(), Refused> {
    let (refusal, detail) = match terms.suspended {
        None => return Ok(()),
        Some(Suspension::Payment) => (
            Refusal::PaymentRequired,
            "A payment failed. Pay it, and your keys work again.",
        ),
        Some(Suspension::Provider) => (
            Refusal::Suspended,
            "The provider suspended this account. Write to them.",
        ),
        Some(Suspension::NoPlan) => (Refusal::NoPlan, "There is no plan behind this key. Choose one."),
    };
    Err(Refused::new(refusal, detail))
}

/// The refusal by a meter's ceiling.
fn over_limit(over: Over, terms: &Terms, limit: &Limit, now: Time) -> Refused {
    match over {
        Over::Quota => {
            let seconds = u64::try_from(now.ms_until(terms.period.end) / 1000 + 1).unwrap_or(1);
            let grace = if limit.grace.is_some() {
                " The grace beyond them has ended."
            } else {
                ""
            };
            let (units, end) = (limit.quota.unwrap_or(0), terms.period.end);
            let detail = match terms.quota_override(limit.meter) {
                Some(_) => format!("The provider lets this account use {units} units until {end}.{grace}"),
                None => format!(
                    "The plan {} includes {units} units until {end}.{grace} A larger plan lifts this at once.",
                    terms.profile.plan
                ),
            };
            Refused::new(Refusal::QuotaExceeded, detail)
                .violating(["quota"])
                .retry_after(seconds)
        }
        Over::Cap => Refused::new(
            Refusal::SpendCapReached,
            format!(
                "Your own spend cap holds until {}. Raise it to go on.",
                terms.period.end
            ),
        ),
        Over::Lease => not_leased(),
    }
}

fn not_leased() -> Refused {
    let detail = "What is left of a limit is in use at other gateways, or cannot be asked for just now.";
    Refused::new(Refusal::LimitLeased, detail).retry_after(LEASE_RETRY_S)
}

/// The refusal by a limit of which the control plane says that it is used up, whatever is known here.
pub(crate) fn used_up(lack: &Lack, by: Limiting, caller: &Caller, terms: &Terms, now: Time) -> Refused {
    let own = caller.key.limit.as_ref().filter(|_| lack.subject.root.is_some());
    match (own, terms.limit(lack.subject.meter), by) {
        (Some(own), _, Limiting::Quota) => over_key(KeyOver::Quota(own.quota.unwrap_or(0)), caller, terms, now),
        (Some(own), _, Limiting::Money) => over_key(KeyOver::Budget(own.budget_minor.unwrap_or(0)), caller, terms, now),
        (None, Some(limit), Limiting::Quota) => over_limit(Over::Quota, terms, limit, now),
        (None, Some(limit), Limiting::Money) => over_limit(Over::Cap, terms, limit, now),
        (None, None, _) => not_leased(),
    }
}

/// The owner of a key limited it: its page has the number.
fn over_key(over: KeyOver, caller: &Caller, terms: &Terms, now: Time) -> Refused {
    let (key, end) = (caller.key.id, terms.period.end);
    let refused = match over {
        KeyOver::Quota(quota) => {
            let detail = format!("Your account lets the key {key} use {quota} units until {end}.");
            let seconds = u64::try_from(now.ms_until(end) / 1000 + 1).unwrap_or(1);
            let refused = Refused::new(Refusal::KeyQuotaReached, detail);
            refused.violating(["key-quota"]).retry_after(seconds)
        }
        KeyOver::Budget(minor) => {
            let currency = terms.profile.currency;
            let budget = Money { minor, currency };
            let detail = format!(
                "Your account gave the key {key} a budget of {budget} until {end}, and this call is beyond it."
            );
            Refused::new(Refusal::KeyBudgetReached, detail)
        }
        KeyOver::Lease => return not_leased(),
    };
    refused.mended_at(format!("/keys/{key}/limits"))
}

/// Units left of the meter's ceiling, and seconds until the period ends.
fn quota(terms: &Terms, meter: u16, now: Time) -> Option<(u64, i64)> {
    let limit = terms.limit(meter)?;
    let left = limit.ceiling()?.saturating_sub(limit.slot.taken());
    Some((left, now.ms_until(terms.period.end).max(0) / 1000))
}

fn policy(terms: &Terms, meter: u16) -> &HeaderValue {
    terms.limit(meter).map_or(&terms.profile.policy, |l| &l.policy)
}

fn with_limits(refused: Refused, terms: &Terms, route: &Route, left: &Left, now: Time) -> Refused {
    let plan = policy(terms, route.meter);
    refused
        .with(RATELIMIT_POLICY, left.policy(terms, route, plan))
        .with(RATELIMIT, left.header(terms, route, quota(terms, route.meter, now)))
}

fn add_limits(headers: &mut HeaderMap, terms: &Terms, route: &Route, left: &Left, now: Time) {
    let plan = policy(terms, route.meter);
    headers.insert(RATELIMIT_POLICY, left.policy(terms, route, plan));
    headers.insert(RATELIMIT, left.header(terms, route, quota(terms, route.meter, now)));
}

impl Admission {
    /// Takes over what all gateways together have left of the rate limits, or what they refuse.
    pub(crate) fn agreed(&mut self, left: Result<Left, Box<Limited>>, route: &Route, now: Time) -> Result<(), Refused> {
        match left {
            Ok(mut left) => {
                left.concurrency = self.left.concurrency;
                self.left = left;
                Ok(())
            }
            Err(limited) => Err(with_limits(over_rate(&limited), &self.terms, route, &limited.left, now)),
        }
    }

    /// Takes the units again, after more was leased.
    pub(crate) fn reserve_again(&mut self, caller: &Caller, route: &Route, now: Time) {
        match reserve(caller, route, &self.terms, route.weight, now) {
            Ok(reserved) => {
                (self.reserved, self.unpaid, self.lack) = (reserved, None, None);
            }
            Err(Unpaid { refused, lack }) => self.refuse(refused, lack, route, now),
        }
    }

    /// The units are not given.
    pub(crate) fn refuse(&mut self, refused: Refused, lack: Option<Box<Lack>>, route: &Route, now: Time) {
        let refused = with_limits(refused, &self.terms, route, &self.left, now);
        (self.unpaid, self.lack) = (Some(Box::new(refused)), lack);
    }

    /// Says what is left, and what the call cost, after the answer was counted or not.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap, route: &Route, counted: bool, now: Time) {
        add_limits(headers, &self.terms, route, &self.left, now);
        let (units, taken) = (if counted { self.reserved.units } else { 0 }, self.reserved.taken);
        let key_budget_left = self.reserved.key_budget_left;
        cost::say(headers, &self.terms, route.meter, (taken, units), key_budget_left);
        let limit = self.terms.limit(route.meter);
        if let Some((units, end)) = limit.and_then(|l| l.grace_left(taken, self.terms.period, now)) {
            headers.insert(TURNPIKE_GRACE, headers::grace(units, end));
        }
    }
}
