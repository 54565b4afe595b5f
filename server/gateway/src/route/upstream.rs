//! A service behind the gateway, as routes refer to it.

use super::{Routes, RoutingError};
use crate::balance::{Balance, CanaryRule, Identity, Member, Memory, Retry, Target, Trip};
use crate::upstream::TlsClient;
use http::header::{HeaderName, HeaderValue};
use model::policy::{self, Breaker, Health, IdentityForm, Protocol, Retries, ServiceUrl};
use model::snapshot::UpstreamRecord;
use std::sync::Arc;
use std::time::Duration;

/// A service behind the gateway, ready to be called.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) number: u16,
    pub(crate) slug: String,
    /// `Host` for it.
    pub(crate) host_header: HeaderValue,
    /// Longest wait for a connection, where the upstream has a bound of its own.
    pub(crate) connect: Option<Duration>,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
    /// Longest time for a request as a whole.
    pub(crate) total: Option<Duration>,
    pub(crate) protocol: Protocol,
    /// How it is told who is calling.
    pub(crate) identity: IdentityForm,
    /// How its targets are checked.
    pub(crate) health: Option<Health>,
    pub(crate) balance: Balance,
    /// The longest wait for a place, where requests in flight are bounded.
    pub(crate) max_wait: Option<Duration>,
    tls: Option<Arc<TlsClient>>,
}

/// What a new routing table takes over from the one before.
#[derive(Clone, Copy, Default)]
pub(crate) struct Heritage<'a> {
    pub(crate) before: Option<&'a Routes>,
    /// For chances that shall differ between gateways.
    pub(crate) seed: u64,
}

impl Upstream {
    /// From what the control plane says.
    pub(super) fn compile(u: &UpstreamRecord, heritage: Heritage<'_>) -> Result<Self, RoutingError> {
        let wrong = |why: &dyn std::fmt::Display| RoutingError::Upstream(u.slug.clone(), why.to_string());
        let url: ServiceUrl = u.url.parse().map_err(|e| wrong(&e))?;
        let before = heritage.before.and_then(|r| r.upstreams.get(&u.number));
        let host_header = HeaderValue::try_from(url.authority()).map_err(|_| wrong(&"no usable host"))?;
        let own = [policy::Target { url, weight: 1 }];
        let usual = if u.policy.targets.is_empty() {
            &own[..]
        } else {
            &u.policy.targets
        };
        let canary = u.policy.canary.as_ref().map_or(&[][..], |c| &c.targets);
        let tls = if usual.iter().chain(canary).any(|t| t.url.tls) {
            let before = before.and_then(|b| b.tls.as_ref());
            let policy = u.policy.tls.clone().unwrap_or_default();
            let made = TlsClient::new(&own[0].url.host, &policy, u.policy.protocol, before);
            Some(made.map_err(|e| wrong(&e))?)
        } else {
            None
        };
        let member = |target: &policy::Target, canary: bool| Member {
            target: keep_or_make(u, target, canary, tls.as_ref(), before),
            weight: u32::from(target.weight.max(1)),
        };
        let members = usual.iter().map(|t| member(t, false));
        let members: Box<[Member]> = members.chain(canary.iter().map(|t| member(t, true))).collect();
        let several = members.len() > 1;
        let trip = u.policy.breaker.as_ref().map(Trip::compile);
        let retry = match &u.policy.retries {
            None if several => Retry::compile(&Retries::default()),
            asked => asked.as_ref().and_then(Retry::compile),
        };
        let memory = before.map_or_else(
            || Arc::new(Memory::new(heritage.seed ^ u64::from(u.number))),
            |b| Arc::clone(&b.balance.memory),
        );
        let millis = |ms: u32| Duration::from_millis(u64::from(ms.max(1)));
        Ok(Self {
            number: u.number,
            slug: u.slug.clone(),
            host_header,
            connect: u.policy.connect_timeout_ms.map(millis),
            first_byte: millis(u.first_byte_timeout_ms),
            idle: millis(u.idle_timeout_ms),
            total: u.policy.total_timeout_ms.map(millis),
            protocol: u.policy.protocol,
            identity: u.policy.identity,
            health: u.policy.health.clone(),
            balance: Balance {
                members,
                usual: usual.len(),
                canary: u.policy.canary.as_ref().map(rule).transpose().map_err(|e| wrong(&e))?,
                trip_asked: trip.is_some(),
                trip: trip.or_else(|| several.then(|| Trip::compile(&Breaker::default()))),
                checked: u.policy.health.is_some(),
                retry,
                memory,
            },
            tls,
            max_wait: u.policy.max_in_flight.map(|_| u.policy.max_wait()),
        })
    }
}

impl Upstream {
    /// Whether files it was made from hold something else by now.
    pub(crate) fn is_stale(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_stale())
    }
}

/// The target of the table before, when it is still the same; else a new one.
fn keep_or_make(
    u: &UpstreamRecord,
    target: &policy::Target,
    canary: bool,
    tls: Option<&Arc<TlsClient>>,
    before: Option<&Arc<Upstream>>,
) -> Arc<Target> {
    let identity = Identity {
        upstream: u.number,
        canary,
        url: target.url.clone(),
        protocol: u.policy.protocol,
        tls: tls.filter(|_| target.url.tls).cloned(),
    };
    let mut known = before.iter().flat_map(|b| &b.balance.members);
    match known.find(|m| m.target.identity == identity) {
        Some(known) => Arc::clone(&known.target),
        None => Arc::new(Target::new(identity)),
    }
}

fn rule(canary: &policy::Canary) -> Result<CanaryRule, http::Error> {
    let value = canary.value.as_ref().map(HeaderValue::try_from).transpose()?;
    let header = canary.header.as_ref().map(HeaderName::try_from).transpose()?;
    Ok(CanaryRule {
        percent: u64::from(canary.percent),
        header: header.map(|name| (name, value)),
    })
}
