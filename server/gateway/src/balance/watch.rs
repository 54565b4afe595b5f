//! What one task per gateway does for all targets: asks them whether they are well, and looks their names up again.

use super::Target;
use super::dice::Dice;
use crate::route::{Routes, Upstream};
use crate::stop::Stop;
use crate::upstream;
use crate::worker::Shared;
use model::policy::Health;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest time until a new routing table is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most checks and look-ups under way at a time.
const AT_ONCE_MOST: usize = 256;

/// What is known of a target's checks.
struct Checked {
    due: Instant,
    asked: bool,
    /// Answers in a row that say other than what holds.
    against: u16,
}

/// What a task came back with.
enum Done {
    Checked(u64, bool),
    Refreshed,
}

/// Runs until told to stop.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<Option<Stop>>) {
    let dice = Dice::new(shared.tables.seed.load(Ordering::Relaxed));
    let mut watcher = Watcher {
        checks: HashMap::new(),
        refresh_due: Instant::now(),
        tasks: JoinSet::new(),
        dice,
    };
    loop {
        let next = match shared.tables.routes.load_full() {
            Some(routes) => watcher.start_what_is_due(&shared, &routes),
            None => Instant::now() + LOOK_EVERY,
        };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            Some(done) = watcher.tasks.join_next() => {
                if let (Ok(Done::Checked(id, well)), Some(routes)) = (done, shared.tables.routes.load_full()) {
                    watcher.take(&routes, id, well);
                }
            }
            _ = stop.changed() => return,
        }
    }
}

struct Watcher {
    checks: HashMap<u64, Checked>,
    refresh_due: Instant,
    tasks: JoinSet<Done>,
    dice: Dice,
}

/// Every target with its upstream and its place there.
fn targets(routes: &Routes) -> impl Iterator<Item = (&Arc<Upstream>, &Arc<Target>)> {
    let upstreams = routes.upstreams.values();
    upstreams.flat_map(|u| u.balance.members.iter().map(move |m| (u, &m.target)))
}

impl Watcher {
    /// Starts checks and look-ups whose time has come; when the next one's does.
    fn start_what_is_due(&mut self, shared: &Arc<Shared>, routes: &Routes) -> Instant {
        let now = Instant::now();
        let mut next = now + LOOK_EVERY;
        let refresh = now >= self.refresh_due;
        if refresh {
            self.refresh_due = now + shared.limits.upstream_refresh;
            let shared = Arc::clone(shared);
            self.tasks.spawn_blocking(move || {
                shared.tables.reload_files();
                Done::Refreshed
            });
        }
        let known: std::collections::HashSet<u64> = targets(routes).map(|(_, t)| t.id).collect();
        self.checks.retain(|id, _| known.contains(id));
        for (upstream, target) in targets(routes) {
            if refresh && target.addresses.is_name() && self.tasks.len() < AT_ONCE_MOST {
                self.tasks.spawn(look_up(Arc::clone(target)));
            }
            let Some(health) = &upstream.health else { continue };
            let interval = Duration::from_millis(u64::from(health.interval_ms));
            // The first checks are spread over an interval, so that not all targets are asked in one instant.
            let drawn = Duration::from_millis(self.dice.below(u64::from(health.interval_ms)));
            let checked = self.checks.entry(target.id).or_insert_with(|| Checked {
                due: now + drawn,
                asked: false,
                against: 0,
            });
            if !checked.asked && now >= checked.due && self.tasks.len() < AT_ONCE_MOST {
                checked.asked = true;
                checked.due = now + interval;
                self.tasks
                    .spawn(ask(Arc::clone(upstream), Arc::clone(target), health.clone()));
            }
            if !checked.asked {
                next = next.min(checked.due.max(now + Duration::from_millis(1)));
            }
        }
        next
    }

    /// Takes the outcome of a check: enough of them in a row change what holds.
    fn take(&mut self, routes: &Routes, id: u64, well: bool) {
        let Some(checked) = self.checks.get_mut(&id) else {
            return;
        };
        checked.asked = false;
        let Some((upstream, target)) = targets(routes).find(|(_, t)| t.id == id) else {
            return;
        };
        let Some(health) = &upstream.health else { return };
        if target.healthy.load(Ordering::Relaxed) == well {
            checked.against = 0;
            return;
        }
        checked.against += 1;
        let needed = if well {
            health.healthy_after
        } else {
            health.unhealthy_after
        };
        if checked.against >= needed {
            checked.against = 0;
            target.healthy.store(well, Ordering::Relaxed);
            let url = target.identity.url.as_str();
            if well {
                tracing::info!(upstream = upstream.slug, target = url, "the target is well again");
            } else {
                tracing::warn!(upstream = upstream.slug, target = url, "the target is ill");
            }
        }
    }
}

async fn look_up(target: Arc<Target>) -> Done {
    if let Err(error) = target.addresses.resolve().await {
        tracing::warn!(target = target.identity.url.as_str(), %error, "the name cannot be looked up");
    }
    Done::Refreshed
}

async fn ask(upstream: Arc<Upstream>, target: Arc<Target>, health: Health) -> Done {
    let well = match upstream::check(&upstream, &target, &health).await {
        Ok(status) if health.statuses.is_empty() => (200..300).contains(&status),
        Ok(status) => health.statuses.contains(&status),
        Err(error) => {
            tracing::debug!(upstream = upstream.slug, %error, "no answer to a check");
            false
        }
    };
    Done::Checked(target.id, well)
}
