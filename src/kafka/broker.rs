//! What brokers know of logs and of the group, asked over a connection of its own that joins no group.

use std::{
    collections::{BTreeSet, HashMap},
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
    consumer,
    look::{self, Look, Looked},
    retention::Quiet,
    status::Status,
};
use crate::{
    clock::Clock,
    config::KafkaConfig,
    flow::{
        outcome::At,
        takeover::{Committed, Mark, Span},
    },
};

/// How long a broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks brokers. Its calls block: they belong on a thread that may.
pub struct Broker {
    settings: ClientConfig,
    /// Taken only when dropped.
    client: Option<BaseConsumer<Reporting>>,
}

/// How often the client reports about itself.
const REPORT: Duration = Duration::from_secs(1);

impl Broker {
    /// Connects when it is first asked.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let settings = settings(config);
        let client = Some(settings.create_with_context(Reporting(None))?);
        Ok(Self { settings, client })
    }

    /// As [`Broker::new`], with reports of what brokers it is connected with. It owns no partitions, so they
    /// are short however many there are.
    pub(super) fn reporting(
        config: &KafkaConfig,
        status: Arc<Status>,
        clock: Clock,
    ) -> Result<Self, KafkaError> {
        let settings = settings(config);
        let mut reporting = settings.clone();
        reporting.set("statistics.interval.ms", REPORT.as_millis().to_string());
        let client = Some(reporting.create_with_context(Reporting(Some((status, clock))))?);
        Ok(Self { settings, client })
    }

    /// Passes on what the client has to report, if anything. It does not wait.
    pub(super) fn serve(&self) {
        if let Some(Err(error)) = self.client().poll(Duration::ZERO) {
            debug!(%error, "kafka admin: client reported an error; requests return it, too");
        }
    }

    fn client(&self) -> &BaseConsumer<Reporting> {
        self.client.as_ref().expect("it is taken only when dropped")
    }

    /// The cluster's id.
    pub fn cluster(&self) -> Option<Arc<str>> {
        self.client().client().fetch_cluster_id(PATIENCE).map(Arc::from)
    }

    /// The group's offsets; none for a partition of which the group has none.
    pub fn committed(&self, of: &[At]) -> Result<HashMap<At, Committed>, KafkaError> {
        if of.is_empty() {
            return Ok(HashMap::new());
        }
        let told = self.client().committed_offsets(list(of, Offset::Invalid)?, PATIENCE)?;
        let mut offsets = HashMap::new();
        for element in told.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                let at = (Arc::from(element.topic()), element.partition());
                offsets.insert(at, Committed { offset, mark: Mark::read(element.metadata()) });
            }
        }
        Ok(offsets)
    }

    /// What logs hold, in two requests to each broker. A partition that is not there is left out.
    pub fn spans(&self, of: &[At]) -> Result<HashMap<At, Span>, KafkaError> {
        if of.is_empty() {
            return Ok(HashMap::new());
        }
        // In place of a time these two mean the first offset and the one after the last.
        let starts = self.offsets(of, Offset::Beginning)?;
        let ends = self.offsets(of, Offset::End)?;
        let span = |(at, start): (At, i64)| {
            let end = *ends.get(&at)?;
            Some((at, Span { start, end }))
        };
        Ok(starts.into_iter().filter_map(span).collect())
    }

    /// The names of all topics.
    pub fn topics(&self) -> Result<Vec<String>, KafkaError> {
        let metadata = self.client().fetch_metadata(None, PATIENCE)?;
        let there = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(there.map(|topic| topic.name().to_owned()).collect())
    }

    /// The partitions of those topics that there are.
    pub fn partitions(&self, of: &[String]) -> Result<Vec<At>, KafkaError> {
        let mut found = Vec::new();
        for name in of {
            let metadata = self.client().fetch_metadata(Some(name), PATIENCE)?;
            for topic in metadata.topics().iter().filter(|topic| topic.error().is_none()) {
                let name: Arc<str> = Arc::from(topic.name());
                found.extend(topic.partitions().iter().map(|p| (name.clone(), p.id())));
            }
        }
        Ok(found)
    }

    /// The first offsets that were written at an instant or later; none where nothing was.
    pub fn since(&self, of: &[At], time: DateTime<Utc>) -> Result<HashMap<At, i64>, KafkaError> {
        if of.is_empty() {
            return Ok(HashMap::new());
        }
        // A negative number would mean an end of the log.
        let which = Offset::Offset(time.timestamp_millis().max(0));
        let told = self.client().offsets_for_times(list(of, which)?, PATIENCE)?;
        let mut first = HashMap::new();
        for element in told.elements() {
            // Of one partition it may have failed: that is not the same as nothing.
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                first.insert((Arc::from(element.topic()), element.partition()), offset);
            }
        }
        Ok(first)
    }

    /// Reads single records of many partitions, with one client of its own and in bounded time. What could not
    /// be read until then is left out.
    pub fn look(&self, at: &[Look]) -> Looked {
        look::look(&self.settings, at, PATIENCE)
    }

    /// Asking for a topic by its name refreshes what the client knows of it.
    fn look_again_at(&self, of: &[At]) -> Result<(), KafkaError> {
        let topics: BTreeSet<&str> = of.iter().map(|(topic, _)| &**topic).collect();
        topics
            .into_iter()
            .try_for_each(|topic| self.client().fetch_metadata(Some(topic), PATIENCE).map(|_| ()))
    }

    fn offsets(&self, of: &[At], which: Offset) -> Result<HashMap<At, i64>, KafkaError> {
        let (mut offsets, mut asked) = (HashMap::new(), of.to_vec());
        for again in [false, true] {
            if again {
                self.look_again_at(&asked)?;
            }
            let answer = match self.client().offsets_for_times(list(&asked, which)?, PATIENCE) {
                // What the client knows of topics is minutes old: one may have more partitions by now.
                Err(error)
                    if !again
                        && error.rdkafka_error_code()
                            == Some(RDKafkaErrorCode::UnknownPartition) =>
                {
                    continue;
                }
                answer => answer?,
            };
            asked.clear();
            for element in answer.elements() {
                let at: At = (Arc::from(element.topic()), element.partition());
                match (element.error(), element.offset()) {
                    (Ok(()), Offset::Offset(offset)) => {
                        offsets.insert(at, offset);
                    }
                    // Or another leader.
                    _ => asked.push(at),
                }
            }
            if asked.is_empty() {
                break;
            }
        }
        Ok(offsets)
    }
}

/// Closing a client may block for as long as a broker is away: not on a thread that others wait for.
impl Drop for Broker {
    fn drop(&mut self) {
        let client = self.client.take();
        std::thread::spawn(move || drop(client));
    }
}

fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = consumer::connection(config);
    settings.set("group.id", config.environment.consumer_group());
    settings.set("enable.auto.commit", "false");
    settings
}

/// Passes reports on; answers show other trouble.
struct Reporting(Option<(Arc<Status>, Clock)>);

impl ConsumerContext for Reporting {}

impl ClientContext for Reporting {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Self(Some((status, clock))) = self {
            status.report(statistics, clock.now());
        }
    }
}

fn list(of: &[At], offset: Offset) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(of.len());
    for (topic, partition) in of {
        list.add_partition_offset(topic, *partition, offset)?;
    }
    Ok(list)
}
