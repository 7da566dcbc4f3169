//! The callbacks of librdkafka for the client that joins the group.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaRespErr,
    util::Timeout,
};
use tracing::{debug, error, info, warn};

use super::{assignment::Assignment, health::ConsumerStatus, metrics::metrics};

/// Time that one poll waits for a record. Bounds the delay until the poller stores a committed offset
/// and sees a stop.
pub(super) const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// Minimum time between two warnings about client errors.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Creates clients that join the group.
pub(super) type ConsumerFactory = Box<dyn Fn() -> Result<BaseConsumer<Context>, KafkaError> + Send>;

/// The context with the callbacks that librdkafka calls from within a poll.
pub(super) struct Context {
    pub(super) assignment: Arc<Assignment>,
    pub(super) status: Arc<ConsumerStatus>,
    last_warning: Mutex<Option<Instant>>,
    /// `true` if another client has replaced this client, so its partitions no longer count.
    retired: AtomicBool,
}

impl Context {
    pub(super) fn new(assignment: Arc<Assignment>, status: Arc<ConsumerStatus>) -> Self {
        let (last_warning, retired) = (Mutex::new(None), AtomicBool::new(false));
        Self { assignment, status, last_warning, retired }
    }

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
