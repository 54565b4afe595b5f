//! Numbers for the names of plans: a counter finds its place by a number, and how many there are is bounded.

use std::sync::{Mutex, PoisonError};

/// Most plans counted apart.
const PLANS_MOST: usize = 500;
/// The number that later ones share.
const OTHER: u16 = u16::MAX;

/// Names by number, from 1; kept for the life of the process, so that a plan keeps its number when it comes back.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A plan's number; 0 where there is no plan. Called when terms change, never for a request.
pub(crate) fn number(plan: &str) -> u16 {
    if plan.is_empty() {
        return 0;
    }
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let place = names.iter().position(|n| n == plan).or_else(|| {
        let free = names.len() < PLANS_MOST;
        free.then(|| {
            names.push(plan.to_owned());
            names.len() - 1
        })
    });
    place.and_then(|p| u16::try_from(p + 1).ok()).unwrap_or(OTHER)
}

/// All names, as number 1 and following.
pub(super) fn names() -> Vec<String> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The name for a number.
pub(super) fn name(names: &[String], number: u16) -> &str {
    match usize::from(number).checked_sub(1) {
        None => "",
        Some(place) => names.get(place).map_or("other", String::as_str),
    }
}
