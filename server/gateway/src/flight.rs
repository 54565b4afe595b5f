//! Requests in flight, of a consumer and on a route: counted from admission to the end of the answer's body.
//!
//! A count is given back by dropping what was taken ([`Flight`]), so it is given back however a request ends. It is kept
//! only where a bound holds; a request that began before there was one does not count.

use crate::account::Account;
use crate::gate::Passes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts of all routes, by their number: a change of the routing table leaves them alone.
#[derive(Debug, Clone)]
pub(crate) struct RouteFlights(Arc<[AtomicU32]>);

/// A place among the requests in flight. Dropped, it is given back.
#[derive(Default)]
pub(crate) struct Flight {
    account: Option<Arc<Account>>,
    route: Option<(RouteFlights, u16)>,
}

/// All places of a request that was let in. Dropped, they are given back.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) flight: Flight,
    pub(crate) passes: Passes,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The plan's, by consumer.
    Plan(u32),
    /// The route's, of all callers.
    Route(u32),
}

/// Whether one more fits.
fn fits(count: u32, most: u32) -> bool {
    count < most
}

/// Takes a place below `most`; how many are left then.
fn take(count: &AtomicU32, most: u32) -> Option<u32> {
    let one_more = |n: u32| fits(n, most).then_some(n + 1);
    let before = count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        .ok()?;
    Some(most - before - 1)
}

impl RouteFlights {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self((0..=u16::MAX).map(|_| AtomicU32::new(0)).collect())
    }

    fn of(&self, route: u16) -> &AtomicU32 {
        &self.0[usize::from(route)]
    }
}

impl Flight {
    /// What [`Flight::take`] would say, with the requests in flight now: of the consumer, and on the route.
    pub(crate) fn peek(
        (account, plan_most): (&Account, Option<u32>),
        (routes, route, route_most): (&RouteFlights, u16, Option<u32>),
    ) -> (Result<(), Full>, [u32; 2]) {
        let counts = [account.in_flight(), routes.of(route)].map(|c| c.load(Ordering::Relaxed));
        let full = |count, most: &u32| !fits(count, *most);
        let verdict = match (plan_most, route_most) {
            (Some(most), _) if full(counts[0], &most) => Err(Full::Plan(most)),
            (_, Some(most)) if full(counts[1], &most) => Err(Full::Route(most)),
            _ => Ok(()),
        };
        (verdict, counts)
    }

    /// Takes a place where a bound holds: of the consumer (how many it has left then), and on the route.
    pub(crate) fn take(
        (account, plan_most): (&Arc<Account>, Option<u32>),
        (routes, route, route_most): (&RouteFlights, u16, Option<u32>),
    ) -> Result<(Self, Option<u32>), Full> {
        let mut flight = Self::default();
        let mut left = None;
        if let Some(most) = plan_most {
            left = Some(take(account.in_flight(), most).ok_or(Full::Plan(most))?);
            flight.account = Some(Arc::clone(account));
        }
        if let Some(most) = route_most {
            take(routes.of(route), most).ok_or(Full::Route(most))?;
            flight.route = Some((routes.clone(), route));
        }
        Ok((flight, left))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.in_flight().fetch_sub(1, Ordering::Relaxed);
        }
        if let Some((routes, route)) = &self.route {
            routes.of(*route).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ConsumerId;
    use model::access::Environment;

    #[test]
    fn what_a_full_route_refuses_takes_no_place_of_the_consumer() {
        let account = Arc::new(Account::unknown(ConsumerId::from_bits(1), Environment::Live));
        let routes = RouteFlights::new();
        let take = |plan, route| Flight::take((&account, plan), (&routes, 7, route));
        let (one, left) = take(Some(3), Some(1)).unwrap_or_else(|_| panic!("refused"));
        assert_eq!(left, Some(2));
        for _ in 0..5 {
            assert_eq!(take(Some(3), Some(1)).err(), Some(Full::Route(1)));
        }
        let (two, left) = take(Some(2), None).unwrap_or_else(|_| panic!("refused"));
        assert_eq!(left, Some(0));
        assert_eq!(
            take(Some(2), None).err(),
            Some(Full::Plan(2)),
            "a smaller bound counts the same requests"
        );
        drop((one, two));
        assert_eq!(account.in_flight().load(Ordering::Relaxed), 0);
        assert!(take(Some(1), Some(1)).is_ok());
    }
}
