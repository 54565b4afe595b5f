//! `turnpike serve`: opens the database, then starts gateway, portal, worker and the operators' listener, and ends
//! them in order at SIGTERM or Ctrl-C: not ready, no new connections, requests in flight, ledger, database.
//! Another process can take over without a gap ([`crate::handover`]).

use crate::bridge::Bridge;
use crate::clock::{MachineClock, MachineRandom};
use crate::config::{Portal, ServeRole, Serving, Storage};
use crate::database::{Database, migrate};
use crate::handover::{self, Heir, Named, READY_LIMIT, Successor};
use crate::listeners::{self, Doors};
use crate::operations::Operations;
use crate::output::Failure;
use crate::{assets, logs, machine, notify, operations, slots};
use app::site::Site;
use axum::Router;
use clap::ValueEnum as _;
use domain::{Domain, jobs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Workers on the job queue: one may wait for Stripe while the other sends mail.
const JOB_WORKERS: usize = 3;
/// How often it is looked whether the operators' listener has let go of the gateway.
const RELEASE_POLL: Duration = Duration::from_millis(10);
/// How long idle connections of the portal stay for one more request after another process took over.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// Pause between two tries to prepare the database while it is away.
const PREPARE_RETRY: Duration = Duration::from_secs(2);

/// Runs until told to stop, or until another process took over.
pub(crate) async fn serve(storage: Storage, portal: Portal, serving: Serving) -> Result<(), Failure> {
    logs::start(serving.log_format, &serving.log)?;
    let settings = portal.settings(&storage.data_dir)?;
    serving.trace()?;
    serving.redis()?;
    let role = serving.role.to_possible_value();
    let role = role.as_ref().map_or("all", |r| r.get_name());
    let mut heir = match serving.take_over {
        true => Heir::ask(&storage.data_dir, role)?,
        false => None,
    };
    let database = Database::open(&storage, true).await?;
    let clock = MachineClock::start(portal.clock_offset_file.clone());
    let domain = crate::commands::domain(&database, &portal, settings, clock.clone())?;
    tokio::spawn(machine::watch(domain.clone(), clock.clone(), storage.data_dir.clone()));
    let (stop, doors) = (CancellationToken::new(), Doors::default());
    // The gateway starts from its own copy: it waits for no database, least of all for one that is away.
    let (tried, migration_tried) = watch::channel(false);
    let gateway = match serving.role {
        ServeRole::All | ServeRole::Gateway => {
            let bridge = Bridge::start(domain.clone(), migration_tried.clone());
            Some(start_gateway(
                &storage,
                &serving,
                &domain,
                clock,
                bridge,
                heir.as_mut(),
            )?)
        }
        ServeRole::Portal | ServeRole::Worker => None,
    };
    tokio::spawn(prepare(
        database.pool.clone(),
        domain.clone(),
        serving.role,
        tried,
        stop.clone(),
    ));
    let draining = Arc::new(AtomicBool::new(false));
    let checks = Operations::new(&domain, &storage.data_dir, gateway.as_ref(), &draining);
    let (tasks, sockets) = open_listeners(checks, &portal, &serving, heir.as_mut(), &doors, &migration_tried)?;
    if let Some(heir) = heir {
        succeed(heir, gateway.clone(), migration_tried, &doors).await?;
    }
    doors.open.cancel();
    notify::ready();
    let successors = offer(&storage, role, &serving, sockets, gateway.as_ref());
    let successor = ending(successors).await?;
    tracing::info!(handed_over = successor.is_some(), "stopping");
    draining.store(true, Ordering::Relaxed);
    let drain = Duration::from_secs(serving.drain_seconds);
    let handed_over = successor.is_some();
    if handed_over {
        doors.closing.cancel();
    }
    let last_requests = tokio::time::sleep(if handed_over { LAST_REQUESTS } else { Duration::ZERO });
    tokio::join!(shut_down(gateway, drain, handed_over), last_requests);
    doors.closing.cancel();
    stop.cancel();
    doors.closed.cancel();
    join(tasks, drain).await;
    match successor {
        Some(_) => database.leave().await,
        None => database.close().await,
    }
    tracing::info!("stopped");
    Ok(())
}

async fn join(tasks: Vec<JoinHandle<()>>, drain: Duration) {
    for task in tasks {
        if tokio::time::timeout(drain, task).await.is_err() {
            tracing::warn!("requests were still open when the time to stop was up");
        }
    }
}

/// Binds the operators' listener and, where this is a portal, that; or takes the sockets of the process before this one.
fn open_listeners(
    checks: Operations,
    portal: &Portal,
    serving: &Serving,
    mut heir: Option<&mut Heir>,
    doors: &Doors,
    migration_tried: &watch::Receiver<bool>,
) -> Result<(Vec<JoinHandle<()>>, Vec<Named>), Failure> {
    let domain = checks.domain.clone();
    let mut open = |name, address, router| {
        let taken = heir.as_mut().and_then(|heir| heir.take(name, address).pop());
        listeners::listen((name, address), taken, router, doors)
    };
    let (serve, named) = open("operations", serving.operations_listen, operations::router(checks))?;
    let (mut tasks, mut sockets) = (vec![tokio::spawn(serve)], vec![named]);
    if matches!(serving.role, ServeRole::All | ServeRole::Portal) {
        let (serve, named) = open("portal", serving.portal_listen, portal_router(&domain, portal))?;
        let mut migration_tried = migration_tried.clone();
        sockets.push(named);
        tasks.push(tokio::spawn(async move {
            // Pages need their tables; who comes meanwhile waits in the socket's queue.
            let _ = migration_tried.wait_for(|tried| *tried).await;
            serve.await;
        }));
    }
    Ok((tasks, sockets))
}

/// Opens this process for clients in place of the one before it, once it knows everything and that one has stopped
/// accepting; meanwhile they wait in the kernel. What it counted to its end is asked for when it is gone.
async fn succeed(
    heir: Heir,
    gateway: Option<Arc<gateway::Running>>,
    mut migration_tried: watch::Receiver<bool>,
    doors: &Doors,
) -> Result<(), Failure> {
    let informed = async {
        // Who would say so is gone only when the program ends.
        let _ = migration_tried.wait_for(|tried| *tried).await;
        while gateway.as_ref().is_some_and(|g| !g.informed()) {
            tokio::time::sleep(RELEASE_POLL).await;
        }
    };
    if tokio::time::timeout(READY_LIMIT, informed).await.is_err() {
        return Err(Failure(
            "not ready in time, so the other process goes on: does the database answer?".to_owned(),
        ));
    }
    let lost = |e: String| Failure(format!("the other process did not let go: {e}"));
    let handed = tokio::task::spawn_blocking(|| heir.ready()).await;
    let predecessor = handed
        .map_err(|e| lost(e.to_string()))?
        .map_err(|e| lost(e.to_string()))?;
    doors.open.cancel();
    if let Some(gateway) = &gateway {
        gateway.open();
    }
    tracing::info!("took over");
    let weak = gateway.as_ref().map(Arc::downgrade);
    tokio::task::spawn_blocking(move || {
        predecessor.wait();
        tracing::info!("the process before this one is gone");
        if let Some(gateway) = weak.and_then(|g| g.upgrade()) {
            gateway.ask_all_anew();
        }
    });
    Ok(())
}

/// Waits for processes that take over; none ever comes where the data folder does not allow it.
fn offer(
    storage: &Storage,
    role: &str,
    serving: &Serving,
    sockets: Vec<Named>,
    gateway: Option<&Arc<gateway::Running>>,
) -> Option<mpsc::Receiver<Successor>> {
    let (weak, address) = (gateway.map(Arc::downgrade), serving.gateway_listen);
    let all = move || {
        let mut all = Vec::new();
        for one in &sockets {
            all.push(Named {
                socket: one.socket.try_clone()?,
                ..*one
            });
        }
        let gateway = weak.as_ref().and_then(std::sync::Weak::upgrade);
        let more = gateway.map_or_else(|| Ok(Vec::new()), |g| g.sockets())?;
        all.extend(more.into_iter().map(|socket| Named {
            name: "gateway",
            address,
            socket,
        }));
        Ok(all)
    };
    match handover::offer(&storage.data_dir, role, all) {
        Ok(successors) => Some(successors),
        Err(error) => {
            tracing::warn!(%error, "no process can take over from this one: a restart will have a gap");
            None
        }
    }
}

/// Waits for the end: told by a signal, or another process has taken over.
async fn ending(mut successors: Option<mpsc::Receiver<Successor>>) -> Result<Option<Successor>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut renew = signal(SignalKind::user_defined2()).map_err(signals)?;
    loop {
        let taken = async {
            match &mut successors {
                Some(successors) => successors.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => return Ok(None),
            _ = interrupt.recv() => return Ok(None),
            _ = renew.recv() => handover::start_successor(),
            successor = taken => match successor {
                Some(successor) => return Ok(Some(successor)),
                None => successors = None,
            },
        }
    }
}

/// The operators' listener holds the gateway for the length of an answer; then it is ours alone to end.
async fn shut_down(gateway: Option<Arc<gateway::Running>>, drain: Duration, handed_over: bool) {
    let Some(mut gateway) = gateway else { return };
    loop {
        match Arc::try_unwrap(gateway) {
            Ok(running) if handed_over => return running.hand_over(drain).await,
            Ok(running) => return running.shutdown(drain).await,
            Err(shared) => gateway = shared,
        }
        tokio::time::sleep(RELEASE_POLL).await;
    }
}

fn start_gateway(
    storage: &Storage,
    serving: &Serving,
    domain: &Domain,
    clock: Arc<MachineClock>,
    bridge: Arc<Bridge>,
    heir: Option<&mut Heir>,
) -> Result<Arc<gateway::Running>, Failure> {
    let folder = slots::choose(&storage.data_dir, heir.is_some())?;
    let mut config = serving.gateway(folder.clone())?;
    config.take_over = heir.map(|heir| {
        let sockets = heir.take("gateway", serving.gateway_listen);
        sockets.into_iter().map(Arc::new).collect()
    });
    let numbered = |(number, secret): &(i16, domain::settings::Secret)| {
        Some((u16::try_from(*number).ok()?, secret.expose().as_bytes().to_vec()))
    };
    let peppers = gateway::Peppers::new(domain.settings.peppers.iter().filter_map(numbered));
    let (limits, random) = (config.limits.clone(), Arc::new(MachineRandom));
    let running = gateway::Gateway::start(config, bridge.clone(), bridge.clone(), clock, random.clone(), peppers);
    let running = running.map_err(|e| Failure(format!("the gateway cannot start: {e}")))?;
    tracing::info!(address = %running.local_addr(), "gateway listens");
    let running = Arc::new(running);
    let rest = slots::Rest {
        data_dir: storage.data_dir.clone(),
        own: folder,
        limits,
        sink: bridge,
        domain: domain.clone(),
        random,
        gateway: Arc::downgrade(&running),
    };
    tokio::spawn(rest.ship());
    let hangup = signal(SignalKind::hangup()).map_err(signals)?;
    tokio::spawn(reopen_log(Arc::downgrade(&running), hangup));
    Ok(running)
}

/// Everything the portal answers: the table of pages, built files, and around them the layers that hold for all.
pub(crate) fn portal_router(domain: &Domain, portal: &Portal) -> Router {
    let site = Site {
        domain: domain.clone(),
        brand: portal.brand.as_str().into(),
        assets: Arc::new(assets::manifest()),
    };
    let (pages, _) = app::routes::table().split();
    let mut payment_pages: Vec<String> = app::security::STRIPE_ORIGINS.map(str::to_owned).into();
    payment_pages.extend(portal.stripe_url.as_deref().map(app::security::origin_of));
    let pages = app::security::protect(pages.with_state(site.clone()), &site, &payment_pages);
    Router::new()
        .route("/pkg/{*file}", axum::routing::get(assets::package))
        .route(
            "/favicon.svg",
            axum::routing::get(|headers: http::HeaderMap| async move { assets::public("favicon.svg", &headers) }),
        )
        .route(
            "/robots.txt",
            axum::routing::get(|headers: http::HeaderMap| async move { assets::public("robots.txt", &headers) }),
        )
        .merge(pages)
}

/// Migrates, makes sure that recurring jobs exist, and starts the workers. Tries until it works:
/// the gateway serves known keys meanwhile. Says through `tried` that the first try is over, whatever came of it.
async fn prepare(
    pool: sqlx::PgPool,
    domain: Domain,
    role: ServeRole,
    tried: watch::Sender<bool>,
    stop: CancellationToken,
) {
    while let Err(error) = prepare_once(&pool, &domain, &tried).await {
        tracing::warn!(cause = error.to_string(), "the database is not ready; trying again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PREPARE_RETRY) => {}
        }
    }
    match domain::bootstrap::setup_address(&domain).await {
        Ok(Some(address)) => {
            tracing::info!("no admin yet: make one with `turnpike admin create`, or once at {address}");
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(cause = error.chain(), "cannot look for the first admin"),
    }
    if matches!(role, ServeRole::All | ServeRole::Worker) {
        for _ in 0..JOB_WORKERS {
            tokio::spawn(registry().work(domain.clone(), stop.clone()));
        }
    }
}

async fn prepare_once(pool: &sqlx::PgPool, domain: &Domain, tried: &watch::Sender<bool>) -> Result<(), Failure> {
    let migrated = migrate(pool).await;
    tried.send_replace(true);
    migrated?;
    domain::recurring::ensure(domain).await?;
    Ok(())
}

/// Every kind of job.
pub(crate) fn registry() -> jobs::Registry {
    domain::recurring::register(jobs::Registry::default())
}

/// SIGHUP: log files were moved.
async fn reopen_log(gateway: Weak<gateway::Running>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        match gateway.upgrade() {
            Some(gateway) => gateway.reopen_access_log(),
            None => return,
        }
    }
}

fn signals(error: std::io::Error) -> Failure {
    Failure(format!("cannot wait for signals: {error}"))
}
