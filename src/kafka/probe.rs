//! A look into logs: single records of many partitions, to tell whether a log is the one that it was.

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
use crate::services::outcome::TopicPartition;

/// How long one poll waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// Partitions that one client looks into at most.
const CHUNK_PARTITIONS_MAX: usize = 500;

/// What is to be read of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordProbe {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// From this offset on.
    pub offset: i64,
    /// So many records at most.
    pub records_max: usize,
}

/// The records that were found: none where the log ends before. A partition that did not answer in time is
/// left out.
pub type ProbeResults = HashMap<TopicPartition, Vec<OffsetAndTimestamp>>;

/// A partition that is being looked into.
struct ProbeReader {
    probe: RecordProbe,
    found: Vec<OffsetAndTimestamp>,
    queue: PartitionQueue<SilentContext>,
}

/// Reads what is asked for, until `patience` is over.
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
        // A few records of each are wanted, and no more is to be sent.
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
        // The client tells the end of a partition without its topic: each has a queue of its own.
        let queue = client.split_partition_queue(topic, *partition);
        readers.extend(queue.map(|queue| ProbeReader {
            probe: probe.clone(),
            found: Vec::new(),
            queue,
        }));
    }
    client.assign(&from)?;
    while !readers.is_empty() && Instant::now() < deadline {
        readers.retain_mut(|reader| {
            let is_finished = reader.poll();
            if is_finished {
                found.insert(
                    reader.probe.topic_partition.clone(),
                    std::mem::take(&mut reader.found),
                );
            }
            !is_finished
        });
        if let Some(Err(error)) = client.poll(POLL_TIMEOUT) {
            // The client goes on trying by itself.
            debug!(%error, "log check: client reported an error; the client retries by itself");
        }
    }
    drop(readers);
    // Closing may block for as long as a broker is away.
    std::thread::spawn(move || drop(client));
    Ok(())
}

impl ProbeReader {
    /// Takes what is there, and tells whether that is all.
    fn poll(&mut self) -> bool {
        loop {
            match self.queue.poll(Duration::ZERO) {
                None => return false,
                Some(Ok(message)) => {
                    // Without a time it can't be known again.
                    let timestamp = message::timestamp_of(&message);
                    self.found.extend(timestamp.map(|timestamp| OffsetAndTimestamp {
                        offset: message.offset(),
                        timestamp,
                    }));
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
