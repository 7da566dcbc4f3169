//! The consumer: its settings, what librdkafka calls back, and its start and end.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    util::Timeout,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    assignment::Assignment,
    lane::{self, LANE_MOST},
    poller::{POLL, Poller},
    status::Status,
};
use crate::{clock::Clock, config::KafkaConfig, flow::ingest::Ingest};

/// Writers, each with a lane: a third gains nothing (docs/decisions/0005).
const LANES: usize = 2;

/// How often the client reports about itself.
const REPORT: Duration = Duration::from_secs(1);

/// How often the same kind of trouble is logged.
const COMPLAIN: Duration = Duration::from_secs(10);

/// A running consumer.
pub struct Consumer {
    thread: thread::JoinHandle<()>,
    writers: Vec<JoinHandle<()>>,
    status: Arc<Status>,
    refresh: Arc<AtomicBool>,
}

impl Consumer {
    /// What is known of the connection.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// What makes the consumer look for new topics at once: set it to `true`.
    pub fn refresh(&self) -> Arc<AtomicBool> {
        self.refresh.clone()
    }

    /// Waits until the group was left, after the token given to [`start`] was cancelled. librdkafka may
    /// hang while no broker answers, so the caller sets a deadline.
    pub async fn stopped(self) {
        for writer in self.writers {
            let _ = writer.await;
        }
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// Joins the group and reads until `stop`.
pub fn start(
    config: &KafkaConfig,
    ingest: &Arc<Ingest>,
    clock: Clock,
    stop: CancellationToken,
) -> Result<Consumer, KafkaError> {
    let assignment = Arc::new(Assignment::default());
    let status = Arc::new(Status::default());
    let refresh = Arc::new(AtomicBool::new(false));
    let context = Context {
        assignment: assignment.clone(),
        status: status.clone(),
        clock,
        complained: Mutex::new(None),
    };
    let consumer: BaseConsumer<Context> = client(config).create_with_context(context)?;
    consumer.subscribe(&[&config.environment.topic_pattern()])?;

    let (settle, settled) = std_mpsc::channel();
    let (lanes, writers) = (0..LANES)
        .map(|_| {
            let (lane, records) = mpsc::channel(LANE_MOST);
            let (ingest, settle) = (ingest.clone(), settle.clone());
            let writer = lane::write(records, ingest, assignment.clone(), settle, stop.clone());
            (lane, tokio::spawn(writer))
        })
        .unzip();
    let environment = config.environment.clone();
    let poller = Poller::new(consumer, environment, lanes, settled, refresh.clone(), stop);
    let thread = thread::Builder::new()
        .name("kafka".to_owned())
        .spawn(move || poller.run())
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(Consumer { thread, writers, status, refresh })
}

fn client(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    let ms = |duration: Duration| duration.as_millis().to_string();
    for (key, value) in [
        ("bootstrap.servers", config.bootstrap.clone()),
        ("group.id", config.environment.consumer_group()),
        ("client.id", "mod-patron-blocks".to_owned()),
        ("session.timeout.ms", ms(config.session_timeout)),
        ("heartbeat.interval.ms", ms(config.heartbeat_interval)),
        ("topic.metadata.refresh.interval.ms", ms(config.metadata_max_age)),
        ("statistics.interval.ms", ms(REPORT)),
    ] {
        client.set(key, value);
    }
    for (key, value) in [
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("auto.offset.reset", "earliest"),
        // Offsets are stored by hand once durable, and committed from there in the background, on
        // revocation and on leaving.
        ("enable.auto.offset.store", "false"),
        ("enable.auto.commit", "true"),
        ("auto.commit.interval.ms", "1000"),
        // Small prefetch: the default may take 64 MiB (traps T22, T23).
        ("queued.min.messages", "2000"),
        ("queued.max.messages.kbytes", "8192"),
        ("fetch.message.max.bytes", "262144"),
        ("fetch.queue.backoff.ms", "20"),
        ("fetch.wait.max.ms", "500"),
        ("reconnect.backoff.max.ms", "2000"),
        ("allow.auto.create.topics", "false"),
    ] {
        client.set(key, value);
    }
    client.set_log_level(RDKafkaLogLevel::Warning);
    client
}

/// What librdkafka calls from within a poll.
pub(super) struct Context {
    pub(super) assignment: Arc<Assignment>,
    pub(super) status: Arc<Status>,
    clock: Clock,
    complained: Mutex<Option<Instant>>,
}

impl Context {
    /// Says what the client meets, but not many times a second while a broker is away. That there is no
    /// topic yet is no trouble: a new deployment has none before its first tenant.
    pub(super) fn complain(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
            return debug!(reason, "no topic to read yet");
        }
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() > COMPLAIN) {
            *last = Some(Instant::now());
            warn!(%error, reason, "trouble with Kafka; the client goes on trying by itself");
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
        self.complain(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.status.report(statistics, self.assignment.len(), self.clock.now());
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(_) => {}
            Rebalance::Revoke(partitions) => {
                self.assignment.remove(partitions);
                info!(kafka.partitions = partitions.count(), "partitions revoked");
            }
            Rebalance::Error(error) => {
                self.assignment.clear();
                warn!(%error, "rebalance failed; all partitions are given up");
            }
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.assignment.add(partitions);
            info!(kafka.partitions = partitions.count(), "partitions assigned");
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        POLL.into()
    }
}
