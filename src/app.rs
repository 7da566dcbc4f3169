//! Builds the service from its settings, starts its parts, and stops them in order.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use actix_web::{App, HttpServer, dev::ServerHandle, middleware::from_fn};
use tokio::{
    join,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::{Config, DatabaseConfig, Gateway},
    http::{self, AppState, BodyBudget, Operators},
    kafka::{self, MessageProducer, UserTopics},
    metrics,
    okapi::{self, ModuleClient, PubSub, Storage, Users},
    services::{
        self,
        block_events::BlockEvents,
        evaluation::Evaluator,
        gauges::Gauges,
        ingest::{
            self, Ingest, dead_letters::DeadLetterService, http_events::HttpEvents,
            ingest_store::PgIngestStore, start::RunningIngest, start_offset::StartOffsetResolver,
        },
        maintenance::housekeeping::Housekeeping,
        rebuild::Rebuilds,
        summary_export::SummaryExports,
        tenant_lifecycle::jobs::TenantJobs,
        tenants::{TenantRegistry, user_topics},
    },
    store::{self, Db, PoolSettings},
};

/// Smallest number of connections for writers and for work on whole tenants.
const WORK_CONNECTIONS_MIN: u32 = 2;

/// Connections that listen for changes of the tenant registry.
const LISTENER_CONNECTIONS: u32 = 1;

/// Connections of all summary exports together.
const EXPORT_CONNECTIONS: u32 = 2;

/// Connections of all requests except evaluations, in addition to `DB_MAXPOOLSIZE`; opened on demand. With
/// two, a slow list blocks no other operator, and operators never block an evaluation (decision 0005).
const OPERATOR_CONNECTIONS: u32 = 2;

const _: () =
    assert!(WORK_CONNECTIONS_MIN + LISTENER_CONNECTIONS < DatabaseConfig::CONNECTIONS_MIN);

/// Time that an evaluation waits for a connection, and time limit of a request's statement.
const WEB_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
const WEB_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that other requests wait for a connection, which may have to be opened first.
const OPERATOR_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that ingest waits for a connection before the database counts as unavailable.
const WORK_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for requests in flight after the service stops, in seconds.
const DRAIN_SECONDS: u64 = 3;

/// Time limit of the head of a connection's first request; `http/extract/body.rs` limits the time of a body.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Lifetime of an idle connection; `DISCONNECT_TIMEOUT` limits the closing of a connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit for leaving the consumer group, because librdkafka may hang while no broker answers.
const GROUP_LEAVE_TIMEOUT: Duration = Duration::from_secs(6);

/// Time limit for the last HTTP events, and for closing the database connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const _: () =
    assert!(DRAIN_SECONDS + Config::SHUTDOWN_DELAY_MAX.as_secs() <= GROUP_LEAVE_TIMEOUT.as_secs());
const _: () = assert!(GROUP_LEAVE_TIMEOUT.as_secs() + 2 * CLOSE_TIMEOUT.as_secs() < 10);

/// The reason why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address does not belong to this host, the port is in use, or the process may not bind it.
    #[error("could not listen on {address}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The Kafka client rejected its settings.
    #[error("could not start the Kafka consumer")]
    Kafka(#[source] kafka::Error),
    /// The HTTP client could not be built.
    #[error("could not create an HTTP client")]
    Client(#[source] okapi::ClientError),
}

/// A running service with its tasks and connections.
pub struct RunningService {
    /// The TCP port on which the HTTP server listens.
    pub port: u16,
    server: ServerHandle,
    server_task: JoinHandle<io::Result<()>>,
    consumer: RunningIngest,
    /// Tasks that run until `stop`.
    workers: TaskTracker,
    http_events_task: JoinHandle<()>,
    work_pool: Db,
    shutdown_delay: Duration,
    /// Cancelled first; afterwards the service reports that it is not ready.
    stopping: CancellationToken,
    /// Cancelled to end all loops.
    stop: CancellationToken,
}

/// Starts all parts. The database and the broker may still be unavailable; the parts that need them
/// retry.
pub async fn start(config: &Config, clock: Clock) -> Result<RunningService, StartError> {
    let address = SocketAddr::new(config.http_address, config.http_port);
    let listen = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listen)?;
    let port = listener.local_addr().map_err(listen)?.port();
    log_gateway(&config.okapi.gateway());
    register_metrics();

    let (stopping, stop) = (CancellationToken::new(), CancellationToken::new());
    let work_pool = store::pool(
        &config.database.login,
        PoolSettings {
            name: "mod-patron-blocks work",
            max_connections: work_connections(config),
            acquire_timeout: WORK_ACQUIRE_TIMEOUT,
            statement_timeout: config.database.statement_timeout,
            verify_on_release: true,
        },
    );
    let tenants = Arc::new(TenantRegistry::new(work_pool.clone(), clock.clone()));
    let ingest_store = PgIngestStore::new(work_pool.clone(), tenants.clone(), clock.clone());
    let ingest = Ingest::new(
        ingest_store,
        clock.clone(),
        config.database.statement_timeout,
        config.kafka.bad_record_limit,
    )
    .with_metrics_by_tenant(config.metrics_by_tenant);
    let ingest = Arc::new(ingest);
    let start_offsets = StartOffsetResolver::new(work_pool.clone(), tenants.clone());
    let consumer =
        ingest::start::start(&config.kafka, &ingest, start_offsets, &tenants, clock.clone(), &stop)
            .map_err(StartError::Kafka)?;
    let workers = TaskTracker::new();
    workers.spawn(tenants.clone().run(
        store::pool(
            &config.database.login,
            PoolSettings {
                name: "mod-patron-blocks listener",
                max_connections: LISTENER_CONNECTIONS,
                acquire_timeout: WORK_ACQUIRE_TIMEOUT,
                statement_timeout: config.database.statement_timeout,
                verify_on_release: false,
            },
        ),
        stop.clone(),
    ));
    let housekeeping = Housekeeping::new(
        work_pool.clone(),
        tenants.clone(),
        clock.clone(),
        config.housekeeping.clone(),
    );
    workers.spawn(housekeeping.run(config.kafka.clone(), stop.clone()));

    let user_topics = Arc::new(UserTopics::default());
    workers.spawn(user_topics.clone().run(
        consumer.broker(),
        config.kafka.environment(),
        config.kafka.metadata_max_age,
        stop.clone(),
    ));
    workers.spawn(user_topics::run(
        work_pool.clone(),
        tenants.clone(),
        user_topics.clone(),
        config.kafka.environment(),
        config.kafka.metadata_max_age,
        stop.clone(),
    ));
    let (http_events, http_events_task) = HttpEvents::start(ingest.clone());
    let calls = ModuleClient::new(config.okapi.breaker).map_err(StartError::Client)?;
    let users = Users::new(calls.clone(), config.okapi.users_timeout);
    let storage = Storage::new(calls.clone());
    let pubsub = config.okapi.pubsub_registration.then(|| PubSub::new(calls));
    let sender = Arc::new(MessageProducer::new(&config.kafka));
    let block_events = Arc::new(BlockEvents::new(
        // While block events are switched off, the detect worker needs no connection of its own.
        match config.block_events.enabled {
            true => (message_pool(config, 1), message_pool(config, 1)),
            false => (work_pool.clone(), message_pool(config, 1)),
        },
        tenants.clone(),
        clock.clone(),
        config.kafka.environment(),
        config.block_events.clone(),
        sender.clone(),
    ));
    workers.spawn(block_events.clone().run_detector(stop.clone()));
    workers.spawn(block_events.clone().run_publisher(stop.clone()));
    let summary_exports = Arc::new(SummaryExports::new(
        (work_pool.clone(), message_pool(config, EXPORT_CONNECTIONS)),
        tenants.clone(),
        consumer.broker(),
        sender,
        config.block_events.enabled,
    ));
    workers.spawn(summary_exports.clone().run_worker(stop.clone()));
    let tenant_jobs =
        TenantJobs::new(work_pool.clone(), tenants.clone(), pubsub, block_events.clone());
    let tenant_jobs = Arc::new(tenant_jobs);
    workers.spawn(tenant_jobs.clone().adopt_abandoned(stop.clone()));
    let rebuilds = Rebuilds::new(
        (work_pool.clone(), config.database.login.clone()),
        tenants.clone(),
        clock.clone(),
        (config.kafka.clone(), consumer.broker(), storage),
        config.rebuild,
    );
    let rebuilds = Arc::new(rebuilds);
    workers.spawn(rebuilds.clone().run_workers(stop.clone()));
    let operators = store::pool(
        &config.database.login,
        PoolSettings {
            name: "mod-patron-blocks operators",
            max_connections: OPERATOR_CONNECTIONS,
            acquire_timeout: OPERATOR_ACQUIRE_TIMEOUT,
            statement_timeout: WEB_STATEMENT_TIMEOUT,
            verify_on_release: true,
        },
    );
    let redrive =
        DeadLetterService::new(operators.clone(), config.kafka.environment(), ingest.clone());
    let dead_letters = Arc::new(redrive);
    workers.spawn(dead_letters.clone().run(tenants.clone(), stop.clone()));
    let service = Arc::new(AppState {
        operators: Operators::new(operators.clone()),
        body_budget: BodyBudget::default(),
        gauges: Gauges::new(
            tenants.clone(),
            consumer.status(),
            block_events.clone(),
            config.metrics_by_tenant,
        ),
        http_events,
        evaluator: Arc::new(Evaluator::new(
            clock.clone(),
            users,
            config.okapi.clone(),
            user_topics,
        )),
        tenants,
        clock,
        kafka: consumer.status(),
        broker: consumer.broker(),
        environment: config.kafka.environment(),
        redrive: dead_letters,
        gateway: config.okapi.gateway(),
        other_gateways: http::OtherGateways::default(),
        tenant_jobs,
        rebuilds,
        block_events,
        summary_exports,
        collection: config.block_events.collection.clone(),
        on_database_failure: config.on_database_failure,
        stopping: stopping.clone(),
    });
    service.gauges.register_pool("work", &work_pool);
    service.gauges.register_pool("operators", &operators);
    workers.spawn(gather_metrics(stop.clone()));
    workers.close();
    let server = serve(config, service, listener).map_err(listen)?;
    info!(http.address = %config.http_address, http.port = port, "http server: listening");
    let http = server.handle();
    Ok(RunningService {
        port,
        server: http,
        server_task: tokio::spawn(server),
        consumer,
        workers,
        http_events_task,
        work_pool,
        shutdown_delay: config.shutdown_delay,
        stopping,
        stop,
    })
}

/// Creates the metrics of all layers, so that each counter exists from the start.
fn register_metrics() {
    kafka::register_metrics();
    okapi::register_metrics();
    services::metrics::register_metrics();
    http::register_metrics();
}

fn log_gateway(gateway: &Gateway) {
    let Gateway { url, is_configured: is_set, is_pinned } = gateway;
    match (is_pinned, is_set) {
        (true, _) => {
            info!(okapi.url = url, "gateway: pinned; all calls to other modules go through it")
        }
        (false, true) => warn!(
            okapi.url = url,
            "gateway: calls to other modules go through the gateway that the request names; \
             responses of a gateway other than OKAPI_URL are not cached"
        ),
        (false, false) => warn!(
            "gateway: not pinned, so calls to other modules go through whatever gateway a request names; \
             set OKAPI_URL to pin it"
        ),
    }
}

/// Runs the upkeep of the metrics at intervals, even if no request reads them.
async fn gather_metrics(stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(metrics::UPKEEP_INTERVAL)).await.is_some() {
        metrics::recorder().run_upkeep();
    }
}

/// Creates a pool for messages, separate from the connections of ingest and evaluations; connections
/// are opened on demand.
fn message_pool(config: &Config, max_connections: u32) -> Db {
    store::pool(
        &config.database.login,
        PoolSettings {
            name: "mod-patron-blocks messages",
            max_connections,
            acquire_timeout: WORK_ACQUIRE_TIMEOUT,
            statement_timeout: config.database.statement_timeout,
            verify_on_release: true,
        },
    )
}

/// Returns the number of connections for work; the settings ensure that some remain for evaluations.
fn work_connections(config: &Config) -> u32 {
    config.kafka.writers.max(WORK_CONNECTIONS_MIN)
}

/// Starts the HTTP server. Each HTTP worker thread has a connection pool of its own, because with a
/// shared pool every statement crosses threads (docs/decisions/0005).
fn serve(
    config: &Config,
    service: Arc<AppState>,
    listener: TcpListener,
) -> io::Result<actix_web::dev::Server> {
    let connections =
        config.database.max_connections - work_connections(config) - LISTENER_CONNECTIONS;
    let cores = available_parallelism().map_or(1, usize::from);
    let desired = if config.http_workers == 0 { cores } else { config.http_workers };
    let workers = desired.min(connections as usize);
    let connections_per_worker = connections / u32::try_from(workers).unwrap_or(connections);
    let login = config.database.login.clone();
    let factory = move || {
        let db = store::pool(
            &login,
            PoolSettings {
                name: "mod-patron-blocks web",
                max_connections: connections_per_worker,
                acquire_timeout: WEB_ACQUIRE_TIMEOUT,
                statement_timeout: WEB_STATEMENT_TIMEOUT,
                verify_on_release: false,
            },
        );
        service.gauges.register_pool("web", &db);
        let service = service.clone();
        App::new()
            .wrap(from_fn(http::with_timeout))
            .wrap(http::normalize())
            .configure(move |app| http::routes(&service, db, app))
    };
    let server = HttpServer::new(factory)
        .workers(workers)
        .max_connections(http::connections_max(connections_per_worker))
        .disable_signals()
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .keep_alive(KEEP_ALIVE_TIMEOUT)
        .shutdown_timeout(DRAIN_SECONDS)
        .listen(listener)?;
    Ok(server.run())
}

impl RunningService {
    /// Waits until the service stops by itself, because one of its parts failed.
    pub async fn failed(&self) {
        self.stop.cancelled().await;
    }

    /// Stops the service: reports not ready, drains requests, finishes current batches and commits
    /// offsets. Returns in less than ten seconds, even if the database or the broker is unavailable.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.stop.cancel();
        let consumer = async {
            if timeout(GROUP_LEAVE_TIMEOUT, self.consumer.join()).await.is_err() {
                warn!(
                    "kafka consumer: could not leave the group in time; the broker removes this member after the session time-out"
                );
            }
        };
        let ended = CancellationToken::new();
        let background = async {
            let _ = join!(consumer, timeout(GROUP_LEAVE_TIMEOUT, self.workers.wait()));
            ended.cancel();
        };
        let http = async {
            // Load balancers need time to notice that the service is not ready.
            sleep(self.shutdown_delay).await;
            // A database connection that an HTTP worker opened breaks when that worker's runtime
            // ends. The loops share these connections, so the workers end after the loops.
            let rest = GROUP_LEAVE_TIMEOUT
                .saturating_sub(Duration::from_secs(DRAIN_SECONDS) + self.shutdown_delay);
            let _ = timeout(rest, ended.cancelled()).await;
            self.server.stop(true).await;
            let _ = self.server_task.await;
        };
        join!(http, background);
        let _ = timeout(CLOSE_TIMEOUT, self.http_events_task).await;
        let _ = timeout(CLOSE_TIMEOUT, self.work_pool.close()).await;
        info!("service: stopped");
    }
}
