//! The live loop: a thread of its own that polls and never does anything that takes long, so that the
//! group keeps this instance whatever the database does.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    assignment::{Arrival, Beginning, Due, Era, Landmark, Taken, Watched},
    consumer::{Connect, Context},
    lane::{Carried, Settled, lane_of},
    record,
    takeover::Begun,
};
use crate::{
    event::{Environment, TenantId, Topic},
    figures::figures,
    flow::{
        ingest::Incoming,
        outcome::{End, Hold},
        takeover::{Begin, Mark},
    },
};

/// How long one poll waits for a record. Bounds how late a settled offset is stored and a stop is seen.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// How long a full lane is waited for before the assignment is paused. Short against every time-out of
/// the group, long against a batch: a lane that is merely busy pauses nothing.
const PATIENCE: Duration = Duration::from_millis(1000);

/// How long writers may take for what they have begun when the service stops.
const FINISH: Duration = Duration::from_secs(4);

/// How long a tenant is left alone whose tables can't be written.
const UNUSABLE: Duration = Duration::from_secs(5);

/// How long a partition pauses whose tenant is being migrated.
const MIGRATING: Duration = Duration::from_secs(1);

/// What the polling thread is told.
pub(super) enum News {
    /// By the one who asks: where partitions begin.
    Begun(Begun),
    /// A tenant was enabled: there may be new topics, and where reading begins is to be asked again.
    Enabled(TenantId),
    /// An operator may have resumed what is stopped.
    Review,
    /// By the watchdog: a partition is read no further although it holds more.
    Stalled(Watched),
    /// By the watchdog: a partition is read no further even when it is assigned afresh.
    Renew,
}

/// What the polling thread talks to.
pub(super) struct Channels {
    /// One a writer.
    pub(super) lanes: Vec<mpsc::Sender<Carried>>,
    /// From the writers: how far partitions have come. Ends with the last of them.
    pub(super) settled: std_mpsc::Receiver<Settled>,
    /// To the one who asks where partitions begin.
    pub(super) ask: mpsc::UnboundedSender<Vec<Due>>,
    pub(super) news: std_mpsc::Receiver<News>,
}

pub(super) struct Poller {
    consumer: BaseConsumer<Context>,
    /// Makes another one.
    connect: Connect,
    environment: Environment,
    /// The broker's cluster id; known once the first record has come.
    cluster: Option<Arc<str>>,
    topics: HashMap<Arc<str>, Arc<Topic>>,
    channels: Channels,
    /// What all waiting records may take together. One record may be larger; then it goes alone.
    room: Arc<Semaphore>,
    room_kib: u32,
    /// Read, but in no lane yet. More than one only while the assignment is being paused.
    held: VecDeque<(Incoming, Era)>,
    paused: bool,
    /// Once for all tenants that were enabled meanwhile.
    look_for_topics: bool,
    runtime: Handle,
    stop: CancellationToken,
}

impl Poller {
    pub(super) fn new(
        (consumer, connect): (BaseConsumer<Context>, Connect),
        environment: Environment,
        channels: Channels,
        room_kib: u32,
        stop: CancellationToken,
    ) -> Self {
        Self {
            consumer,
            connect,
            environment,
            cluster: None,
            topics: HashMap::new(),
            channels,
            room: Arc::new(Semaphore::new(room_kib as usize)),
            room_kib,
            held: VecDeque::new(),
            paused: false,
            look_for_topics: false,
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
            while let Ok(settled) = self.channels.settled.try_recv() {
                self.settle(settled);
            }
            while let Ok(news) = self.channels.news.try_recv() {
                self.hear(news);
            }
            if std::mem::take(&mut self.look_for_topics) {
                self.look_for_topics();
            }
            self.ask();
        }
        self.finish();
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Begun(begun) => self.begin(begun),
            News::Enabled(tenant) => {
                self.look_for_topics = true;
                let of_tenant = |topic: &str| {
                    let topic = self.environment.parse(topic);
                    topic.is_some_and(|topic| topic.tenant.as_ref() == Some(&tenant))
                };
                self.context().assignment.begin_anew(|choice| of_tenant(choice.topic));
            }
            News::Review => self.context().assignment.begin_anew(|choice| choice.held),
            News::Stalled(stalled) => self.assign_afresh(&stalled),
            News::Renew => self.renew(),
        }
    }

    /// Gives a partition up and takes it back, so that the client begins with it as with a new one.
    fn assign_afresh(&self, Watched { topic, partition, era, .. }: &Watched) {
        let assignment = &self.context().assignment;
        if assignment.era(topic, *partition) != Some(*era) {
            return;
        }
        let mut afresh = TopicPartitionList::new();
        let added = afresh.add_partition_offset(topic, *partition, Offset::Beginning);
        let assigned = added
            .and_then(|()| self.consumer.incremental_unassign(&afresh))
            .and_then(|()| self.consumer.incremental_assign(&afresh))
            .and_then(|()| self.consumer.pause(&afresh));
        if let Err(error) = assigned {
            warn!(%error, "poller: could not reassign a partition");
        }
        assignment.begin_anew(|choice| choice.topic == topic && choice.partition == *partition);
    }

    /// Leaves the group and joins it again with a new client: what the old one believes of topics ends with
    /// it. The old one is closed elsewhere, because that may take long.
    fn renew(&mut self) {
        let fresh = match (self.connect)() {
            Ok(fresh) => fresh,
            Err(error) => return warn!(%error, "poller: could not create a new Kafka client; keeping the current one"),
        };
        warn!("poller: replaced the Kafka client, because it stalled");
        let old = std::mem::replace(&mut self.consumer, fresh);
        old.context().retire();
        self.context().assignment.clear();
        self.held.clear();
        thread::spawn(move || drop(old));
    }

    /// Has somebody find out where partitions begin that are not read yet.
    fn ask(&self) {
        let due = self.context().assignment.due(Instant::now());
        if !due.is_empty() {
            // Whoever answers ends only when the service stops.
            let _ = self.channels.ask.send(due);
        }
    }

    /// Seeks the beginnings that were found and reads from there.
    fn begin(&self, begun: Begun) {
        let assignment = &self.context().assignment;
        let (mut offsets, mut reading) = (TopicPartitionList::new(), Vec::new());
        for (due, begin) in begun {
            if assignment.era(&due.topic, due.partition) != Some(due.era) {
                continue;
            }
            match begin {
                Begin::Read { from, log_start, kept, before } => {
                    // From the record before, which has to be the known one.
                    let before = before.map(|at| Landmark { offset: from - 1, at });
                    let first = before.map_or(from, |landmark| landmark.offset);
                    let offset = Offset::Offset(first);
                    let added = offsets.add_partition_offset(&due.topic, due.partition, offset);
                    debug_assert!(added.is_ok(), "the log's offsets are legal");
                    reading.push((due, Beginning { from, log_start, kept, before }));
                }
                Begin::Stopped => assignment.hold(&due, None),
                Begin::Unusable => assignment.hold(&due, Some(UNUSABLE)),
            }
        }
        if reading.is_empty() {
            return;
        }
        let sought = self
            .consumer
            .resume(&offsets)
            .and_then(|()| self.consumer.seek_partitions(offsets, Duration::from_secs(2)))
            .and_then(|sought| self.assign_anew(&sought));
        if let Err(error) = sought {
            debug!(%error, "poller: could not seek; retrying");
            return reading.iter().for_each(|(due, ..)| assignment.wait(due));
        }
        let mut beginnings = TopicPartitionList::new();
        for (due, beginning) in reading {
            let Beginning { from, kept, .. } = beginning;
            add(&mut beginnings, &due.topic, due.partition, from, kept);
            assignment.begin(&due, beginning);
        }
        self.store(&beginnings);
    }

    /// A partition whose log did not hold what was asked for can't be sought in; the client has given it
    /// up. It takes it back with a beginning that is there.
    fn assign_anew(&self, sought: &TopicPartitionList) -> Result<(), KafkaError> {
        let mut given_up = TopicPartitionList::new();
        for element in sought.elements() {
            if element.error().is_err() {
                let (topic, partition) = (element.topic(), element.partition());
                given_up.add_partition_offset(topic, partition, element.offset())?;
            }
        }
        if given_up.count() > 0 {
            self.consumer.incremental_unassign(&given_up)?;
            self.consumer.incremental_assign(&given_up)?;
        }
        Ok(())
    }

    fn poll(&mut self) {
        match self.consumer.poll(POLL) {
            Some(Ok(message)) => {
                let timestamp = record::time_of(&message);
                let (topic, partition) = (message.topic(), message.partition());
                let assignment = &self.context().assignment;
                let Taken { era, kept, position } =
                    match assignment.arrive(topic, partition, message.offset(), timestamp) {
                        Arrival::Take(taken) => taken,
                        // Revoked in this very poll, not begun yet, or known.
                        Arrival::Leave => return,
                        Arrival::Remade => {
                            warn!(
                                kafka.topic = topic,
                                kafka.partition = partition,
                                "poller: a read offset holds another record now; the topic was recreated"
                            );
                            return;
                        }
                    };
                let Some((name, topic)) = known_topic(&mut self.topics, &self.environment, topic)
                else {
                    // The pattern and the parser are two readings of one rule; tests hold them so.
                    error!(kafka.topic = topic, "poller: received a record of a topic outside the subscription; it is ignored");
                    return;
                };
                let record = record::copy(&message, name, timestamp);
                drop(message);
                let Some(cluster) = self.cluster() else { return };
                self.held.push_back((Incoming { record, topic, cluster, kept, position }, era));
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                error!(%code, "poller: fatal Kafka error; stopping the service");
                self.stop.cancel();
            }
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                // The log no longer has what comes next, or never had it: of which partition is not
                // told.
                warn!("poller: the next offset is out of range; determining a new start offset");
                self.context().assignment.begin_anew(|_| true);
            }
            Some(Err(error)) => self.context().complain(&error, "while reading"),
            None if !self.paused => self.context().status.note_idle(),
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
            let lanes = &self.channels.lanes;
            let lane = lanes[lane_of(&place.topic, place.partition, lanes.len())].clone();
            let kib = incoming.record.size() / 1024 + 1;
            let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(self.room_kib);
            // Nearly always there is room, and a record needs no timer.
            let room_now = self.room.clone().try_acquire_many_owned(kib).ok();
            if let (Some(room), Ok(place)) = (room_now, lane.clone().try_reserve_owned()) {
                place.send(Carried { incoming, era, room });
                continue;
            }
            let (room, wait) = (self.room.clone(), if self.paused { POLL } else { PATIENCE });
            let place = async move {
                let room = room.acquire_many_owned(kib).await.ok()?;
                Some((room, lane.reserve_owned().await.ok()?))
            };
            let got = self.runtime.block_on(async { timeout(wait, place).await });
            match got {
                Ok(Some((room, place))) => {
                    place.send(Carried { incoming, era, room });
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
            warn!("poller: records can not be stored; pausing all partitions");
            self.paused = true;
            figures().pauses.increment(1);
            self.context().status.set_paused(true);
        }
        let paused = self.consumer.assignment().and_then(|all| self.consumer.pause(&all));
        if let Err(error) = paused {
            warn!(%error, "poller: could not pause partitions");
        }
    }

    fn resume(&mut self) {
        // Not what is held for a reason of its own.
        let mut reading = TopicPartitionList::new();
        for (topic, partition) in self.context().assignment.reading() {
            reading.add_partition(&topic, partition);
        }
        match self.consumer.resume(&reading) {
            Ok(()) => {
                info!("poller: records can be stored again; resuming partitions");
                self.paused = false;
                self.context().status.set_paused(false);
            }
            Err(error) => warn!(%error, "poller: could not resume partitions; retrying"),
        }
    }

    /// Stores offsets for the client to commit, of partitions that are still owned as they were when
    /// their records were read.
    fn settle(&self, settled: Settled) {
        let assignment = &self.context().assignment;
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), era, End { next, kept, hold }) in settled {
            if assignment.era(&topic, partition) != Some(era) {
                continue;
            }
            add(&mut offsets, &topic, partition, next, kept);
            assignment.settle(&topic, partition, era, next);
            if !kept {
                assignment.pass_by(&topic, partition);
            }
            if let Some(hold) = hold {
                self.hold(&topic, partition, hold);
            }
        }
        self.store(&offsets);
    }

    /// Stores offsets for the client to commit: of what is settled, and of beginnings, so that the
    /// group's lag is told rightly also where nothing comes for a while.
    fn store(&self, offsets: &TopicPartitionList) {
        if offsets.count() > 0
            && let Err(error) = self.consumer.store_offsets(offsets)
        {
            // Lost between the check and here; the new owner rereads, and the inbox knows the records.
            debug!(%error, "poller: could not store offsets for the next commit");
        }
    }

    fn hold(&self, topic: &str, partition: i32, hold: Hold) {
        let time = match hold {
            Hold::Stopped => None,
            Hold::Unusable => Some(UNUSABLE),
            Hold::Migrating => Some(MIGRATING),
            Hold::Anew => Some(Duration::ZERO),
        };
        self.context().assignment.stop_reading(topic, partition, time);
        let mut held = TopicPartitionList::new();
        held.add_partition(topic, partition);
        if let Err(error) = self.consumer.pause(&held) {
            // What comes of it all the same is left alone.
            debug!(%error, "poller: could not pause a partition");
        }
        if hold == Hold::Stopped {
            error!(
                kafka.topic = topic,
                kafka.partition = partition,
                "poller: bad record limit reached; the partition is stopped until an operator resolves the incident"
            );
        }
    }

    /// Asking for all topics makes the client match its subscription against them at once.
    fn look_for_topics(&self) {
        if let Err(error) = self.consumer.fetch_metadata(None, Duration::from_secs(5)) {
            warn!(%error, "poller: could not refresh the topic list; retrying at the next refresh");
        }
    }

    /// Lets the writers finish what they have begun, and leaves the group. The client commits the
    /// stored offsets when it is closed.
    fn finish(mut self) {
        self.channels.lanes.clear();
        let deadline = Instant::now() + FINISH;
        let rest = || deadline.saturating_duration_since(Instant::now());
        while let Ok(settled) = self.channels.settled.recv_timeout(rest()) {
            self.settle(settled);
        }
        drop(self.consumer);
        info!("poller: left the consumer group");
    }
}

/// Adds an offset, with the mark by which it is known as ours.
fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, offset: i64, kept: bool) {
    let mut element = list.add_partition(topic, partition);
    let set = element.set_offset(Offset::Offset(offset));
    debug_assert!(set.is_ok(), "the log's offsets are legal");
    element.set_metadata(if kept { Mark::Kept } else { Mark::PassedBy }.text());
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
