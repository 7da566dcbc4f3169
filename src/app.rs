//! Builds the service from its settings, starts its parts and stops them in order.

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
    figures,
    flow::{
        answer::Answers, callbacks::Callbacks, gauges::Gauges, housekeeping::Housekeeping,
        ingest::Ingest, iteration::Iterations, ledger::Database, rebuild::Rebuilds,
        redrive::Redrive, takeover::Takeover, telling::Telling, tenant_jobs::TenantJobs,
        tenants::Tenants, user_topics,
    },
    http::{self, Operators, Room, Service},
    kafka::{self, Consumer, Sender, UserTopics},
    okapi::{self, Calls, PubSub, Storage, Users},
    store::{self, Db, PoolSettings},
};

/// Connections of the writers and of work on whole tenants, at least.
const LEAST_WORK_CONNECTIONS: u32 = 2;

/// Connections that hear of changes of the registry.
const NEWS_CONNECTIONS: u32 = 1;

/// Connections of all iterations together.
const ITERATION_CONNECTIONS: u32 = 2;

/// Connections of all requests but those of desks, beyond `DB_MAXPOOLSIZE`: made when there is something to
/// do. One slow list keeps no other operator waiting, and no number of them keeps a desk (decision 0005).
const OPERATOR_CONNECTIONS: u32 = 2;

const _: () = assert!(LEAST_WORK_CONNECTIONS + NEWS_CONNECTIONS < DatabaseConfig::LEAST);

/// How long a request waits for a connection, and its statement for an end.
const WEB_WAIT: Duration = Duration::from_secs(2);
const WEB_STATEMENT: Duration = Duration::from_secs(5);

/// How long other requests than a desk's wait for a connection: it may have to be made first.
const OPERATOR_WAIT: Duration = Duration::from_secs(5);

/// How long ingest waits for a connection before it says that the database is away.
const WORK_WAIT: Duration = Duration::from_secs(5);

/// Requests in flight get this long to end once the service stops, in seconds.
const DRAIN_SECONDS: u64 = 3;

/// The head of a connection's first request has to be there within this; the time for a body is bounded
/// where it is read (`http/body.rs`).
const HEAD_WAIT: Duration = Duration::from_secs(5);

/// A connection without a request is kept this long, and one that is closed has this long to end.
const IDLE: Duration = Duration::from_secs(5);
const HANG_UP: Duration = Duration::from_secs(1);

/// The group gets this long to be left: librdkafka may hang while no broker answers.
const LEAVE: Duration = Duration::from_secs(6);

/// Events that came over HTTP get this long to be answered, and connections to be closed.
const CLOSE: Duration = Duration::from_secs(1);

const _: () = assert!(DRAIN_SECONDS + Config::LONGEST_SHUTDOWN_DELAY.as_secs() <= LEAVE.as_secs());
const _: () = assert!(LEAVE.as_secs() + 2 * CLOSE.as_secs() < 10);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not this machine's, or the port is taken or not ours to take.
    #[error("could not listen on {address}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The Kafka client refuses its settings.
    #[error("could not start the Kafka consumer")]
    Kafka(#[source] kafka::Error),
    /// The HTTP client could not be built.
    #[error("could not make an HTTP client")]
    Client(#[source] okapi::ClientError),
}

/// A running service.
pub struct Running {
    /// The port on which it listens.
    pub port: u16,
    http: ServerHandle,
    served: JoinHandle<io::Result<()>>,
    consumer: Consumer,
    /// What goes on until `stop`.
    loops: TaskTracker,
    called_back: JoinHandle<()>,
    work: Db,
    shutdown_delay: Duration,
    /// Cancelled first: from then on the service isn't ready.
    stopping: CancellationToken,
    /// Cancelled to end all loops.
    stop: CancellationToken,
}

/// Starts everything. Neither database nor broker need be there yet: what needs them goes on trying.
pub async fn start(config: &Config, clock: Clock) -> Result<Running, StartError> {
    let address = SocketAddr::new(config.http_address, config.http_port);
    let listen = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listen)?;
    let port = listener.local_addr().map_err(listen)?.port();
    say_whom_calls_go_through(&config.okapi.gateway);

    let (stopping, stop) = (CancellationToken::new(), CancellationToken::new());
    let work = store::pool(
        &config.database.login,
        PoolSettings {
            name: "mod-patron-blocks work",
            most: work_connections(config),
            wait: WORK_WAIT,
            statement: config.database.statement,
            suspicious: true,
        },
    );
    let tenants = Arc::new(Tenants::new(work.clone(), clock.clone()));
    let ledger = Database::new(work.clone(), tenants.clone(), clock.clone());
    let ingest =
        Ingest::new(ledger, clock.clone(), config.database.statement, config.kafka.stop_rule)
            .with_figures_by_tenant(config.figures_by_tenant);
    let ingest = Arc::new(ingest);
    let takeover = Takeover::new(work.clone(), tenants.clone());
    let consumer =
        kafka::start(&config.kafka, &ingest, takeover, &tenants, clock.clone(), stop.clone())
            .map_err(StartError::Kafka)?;
    let loops = TaskTracker::new();
    loops.spawn(tenants.clone().follow(
        store::pool(
            &config.database.login,
            PoolSettings {
                name: "mod-patron-blocks news",
                most: NEWS_CONNECTIONS,
                wait: WORK_WAIT,
                statement: config.database.statement,
                suspicious: false,
            },
        ),
        stop.clone(),
    ));
    let housekeeping = Housekeeping::new(
        work.clone(),
        tenants.clone(),
        clock.clone(),
        config.housekeeping.clone(),
    );
    loops.spawn(housekeeping.keep(config.kafka.clone(), stop.clone()));

    let user_topics = Arc::new(UserTopics::default());
    loops.spawn(user_topics.clone().follow(
        consumer.broker(),
        config.kafka.environment.clone(),
        config.kafka.metadata_max_age,
        stop.clone(),
    ));
    loops.spawn(user_topics::follow(
        work.clone(),
        tenants.clone(),
        user_topics.clone(),
        config.kafka.environment.clone(),
        config.kafka.metadata_max_age,
        stop.clone(),
    ));
    let (callbacks, called_back) = Callbacks::start(ingest.clone());
    let calls = Calls::new(config.okapi.breaker).map_err(StartError::Client)?;
    let users = Users::new(calls.clone(), config.okapi.users_timeout);
    let storage = Storage::new(calls.clone());
    let pubsub = config.okapi.pubsub_registration.then(|| PubSub::new(calls));
    let sender = Arc::new(Sender::new(&config.kafka));
    let telling = Arc::new(Telling::new(
        // While nobody is told, there is hardly anything to look at.
        match config.messages.on {
            true => (own_connections(config, 1), own_connections(config, 1)),
            false => (work.clone(), own_connections(config, 1)),
        },
        tenants.clone(),
        clock.clone(),
        config.kafka.environment.clone(),
        config.messages.clone(),
        sender.clone(),
    ));
    loops.spawn(telling.clone().tell(stop.clone()));
    loops.spawn(telling.clone().send(stop.clone()));
    let iterations = Arc::new(Iterations::new(
        (work.clone(), own_connections(config, ITERATION_CONNECTIONS)),
        tenants.clone(),
        consumer.broker(),
        sender,
        config.messages.on,
    ));
    loops.spawn(iterations.clone().work(stop.clone()));
    let tenant_jobs = TenantJobs::new(work.clone(), tenants.clone(), pubsub, telling.clone());
    let tenant_jobs = Arc::new(tenant_jobs);
    loops.spawn(tenant_jobs.clone().take_over(stop.clone()));
    let rebuilds = Rebuilds::new(
        (work.clone(), config.database.login.clone()),
        tenants.clone(),
        clock.clone(),
        (config.kafka.clone(), consumer.broker(), storage),
        config.rebuild,
    );
    let rebuilds = Arc::new(rebuilds);
    loops.spawn(rebuilds.clone().work(stop.clone()));
    let operators = store::pool(
        &config.database.login,
        PoolSettings {
            name: "mod-patron-blocks operators",
            most: OPERATOR_CONNECTIONS,
            wait: OPERATOR_WAIT,
            statement: WEB_STATEMENT,
            suspicious: true,
        },
    );
    let redrive = Redrive::new(operators.clone(), config.kafka.environment.clone(), ingest.clone());
    let redrive = Arc::new(redrive);
    loops.spawn(redrive.clone().follow(tenants.clone(), stop.clone()));
    let service = Arc::new(Service {
        operators: Operators::new(operators.clone()),
        room: Room::default(),
        gauges: Gauges::new(
            tenants.clone(),
            consumer.status(),
            telling.clone(),
            config.figures_by_tenant,
        ),
        callbacks,
        answers: Arc::new(Answers::new(clock.clone(), users, config.okapi.clone(), user_topics)),
        tenants,
        clock,
        kafka: consumer.status(),
        broker: consumer.broker(),
        environment: config.kafka.environment.clone(),
        redrive,
        gateway: config.okapi.gateway.clone(),
        other_gateways: http::OtherGateways::default(),
        tenant_jobs,
        rebuilds,
        telling,
        iterations,
        collection: config.messages.collection.clone(),
        on_database_failure: config.on_database_failure,
        stopping: stopping.clone(),
    });
    service.gauges.watch("work", &work);
    service.gauges.watch("operators", &operators);
    loops.spawn(gather(stop.clone()));
    loops.close();
    let server = serve(config, service, listener).map_err(listen)?;
    info!(http.address = %config.http_address, http.port = port, "listening");
    let http = server.handle();
    Ok(Running {
        port,
        http,
        served: tokio::spawn(server),
        consumer,
        loops,
        called_back,
        work,
        shutdown_delay: config.shutdown_delay,
        stopping,
        stop,
    })
}

fn say_whom_calls_go_through(gateway: &Gateway) {
    let Gateway { url, is_set, is_pinned } = gateway;
    match (is_pinned, is_set) {
        (true, _) => info!(okapi.url = url, "other modules are asked through this gateway alone"),
        (false, true) => warn!(
            okapi.url = url,
            "other modules are asked through the gateway that a request names; \
             what another gateway than this one answers is not kept"
        ),
        (false, false) => warn!(
            "other modules are asked through the gateway that a request names, whoever sends it: \
             set OKAPI_URL to pin the gateway"
        ),
    }
}

/// Gathers figures, also when nobody asks for them.
async fn gather(stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(figures::GATHER)).await.is_some() {
        figures::figures().gather();
    }
}

/// Connections for messages, beside those of ingest and answers: they are made when there is something to do.
fn own_connections(config: &Config, most: u32) -> Db {
    store::pool(
        &config.database.login,
        PoolSettings {
            name: "mod-patron-blocks messages",
            most,
            wait: WORK_WAIT,
            statement: config.database.statement,
            suspicious: true,
        },
    )
}

/// The settings leave some for answers.
fn work_connections(config: &Config) -> u32 {
    config.kafka.writers.max(LEAST_WORK_CONNECTIONS)
}

/// Each thread that answers has connections of its own: a shared pool makes every statement cross
/// threads (docs/decisions/0005).
fn serve(
    config: &Config,
    service: Arc<Service>,
    listener: TcpListener,
) -> io::Result<actix_web::dev::Server> {
    let connections = config.database.connections - work_connections(config) - NEWS_CONNECTIONS;
    let cores = available_parallelism().map_or(1, usize::from);
    let wanted = if config.http_workers == 0 { cores } else { config.http_workers };
    let workers = wanted.min(connections as usize);
    let each = connections / u32::try_from(workers).unwrap_or(connections);
    let login = config.database.login.clone();
    let factory = move || {
        let db = store::pool(
            &login,
            PoolSettings {
                name: "mod-patron-blocks web",
                most: each,
                wait: WEB_WAIT,
                statement: WEB_STATEMENT,
                suspicious: false,
            },
        );
        service.gauges.watch("web", &db);
        let service = service.clone();
        App::new()
            .wrap(from_fn(http::in_time))
            .wrap(http::normalize())
            .configure(move |app| http::routes(&service, db, app))
    };
    let server = HttpServer::new(factory)
        .workers(workers)
        .max_connections(http::connections_most(each))
        .disable_signals()
        .client_request_timeout(HEAD_WAIT)
        .client_disconnect_timeout(HANG_UP)
        .keep_alive(IDLE)
        .shutdown_timeout(DRAIN_SECONDS)
        .listen(listener)?;
    Ok(server.run())
}

impl Running {
    /// Resolves when the service stops by itself, because a part of it can't go on.
    pub async fn failed(&self) {
        self.stop.cancelled().await;
    }

    /// Stops: not ready any more, requests drained, the batches in hand finished, offsets committed.
    /// Takes less than ten seconds, whatever is away.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.stop.cancel();
        let consumer = async {
            if timeout(LEAVE, self.consumer.stopped()).await.is_err() {
                warn!("the consumer group could not be left in time; it will notice by itself");
            }
        };
        let ended = CancellationToken::new();
        let background = async {
            let _ = join!(consumer, timeout(LEAVE, self.loops.wait()));
            ended.cancel();
        };
        let http = async {
            // Who sends requests here has to notice first.
            sleep(self.shutdown_delay).await;
            // A database connection that an HTTP worker opened breaks when that worker's runtime ends. The loops
            // share these connections, so the workers end after the loops.
            let rest =
                LEAVE.saturating_sub(Duration::from_secs(DRAIN_SECONDS) + self.shutdown_delay);
            let _ = timeout(rest, ended.cancelled()).await;
            self.http.stop(true).await;
            let _ = self.served.await;
        };
        join!(http, background);
        let _ = timeout(CLOSE, self.called_back).await;
        let _ = timeout(CLOSE, self.work.close()).await;
        info!("stopped");
    }
}
