//! A bounded read of logs, for rebuilds: from given offsets to where the logs ended when it began. It joins
//! no group and commits nothing.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tracing::debug;

use super::{consumer, message, retention::SilentContext};
use crate::{
    config::KafkaConfig,
    event::{Record, RecordPosition, decode},
    services::outcome::TopicPartition,
};

/// How long one poll waits. Bounds how late a stop is seen.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// What of a partition may wait to be read, at least, in KiB.
const PREFETCH_KIB_MIN: usize = 256;

/// Records of the longest part before the next has its turn. Shorter ones have shorter turns, so that all
/// are at about the same time of the library's.
const QUOTA_RECORDS_MAX: usize = 500;

/// How long brokers may be silent before reading is given up.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which part of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The next offset to be read.
    pub next: i64,
    /// The offset after the last.
    pub end: i64,
}

impl OffsetRange {
    /// What is left of it from an offset on: none where there is none. It may stand behind the end by now.
    pub fn starting_at(self, first: Option<i64>) -> Self {
        let next = first.map_or(self.end, |first| self.next.max(first).min(self.end));
        Self { next, ..self }
    }

    fn len(&self) -> usize {
        usize::try_from(self.end - self.next).unwrap_or_default()
    }
}

/// Why reading was given up.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The client refuses.
    #[error("could not read topics")]
    Kafka(#[from] KafkaError),
    /// Nothing came for a long time.
    #[error("no broker has answered for {} s", RESPONSE_TIMEOUT.as_secs())]
    Timeout,
    /// A record came where none is looked for: what else did is not known.
    #[error("the client gave a record to nobody")]
    UnexpectedRecord,
    /// The topic is there no more.
    #[error("a topic was deleted while it was being read")]
    TopicDeleted,
    /// What the broker has kept is damaged, or of a kind that the client doesn't know.
    #[error("a topic holds what the client can't unpack")]
    UnsupportedFormat(#[source] KafkaError),
    /// Retention has taken what was to be read.
    #[error("retention has taken records of a topic while it was being read")]
    RecordsExpired,
}

/// What was read since the last time.
pub struct ReplayBatch<T> {
    /// What was made of each record.
    pub records: Vec<T>,
    /// Whether that is everything.
    pub is_end: bool,
}

/// Records in a batch at most, and batches that wait for whoever takes them.
const BATCH_RECORDS_MAX: usize = 500;
const BUFFERED_BATCHES_MAX: usize = 4;

/// Reads parts of logs, all of them side by side, so that what belongs together comes near together. It does so on
/// a thread of its own, until everything is read or nobody takes it. `understand` is called there with the number
/// of a record's part and the record, as far as it is read from: none of its bytes are copied, and only what was
/// made of it reaches another thread.
pub fn replay<T: Send + 'static>(
    config: &KafkaConfig,
    ranges: &[(TopicPartition, OffsetRange)],
    convert: impl Fn(usize, &BorrowedRecord<'_>) -> T + Send + 'static,
) -> Result<Receiver<Result<ReplayBatch<T>, ReplayError>>, ReplayError> {
    let mut reader = LogReader::new(config, ranges)?;
    let (sender, batches) = mpsc::sync_channel(BUFFERED_BATCHES_MAX);
    thread::spawn(move || {
        loop {
            let batch = reader.next_batch(&convert);
            let is_finished = batch.as_ref().map_or(true, |batch| batch.is_end);
            if sender.send(batch).is_err() || is_finished {
                return;
            }
        }
    });
    Ok(batches)
}

/// A record that is only looked at.
pub type BorrowedRecord<'a> = Record<&'a str, &'a [u8]>;

/// What one look at the log brought.
enum ReplayEvent<T> {
    /// What was made of a record.
    Record(T),
    /// Nothing yet.
    Nothing,
    /// Everything was read.
    End,
}

struct LogReader {
    client: Arc<BaseConsumer<SilentContext>>,
    /// What is not read yet.
    partitions: Vec<PartitionReader>,
    /// Which of them is read at the moment, and how many more records of it before the next has its turn.
    current: usize,
    quota_left: usize,
    last_response: Instant,
}

/// A partition that is being read. It has a queue of its own: the client tells that it stands at the end of a
/// partition and of which, but not of which topic.
struct PartitionReader {
    /// Its number among all that were asked for.
    index: usize,
    topic: Arc<str>,
    range: OffsetRange,
    quota: usize,
    queue: PartitionQueue<SilentContext>,
}

impl LogReader {
    /// Begins to read. What is empty is read already.
    fn new(
        config: &KafkaConfig,
        ranges: &[(TopicPartition, OffsetRange)],
    ) -> Result<Self, ReplayError> {
        let is_non_empty =
            |(_, (_, range)): &(usize, &(TopicPartition, OffsetRange))| range.next < range.end;
        let non_empty: Vec<_> = ranges.iter().enumerate().filter(is_non_empty).collect();
        // A partition with a queue of its own has the whole of this for itself.
        let prefetch_kib =
            (config.prefetch_kib as usize / non_empty.len().max(1)).max(PREFETCH_KIB_MIN);
        let mut settings = consumer::connection(config);
        for (key, value) in [
            ("group.id", "none"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            // Where it does not hold what was asked for, that has to be told.
            ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", &*prefetch_kib.to_string()),
            ("queued.min.messages", &*consumer::prefetch_records(prefetch_kib)),
            ("fetch.message.max.bytes", "262144"),
            // What is read as fast as it comes is full again and again; by default each time costs a second.
            ("fetch.queue.backoff.ms", "10"),
            // Where only parts that are read to their end have room, the broker would wait for what comes to them, by
            // default for half a second, and nothing else be asked for meanwhile.
            ("fetch.wait.max.ms", "10"),
        ] {
            settings.set(key, value);
        }
        let client: Arc<BaseConsumer<SilentContext>> =
            Arc::new(settings.create_with_context(SilentContext)?);
        let longest = non_empty.iter().map(|(_, (_, range))| range.len()).max().unwrap_or(1);
        let mut from = TopicPartitionList::with_capacity(non_empty.len());
        let mut readers = Vec::with_capacity(non_empty.len());
        for (index, ((topic, partition), range)) in non_empty {
            from.add_partition_offset(topic, *partition, Offset::Offset(range.next))?;
            let queue = client.split_partition_queue(topic, *partition);
            let queue = queue.ok_or_else(|| {
                KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownPartition)
            })?;
            let quota = (QUOTA_RECORDS_MAX * range.len()).div_ceil(longest);
            readers.push(PartitionReader {
                index,
                topic: topic.clone(),
                range: *range,
                quota,
                queue,
            });
        }
        // Only now: what came before a partition had its queue would wait in the client's own.
        client.assign(&from)?;
        Ok(Self {
            client,
            partitions: readers,
            current: 0,
            quota_left: QUOTA_RECORDS_MAX,
            last_response: Instant::now(),
        })
    }

    /// What comes in time, as far as it goes into a batch.
    fn next_batch<T>(
        &mut self,
        convert: &impl Fn(usize, &BorrowedRecord<'_>) -> T,
    ) -> Result<ReplayBatch<T>, ReplayError> {
        let mut batch =
            ReplayBatch { records: Vec::with_capacity(BATCH_RECORDS_MAX), is_end: false };
        while batch.records.len() < BATCH_RECORDS_MAX {
            match self.next_event(convert)? {
                ReplayEvent::Record(value) => batch.records.push(value),
                ReplayEvent::Nothing => break,
                ReplayEvent::End => {
                    batch.is_end = true;
                    break;
                }
            }
        }
        Ok(batch)
    }

    /// The next record, if one comes in time.
    fn next_event<T>(
        &mut self,
        convert: &impl Fn(usize, &BorrowedRecord<'_>) -> T,
    ) -> Result<ReplayEvent<T>, ReplayError> {
        if self.partitions.is_empty() {
            return Ok(ReplayEvent::End);
        }
        for _ in 0..=self.partitions.len() {
            if self.quota_left == 0 || self.current >= self.partitions.len() {
                self.current = (self.current + 1) % self.partitions.len().max(1);
                self.quota_left =
                    self.partitions.get(self.current).map_or(0, |reader| reader.quota);
            }
            match self.poll_current(convert)? {
                ReplayEvent::Nothing if self.partitions.is_empty() => return Ok(ReplayEvent::End),
                ReplayEvent::Nothing => self.quota_left = 0,
                event => {
                    self.quota_left -= 1;
                    return Ok(event);
                }
            }
        }
        // Nothing is there of any: wait a moment, and serve the client's own events.
        match self.client.poll(POLL_TIMEOUT) {
            None => {}
            Some(Ok(_)) => return Err(ReplayError::UnexpectedRecord),
            Some(Err(error)) => check_error(error)?,
        }
        if self.last_response.elapsed() > RESPONSE_TIMEOUT {
            Err(ReplayError::Timeout)
        } else {
            Ok(ReplayEvent::Nothing)
        }
    }

    /// What is there of the partition whose turn it is. One that was read to its end is let go of.
    fn poll_current<T>(
        &mut self,
        convert: &impl Fn(usize, &BorrowedRecord<'_>) -> T,
    ) -> Result<ReplayEvent<T>, ReplayError> {
        let Some(reader) = self.partitions.get_mut(self.current) else {
            return Ok(ReplayEvent::Nothing);
        };
        let (event, is_finished) = match reader.queue.poll(Duration::ZERO) {
            None => return Ok(ReplayEvent::Nothing),
            Some(Ok(message)) => {
                self.last_response = Instant::now();
                let range = &mut reader.range;
                range.next = message.offset() + 1;
                let event = if range.next > range.end {
                    ReplayEvent::Nothing
                } else {
                    let record = borrow(&message, reader.topic.clone());
                    ReplayEvent::Record(convert(reader.index, &record))
                };
                (event, range.next >= range.end)
            }
            // Whatever stands between the last record and the end can't be read: it was compacted away,
            // or belongs to transactions.
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.last_response = Instant::now();
                (ReplayEvent::Nothing, true)
            }
            Some(Err(error)) => {
                check_error(error)?;
                (ReplayEvent::Nothing, false)
            }
        };
        if is_finished {
            self.partitions.swap_remove(self.current);
        }
        Ok(event)
    }
}

/// What is read from a record, and nothing else of it.
fn borrow<'a>(message: &'a BorrowedMessage<'_>, topic: Arc<str>) -> BorrowedRecord<'a> {
    let headers = message::headers(message).filter(|(name, _)| decode::is_tenant_header(name));
    Record {
        position: RecordPosition {
            topic,
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp: message::timestamp_of(message),
        key: None,
        headers: headers.collect(),
        payload: message.payload(),
    }
}

/// Most passes: the client goes on trying by itself. What it would try for ever ends reading.
fn check_error(error: KafkaError) -> Result<(), ReplayError> {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
            Err(ReplayError::RecordsExpired)
        }
        KafkaError::MessageConsumption(
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
        ) => Err(ReplayError::TopicDeleted),
        KafkaError::MessageConsumption(
            Code::BadMessage | Code::InvalidMessage | Code::BadCompression | Code::NotImplemented,
        ) => Err(ReplayError::UnsupportedFormat(error)),
        error @ KafkaError::MessageConsumptionFatal(_) => Err(error.into()),
        error => {
            debug!(%error, "replay: client reported an error while reading topics for a rebuild; retrying");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permanent_errors_end_reading_and_transient_do_not() {
        use RDKafkaErrorCode as Code;
        let check = |code| check_error(KafkaError::MessageConsumption(code));
        assert!(matches!(check(Code::UnknownTopicOrPartition), Err(ReplayError::TopicDeleted)));
        assert!(matches!(check(Code::AutoOffsetReset), Err(ReplayError::RecordsExpired)));
        for code in [Code::BadMessage, Code::BadCompression, Code::NotImplemented] {
            assert!(matches!(check(code), Err(ReplayError::UnsupportedFormat(_))), "{code:?}");
        }
        for code in [Code::BrokerTransportFailure, Code::AllBrokersDown, Code::LeaderNotAvailable] {
            assert!(check(code).is_ok(), "{code:?}");
        }
    }

    #[test]
    fn records_beyond_the_end_offset_are_not_read() {
        let range = OffsetRange { next: 40, end: 100 };
        for (first, next) in [(None, 100), (Some(7), 40), (Some(60), 60), (Some(101), 100)] {
            assert_eq!(range.starting_at(first), OffsetRange { next, end: 100 });
        }
    }
}
