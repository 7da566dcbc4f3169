//! The consumer: its client settings, the callbacks of librdkafka, and its start and end.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
    util::Timeout,
};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    admin::BrokerClient,
    assignment::Assignment,
    channels::{Channels, PollerCommand},
    health::ConsumerStatus,
    lane::Writer,
    poll_loop::{POLL_TIMEOUT, Poller},
    takeover::PartitionStarter,
    watchdog::Watchdog,
};
use crate::{
    clock::Clock,
    config::{GroupProtocol, KafkaConfig, SecurityConfig},
    metrics::metrics,
    services::{
        ingest::Ingest,
        ledger::IngestStore,
        takeover::StartOffsetResolver,
        tenants::{TenantChange, TenantRegistry},
    },
};

/// Interval at which a task polls the broker client for statistics.
const STATISTICS_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The largest record that a broker accepts by default, in KiB.
const RECORD_KIB_MAX: usize = 1024;

/// Minimum time between two warnings about client errors.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A running consumer: the polling thread, the writers and their tasks.
pub struct Consumer {
    thread: thread::JoinHandle<()>,
    writers: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    status: Arc<ConsumerStatus>,
    broker: Arc<BrokerClient>,
}

impl Consumer {
    /// Returns the state of the connection to Kafka.
    pub fn status(&self) -> Arc<ConsumerStatus> {
        self.status.clone()
    }

    /// Returns the client for requests to brokers.
    pub fn broker(&self) -> Arc<BrokerClient> {
        self.broker.clone()
    }

    /// Waits until the consumer has left the group, after the caller cancelled the token given to
    /// [`start`]. librdkafka may hang while no broker answers, so the caller sets a deadline.
    pub async fn join(self) {
        for task in self.writers.into_iter().chain(self.tasks) {
            let _ = task.await;
        }
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// Joins the group and reads until `stop`.
pub fn start<S: IngestStore + 'static>(
    config: &KafkaConfig,
    ingest: &Arc<Ingest<S>>,
    start_offsets: StartOffsetResolver,
    tenants: &TenantRegistry,
    clock: Clock,
    stop: CancellationToken,
) -> Result<Consumer, KafkaError> {
    let assignment = Arc::new(Assignment::default());
    let status = Arc::new(ConsumerStatus::new(assignment.clone()));
    let connect = connect(config, &assignment, &status);
    let consumer = connect()?;
    let start_offsets = Arc::new(start_offsets);
    let broker = Arc::new(BrokerClient::with_statistics(config, status.clone(), clock)?);
    let statistics = tokio::spawn(poll_statistics(broker.clone(), stop.clone()));

    let (report_sender, reports) = std_mpsc::channel();
    let (lanes, writers) = (0..config.writers)
        .map(|_| {
            // The next batch fills while the writer commits the current batch.
            let (sender, lane) = mpsc::channel(config.batch_records_max);
            let writer = Writer::new(
                lane,
                ingest.clone(),
                assignment.clone(),
                report_sender.clone(),
                config.batch_records_max,
            );
            (sender, tokio::spawn(writer.run(stop.clone())))
        })
        .unzip();
    let (command_sender, commands) = std_mpsc::channel();
    let (start_sender, start_requests) = mpsc::unbounded_channel();
    let starter = PartitionStarter {
        requests: start_requests,
        environment: config.environment.clone(),
        broker: broker.clone(),
        start_offsets: start_offsets.clone(),
        ingest: ingest.clone(),
        assignment: assignment.clone(),
        commands: command_sender.clone(),
    };
    let starter = tokio::spawn(starter.run(stop.clone()));
    let watchdog = Watchdog::new(
        (assignment, status.clone()),
        config.environment.clone(),
        broker.clone(),
        start_offsets,
        command_sender.clone(),
    );
    let watchdog = tokio::spawn(watchdog.run(config.metadata_max_age, stop.clone()));
    tenants.subscribe(move |change| {
        // The poller drops its receiver only when the service stops.
        let _ = command_sender.send(match change {
            TenantChange::Enabled(tenant) => PollerCommand::TenantEnabled(tenant),
            TenantChange::Any => PollerCommand::RestartStopped,
        });
    });
    let channels = Channels { lanes, reports, start_requests: start_sender, commands };
    let environment = config.environment.clone();
    let clients = (consumer, connect);
    let poller = Poller::new(clients, environment, channels, config.buffer_kib, stop);
    let thread = thread::Builder::new()
        .name("kafka".to_owned())
        .spawn(move || poller.run())
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    let tasks = vec![starter, watchdog, statistics];
    Ok(Consumer { thread, writers, tasks, status, broker })
}

/// Polls the broker client for statistics. The broker client owns no partitions, so its statistics
/// stay short.
async fn poll_statistics(broker: Arc<BrokerClient>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(STATISTICS_POLL_INTERVAL)).await.is_some() {
        broker.poll_statistics();
    }
}

/// Creates clients that join the group.
pub(super) type ConsumerFactory = Box<dyn Fn() -> Result<BaseConsumer<Context>, KafkaError> + Send>;

fn connect(
    config: &KafkaConfig,
    assignment: &Arc<Assignment>,
    status: &Arc<ConsumerStatus>,
) -> ConsumerFactory {
    let (assignment, status) = (assignment.clone(), status.clone());
    let (client, pattern) = (client(config), config.environment.topic_pattern());
    Box::new(move || {
        let context = Context {
            assignment: assignment.clone(),
            status: status.clone(),
            last_warning: Mutex::new(None),
            retired: AtomicBool::new(false),
        };
        let consumer: BaseConsumer<Context> = client.create_with_context(context)?;
        consumer.subscribe(&[&pattern])?;
        Ok(consumer)
    })
}

/// Returns the connection settings of all clients of this module.
pub(super) fn connection(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.bootstrap_servers);
    client.set("client.id", "mod-patron-blocks");
    client.set("reconnect.backoff.max.ms", "2000");
    client.set("allow.auto.create.topics", "false");
    client.set_log_level(RDKafkaLogLevel::Warning);
    secure(&mut client, &config.security);
    client
}

fn secure(client: &mut ClientConfig, SecurityConfig { tls, sasl }: &SecurityConfig) {
    let protocol = match (tls, sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(tls) = tls {
        let endpoint_identification = if tls.verify_host_name { "https" } else { "none" };
        client.set("ssl.endpoint.identification.algorithm", endpoint_identification);
        if let Some(trusted) = &tls.trusted_certificates {
            client.set("ssl.ca.pem", trusted);
        }
        if let Some(own) = &tls.client_certificate {
            client.set("ssl.key.pem", &own.key);
            client.set("ssl.certificate.pem", &own.certificates);
            if let Some(password) = &own.key_password {
                client.set("ssl.key.password", password);
            }
        }
    }
    if let Some(sasl) = sasl {
        client.set("sasl.mechanism", &sasl.mechanism);
        client.set("sasl.username", &sasl.username);
        client.set("sasl.password", &sasl.password);
    }
}

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = connection(config);
    let ms = |duration: Duration| duration.as_millis().to_string();
    for (key, value) in [
        ("group.id", config.environment.consumer_group()),
        ("topic.metadata.refresh.interval.ms", ms(config.metadata_max_age)),
        // Small prefetch: the default may use 64 MiB (docs/contract/traps.md#t22-prefetch,
        // docs/contract/traps.md#t23-fetch-back-off).
        ("queued.max.messages.kbytes", config.prefetch_kib.to_string()),
        ("queued.min.messages", prefetch_records(config.prefetch_kib as usize)),
    ] {
        client.set(key, value);
    }
    for (key, value) in [
        // The partition starter decides where reading starts. If the log lacks the next offset, the
        // client must report an error (docs/contract/traps.md#t7-offset-reset).
        ("auto.offset.reset", "error"),
        // The poller stores offsets after the records are durable. The client commits stored offsets
        // in the background, at a revocation and on leaving.
        ("enable.auto.offset.store", "false"),
        ("enable.auto.commit", "true"),
        ("auto.commit.interval.ms", "1000"),
        ("fetch.message.max.bytes", "65536"),
        ("fetch.max.bytes", "1048576"),
        // The small queue fills often; this is the pause before the client fetches again.
        ("fetch.queue.backoff.ms", "5"),
        // A resumed partition waits at most this long for the fetch request in flight.
        ("fetch.wait.max.ms", "100"),
    ] {
        client.set(key, value);
    }
    match config.group_protocol {
        GroupProtocol::Classic => {
            client.set("partition.assignment.strategy", "cooperative-sticky");
            client.set("session.timeout.ms", ms(config.session_timeout));
            client.set("heartbeat.interval.ms", ms(config.heartbeat_interval));
        }
        // The broker sets the timeouts of this protocol and refuses a client that sets them.
        GroupProtocol::Consumer => {
            client.set("group.protocol", "consumer");
        }
    }
    client
}

/// Returns the number of records that the client may prefetch into `kib` KiB. The client counts only
/// values, without keys and headers. The bound is therefore a number of records, each as large as a
/// broker accepts.
pub(super) fn prefetch_records(kib: usize) -> String {
    (kib / RECORD_KIB_MAX).max(1).to_string()
}

/// The context with the callbacks that librdkafka calls from within a poll.
pub(super) struct Context {
    pub(super) assignment: Arc<Assignment>,
    pub(super) status: Arc<ConsumerStatus>,
    last_warning: Mutex<Option<Instant>>,
    /// `true` if another client has replaced this client, so its partitions no longer count.
    retired: AtomicBool,
}

impl Context {
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Logs an error of the client, at most once per interval. A missing topic is logged at debug
    /// level: a new deployment has no topics before its first tenant.
    pub(super) fn warn_rate_limited(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
            return debug!(reason, "kafka consumer: no topic matches the subscription yet");
        }
        let mut last_warning = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last_warning.is_none_or(|last| last.elapsed() > WARNING_INTERVAL) {
            *last_warning = Some(Instant::now());
            warn!(%error, reason, "kafka consumer: client reported an error; the client retries by itself");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                error!(kafka.facility = facility, "{message}");
            }
            _ => debug!(kafka.facility = facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.warn_rate_limited(&error, reason);
    }
}

fn topic_partitions(list: &TopicPartitionList) -> Vec<(String, i32)> {
    let topic_partition = |e: TopicPartitionListElem<'_>| (e.topic().to_owned(), e.partition());
    list.elements().into_iter().map(topic_partition).collect()
}

impl ConsumerContext for Context {
    /// Assigns and revokes partitions incrementally, in both group protocols. A new partition is
    /// paused at the beginning of its log until its start offset is known.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if self.is_retired() => {
                consumer.incremental_assign(partitions)
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS if self.is_retired() => {
                consumer.incremental_unassign(partitions)
            }
            _ if self.is_retired() => consumer.unassign(),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                info!(kafka.partitions = partitions.count(), "kafka consumer: partitions assigned");
                metrics().assigned.increment(partitions.count() as u64);
                let assigned = partitions
                    .set_all_offsets(Offset::Beginning)
                    .and_then(|()| consumer.incremental_assign(partitions))
                    .and_then(|()| consumer.pause(partitions));
                self.assignment.add(topic_partitions(partitions));
                self.status.set_joined(true);
                assigned
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.assignment.remove(topic_partitions(partitions));
                // The group has expelled this instance; the client joins again.
                if consumer.assignment_lost() {
                    self.status.set_joined(false);
                }
                info!(kafka.partitions = partitions.count(), "kafka consumer: partitions revoked");
                metrics().revoked.increment(partitions.count() as u64);
                consumer.incremental_unassign(partitions)
            }
            other => {
                let error = KafkaError::Rebalance(other.into());
                self.assignment.clear();
                self.status.set_joined(false);
                warn!(%error, "kafka consumer: rebalance failed; giving up all partitions");
                consumer.unassign()
            }
        };
        if let Err(error) = result {
            warn!(%error, "kafka consumer: could not assign or unassign partitions");
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        POLL_TIMEOUT.into()
    }
}

#[cfg(test)]
mod tests {
    use super::prefetch_records;

    #[test]
    fn prefetch_count_assumes_the_largest_records() {
        for (kib, records) in [(8192, "8"), (1024, "1"), (256, "1"), (64, "1"), (1 << 20, "1024")] {
            assert_eq!(prefetch_records(kib), records, "{kib} KiB");
        }
    }
}
