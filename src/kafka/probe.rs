//! Reads single records of many partitions, so that callers can check whether a log is still the
//! same.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError,
};
use tracing::debug;

use super::{assignment::OffsetAndTimestamp, message, retention::SilentContext};
use crate::event::TopicPartition;

/// Time that one poll waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// Largest number of partitions that one client reads.
const CHUNK_PARTITIONS_MAX: usize = 500;

/// A request for records of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordProbe {
    /// The partition to read.
    pub topic_partition: TopicPartition,
    /// The first offset to read.
    pub offset: i64,
    /// Largest number of records to return.
    pub records_max: usize,
}

/// The found records per partition; empty if the log ends before the offset. Omits a partition
/// without a response in time, and one with a record without a timestamp.
pub type ProbeResults = HashMap<TopicPartition, Vec<OffsetAndTimestamp>>;

/// A partition during a probe, with the records found so far.
struct ProbeReader {
    probe: RecordProbe,
    found: Vec<OffsetAndTimestamp>,
    /// Whether a record has no timestamp, so it cannot be recognized later.
    has_unknown_time: bool,
    queue: PartitionQueue<SilentContext>,
}

/// Reads the requested records until `timeout` expires.
pub(super) fn probe(
    settings: &ClientConfig,
    probes: &[RecordProbe],
    timeout: Duration,
) -> ProbeResults {
    let deadline = Instant::now() + timeout;
    let mut found = ProbeResults::new();
    for chunk in probes.chunks(CHUNK_PARTITIONS_MAX) {
        if let Err(error) = probe_chunk(settings, chunk, deadline, &mut found) {
            debug!(%error, "log check: could not start reading the last records of partitions");
        }
    }
    found
}

fn probe_chunk(
    settings: &ClientConfig,
    probes: &[RecordProbe],
    deadline: Instant,
    found: &mut ProbeResults,
) -> Result<(), KafkaError> {
    let mut settings = settings.clone();
    for (key, value) in [
        ("auto.offset.reset", "earliest"),
        ("enable.partition.eof", "true"),
        // The caller needs a few records per partition, so the broker should send no more.
        ("fetch.message.max.bytes", "16384"),
        ("queued.min.messages", "1"),
        ("queued.max.messages.kbytes", "64"),
        ("fetch.queue.backoff.ms", "10"),
        ("fetch.wait.max.ms", "10"),
    ] {
        settings.set(key, value);
    }
    let client: Arc<BaseConsumer<SilentContext>> =
        Arc::new(settings.create_with_context(SilentContext)?);
    let mut from = TopicPartitionList::with_capacity(probes.len());
    let mut readers = Vec::with_capacity(probes.len());
    for probe in probes {
        let (topic, partition) = &probe.topic_partition;
        from.add_partition_offset(topic, *partition, Offset::Offset(probe.offset))?;
        // The client reports the end of a partition without the topic, so each partition has a queue
        // of its own.
        let queue = client.split_partition_queue(topic, *partition);
        readers.extend(queue.map(|queue| ProbeReader {
            probe: probe.clone(),
            found: Vec::new(),
            has_unknown_time: false,
            queue,
        }));
    }
    client.assign(&from)?;
    while !readers.is_empty() && Instant::now() < deadline {
        readers.retain_mut(|reader| {
            let is_finished = reader.poll();
            if is_finished && !reader.has_unknown_time {
                found.insert(
                    reader.probe.topic_partition.clone(),
                    std::mem::take(&mut reader.found),
                );
            }
            !is_finished
        });
        if let Some(Err(error)) = client.poll(POLL_TIMEOUT) {
            // The client retries by itself.
            debug!(%error, "log check: client reported an error; the client retries by itself");
        }
    }
    drop(readers);
    // Closing may block while a broker is unavailable.
    std::thread::spawn(move || drop(client));
    Ok(())
}

impl ProbeReader {
    /// Reads the available records, and returns `true` if the partition needs no further poll.
    fn poll(&mut self) -> bool {
        loop {
            match self.queue.poll(Duration::ZERO) {
                None => return false,
                Some(Ok(message)) => {
                    let timestamp = message::timestamp_of(&message);
                    self.found.extend(timestamp.map(|timestamp| OffsetAndTimestamp {
                        offset: message.offset(),
                        timestamp,
                    }));
                    self.has_unknown_time = timestamp.is_none();
                    if timestamp.is_none() || self.found.len() >= self.probe.records_max {
                        return true;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return true,
                Some(Err(error)) => {
                    debug!(%error, "log check: could not read the last record of a partition yet; retrying");
                    return false;
                }
            }
        }
    }
}
