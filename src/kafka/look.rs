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

use super::{assignment::Landmark, record, retention::Quiet};
use crate::flow::outcome::At;

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(10);

/// Partitions that one client looks into at most.
const AT_ONCE: usize = 500;

/// What is to be read of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The partition.
    pub at: At,
    /// From this offset on.
    pub from: i64,
    /// So many records at most.
    pub records: usize,
}

/// The records that were found: none where the log ends before. A partition that did not answer in time is
/// left out.
pub type Looked = HashMap<At, Vec<Landmark>>;

/// A partition that is being looked into.
struct Looking {
    look: Look,
    found: Vec<Landmark>,
    queue: PartitionQueue<Quiet>,
}

/// Reads what is asked for, until `patience` is over.
pub(super) fn look(settings: &ClientConfig, at: &[Look], patience: Duration) -> Looked {
    let deadline = Instant::now() + patience;
    let mut found = Looked::new();
    for some in at.chunks(AT_ONCE) {
        if let Err(error) = look_into(settings, some, deadline, &mut found) {
            debug!(%error, "log check: could not start reading the last records of partitions");
        }
    }
    found
}

fn look_into(
    settings: &ClientConfig,
    at: &[Look],
    deadline: Instant,
    found: &mut Looked,
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
    let client: Arc<BaseConsumer<Quiet>> = Arc::new(settings.create_with_context(Quiet)?);
    let mut from = TopicPartitionList::with_capacity(at.len());
    let mut looking = Vec::with_capacity(at.len());
    for look in at {
        let (topic, partition) = &look.at;
        from.add_partition_offset(topic, *partition, Offset::Offset(look.from))?;
        // The client tells the end of a partition without its topic: each has a queue of its own.
        let queue = client.split_partition_queue(topic, *partition);
        looking.extend(queue.map(|queue| Looking { look: look.clone(), found: Vec::new(), queue }));
    }
    client.assign(&from)?;
    while !looking.is_empty() && Instant::now() < deadline {
        looking.retain_mut(|looking| {
            let is_over = looking.is_over();
            if is_over {
                found.insert(looking.look.at.clone(), std::mem::take(&mut looking.found));
            }
            !is_over
        });
        if let Some(Err(error)) = client.poll(POLL) {
            // The client goes on trying by itself.
            debug!(%error, "log check: client reported an error; the client retries by itself");
        }
    }
    drop(looking);
    // Closing may block for as long as a broker is away.
    std::thread::spawn(move || drop(client));
    Ok(())
}

impl Looking {
    /// Takes what is there, and tells whether that is all.
    fn is_over(&mut self) -> bool {
        loop {
            match self.queue.poll(Duration::ZERO) {
                None => return false,
                Some(Ok(message)) => {
                    // Without a time it can't be known again.
                    let at = record::time_of(&message);
                    self.found.extend(at.map(|at| Landmark { offset: message.offset(), at }));
                    if at.is_none() || self.found.len() >= self.look.records {
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
