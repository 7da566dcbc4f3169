//! Queries to the brokers about logs and the consumer group, over a connection of its own that joins
//! no group.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::debug;

use super::{
    client,
    health::ConsumerStatus,
    probe::{self, ProbeResults, RecordProbe},
    retention::SilentContext,
};
use crate::{
    clock::Clock,
    config::KafkaConfig,
    event::TopicPartition,
    kafka::offsets::{CommitTag, CommittedOffset, Watermarks},
};

/// Time limit of one broker request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for broker queries. Its methods block, so callers need a thread that may block.
pub struct BrokerClient {
    settings: ClientConfig,
    /// `None` only during the drop.
    client: Option<BaseConsumer<StatisticsContext>>,
}

/// Interval at which the client reports statistics.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

impl BrokerClient {
    /// Creates a client that connects at its first request.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let settings = settings(config);
        let client = Some(settings.create_with_context(StatisticsContext(None))?);
        Ok(Self { settings, client })
    }

    /// Creates a client like [`BrokerClient::new`] that also reports its broker connections to
    /// `status`. The client owns no partitions, so its statistics stay short.
    pub(super) fn with_statistics(
        config: &KafkaConfig,
        status: Arc<ConsumerStatus>,
        clock: Clock,
    ) -> Result<Self, KafkaError> {
        let settings = settings(config);
        let mut reporting = settings.clone();
        reporting.set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string());
        let client = Some(reporting.create_with_context(StatisticsContext(Some((status, clock))))?);
        Ok(Self { settings, client })
    }

    /// Delivers pending statistics of the client, without waiting.
    pub(super) fn poll_statistics(&self) {
        if let Some(Err(error)) = self.client().poll(Duration::ZERO) {
            debug!(%error, "kafka admin: client reported an error; requests return it, too");
        }
    }

    fn client(&self) -> &BaseConsumer<StatisticsContext> {
        self.client.as_ref().expect("only drop() takes the client")
    }

    /// Returns the cluster's id, or `None` if no broker answers in time.
    pub fn cluster_id(&self) -> Option<Arc<str>> {
        self.client().client().fetch_cluster_id(REQUEST_TIMEOUT).map(Arc::from)
    }

    /// Returns the group's committed offsets, without partitions that have none.
    pub fn committed_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, CommittedOffset>, KafkaError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let group_offsets = self
            .client()
            .committed_offsets(partition_list(partitions, Offset::Invalid)?, REQUEST_TIMEOUT)?;
        let mut offsets = HashMap::new();
        for element in group_offsets.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                let topic_partition = (Arc::from(element.topic()), element.partition());
                offsets.insert(
                    topic_partition,
                    CommittedOffset { offset, tag: CommitTag::from_metadata(element.metadata()) },
                );
            }
        }
        Ok(offsets)
    }

    /// Returns the watermarks of partitions with two requests per broker. Omits missing partitions.
    pub fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Watermarks>, KafkaError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        // In place of a timestamp, these two values request the first offset and the end offset.
        let lows = self.list_offsets(partitions, Offset::Beginning)?;
        let highs = self.list_offsets(partitions, Offset::End)?;
        let watermarks = |(topic_partition, low): (TopicPartition, i64)| {
            let high = *highs.get(&topic_partition)?;
            Some((topic_partition, Watermarks { low, high }))
        };
        Ok(lows.into_iter().filter_map(watermarks).collect())
    }

    /// Returns the end offset of partitions, with one request per broker. Omits missing partitions.
    pub fn end_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, i64>, KafkaError> {
        match partitions {
            [] => Ok(HashMap::new()),
            partitions => self.list_offsets(partitions, Offset::End),
        }
    }

    /// Returns the names of all topics.
    pub fn topic_names(&self) -> Result<Vec<String>, KafkaError> {
        Ok(self.topics()?.into_keys().collect())
    }

    /// Returns all topics with the number of their partitions.
    pub fn topics(&self) -> Result<BTreeMap<String, usize>, KafkaError> {
        let metadata = self.client().fetch_metadata(None, REQUEST_TIMEOUT)?;
        let existing = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(existing.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
    }

    /// Returns the partitions of those topics in `topics` that exist.
    pub fn partitions(&self, topics: &[String]) -> Result<Vec<TopicPartition>, KafkaError> {
        let mut found = Vec::new();
        for name in topics {
            let metadata = self.client().fetch_metadata(Some(name), REQUEST_TIMEOUT)?;
            for topic in metadata.topics().iter().filter(|topic| topic.error().is_none()) {
                let name: Arc<str> = Arc::from(topic.name());
                found.extend(topic.partitions().iter().map(|p| (name.clone(), p.id())));
            }
        }
        Ok(found)
    }

    /// Returns the first offset written at `time` or later, per partition. Omits partitions without a
    /// later record.
    pub fn offsets_for_time(
        &self,
        partitions: &[TopicPartition],
        time: DateTime<Utc>,
    ) -> Result<HashMap<TopicPartition, i64>, KafkaError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        // A negative number would mean an end of the log.
        let which = Offset::Offset(time.timestamp_millis().max(0));
        let offsets =
            self.client().offsets_for_times(partition_list(partitions, which)?, REQUEST_TIMEOUT)?;
        let mut first = HashMap::new();
        for element in offsets.elements() {
            // The lookup may fail for a single partition, which differs from a partition without
            // records.
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                first.insert((Arc::from(element.topic()), element.partition()), offset);
            }
        }
        Ok(first)
    }

    /// Reads single records of many partitions, with a client of its own and within a time limit.
    /// Omits partitions without a response in time.
    pub fn probe(&self, probes: &[RecordProbe]) -> ProbeResults {
        probe::probe(&self.settings, probes, REQUEST_TIMEOUT)
    }

    /// Requests metadata per topic name, which refreshes the client's cache.
    fn refresh_metadata(&self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        let topics: BTreeSet<&str> = partitions.iter().map(|(topic, _)| &**topic).collect();
        topics.into_iter().try_for_each(|topic| {
            self.client().fetch_metadata(Some(topic), REQUEST_TIMEOUT).map(|_| ())
        })
    }

    fn list_offsets(
        &self,
        partitions: &[TopicPartition],
        which: Offset,
    ) -> Result<HashMap<TopicPartition, i64>, KafkaError> {
        let (mut offsets, mut remaining) = (HashMap::new(), partitions.to_vec());
        for is_retry in [false, true] {
            if is_retry {
                self.refresh_metadata(&remaining)?;
            }
            let answer = match self
                .client()
                .offsets_for_times(partition_list(&remaining, which)?, REQUEST_TIMEOUT)
            {
                // The client's metadata is minutes old, and a topic may have more partitions by now.
                Err(error)
                    if !is_retry
                        && error.rdkafka_error_code()
                            == Some(RDKafkaErrorCode::UnknownPartition) =>
                {
                    continue;
                }
                answer => answer?,
            };
            remaining.clear();
            for element in answer.elements() {
                let topic_partition: TopicPartition =
                    (Arc::from(element.topic()), element.partition());
                match (element.error(), element.offset()) {
                    (Ok(()), Offset::Offset(offset)) => {
                        offsets.insert(topic_partition, offset);
                    }
                    // The partition may have another leader by now.
                    _ => remaining.push(topic_partition),
                }
            }
            if remaining.is_empty() {
                break;
            }
        }
        Ok(offsets)
    }
}

/// Closing a client may block while a broker is unavailable, so a separate thread closes the client.
impl Drop for BrokerClient {
    fn drop(&mut self) {
        let client = self.client.take();
        std::thread::spawn(move || drop(client));
    }
}

fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = client::connection(config);
    settings.set("group.id", config.environment().consumer_group());
    settings.set("enable.auto.commit", "false");
    settings
}

/// The context that applies statistics to the status. Requests return all other errors.
struct StatisticsContext(Option<(Arc<ConsumerStatus>, Clock)>);

impl ConsumerContext for StatisticsContext {}

impl ClientContext for StatisticsContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        SilentContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        SilentContext.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Self(Some((status, clock))) = self {
            status.apply_statistics(statistics, clock.now());
        }
    }
}

fn partition_list(
    partitions: &[TopicPartition],
    offset: Offset,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, *partition, offset)?;
    }
    Ok(list)
}
