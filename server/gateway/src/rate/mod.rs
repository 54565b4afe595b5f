//! Rate limits: which hold for a request, and whether it passes them all.
//!
//! A request is first held against every limit without taking anything; only if all let it pass is a place taken from
//! each, and when another thread took the last place of one in between, the others are given back. So what one limit
//! refuses uses up none of the others. (Between taking and giving back, for some nanoseconds and only among requests of
//! different threads that race for a last place, another request may be refused that would have passed a moment later;
//! never is one let through too many.)
//!
//! Limits that count by consumer alone are kept in the account; the others in [`Arrivals`].
//!
//! Where all gateways share their limits ([`crate::sharing`]), what is kept here is what was last heard of them: an arrival
//! time never lies further ahead than the shared one. So what this refuses, the shared limit would refuse, too, and need
//! not be asked; what it lets pass is asked about in a [`Question`]. Nothing is taken here meanwhile, and so nothing has to
//! be given back. While there is nobody to ask, a part of each limit is taken here.

mod gcra;
mod name;
mod question;
mod table;

pub(crate) use gcra::{Gcra, Rate, SLACK_NS};
pub(crate) use name::Names;
pub(crate) use question::Question;
pub(crate) use table::Arrivals;

use crate::account::{Account, Terms};
use crate::route::Route;
use http::HeaderValue;
use model::ConsumerId;
use model::access::{Method, Partition};
use model::catalogue::RateLimit;
use model::overrides::{self, OVERALL, Override};
use model::policy::RateRule;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use table::Subject;

/// Limits that hold for one request without an allocation; more are possible.
const INLINE: usize = 6;

/// Room for a header's value in the making, in bytes: as much as three limits take.
const TEXT_BYTES: usize = 96;

/// A named limit, ready to be used.
#[derive(Debug, PartialEq)]
pub(crate) struct Rule {
    name: String,
    limit: Gcra,
    routes: Vec<String>,
    methods: Vec<Method>,
    by: Vec<Partition>,
    /// The route whose limit it is; none for a plan's.
    owner: Option<u16>,
    /// Its place among the arrival times of an account, when it counts by consumer alone.
    own: Option<usize>,
    /// What people are told: `500 requests a minute for GET`.
    words: String,
    /// Its part of `RateLimit-Policy`, with the comma before it.
    policy: String,
}

/// What a plan says beyond the overall limit.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    /// As they were told, without overrides, for the copy on disk.
    pub(crate) told: Vec<RateRule>,
}

/// Arrival times of the limits that count by one consumer alone.
#[derive(Default, Clone)]
pub(crate) struct Own(Vec<Arc<AtomicU64>>);

impl Rule {
    fn new(rule: &RateRule, owner: Option<u16>) -> Self {
        let limit = Gcra::from(rule);
        Self {
            name: rule.name.clone(),
            limit,
            routes: rule.routes.clone(),
            methods: rule.methods.clone(),
            by: rule.by.clone(),
            owner,
            own: None,
            words: rule.words(str::to_owned),
            policy: format!(", \"{}\";q={};w={}", rule.name, rule.burst(), limit.fill_s()),
        }
    }

    /// The limits of a route.
    pub(crate) fn of_route(rules: &[RateRule], route: u16) -> Vec<Self> {
        rules.iter().map(|r| Self::new(r, Some(route))).collect()
    }

    fn holds(&self, asked: &Asked<'_>) -> bool {
        let method = self.methods.is_empty() || asked.method.is_some_and(|m| m.is_among(&self.methods));
        method && (self.routes.is_empty() || self.routes.contains(&asked.route.slug))
    }

    fn subject<'a>(&'a self, asked: &Asked<'_>) -> Subject<'a> {
        let by = |p| self.by.contains(&p);
        let account = (self.owner.is_none() || by(Partition::Consumer))
            .then_some((asked.account.consumer, asked.account.environment));
        // Callers without a credential have nothing else to be told apart by.
        let stranger = asked.account.consumer == ConsumerId::ANONYMOUS && (account.is_some() || by(Partition::Key));
        Subject {
            owner: self.owner,
            limit: &self.name,
            account,
            key: by(Partition::Key).then_some(asked.key),
            route: by(Partition::Route).then_some(asked.route.number),
            method: asked.method.filter(|_| by(Partition::Method)).map(Method::counted),
            address: (by(Partition::Address) || stranger).then(|| table::address(asked.address)),
        }
    }
}

impl Rules {
    /// The limits of a plan.
    pub(crate) fn of_plan(told: &[RateRule]) -> Self {
        let mut rules: Vec<Rule> = told.iter().map(|r| Rule::new(r, None)).collect();
        let alone = |r: &&mut Rule| r.by.iter().all(|p| *p == Partition::Consumer);
        for (place, rule) in rules.iter_mut().filter(alone).enumerate() {
            rule.own = Some(place);
        }
        Self {
            rules,
            told: told.to_vec(),
        }
    }

    /// Those of a plan, with other numbers in some for one consumer.
    pub(crate) fn overridden(told: &[RateRule], own: &[Override]) -> Self {
        if own.is_empty() {
            return Self::of_plan(told);
        }
        let rules: Vec<RateRule> = told.iter().map(|rule| overrides::limit(rule, own.iter())).collect();
        Self {
            told: told.to_vec(),
            ..Self::of_plan(&rules)
        }
    }

    /// The arrival times for these limits; one that the first of `before` has a limit of the same name for goes on from
    /// where that is.
    pub(crate) fn own(&self, before: &[(&Self, &Own)]) -> Own {
        let arrival = |rule: &Rule| {
            let kept = before.iter().find_map(|(rules, kept)| {
                let twin = rules.rules.iter().find(|b| b.name == rule.name);
                twin.and_then(|b| kept.0.get(b.own?))
            });
            kept.map_or_else(Arc::default, Arc::clone)
        };
        Own(self.rules.iter().filter(|r| r.own.is_some()).map(arrival).collect())
    }
}

/// Who counts the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// This gateway, for itself.
    Alone,
    /// All gateways in one place, which is to be asked.
    Together,
    /// All of this many gateways, which cannot be asked just now: each its part.
    Apart(u32),
}

impl Stand {
    /// What holds at this gateway.
    fn part(self, limit: Gcra) -> Gcra {
        match self {
            Self::Alone | Self::Together => limit,
            Self::Apart(gateways) => limit.narrowed(gateways),
        }
    }

    /// Takes a place from each of these limits that were looked at, or from none. Where all gateways count, that is for them
    /// to do, and this only says whether all are known to let it pass.
    fn take(self, all: &mut [Held<'_>], now_ns: u64) -> Result<(), ()> {
        match self {
            Self::Alone => take_all(all, now_ns),
            Self::Apart(_) => take_part(all, now_ns),
            Self::Together => all_pass(all),
        }
    }
}

/// Who asks for what.
pub(crate) struct Asked<'a> {
    pub(crate) account: &'a Account,
    /// The key's lookup, or what stands for it.
    pub(crate) key: u64,
    pub(crate) route: &'a Route,
    pub(crate) method: Option<Method>,
    pub(crate) address: IpAddr,
}

/// Where an arrival time is kept.
enum Place<'a> {
    Own(&'a AtomicU64),
    Shared(Arc<AtomicU64>),
}

/// A limit that holds for a request, and what it says.
struct Held<'a> {
    /// With its number among the plan's and then the route's; none is the plan's overall limit.
    rule: Option<(usize, &'a Rule)>,
    limit: Gcra,
    place: Place<'a>,
    rate: Rate,
}

impl Held<'_> {
    fn arrival(&self) -> &AtomicU64 {
        match &self.place {
            Place::Own(arrival) => arrival,
            Place::Shared(arrival) => arrival,
        }
    }
    fn name(&self) -> &str {
        self.rule.map_or(OVERALL, |(_, r)| &r.name)
    }
}

type All<'a> = SmallVec<[Held<'a>; INLINE]>;

/// What is left of a limit.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// Its number among the plan's and then the route's; none is the plan's overall limit.
    rule: Option<usize>,
    remaining: u64,
    seconds: u64,
}

/// What is left of each limit that holds for a request.
#[derive(Debug)]
pub(crate) struct Left {
    /// The most restrictive first.
    rates: SmallVec<[Told; INLINE]>,
    /// The plan's bound on requests in flight, and how many more it allows.
    pub(crate) concurrency: Option<(u32, u32)>,
}

/// A refusal by one limit or several.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) left: Left,
    /// Names of the limits that refuse.
    pub(crate) violated: Vec<String>,
    /// What people are told of them.
    pub(crate) words: String,
    /// After this many seconds all of them let a request pass.
    pub(crate) retry_s: u64,
}

/// Takes a place from every limit that holds, or from none. Where all gateways count together it only looks whether they
/// are known to refuse.
pub(crate) fn take(
    arrivals: &Arrivals,
    asked: &Asked<'_>,
    terms: &Terms,
    (stand, now_ns): (Stand, u64),
) -> Result<Left, Box<Limited>> {
    let mut all = holding(arrivals, asked, terms, (stand, now_ns));
    let taken = stand.take(&mut all, now_ns);
    settle(&mut all, taken, terms)
}

/// What is left when a place was taken from each limit, or from none.
fn settle(all: &mut [Held<'_>], taken: Result<(), ()>, terms: &Terms) -> Result<Left, Box<Limited>> {
    if taken.is_ok() {
        return Ok(Left::of(all));
    }
    for held in all.iter_mut().filter(|h| h.rate.allowed) {
        held.rate = held.limit.without(held.rate);
    }
    Err(Box::new(limited(all, terms)))
}

/// Takes a place from the plan's overall limit alone, and says who else would refuse. Where all gateways count together it
/// only looks.
pub(crate) fn ask(
    arrivals: &Arrivals,
    asked: &Asked<'_>,
    terms: &Terms,
    (stand, now_ns): (Stand, u64),
) -> Result<(Left, Option<Box<Limited>>), Box<Limited>> {
    let mut all = holding(arrivals, asked, terms, (stand, now_ns));
    let overall = &mut all[..1];
    if stand.take(overall, now_ns).is_err() {
        return Err(Box::new(limited(overall, terms)));
    }
    Ok(foreseen(&all, terms))
}

/// What is left, and who would refuse.
fn foreseen(all: &[Held<'_>], terms: &Terms) -> (Left, Option<Box<Limited>>) {
    let refused = all.iter().any(|h| !h.rate.allowed);
    (Left::of(all), refused.then(|| Box::new(limited(all, terms))))
}

/// What a limit would say to one more request.
pub(crate) struct Peeked {
    pub(crate) name: String,
    /// Whether it is the plan's, and not the route's.
    pub(crate) of_plan: bool,
    /// What people are told of it.
    pub(crate) words: String,
    pub(crate) rate: Rate,
}

/// What every limit that holds would say, without taking anything.
pub(crate) fn peek(arrivals: &Arrivals, asked: &Asked<'_>, terms: &Terms, at: (Stand, u64)) -> Vec<Peeked> {
    let all = holding(arrivals, asked, terms, at);
    let peeked = |held: &Held<'_>| Peeked {
        name: held.name().to_owned(),
        of_plan: held.rule.is_none_or(|(_, rule)| rule.owner.is_none()),
        words: words(held, terms),
        rate: held.rate,
    };
    all.iter().map(peeked).collect()
}

fn words(held: &Held<'_>, terms: &Terms) -> String {
    let overall = terms.profile.rate_limit;
    match held.rule {
        Some((_, rule)) => rule.words.clone(),
        None => words_of(overall),
    }
}

/// What people are told of an overall limit.
pub(crate) fn words_of(limit: RateLimit) -> String {
    format!("{} requests a second, {} at once", limit.per_second, limit.burst)
}

fn rules<'a>(terms: &'a Terms, route: &'a Route) -> impl Iterator<Item = &'a Rule> {
    terms.profile.rules.rules.iter().chain(&route.limits)
}

fn holding<'a>(arrivals: &Arrivals, asked: &Asked<'a>, terms: &'a Terms, (stand, now_ns): (Stand, u64)) -> All<'a> {
    let held = |rule, limit: Gcra, place| {
        let mut held = Held {
            rule,
            limit: stand.part(limit),
            place,
            rate: Rate {
                allowed: false,
                remaining: 0,
                wait_ns: 0,
            },
        };
        held.rate = match stand {
            Stand::Together => held.limit.peek_heard(held.arrival(), now_ns),
            Stand::Alone | Stand::Apart(_) => held.limit.peek(held.arrival(), now_ns),
        };
        held
    };
    let mut all = All::new();
    all.push(held(None, terms.profile.rate, Place::Own(asked.account.arrival())));
    for (number, rule) in rules(terms, asked.route).enumerate() {
        if rule.holds(asked) {
            let place = match rule.own.and_then(|own| terms.own.0.get(own)) {
                Some(arrival) => Place::Own(arrival),
                None => Place::Shared(arrivals.at(&rule.subject(asked), now_ns)),
            };
            all.push(held(Some((number, rule)), rule.limit, place));
        }
    }
    all
}

fn all_pass(all: &[Held<'_>]) -> Result<(), ()> {
    all.iter().all(|h| h.rate.allowed).then_some(()).ok_or(())
}

/// All were looked at; takes from each when all let it pass.
fn take_all(all: &mut [Held<'_>], now_ns: u64) -> Result<(), ()> {
    all_pass(all)?;
    for i in 0..all.len() {
        all[i].rate = all[i].limit.take(all[i].arrival(), now_ns);
        if !all[i].rate.allowed {
            for taken in &all[..i] {
                taken.limit.give_back(taken.arrival());
            }
            return Err(());
        }
    }
    Ok(())
}

/// The same of the part of each that this gateway holds by itself.
fn take_part(all: &mut [Held<'_>], now_ns: u64) -> Result<(), ()> {
    let taken = take_all(all, now_ns);
    // Also what was given back at once: that may have unmade the mark of another request.
    for held in all.iter() {
        Gcra::part_from_others(held.arrival());
    }
    taken
}

fn limited(all: &[Held<'_>], terms: &Terms) -> Limited {
    let refusing = || all.iter().filter(|h| !h.rate.allowed);
    let words = |h: &Held<'_>| words(h, terms);
    Limited {
        left: Left::of(all),
        violated: refusing().map(|h| h.name().to_owned()).collect(),
        words: refusing().map(words).collect::<Vec<_>>().join("; "),
        retry_s: refusing().map(|h| h.rate.seconds()).max().unwrap_or(1),
    }
}

impl Left {
    /// Nothing is left of the plan's bound on requests in flight; the rate limits were not asked.
    pub(crate) fn none_in_flight(most: u32) -> Self {
        Self {
            rates: SmallVec::new(),
            concurrency: Some((most, 0)),
        }
    }

    fn of(all: &[Held<'_>]) -> Self {
        let told = |h: &Held<'_>| Told {
            rule: h.rule.map(|(number, _)| number),
            remaining: h.rate.remaining,
            seconds: h.rate.seconds(),
        };
        let mut left: SmallVec<[Told; INLINE]> = all.iter().map(told).collect();
        // Readers that look at one entry alone get the one that stops them first.
        left.sort_by_key(|t| (t.remaining, Reverse(t.seconds)));
        Self {
            rates: left,
            concurrency: None,
        }
    }

    /// `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11): what is left of each limit and of the period's quota, and
    /// the seconds until each is whole.
    pub(crate) fn header(&self, terms: &Terms, route: &Route, quota: Option<(u64, i64)>) -> HeaderValue {
        let mut text = Vec::with_capacity(TEXT_BYTES);
        if let Some((_, 0)) = self.concurrency {
            text.extend_from_slice(b"\"concurrency\";r=0");
        }
        let mut quota = quota.map(|(left, seconds)| (left, u64::try_from(seconds).unwrap_or(0)));
        for told in &self.rates {
            if let Some((left, seconds)) = quota.take_if(|q| q.0 < told.remaining) {
                entry(&mut text, "quota", left, seconds);
            }
            let rule = told.rule.and_then(|number| rules(terms, route).nth(number));
            let name = rule.map_or(OVERALL, |r| &r.name);
            entry(&mut text, name, told.remaining, told.seconds);
        }
        if let Some((left, seconds)) = quota {
            entry(&mut text, "quota", left, seconds);
        }
        if let Some((_, left @ 1..)) = self.concurrency {
            text.extend_from_slice(b", \"concurrency\";r=");
            text.extend_from_slice(itoa::Buffer::new().format(left).as_bytes());
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// `RateLimit-Policy`: what the plan says of every request, and each further limit that held for this one.
    pub(crate) fn policy(&self, terms: &Terms, route: &Route, plan: &HeaderValue) -> HeaderValue {
        if self.concurrency.is_none() && self.rates.iter().all(|t| t.rule.is_none()) {
            return plan.clone();
        }
        let mut text = Vec::with_capacity(TEXT_BYTES);
        text.extend_from_slice(plan.as_bytes());
        for (number, rule) in rules(terms, route).enumerate() {
            if self.rates.iter().any(|t| t.rule == Some(number)) {
                text.extend_from_slice(rule.policy.as_bytes());
            }
        }
        if let Some((most, _)) = self.concurrency {
            text.extend_from_slice(b", \"concurrency\";q=");
            text.extend_from_slice(itoa::Buffer::new().format(most).as_bytes());
            text.extend_from_slice(b";qu=\"concurrent-requests\"");
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| plan.clone())
    }
}

/// Adds an entry to a list.
fn entry(text: &mut Vec<u8>, name: &str, left: u64, seconds: u64) {
    let mut number = itoa::Buffer::new();
    text.extend_from_slice(if text.is_empty() { b"\"" } else { b", \"" });
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"\";r=");
    text.extend_from_slice(number.format(left).as_bytes());
    text.extend_from_slice(b";t=");
    text.extend_from_slice(number.format(seconds).as_bytes());
}

#[cfg(test)]
mod tests;
