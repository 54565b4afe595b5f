//! `turnpike serve`: opens the database, then starts gateway, portal, worker and the operators' listener, and ends
//! them in order at SIGTERM or Ctrl-C: not ready, no new connections, requests in flight, ledger, database.

use crate::bridge::Bridge;
use crate::clock::{MachineClock, MachineRandom};
use crate::config::{Portal, ServeRole, Serving, Storage};
use crate::database::{Database, migrate};
use crate::operations::Operations;
use crate::output::Failure;
use crate::{assets, logs, operations};
use app::site::Site;
use axum::Router;
use axum::serve::ListenerExt as _;
use domain::{Domain, jobs};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Workers on the job queue: one may wait for Stripe while the other sends mail.
const JOB_WORKERS: usize = 3;
/// How often it is looked whether the operators' listener has let go of the gateway.
const RELEASE_POLL: Duration = Duration::from_millis(10);
/// Pause between two tries to prepare the database while it is away.
const PREPARE_RETRY: Duration = Duration::from_secs(2);

/// Runs until told to stop.
pub(crate) async fn serve(storage: Storage, portal: Portal, serving: Serving) -> Result<(), Failure> {
    logs::start(serving.log_format, &serving.log)?;
    let settings = portal.settings(&storage.data_dir)?;
    let database = Database::open(&storage, true).await?;
    let clock = MachineClock::start(portal.clock_offset_file.clone());
    let domain = crate::commands::domain(&database, &portal, settings, clock.clone())?;
    let stop = CancellationToken::new();
    // The gateway starts from its own copy: it waits for no database, least of all for one that is away.
    let (tried, migration_tried) = watch::channel(false);
    let gateway = match serving.role {
        ServeRole::All | ServeRole::Gateway => {
            let bridge = Bridge::start(domain.clone(), migration_tried.clone());
            Some(start_gateway(&storage, &serving, &domain, clock, bridge)?)
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
    let checks = Operations {
        domain: domain.clone(),
        gateway: gateway.as_ref().map(Arc::downgrade),
        draining: draining.clone(),
    };
    let mut tasks = vec![tokio::spawn(
        listen(
            serving.operations_listen,
            "operations",
            operations::router(checks),
            stop.clone(),
        )
        .await?,
    )];
    if matches!(serving.role, ServeRole::All | ServeRole::Portal) {
        let router = portal_router(&domain, &portal);
        let serve = listen(serving.portal_listen, "portal", router, stop.clone()).await?;
        let mut migration_tried = migration_tried;
        tasks.push(tokio::spawn(async move {
            // Pages need their tables; who comes meanwhile waits in the socket's queue.
            let _ = migration_tried.wait_for(|tried| *tried).await;
            serve.await;
        }));
    }
    if let Some(gateway) = &gateway {
        tokio::spawn(reopen_log(
            Arc::downgrade(gateway),
            signal(SignalKind::hangup()).map_err(signals)?,
        ));
    }
    stop_signal().await?;
    tracing::info!("stopping");
    draining.store(true, Ordering::Relaxed);
    let drain = Duration::from_secs(serving.drain_seconds);
    if let Some(gateway) = gateway {
        shut_down(gateway, drain).await;
    }
    stop.cancel();
    for task in tasks {
        if tokio::time::timeout(drain, task).await.is_err() {
            tracing::warn!("requests were still open when the time to stop was up");
        }
    }
    database.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// The operators' listener holds the gateway for the length of an answer; then it is ours alone to end.
async fn shut_down(mut gateway: Arc<gateway::Running>, drain: Duration) {
    loop {
        match Arc::try_unwrap(gateway) {
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
) -> Result<Arc<gateway::Running>, Failure> {
    let config = serving.gateway(storage);
    let numbered = |(number, secret): &(i16, domain::settings::Secret)| {
        Some((u16::try_from(*number).ok()?, secret.expose().as_bytes().to_vec()))
    };
    let peppers = gateway::Peppers::new(domain.settings.peppers.iter().filter_map(numbered));
    let running = gateway::Gateway::start(config, bridge.clone(), bridge, clock, Arc::new(MachineRandom), peppers);
    let running = running.map_err(|e| Failure(format!("the gateway cannot start: {e}")))?;
    tracing::info!(address = %running.local_addr(), "gateway listens");
    Ok(Arc::new(running))
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

/// Binds now, so that an address in use stops the start, and gives the task that serves.
async fn listen(
    address: SocketAddr,
    what: &'static str,
    router: Router,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, Failure> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| Failure(format!("cannot listen on {address} for the {what}: {e}")))?;
    tracing::info!(%address, "{what} listens");
    // Without this a page that is sent in two pieces waits 40 ms for an acknowledgement.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    Ok(async move {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
        {
            tracing::error!(error = error.to_string(), "{what} ended");
        }
    })
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

async fn stop_signal() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
