//! A bounded read of logs for rebuilds: from given offsets to given end offsets. The client joins no
//! group and commits nothing.

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

use super::{client, message, retention::SilentContext};
use crate::{
    config::KafkaConfig,
    event::{Record, RecordPosition, TopicPartition, decode},
};

/// Time that one poll waits. Bounds the delay until the reader sees a stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// Smallest prefetch per partition, in KiB.
const PREFETCH_KIB_MIN: usize = 256;

/// Records that the longest range returns before the next partition has its turn. Shorter ranges have
/// smaller quotas, so all partitions progress through about the same time.
const QUOTA_RECORDS_MAX: usize = 500;

/// Time without a response of any broker after which reading fails.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The part of a log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The next offset to read.
    pub next: i64,
    /// The offset after the last record to read.
    pub end: i64,
}

impl OffsetRange {
    /// Returns the rest of the range from `first` on; empty with `None`. `first` may lie beyond the
    /// end by now.
    pub fn starting_at(self, first: Option<i64>) -> Self {
        let next = first.map_or(self.end, |first| self.next.max(first).min(self.end));
        Self { next, ..self }
    }

    fn len(&self) -> usize {
        usize::try_from(self.end - self.next).unwrap_or_default()
    }
}

/// The reason why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The client returned a permanent error.
    #[error("could not read topics")]
    Kafka(#[from] KafkaError),
    /// No broker responded within the time limit.
    #[error("no broker has responded for {} s", RESPONSE_TIMEOUT.as_secs())]
    Timeout,
    /// A record arrived outside the partition queues, so other records may be lost as well.
    #[error("the Kafka client returned a record without a partition queue")]
    UnexpectedRecord,
    /// The topic was deleted during the read.
    #[error("a topic was deleted during the read")]
    TopicDeleted,
    /// The broker's data is corrupt, or in a format that the client does not support.
    #[error("the client cannot decode the records of a topic")]
    UnsupportedFormat(#[source] KafkaError),
    /// Retention has deleted records that the range includes.
    #[error("retention deleted records of a topic during the read")]
    RecordsExpired,
}

/// Records that were read since the previous batch.
pub struct ReplayBatch<T> {
    /// The converted records.
    pub records: Vec<T>,
    /// `true` if the read is complete.
    pub is_end: bool,
}

/// Largest number of records per batch, and of batches in the channel.
const BATCH_RECORDS_MAX: usize = 500;
const BUFFERED_BATCHES_MAX: usize = 4;

/// Reads ranges of logs, all in parallel, so that related records arrive close together. A thread of
/// its own reads until everything is read or the receiver is dropped. The thread calls `convert` with
/// the index of the range and the borrowed record. No bytes are copied, and only the result of
/// `convert` reaches another thread.
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

/// A record that borrows its bytes from the client.
pub type BorrowedRecord<'a> = Record<&'a str, &'a [u8]>;

/// The result of one poll.
enum ReplayEvent<T> {
    /// A converted record.
    Record(T),
    /// No record yet.
    Nothing,
    /// All ranges are complete.
    End,
}

struct LogReader {
    client: Arc<BaseConsumer<SilentContext>>,
    /// Partitions with unread records.
    partitions: Vec<PartitionReader>,
    /// The index of the current partition, and the records that remain in its turn.
    current: usize,
    quota_left: usize,
    last_response: Instant,
}

/// A partition that is being read. It has a queue of its own, because the client reports the end of a
/// partition without its topic.
struct PartitionReader {
    /// Its index among the requested ranges.
    index: usize,
    topic: Arc<str>,
    range: OffsetRange,
    quota: usize,
    queue: PartitionQueue<SilentContext>,
}

impl LogReader {
    /// Starts reading; empty ranges count as complete.
    fn new(
        config: &KafkaConfig,
        ranges: &[(TopicPartition, OffsetRange)],
    ) -> Result<Self, ReplayError> {
        let is_non_empty =
            |(_, (_, range)): &(usize, &(TopicPartition, OffsetRange))| range.next < range.end;
        let non_empty: Vec<_> = ranges.iter().enumerate().filter(is_non_empty).collect();
        // A partition with its own queue may use all of this limit, so the limit is divided.
        let prefetch_kib =
            (config.prefetch_kib as usize / non_empty.len().max(1)).max(PREFETCH_KIB_MIN);
        let mut settings = client::connection(config);
        for (key, value) in [
            ("group.id", "none"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            // If the log lacks the requested offset, the client must report an error.
            ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", &*prefetch_kib.to_string()),
            ("queued.min.messages", &*client::prefetch_records(prefetch_kib)),
            ("fetch.message.max.bytes", "262144"),
            // The queue fills often; by default each time costs a second.
            ("fetch.queue.backoff.ms", "10"),
            // If only completed partitions have queue space, the broker waits for new records of
            // them. By default it waits half a second, which blocks all other fetches.
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
        // Only now: earlier records of a partition without a queue would land in the client's main
        // queue.
        client.assign(&from)?;
        Ok(Self {
            client,
            partitions: readers,
            current: 0,
            quota_left: QUOTA_RECORDS_MAX,
            last_response: Instant::now(),
        })
    }

    /// Returns the records that arrive in time, up to the size of a batch.
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

    /// Returns the next record, if one arrives in time.
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
        // No partition has a record: wait a moment, and serve the client's own events.
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

    /// Polls the current partition, and removes the partition if it is complete.
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
            // Between the last record and the end are only unreadable offsets: compacted records or
            // transaction markers.
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

/// Returns the parts of a record that decoding uses.
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

/// Returns an error that would recur for ever. The client retries all other errors by itself.
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
