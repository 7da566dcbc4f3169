//! The live loop: a thread of its own that polls and never does anything that takes long, so that the
//! group keeps this instance whatever the database does.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Datelike};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    assignment::Era,
    consumer::Context,
    lane::{Carried, Settled, lane_of},
};
use crate::{
    event::{Environment, Place, Record, Topic},
    flow::ingest::Incoming,
};

/// How long one poll waits for a record. Bounds how late a settled offset is stored and a stop is seen.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// What all waiting records may take together. One record may be larger; then it goes alone.
const ROOM_KIB: u32 = 16 * 1024;

/// How long a full lane is waited for before the assignment is paused. Short against every time-out of
/// the group, long against a batch: a lane that is merely busy pauses nothing.
const PATIENCE: Duration = Duration::from_millis(1000);

/// How long writers may take for what they have begun when the service stops.
const FINISH: Duration = Duration::from_secs(4);

pub(super) struct Poller {
    consumer: BaseConsumer<Context>,
    environment: Environment,
    /// The broker's cluster id; known once the first record has come.
    cluster: Option<Arc<str>>,
    topics: HashMap<Arc<str>, Arc<Topic>>,
    lanes: Vec<mpsc::Sender<Carried>>,
    room: Arc<Semaphore>,
    /// Read, but in no lane yet. More than one only while the assignment is being paused.
    held: VecDeque<(Incoming, Era)>,
    paused: bool,
    settled: std_mpsc::Receiver<Settled>,
    refresh: Arc<AtomicBool>,
    runtime: Handle,
    stop: CancellationToken,
}

impl Poller {
    pub(super) fn new(
        consumer: BaseConsumer<Context>,
        environment: Environment,
        lanes: Vec<mpsc::Sender<Carried>>,
        settled: std_mpsc::Receiver<Settled>,
        refresh: Arc<AtomicBool>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            consumer,
            environment,
            cluster: None,
            topics: HashMap::new(),
            lanes,
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            held: VecDeque::new(),
            paused: false,
            settled,
            refresh,
            runtime: Handle::current(),
            stop,
        }
    }

    pub(super) fn run(mut self) {
        // However this thread ends, the service does not go on without it.
        let _end = self.stop.clone().drop_guard();
        while !self.stop.is_cancelled() {
            self.poll();
            self.hand_over();
            while let Ok(settled) = self.settled.try_recv() {
                self.store(settled);
            }
            if self.refresh.swap(false, Ordering::Relaxed) {
                self.look_for_topics();
            }
        }
        self.finish();
    }

    fn poll(&mut self) {
        match self.consumer.poll(POLL) {
            Some(Ok(message)) => {
                let assignment = &self.context().assignment;
                let Some(era) = assignment.era(message.topic(), message.partition()) else {
                    // Revoked in this very poll: its new owner reads it.
                    return;
                };
                let Some((name, topic)) =
                    known_topic(&mut self.topics, &self.environment, message.topic())
                else {
                    // The pattern and the parser are two readings of one rule; tests hold them so.
                    error!(kafka.topic = message.topic(), "a topic came that was not asked for");
                    return;
                };
                let record = copy(&message, name);
                drop(message);
                let Some(cluster) = self.cluster() else { return };
                self.held.push_back((Incoming { record, topic, cluster }, era));
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                error!(%code, "Kafka refuses this instance for good; the service ends");
                self.stop.cancel();
            }
            Some(Err(error)) => self.context().complain(&error, "while reading"),
            None => {}
        }
    }

    fn context(&self) -> &Context {
        self.consumer.context()
    }

    /// The cluster's id is part of the identity of records without an id of their own, so nothing is
    /// read without it. Every broker since 0.10.1 tells it with its metadata, which came before any
    /// record.
    fn cluster(&mut self) -> Option<Arc<str>> {
        while self.cluster.is_none() && !self.stop.is_cancelled() {
            self.cluster = self.consumer.client().fetch_cluster_id(POLL).map(Arc::from);
        }
        self.cluster.clone()
    }

    /// Gives what is held to the lanes. Where a lane or the memory stays full, the assignment is paused
    /// and polling goes on: the database is slow or away, and the group must not notice.
    fn hand_over(&mut self) {
        while let Some((incoming, era)) = self.held.pop_front() {
            let place = &incoming.record.place;
            let lane = self.lanes[lane_of(&place.topic, place.partition, self.lanes.len())].clone();
            let kib = incoming.record.payload.as_ref().map_or(0, Vec::len) / 1024 + 1;
            let kib = u32::try_from(kib).unwrap_or(ROOM_KIB).min(ROOM_KIB);
            let room = self.room.clone();
            let wait = if self.paused { POLL } else { PATIENCE };
            let place = async move {
                let room = room.acquire_many_owned(kib).await.ok()?;
                Some((room, lane.reserve_owned().await.ok()?))
            };
            let got = self.runtime.block_on(async { timeout(wait, place).await });
            match got {
                Ok(Some((room, place))) => {
                    place.send(Carried { incoming, era, _room: room });
                }
                // The writers have ended, which they do only when the service stops.
                Ok(None) => return,
                Err(_) => {
                    self.held.push_front((incoming, era));
                    return self.pause();
                }
            }
        }
        if self.paused {
            self.resume();
        }
    }

    /// Again on every turn while records are held: partitions may have been assigned meanwhile.
    fn pause(&mut self) {
        if !self.paused {
            warn!("records can't be stored; reading pauses until they can");
            self.paused = true;
            self.context().status.set_paused(true);
        }
        let paused = self.consumer.assignment().and_then(|all| self.consumer.pause(&all));
        if let Err(error) = paused {
            warn!(%error, "could not pause reading");
        }
    }

    fn resume(&mut self) {
        let resumed = self.consumer.assignment().and_then(|all| self.consumer.resume(&all));
        match resumed {
            Ok(()) => {
                info!("records can be stored again; reading goes on");
                self.paused = false;
                self.context().status.set_paused(false);
            }
            Err(error) => warn!(%error, "could not resume reading; trying again"),
        }
    }

    /// Stores offsets for the client to commit, of partitions that are still owned as they were when
    /// their records were read.
    fn store(&self, settled: Settled) {
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), (era, next)) in settled {
            if self.context().assignment.era(&topic, partition) == Some(era) {
                let added = offsets.add_partition_offset(&topic, partition, Offset::Offset(next));
                debug_assert!(added.is_ok(), "a record's offset is a legal offset");
            }
        }
        if offsets.count() > 0
            && let Err(error) = self.consumer.store_offsets(&offsets)
        {
            // Lost between the check and here; the new owner rereads, and the inbox knows the records.
            debug!(%error, "offsets not stored");
        }
    }

    /// Asking for all topics makes the client match its subscription against them at once.
    fn look_for_topics(&self) {
        if let Err(error) = self.consumer.fetch_metadata(None, Duration::from_secs(5)) {
            warn!(%error, "could not look for new topics; the next look is at the usual time");
        }
    }

    /// Lets the writers finish what they have begun, and leaves the group. The client commits the
    /// stored offsets when it is closed.
    fn finish(mut self) {
        self.lanes.clear();
        let deadline = Instant::now() + FINISH;
        while let Ok(settled) =
            self.settled.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.store(settled);
        }
        drop(self.consumer);
        info!("left the consumer group");
    }
}

/// What a topic's name says, read once and kept.
fn known_topic(
    topics: &mut HashMap<Arc<str>, Arc<Topic>>,
    environment: &Environment,
    name: &str,
) -> Option<(Arc<str>, Arc<Topic>)> {
    if let Some((name, topic)) = topics.get_key_value(name) {
        return Some((name.clone(), topic.clone()));
    }
    let (name, topic) = (Arc::<str>::from(name), Arc::new(environment.parse(name)?));
    topics.insert(name.clone(), topic.clone());
    Some((name, topic))
}

fn copy(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let owned = |h: rdkafka::message::Header<'_, &[u8]>| {
            (h.key.to_owned(), h.value.unwrap_or_default().to_vec())
        };
        headers.iter().map(owned).collect()
    });
    Record {
        place: Place { topic, partition: message.partition(), offset: message.offset() },
        // Beyond the calendar's years no database could keep it, nor could it be true.
        timestamp: message
            .timestamp()
            .to_millis()
            .and_then(DateTime::from_timestamp_millis)
            .filter(|at| (1..=9999).contains(&at.year())),
        key: message.key().map(<[u8]>::to_vec),
        headers,
        payload: message.payload().map(<[u8]>::to_vec),
    }
}
