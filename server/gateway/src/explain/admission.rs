//! Whether the caller may make the request now.

use super::Verdict;
use super::ask::Knowledge;
use super::notes::Notes;
use crate::account::Terms;
use crate::admit::{self, Request};
use crate::authenticate::Arrival;
use crate::body;
use crate::cache::Ask;
use crate::config::Limits;
use crate::cost;
use crate::feature_gates::{BODY_MOST, Closed};
use crate::flight::Flight;
use crate::grpc;
use crate::once;
use crate::rate::{self, Stand};
use crate::route::Route;
use crate::sharing::Sharing;
use crate::tables::Tables;
use crate::tunnel;
use crate::upload::Bounds;
use crate::upstream::BodyLength;
use model::Money;
use model::overrides::Override;

/// Phase three.
pub(super) fn ask(
    notes: &mut Notes,
    knowledge: &Knowledge<'_>,
    asked: &Request<'_>,
    (terms, arrival): (&Terms, Arrival),
    length: BodyLength,
) {
    let (route, profile, tables) = (asked.route, &terms.profile, knowledge.known.tables);
    notes.says(
        "plan",
        format!(
            "{}, period {} to {}.",
            profile.plan, terms.period.start, terms.period.end
        ),
    );
    let bounds = Bounds::of(route, grpc::is_call(asked.parts));
    bound(notes, (bounds, knowledge.limits), length);
    notes.decided("account", admit::check_state(terms), "Not suspended.");
    notes.decided(
        "scope",
        admit::check_scope(asked.caller, route),
        "The key may use this route.",
    );
    let feature = match &route.feature {
        None => "The route needs none.".to_owned(),
        Some(feature) => format!("The caller has {feature}."),
    };
    notes.decided("feature", admit::check_feature(asked.caller, route, terms), feature);
    let switched = route.feature.as_ref().and_then(|f| profile.feature_override(f));
    if let Some(o) = switched {
        notes.says("feature", format!("{} switches it, whatever the plan says.", by(o)));
    }
    let gates = admit::check_gates(asked, terms);
    let closed = gates.as_ref().is_ok_and(|closed| closed.any());
    let open = match closed {
        true => "Some are closed: fields they guard are refused in the body, or left out of the answer.",
        false => "None is closed.",
    };
    let closed = notes.decided("feature gates", gates, open).unwrap_or_default();
    concurrency(notes, tables, asked, (terms, arrival));
    rates(notes, knowledge, asked, (terms, arrival));
    quota(notes, asked, terms, arrival);
    key_limits(notes, asked, terms, arrival);
    whole_body(notes, asked, closed, length);
    kept(notes, asked, length);
    repeats(notes, asked, length);
    waiting(notes, knowledge, route, terms);
}

/// The bound on the body, which comes before anything is counted.
fn bound(notes: &mut Notes, (bounds, limits): (Bounds, &Limits), length: BodyLength) {
    let most = bounds.most(limits);
    let most = most.map_or("as many bytes as it likes".to_owned(), |most| {
        format!("at most {most} bytes")
    });
    match length {
        BodyLength::Absent => notes.says("body", format!("None; one may have {most}.")),
        BodyLength::Chunked => notes.says("body", format!("It may have {most}, counted as they come.")),
        BodyLength::Exact(bytes) => {
            let detail = format!("{bytes} bytes; it may have {most}.");
            notes.decided("body", bounds.check(length, limits), detail);
        }
    }
}

fn concurrency(notes: &mut Notes, tables: &Tables, asked: &Request<'_>, (terms, arrival): (&Terms, Arrival)) {
    let (route, profile) = (asked.route, &terms.profile);
    let account = &asked.caller.key.account;
    let bounds = (&tables.flights, route.number, route.concurrency);
    let (fits, [own, all]) = Flight::peek((account, profile.concurrency), bounds);
    let fits = fits.map_err(|full| admit::too_many(full, terms, route, arrival.now));
    let most = |bound: Option<u32>| bound.map_or("no bound".to_owned(), |b| format!("at most {b}"));
    let detail = match (profile.concurrency, route.concurrency) {
        (None, None) => "Neither the plan nor the route has a bound.".to_owned(),
        (plan, of_route) => format!(
            "The consumer has {own} in flight ({}), the route {all} ({}).",
            most(plan),
            most(of_route)
        ),
    };
    notes.decided("concurrency", fits, detail);
}

/// The rate limits; where an override changes one, it says so, whatever the limit says.
fn rates(notes: &mut Notes, knowledge: &Knowledge<'_>, asked: &Request<'_>, (terms, arrival): (&Terms, Arrival)) {
    let at = (knowledge.stand(), arrival.now_ns);
    let limits = rate::peek(&knowledge.known.tables.arrivals, &asked.asked(), terms, at);
    let names = limits.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
    for limit in limits {
        let about = format!("rate limit {}", limit.name);
        let (rate, seconds) = (limit.rate, limit.rate.seconds());
        if rate.allowed {
            let detail = format!(
                "At most {}; {} left after this one, whole again in {seconds} s.",
                limit.words, rate.remaining
            );
            notes.add(&about, Verdict::Passes, detail);
        } else {
            let refused = admit::limited_by(&limit);
            notes.decided::<()>(&about, Err(refused), "");
        }
        let own = terms.profile.limit_override(&limit.name).filter(|_| limit.of_plan);
        if let Some((o, told)) = own {
            notes.says(&about, format!("{}; the plan says {told}.", by(o)));
        }
    }
    if let Some(sharing) = knowledge.sharing {
        shared(notes, sharing, at.0, &names);
    }
}

/// Which limits all gateways share; nothing is asked.
fn shared(notes: &mut Notes, sharing: &Sharing, stand: Stand, names: &str) {
    let url = sharing.url();
    let detail = match stand {
        Stand::Apart(gateways) => format!(
            "{names}: {url} does not answer, so this gateway holds its part of each by itself, as one of {gateways}."
        ),
        Stand::Alone | Stand::Together => format!(
            "{names}: counted for all gateways in {url}, which is asked about a call and was not now. What is left is what \
             was last heard here; it may be less."
        ),
    };
    notes.says("shared rate limits", detail);
}

/// `The override ovr_... (until 2026-12-24T00:00:00Z)`
fn by(o: &Override) -> String {
    format!("The override {} ({})", o.id, o.until())
}

fn quota(notes: &mut Notes, asked: &Request<'_>, terms: &Terms, arrival: Arrival) {
    let route = asked.route;
    let Some(limit) = terms.limit(route.meter) else {
        notes.says(
            "quota",
            "The plan does not mention the route's meter: recorded, neither limited nor priced.",
        );
        return;
    };
    let taken = limit.slot.taken();
    let fits = admit::peek_limit(asked, terms, limit, arrival.now);
    let most = limit
        .quota
        .map_or("no hard quota".to_owned(), |q| format!("a hard quota of {q}"));
    let cap = cost::budget_left(terms, None).map_or("no spend cap".to_owned(), |left| {
        format!("a spend cap that leaves {left}")
    });
    notes.decided(
        "quota and spend cap",
        fits,
        format!("{taken} units taken of {most}; {cap}."),
    );
    if asked.caller.key.account.desk.is_some() && limit.leased {
        let room = limit.slot.held_so_far().map_or(0, |held| held.room(taken));
        let told = format!("{room} more units are leased to this gateway; beyond them it asks.");
        notes.says("lease", told);
    }
    if let Some((o, plan)) = terms.quota_override(route.meter) {
        let told = format!("{}; the plan says {} ({}).", by(o), plan.units, plan.kind);
        notes.says("quota", told);
    }
}

/// What the key's owner set.
fn key_limits(notes: &mut Notes, asked: &Request<'_>, terms: &Terms, arrival: Arrival) {
    let Some(own) = asked.caller.key.limit.as_ref() else {
        return;
    };
    let currency = terms.profile.currency;
    let money = |minor| Money { minor, currency };
    let decision = admit::peek_key(asked, terms, arrival.now);
    let used = own.units(terms);
    let quota = own
        .quota
        .map_or("no quota of its own".to_owned(), |q| format!("its own quota of {q}"));
    let left = decision.as_ref().ok().copied().flatten();
    let budget = match own.budget_minor.zip(left) {
        Some((budget, left)) => format!(
            "{} left of its budget of {} after this call",
            money(left),
            money(budget)
        ),
        None => "no budget of its own".to_owned(),
    };
    notes.decided(
        "key's own limits",
        decision,
        format!("{used} units taken of {quota}; {budget}."),
    );
}

/// What reads the body before anything is forwarded.
fn whole_body(notes: &mut Notes, asked: &Request<'_>, closed: Closed, length: BodyLength) {
    if length == BodyLength::Absent || !closed.any() {
        return;
    }
    let reads = asked.route.gates.reads_body(closed, &asked.parts.headers);
    let reads = reads.and_then(|reads| {
        let most = if reads { BODY_MOST } else { u64::MAX };
        body::check_length(length, most).map(|()| reads)
    });
    let detail = match reads {
        Ok(true) => format!("It is read whole, at most {BODY_MOST} bytes, and what needs a feature in it is refused."),
        _ => "The closed gates guard nothing in it.".to_owned(),
    };
    notes.decided("body and feature gates", reads, detail);
}

/// Whether its answer may be one that is kept.
fn kept(notes: &mut Notes, asked: &Request<'_>, length: BodyLength) {
    if asked.route.cache.is_none() {
        return;
    }
    let detail = match Ask::of(asked.parts, length != BodyLength::Absent) {
        ask if ask.goes_by().is_some() => "The request goes by the answers that are kept.",
        ask if ask.wants_only_kept() => {
            "The answer is one that is kept; when none is, it is refused with 504 not-cached. Whether one is was not looked at."
        }
        _ => "The answer may be one that is kept; what follows is a request that fetches one to keep.",
    };
    notes.says("cache", detail);
}

/// The key that tells repeats.
fn repeats(notes: &mut Notes, asked: &Request<'_>, length: BodyLength) {
    let policy = asked.route.idempotency.as_ref();
    let Some(policy) = policy.filter(|_| !tunnel::is_asked_for(asked.parts)) else {
        return;
    };
    let key = once::key(policy, asked.parts);
    let detail = match key {
        Ok(Some(_)) => "It is done once. Whether that key was used before was not looked at.",
        _ => "It has none, and is done like others.",
    };
    let key = notes.decided("idempotency key", key, detail).flatten();
    if key.is_some() && length != BodyLength::Absent {
        let read = body::check_length(length, once::BODY_MOST);
        let detail = format!("It is read whole to be compared, at most {} bytes.", once::BODY_MOST);
        notes.decided("body and idempotency key", read, detail);
    }
}

fn waiting(notes: &mut Notes, knowledge: &Knowledge<'_>, route: &Route, terms: &Terms) {
    let priority = terms.profile.priority;
    if let Some(gate) = knowledge.known.tables.gate(route.upstream.number) {
        let (in_flight, waiting) = gate.counts();
        notes.says(
            "place at the upstream",
            format!("{in_flight} in flight, {waiting} wait; priority {priority}."),
        );
    }
    if knowledge.live {
        let counts = knowledge.gates.iter().map(|g| g.counts());
        let (in_flight, waiting) = counts.fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
        notes.says(
            "place on a thread",
            format!("{in_flight} in flight, {waiting} wait; priority {priority}."),
        );
    }
}
