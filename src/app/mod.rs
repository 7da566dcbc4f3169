//! Builds the service from its settings, starts its parts, and stops them in order.

mod pools;
mod server;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use futures_util::future::join_all;
use tokio::{
    join,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::{pools::Pools, server::DRAIN_SECONDS};
use crate::{
    clock::Clock,
    config::{Config, Gateway},
    console::{Console, SignIn},
    http::{self, AppState, BodyBudget, Operators},
    kafka::{self, MessageProducer, UserTopics},
    metrics,
    okapi::{self, ModuleClient, PubSub, ReaderLookups, Storage, Users},
    services::{
        self,
        block_events::BlockEvents,
        evaluation::{Evaluator, ask::StorageQuestions, certainty_reads::CertaintyReads},
        forecast::Forecasts,
        freshness::{Freshness, FreshnessTask},
        gauges::Gauges,
        ingest::{
            self, Ingest, dead_letters::DeadLetterService, http_events::HttpEvents,
            ingest_store::PgIngestStore, start::RunningIngest, start_offset::StartOffsetResolver,
        },
        maintenance::housekeeping::Housekeeping,
        rebuild::Rebuilds,
        settings_check::SettingsChecker,
        summary_export::SummaryExports,
        tenant_lifecycle::jobs::TenantJobs,
        tenants::{TenantRegistry, user_topics},
    },
    store::Db,
};

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
    /// The TCP port of the console, if it has one.
    pub console_port: Option<u16>,
    servers: Vec<(ServerHandle, JoinHandle<io::Result<()>>)>,
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
    let (listener, address) = listen(config.http_address, config.http_port)?;
    let console_port = config.console.port.map(|port| listen(config.console.address, port));
    let (console_listener, console_address) = console_port.transpose()?.unzip();
    let sign_in = config.console.sign_in.clone().map(|sign_in| SignIn::new(sign_in, clock.clone()));
    let sign_in = sign_in.transpose().map_err(StartError::Client)?.map(Arc::new);
    log_gateway(&config.okapi.gateway());
    register_metrics();

    let (stopping, stop) = (CancellationToken::new(), CancellationToken::new());
    let pools = Pools::new(config);
    let tenants = Arc::new(TenantRegistry::new(pools.work.clone(), clock.clone()));
    let start = Startup { config, clock, pools, tenants, workers: TaskTracker::new(), stop };
    let ingest = start.ingest();
    let consumer = start.consumer(&ingest, &stopping)?;
    let (http_events, http_events_task) = HttpEvents::start(ingest.clone());
    let state = start.services(&ingest, &consumer, http_events, stopping.clone())?;
    let Startup { pools, workers, stop, .. } = start;
    state.gauges.register_pool("work", &pools.work);
    state.gauges.register_pool("operators", &pools.operators);
    state.gauges.register_pool("console", &pools.console);
    workers.spawn(gather_metrics(stop.clone()));
    workers.close();
    let console = Arc::new(Console::new(Arc::new(state), pools.console.clone()));
    let failed = |address| move |source| StartError::Listen { address, source };
    let mut servers = vec![server::serve(config, &console, listener).map_err(failed(address))?];
    info!(http.address = %address.ip(), http.port = address.port(), "http server: listening");
    let has_sign_in = sign_in.is_some();
    if let (Some(listener), Some(address)) = (console_listener, console_address) {
        servers.push(server::serve_console(&console, sign_in, listener).map_err(failed(address))?);
        info!(http.address = %address.ip(), http.port = address.port(), sign_in = has_sign_in, "console: listening");
    }
    Ok(RunningService {
        port: address.port(),
        console_port: console_address.map(|address| address.port()),
        servers: servers
            .into_iter()
            .map(|server| (server.handle(), tokio::spawn(server)))
            .collect(),
        consumer,
        workers,
        http_events_task,
        work_pool: pools.work,
        shutdown_delay: config.shutdown_delay,
        stopping,
        stop,
    })
}

/// Binds a port.
fn listen(address: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(address, port);
    let listen = || {
        let listener = TcpListener::bind(address)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    listen().map_err(|source| StartError::Listen { address, source })
}

/// What the parts need to start.
struct Startup<'a> {
    config: &'a Config,
    clock: Clock,
    pools: Pools,
    tenants: Arc<TenantRegistry>,
    /// Tasks that run until `stop`.
    workers: TaskTracker,
    stop: CancellationToken,
}

impl Startup<'_> {
    fn ingest(&self) -> Arc<Ingest<PgIngestStore>> {
        let (config, work) = (self.config, &self.pools.work);
        let store = PgIngestStore::new(work.clone(), self.tenants.clone(), self.clock.clone());
        let (timeout, limit) = (config.database.statement_timeout, config.kafka.bad_record_limit);
        let ingest = Ingest::new(store, self.clock.clone(), timeout, limit);
        Arc::new(ingest.with_metrics_by_tenant(config.metrics_by_tenant))
    }

    /// Starts the Kafka consumer.
    fn consumer(
        &self,
        ingest: &Arc<Ingest<PgIngestStore>>,
        stopping: &CancellationToken,
    ) -> Result<RunningIngest, StartError> {
        let (kafka, tenants) = (&self.config.kafka, &self.tenants);
        let offsets = StartOffsetResolver::new(self.pools.work.clone(), tenants.clone());
        ingest::start::start(kafka, ingest, offsets, tenants, self.clock.clone(), stopping)
            .map_err(StartError::Kafka)
    }

    /// Starts the workers and returns the state of the HTTP handlers.
    fn services(
        &self,
        ingest: &Arc<Ingest<PgIngestStore>>,
        consumer: &RunningIngest,
        http_events: HttpEvents,
        stopping: CancellationToken,
    ) -> Result<AppState, StartError> {
        let (config, operators) = (self.config, &self.pools.operators);
        let calls = ModuleClient::new(config.okapi.breaker).map_err(StartError::Client)?;
        let users = Users::new(calls.clone(), config.okapi.users_timeout);
        let sender = Arc::new(MessageProducer::new(&config.kafka));
        self.start_maintenance();
        let freshness = self.start_freshness(consumer);
        let block_events = self.start_block_events(sender.clone());
        let summary_exports = self.start_summary_exports(consumer, sender);
        Ok(AppState {
            operators: Operators::new(operators.clone()),
            body_budget: BodyBudget::default(),
            gauges: Gauges::new(
                self.tenants.clone(),
                (consumer.status(), freshness.clone()),
                block_events.clone(),
                config.metrics_by_tenant,
            ),
            http_events,
            evaluator: Arc::new(self.evaluator(consumer, freshness, &calls, users.clone())),
            settings_checker: SettingsChecker::new(self.clock.clone(), users),
            forecasts: Forecasts::default(),
            tenants: self.tenants.clone(),
            clock: self.clock.clone(),
            kafka: consumer.status(),
            broker: consumer.broker(),
            environment: config.kafka.environment(),
            redrive: self.start_dead_letters(ingest),
            gateway: config.okapi.gateway(),
            other_gateways: http::OtherGateways::default(),
            reader_lookups: ReaderLookups::new(calls.with_own_breakers(config.okapi.breaker)),
            tenant_jobs: self.start_tenant_jobs(&calls, &block_events),
            rebuilds: self.start_rebuilds(consumer, Storage::new(calls)),
            block_events,
            summary_exports,
            collection: config.block_events.collection.clone(),
            on_database_failure: config.on_database_failure,
            stopping,
        })
    }

    /// Starts the listener for changes of the tenant registry, and housekeeping.
    fn start_maintenance(&self) {
        let (config, stop) = (self.config, &self.stop);
        let listener = self.pools.listener.clone();
        self.workers.spawn(self.tenants.clone().run(listener, stop.clone()));
        let housekeeping = Housekeeping::new(
            self.pools.work.clone(),
            self.tenants.clone(),
            self.clock.clone(),
            config.housekeeping.clone(),
        );
        self.workers.spawn(housekeeping.run(config.kafka.clone(), stop.clone()));
    }

    /// Starts the search for topics of users.
    fn start_user_topics(&self, consumer: &RunningIngest) -> Arc<UserTopics> {
        let (kafka, topics) = (&self.config.kafka, Arc::new(UserTopics::default()));
        self.workers.spawn(topics.clone().run(
            consumer.broker(),
            kafka.environment(),
            kafka.metadata_max_age,
            self.stop.clone(),
        ));
        self.workers.spawn(user_topics::run(
            self.pools.work.clone(),
            self.tenants.clone(),
            topics.clone(),
            kafka.environment(),
            kafka.metadata_max_age,
            self.stop.clone(),
        ));
        topics
    }

    fn evaluator(
        &self,
        consumer: &RunningIngest,
        freshness: Arc<Freshness>,
        calls: &ModuleClient,
        users: Users,
    ) -> Evaluator {
        let (clock, okapi) = (self.clock.clone(), self.config.okapi.clone());
        let (tenants, operators) = (self.tenants.clone(), self.pools.operators.clone());
        // Questions have breakers of their own, so their failures stop no rebuild.
        let calls = calls.with_own_breakers(okapi::WITHOUT_BREAKER);
        let registry = (tenants, clock.clone());
        let (storage, gateway) = (Storage::new(calls), okapi.gateway());
        let questions = StorageQuestions::new(storage, registry, operators, &gateway);
        let reads = CertaintyReads::new(self.pools.certainty.clone());
        Evaluator::new(clock, users, okapi, self.start_user_topics(consumer))
            .with_certainty(freshness, reads, questions)
    }

    /// Starts the exchange of progress reports with the other instances.
    fn start_freshness(&self, consumer: &RunningIngest) -> Arc<Freshness> {
        let (kafka, freshness) = (&self.config.kafka, Arc::new(Freshness::default()));
        let task = FreshnessTask::new(
            freshness.clone(),
            consumer.parts(),
            kafka.environment(),
            (self.pools.work.clone(), self.tenants.clone()),
            kafka.metadata_max_age,
        );
        self.workers.spawn(task.run(self.stop.clone()));
        freshness
    }

    fn start_block_events(&self, sender: Arc<MessageProducer>) -> Arc<BlockEvents> {
        let config = self.config;
        let block_events = Arc::new(BlockEvents::new(
            (self.pools.detect.clone(), self.pools.publish.clone()),
            self.tenants.clone(),
            self.clock.clone(),
            config.kafka.environment(),
            config.block_events.clone(),
            sender,
        ));
        self.workers.spawn(block_events.clone().run_detector(self.stop.clone()));
        self.workers.spawn(block_events.clone().run_publisher(self.stop.clone()));
        block_events
    }

    fn start_summary_exports(
        &self,
        consumer: &RunningIngest,
        sender: Arc<MessageProducer>,
    ) -> Arc<SummaryExports> {
        let exports = Arc::new(SummaryExports::new(
            (self.pools.work.clone(), self.pools.exports.clone()),
            self.tenants.clone(),
            consumer.broker(),
            sender,
            self.config.block_events.enabled,
        ));
        self.workers.spawn(exports.clone().run_worker(self.stop.clone()));
        exports
    }

    fn start_tenant_jobs(
        &self,
        calls: &ModuleClient,
        block_events: &Arc<BlockEvents>,
    ) -> Arc<TenantJobs> {
        let pubsub = self.config.okapi.pubsub_registration.then(|| PubSub::new(calls.clone()));
        let (work, tenants) = (self.pools.work.clone(), self.tenants.clone());
        let jobs = Arc::new(TenantJobs::new(work, tenants, pubsub, block_events.clone()));
        self.workers.spawn(jobs.clone().adopt_abandoned(self.stop.clone()));
        jobs
    }

    fn start_rebuilds(&self, consumer: &RunningIngest, storage: Storage) -> Arc<Rebuilds> {
        let config = self.config;
        let rebuilds = Arc::new(Rebuilds::new(
            (self.pools.work.clone(), config.database.login.clone()),
            self.tenants.clone(),
            self.clock.clone(),
            (config.kafka.clone(), consumer.broker(), storage),
            config.rebuild,
        ));
        self.workers.spawn(rebuilds.clone().run_workers(self.stop.clone()));
        rebuilds
    }

    fn start_dead_letters(&self, ingest: &Arc<Ingest<PgIngestStore>>) -> Arc<DeadLetterService> {
        let (operators, environment) =
            (self.pools.operators.clone(), self.config.kafka.environment());
        let dead_letters = Arc::new(DeadLetterService::new(operators, environment, ingest.clone()));
        self.workers.spawn(dead_letters.clone().run(self.tenants.clone(), self.stop.clone()));
        dead_letters
    }
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
            join_all(self.servers.into_iter().map(stop_server)).await;
        };
        join!(http, background);
        let _ = timeout(CLOSE_TIMEOUT, self.http_events_task).await;
        let _ = timeout(CLOSE_TIMEOUT, self.work_pool.close()).await;
        info!("service: stopped");
    }
}

/// Stops a server after its requests in progress.
async fn stop_server((server, task): (ServerHandle, JoinHandle<io::Result<()>>)) {
    server.stop(true).await;
    let _ = task.await;
}
