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

use super::{consumer, record, retention::Quiet};
use crate::{
    config::KafkaConfig,
    event::{Place, Record, decode},
    flow::outcome::At,
};

/// How long one poll waits. Bounds how late a stop is seen.
const POLL: Duration = Duration::from_millis(10);

/// What of a partition may wait to be read, at least, in KiB.
const LEAST_AHEAD: usize = 256;

/// Records of the longest part before the next has its turn. Shorter ones have shorter turns, so that all
/// are at about the same time of the library's.
const TURN: usize = 500;

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

impl Part {
    /// What is left of it from an offset on: none where there is none. It may stand behind the end by now.
    pub fn since(self, first: Option<i64>) -> Self {
        let next = first.map_or(self.end, |first| self.next.max(first).min(self.end));
        Self { next, ..self }
    }

    fn len(&self) -> usize {
        usize::try_from(self.end - self.next).unwrap_or_default()
    }
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
    /// A record came where none is looked for: what else did is not known.
    #[error("the client gave a record to nobody")]
    Astray,
    /// The topic is there no more.
    #[error("a topic was deleted while it was being read")]
    Gone,
    /// What the broker has kept is damaged, or of a kind that the client doesn't know.
    #[error("a topic holds what the client can't unpack")]
    Unreadable(#[source] KafkaError),
    /// Retention has taken what was to be read.
    #[error("retention has taken records of a topic while it was being read")]
    Cut,
}

/// What was read since the last time.
pub struct Batch<T> {
    /// What was made of each record.
    pub records: Vec<T>,
    /// Whether that is everything.
    pub is_end: bool,
}

/// Records in a batch at most, and batches that wait for whoever takes them.
const BATCH: usize = 500;
const WAITING: usize = 4;

/// Reads parts of logs, all of them side by side, so that what belongs together comes near together. It does so on
/// a thread of its own, until everything is read or nobody takes it. `understand` is called there with the number
/// of a record's part and the record, as far as it is read from: none of its bytes are copied, and only what was
/// made of it reaches another thread.
pub fn read<T: Send + 'static>(
    config: &KafkaConfig,
    parts: &[(At, Part)],
    understand: impl Fn(usize, &Seen<'_>) -> T + Send + 'static,
) -> Result<Receiver<Result<Batch<T>, ReadError>>, ReadError> {
    let mut reader = Reader::new(config, parts)?;
    let (sender, batches) = mpsc::sync_channel(WAITING);
    thread::spawn(move || {
        loop {
            let batch = reader.batch(&understand);
            let is_over = batch.as_ref().map_or(true, |batch| batch.is_end);
            if sender.send(batch).is_err() || is_over {
                return;
            }
        }
    });
    Ok(batches)
}

/// A record that is only looked at.
pub type Seen<'a> = Record<&'a str, &'a [u8]>;

/// What one look at the log brought.
enum Read<T> {
    /// What was made of a record.
    Record(T),
    /// Nothing yet.
    Nothing,
    /// Everything was read.
    End,
}

struct Reader {
    client: Arc<BaseConsumer<Quiet>>,
    /// What is not read yet.
    parts: Vec<Reading>,
    /// Which of them is read at the moment, and how many more records of it before the next has its turn.
    turn: usize,
    left: usize,
    heard: Instant,
}

/// A partition that is being read. It has a queue of its own: the client tells that it stands at the end of a
/// partition and of which, but not of which topic.
struct Reading {
    /// Its number among all that were asked for.
    number: usize,
    topic: Arc<str>,
    part: Part,
    turn: usize,
    queue: PartitionQueue<Quiet>,
}

impl Reader {
    /// Begins to read. What is empty is read already.
    fn new(config: &KafkaConfig, parts: &[(At, Part)]) -> Result<Self, ReadError> {
        let is_filled = |(_, (_, part)): &(usize, &(At, Part))| part.next < part.end;
        let filled: Vec<_> = parts.iter().enumerate().filter(is_filled).collect();
        // A partition with a queue of its own has the whole of this for itself.
        let ahead = (config.prefetch_kib as usize / filled.len().max(1)).max(LEAST_AHEAD);
        let mut settings = consumer::connection(config);
        for (key, value) in [
            ("group.id", "none"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            // Where it does not hold what was asked for, that has to be told.
            ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", &*ahead.to_string()),
            ("queued.min.messages", &*consumer::fetched_ahead(ahead)),
            ("fetch.message.max.bytes", "262144"),
            // What is read as fast as it comes is full again and again; by default each time costs a second.
            ("fetch.queue.backoff.ms", "10"),
            // Where only parts that are read to their end have room, the broker would wait for what comes to them, by
            // default for half a second, and nothing else be asked for meanwhile.
            ("fetch.wait.max.ms", "10"),
        ] {
            settings.set(key, value);
        }
        let client: Arc<BaseConsumer<Quiet>> = Arc::new(settings.create_with_context(Quiet)?);
        let longest = filled.iter().map(|(_, (_, part))| part.len()).max().unwrap_or(1);
        let mut from = TopicPartitionList::with_capacity(filled.len());
        let mut reading = Vec::with_capacity(filled.len());
        for (number, ((topic, partition), part)) in filled {
            from.add_partition_offset(topic, *partition, Offset::Offset(part.next))?;
            let queue = client.split_partition_queue(topic, *partition);
            let queue = queue.ok_or_else(|| {
                KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownPartition)
            })?;
            let turn = (TURN * part.len()).div_ceil(longest);
            reading.push(Reading { number, topic: topic.clone(), part: *part, turn, queue });
        }
        // Only now: what came before a partition had its queue would wait in the client's own.
        client.assign(&from)?;
        Ok(Self { client, parts: reading, turn: 0, left: TURN, heard: Instant::now() })
    }

    /// What comes in time, as far as it goes into a batch.
    fn batch<T>(
        &mut self,
        understand: &impl Fn(usize, &Seen<'_>) -> T,
    ) -> Result<Batch<T>, ReadError> {
        let mut batch = Batch { records: Vec::with_capacity(BATCH), is_end: false };
        while batch.records.len() < BATCH {
            match self.read(understand)? {
                Read::Record(made) => batch.records.push(made),
                Read::Nothing => break,
                Read::End => {
                    batch.is_end = true;
                    break;
                }
            }
        }
        Ok(batch)
    }

    /// The next record, if one comes in time.
    fn read<T>(
        &mut self,
        understand: &impl Fn(usize, &Seen<'_>) -> T,
    ) -> Result<Read<T>, ReadError> {
        if self.parts.is_empty() {
            return Ok(Read::End);
        }
        for _ in 0..=self.parts.len() {
            if self.left == 0 || self.turn >= self.parts.len() {
                self.turn = (self.turn + 1) % self.parts.len().max(1);
                self.left = self.parts.get(self.turn).map_or(0, |reading| reading.turn);
            }
            match self.poll_turn(understand)? {
                Read::Nothing if self.parts.is_empty() => return Ok(Read::End),
                Read::Nothing => self.left = 0,
                read => {
                    self.left -= 1;
                    return Ok(read);
                }
            }
        }
        // Nothing is there of any: wait a moment, and serve the client's own events.
        match self.client.poll(POLL) {
            None => {}
            Some(Ok(_)) => return Err(ReadError::Astray),
            Some(Err(error)) => trouble(error)?,
        }
        if self.heard.elapsed() > PATIENCE { Err(ReadError::Silent) } else { Ok(Read::Nothing) }
    }

    /// What is there of the partition whose turn it is. One that was read to its end is let go of.
    fn poll_turn<T>(
        &mut self,
        understand: &impl Fn(usize, &Seen<'_>) -> T,
    ) -> Result<Read<T>, ReadError> {
        let Some(reading) = self.parts.get_mut(self.turn) else { return Ok(Read::Nothing) };
        let (read, is_over) = match reading.queue.poll(Duration::ZERO) {
            None => return Ok(Read::Nothing),
            Some(Ok(message)) => {
                self.heard = Instant::now();
                let part = &mut reading.part;
                part.next = message.offset() + 1;
                let read = if part.next > part.end {
                    Read::Nothing
                } else {
                    let record = see(&message, reading.topic.clone());
                    Read::Record(understand(reading.number, &record))
                };
                (read, part.next >= part.end)
            }
            // Whatever stands between the last record and the end can't be read: it was compacted away,
            // or belongs to transactions.
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.heard = Instant::now();
                (Read::Nothing, true)
            }
            Some(Err(error)) => {
                trouble(error)?;
                (Read::Nothing, false)
            }
        };
        if is_over {
            self.parts.swap_remove(self.turn);
        }
        Ok(read)
    }
}

/// What is read from a record, and nothing else of it.
fn see<'a>(message: &'a BorrowedMessage<'_>, topic: Arc<str>) -> Seen<'a> {
    let read = record::headers(message).filter(|(name, _)| decode::is_read(name));
    Record {
        place: Place { topic, partition: message.partition(), offset: message.offset() },
        timestamp: record::time_of(message),
        key: None,
        headers: read.collect(),
        payload: message.payload(),
    }
}

/// Most passes: the client goes on trying by itself. What it would try for ever ends reading.
fn trouble(error: KafkaError) -> Result<(), ReadError> {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
            Err(ReadError::Cut)
        }
        KafkaError::MessageConsumption(
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
        ) => Err(ReadError::Gone),
        KafkaError::MessageConsumption(
            Code::BadMessage | Code::InvalidMessage | Code::BadCompression | Code::NotImplemented,
        ) => Err(ReadError::Unreadable(error)),
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
    fn what_the_client_would_try_for_ever_ends_reading_and_what_passes_does_not() {
        use RDKafkaErrorCode as Code;
        let told = |code| trouble(KafkaError::MessageConsumption(code));
        assert!(matches!(told(Code::UnknownTopicOrPartition), Err(ReadError::Gone)));
        assert!(matches!(told(Code::AutoOffsetReset), Err(ReadError::Cut)));
        for code in [Code::BadMessage, Code::BadCompression, Code::NotImplemented] {
            assert!(matches!(told(code), Err(ReadError::Unreadable(_))), "{code:?}");
        }
        for code in [Code::BrokerTransportFailure, Code::AllBrokersDown, Code::LeaderNotAvailable] {
            assert!(told(code).is_ok(), "{code:?}");
        }
    }

    #[test]
    fn what_was_written_behind_the_end_meanwhile_is_not_asked_for() {
        let part = Part { next: 40, end: 100 };
        for (first, next) in [(None, 100), (Some(7), 40), (Some(60), 60), (Some(101), 100)] {
            assert_eq!(part.since(first), Part { next, end: 100 });
        }
    }
}
