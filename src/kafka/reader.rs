//! A bounded read of logs, for rebuilds: from given offsets to where the logs ended when it began. It joins
//! no group and commits nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::debug;

use super::{consumer, poller, retention::Quiet};
use crate::{config::KafkaConfig, event::Record, flow::outcome::At};

/// How long one poll waits. Bounds how late a stop is seen.
const POLL: Duration = Duration::from_millis(100);

/// How long brokers may be silent before reading is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which part of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The next offset to be read.
    pub next: i64,
    /// The offset after the last.
    pub end: i64,
}

/// Why reading was given up.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client refuses.
    #[error("could not read topics")]
    Kafka(#[from] KafkaError),
    /// Nothing came for a long time.
    #[error("no broker has answered for {} s", PATIENCE.as_secs())]
    Silent,
    /// What was to be read is gone.
    #[error("retention has taken records of a topic while it was being read")]
    Cut,
}

/// What one look at the log brought.
pub enum Read {
    /// A record.
    Record(Record),
    /// Nothing yet.
    Nothing,
    /// Everything was read.
    End,
}

/// Reads parts of logs, one topic after the other: the client tells that it stands at the end of a
/// partition, and of which, but not of which topic. Its calls block: they belong on a thread that may.
pub struct Reader {
    client: Option<BaseConsumer<Quiet>>,
    topic: Arc<str>,
    /// What is not read yet of that topic.
    parts: BTreeMap<i32, Part>,
    /// What comes after it.
    then: BTreeMap<Arc<str>, BTreeMap<i32, Part>>,
    heard: Instant,
}

impl Reader {
    /// Begins to read. What is empty is read already.
    pub fn new(config: &KafkaConfig, parts: &BTreeMap<At, Part>) -> Result<Self, ReadError> {
        let mut settings = consumer::connection(config);
        for (key, value) in [
            ("group.id", "none"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            // Where it does not hold what was asked for, that has to be told.
            ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", &*config.prefetch_kib.to_string()),
            ("fetch.message.max.bytes", "1048576"),
        ] {
            settings.set(key, value);
        }
        let mut then: BTreeMap<Arc<str>, BTreeMap<i32, Part>> = BTreeMap::new();
        for ((topic, partition), part) in parts {
            if part.next < part.end {
                then.entry(topic.clone()).or_default().insert(*partition, *part);
            }
        }
        let client = Some(settings.create_with_context(Quiet)?);
        let parts = BTreeMap::new();
        Ok(Self { client, topic: Arc::from(""), parts, then, heard: Instant::now() })
    }

    /// The next record, if one comes in time.
    pub fn read(&mut self) -> Result<Read, ReadError> {
        if self.parts.is_empty() && !self.turn_to_next()? {
            return Ok(Read::End);
        }
        let Some(client) = &self.client else { return Ok(Read::End) };
        let Some(polled) = client.poll(POLL) else {
            return if self.heard.elapsed() > PATIENCE {
                Err(ReadError::Silent)
            } else {
                Ok(Read::Nothing)
            };
        };
        self.heard = Instant::now();
        match polled {
            Ok(message) => {
                let partition = message.partition();
                let Some(part) = self.parts.get_mut(&partition) else { return Ok(Read::Nothing) };
                part.next = message.offset() + 1;
                let (is_last, is_beyond) = (part.next >= part.end, part.next > part.end);
                if is_last {
                    self.parts.remove(&partition);
                }
                if is_beyond {
                    return Ok(Read::Nothing);
                }
                let at = poller::time_of(&message);
                Ok(Read::Record(poller::copy(&message, self.topic.clone(), at)))
            }
            // Whatever stands between the last record and the end can't be read: it was compacted away,
            // or belongs to transactions.
            Err(KafkaError::PartitionEOF(partition)) => {
                self.parts.remove(&partition);
                Ok(Read::Nothing)
            }
            Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            )) => Err(ReadError::Cut),
            Err(error @ KafkaError::MessageConsumptionFatal(_)) => Err(error.into()),
            Err(error) => {
                // The client goes on trying by itself.
                debug!(%error, "while reading for a rebuild");
                Ok(Read::Nothing)
            }
        }
    }

    /// Tells whether there is another topic to be read.
    fn turn_to_next(&mut self) -> Result<bool, ReadError> {
        let (Some(client), Some((topic, parts))) = (&self.client, self.then.pop_first()) else {
            return Ok(false);
        };
        let mut from = TopicPartitionList::with_capacity(parts.len());
        for (partition, part) in &parts {
            from.add_partition_offset(&topic, *partition, Offset::Offset(part.next))?;
        }
        client.assign(&from)?;
        (self.topic, self.parts, self.heard) = (topic, parts, Instant::now());
        Ok(true)
    }
}

/// Closing a client may block for as long as a broker is away: not on a thread that others wait for.
impl Drop for Reader {
    fn drop(&mut self) {
        let client = self.client.take();
        std::thread::spawn(move || drop(client));
    }
}
