//! The consumer: its client settings, its start and its end.

use std::{sync::Arc, thread, time::Duration};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    admin::BrokerClient,
    assignment::Assignment,
    client::{connection, prefetch_records},
    client_context::{ConsumerFactory, Context},
    delivery::Channels,
    health::ConsumerStatus,
    poll_loop::Poller,
};
use crate::{
    clock::Clock,
    config::{GroupProtocol, KafkaConfig},
};

/// Interval at which a task polls the broker client for statistics.
const STATISTICS_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The parts of the consumer that the poller shares with the tasks around it.
#[derive(Clone)]
pub struct ConsumerParts {
    /// The partitions of this instance.
    pub assignment: Arc<Assignment>,
    /// The state of the connection to Kafka.
    pub status: Arc<ConsumerStatus>,
    /// The client for requests to brokers.
    pub broker: Arc<BrokerClient>,
}

impl ConsumerParts {
    /// Creates the parts. No client has joined the group yet.
    pub fn new(config: &KafkaConfig, clock: Clock) -> Result<Self, KafkaError> {
        let assignment = Arc::new(Assignment::default());
        let status = Arc::new(ConsumerStatus::new(assignment.clone()));
        let broker = Arc::new(BrokerClient::with_statistics(config, status.clone(), clock)?);
        Ok(Self { assignment, status, broker })
    }
}

/// A running consumer: the polling thread and the task that polls for statistics.
pub struct Consumer {
    thread: thread::JoinHandle<()>,
    statistics: JoinHandle<()>,
}

impl Consumer {
    /// Waits until the consumer has left the group, after the caller cancelled the token given to
    /// [`start`]. librdkafka may hang while no broker answers, so the caller sets a deadline.
    pub async fn join(self) {
        let _ = self.statistics.await;
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// Joins the group, and delivers records to the channels until `stop`.
pub fn start(
    config: &KafkaConfig,
    parts: &ConsumerParts,
    channels: Channels,
    stop: CancellationToken,
) -> Result<Consumer, KafkaError> {
    let connect = connect(config, &parts.assignment, &parts.status);
    let clients = (connect()?, connect);
    let statistics = tokio::spawn(poll_statistics(parts.broker.clone(), stop.clone()));
    let poller = Poller::new(clients, config.environment(), channels, config.buffer_kib, stop);
    let thread = thread::Builder::new()
        .name("kafka".to_owned())
        .spawn(move || poller.run())
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(Consumer { thread, statistics })
}

/// Polls the broker client for statistics. The broker client owns no partitions, so its statistics
/// stay short.
async fn poll_statistics(broker: Arc<BrokerClient>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(STATISTICS_POLL_INTERVAL)).await.is_some() {
        broker.poll_statistics();
    }
}

fn connect(
    config: &KafkaConfig,
    assignment: &Arc<Assignment>,
    status: &Arc<ConsumerStatus>,
) -> ConsumerFactory {
    let (assignment, status) = (assignment.clone(), status.clone());
    let (client, pattern) = (client(config), config.environment().topic_pattern());
    Box::new(move || {
        let context = Context::new(assignment.clone(), status.clone());
        let consumer: BaseConsumer<Context> = client.create_with_context(context)?;
        consumer.subscribe(&[&pattern])?;
        Ok(consumer)
    })
}

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = connection(config);
    let ms = |duration: Duration| duration.as_millis().to_string();
    for (key, value) in [
        ("group.id", config.environment().consumer_group()),
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
