//! The poll loop, on a thread of its own. The loop only polls and delivers to lanes, so the group
//! retains this instance even while the database is slow or unavailable.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    assignment::{
        Admission, AdmitDecision, AssignmentEpoch, OffsetAndTimestamp, StartPosition,
        WatchedPartition,
    },
    client_context::{ConsumerFactory, Context, POLL_TIMEOUT},
    delivery::{
        Channels, ConsumedRecord, PartitionProgress, PauseReason, PollerCommand, QueuedRecord,
        StartDecision, StartDecisions, WriteReport, lane_of,
    },
    message::{self, cached_topic},
    metrics::metrics,
};
use crate::{
    event::{Environment, Topic},
    kafka::offsets::CommitTag,
};

/// Time that the poller waits for a full lane before it pauses the assignment. The value is below
/// every timeout of the group and above the duration of a batch. A busy lane therefore pauses
/// nothing.
const LANE_FULL_TIMEOUT: Duration = Duration::from_millis(1000);

/// Time for writers to finish their batches when the service stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// Pause of a partition if its tenant's tables are unwritable.
const UNWRITABLE_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Pause of a partition while its tenant is being migrated.
const MIGRATION_RETRY_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Poller {
    consumer: BaseConsumer<Context>,
    /// Creates a replacement client.
    connect: ConsumerFactory,
    environment: Environment,
    /// The broker's cluster id; `None` until the first record arrives.
    cluster_id: Option<Arc<str>>,
    topics: HashMap<Arc<str>, Arc<Topic>>,
    channels: Channels,
    /// Memory of all queued records, one permit per KiB. A record above the limit acquires all
    /// permits and travels alone.
    buffer_permits: Arc<Semaphore>,
    buffer_kib: u32,
    /// Records that no lane has accepted yet. More than one only while the poller pauses the
    /// assignment.
    undelivered: VecDeque<(ConsumedRecord, AssignmentEpoch)>,
    paused: bool,
    /// `true` after tenants were enabled: one refresh serves all of them.
    is_metadata_stale: bool,
    runtime: Handle,
    stop: CancellationToken,
}

impl Poller {
    pub(super) fn new(
        (consumer, connect): (BaseConsumer<Context>, ConsumerFactory),
        environment: Environment,
        channels: Channels,
        buffer_kib: u32,
        stop: CancellationToken,
    ) -> Self {
        Self {
            consumer,
            connect,
            environment,
            cluster_id: None,
            topics: HashMap::new(),
            channels,
            buffer_permits: Arc::new(Semaphore::new(buffer_kib as usize)),
            buffer_kib,
            undelivered: VecDeque::new(),
            paused: false,
            is_metadata_stale: false,
            runtime: Handle::current(),
            stop,
        }
    }

    pub(super) fn run(mut self) {
        // If this thread ends for any reason, the guard stops the service.
        let _end = self.stop.clone().drop_guard();
        while !self.stop.is_cancelled() {
            self.poll();
            self.deliver();
            while let Ok(report) = self.channels.reports.try_recv() {
                self.apply_report(report);
            }
            while let Ok(command) = self.channels.commands.try_recv() {
                self.handle_command(command);
            }
            if std::mem::take(&mut self.is_metadata_stale) {
                self.refresh_metadata();
            }
            self.request_starts();
        }
        self.shut_down();
    }

    fn handle_command(&mut self, command: PollerCommand) {
        match command {
            PollerCommand::Start(decisions) => self.start_partitions(decisions),
            PollerCommand::TenantEnabled(tenant) => {
                self.is_metadata_stale = true;
                let of_tenant = |topic: &str| {
                    let topic = self.environment.parse(topic);
                    topic.is_some_and(|topic| topic.tenant.as_ref() == Some(&tenant))
                };
                self.context().assignment.restart(|choice| of_tenant(choice.topic));
            }
            PollerCommand::RestartStopped => {
                self.context().assignment.restart(|choice| choice.stopped)
            }
            PollerCommand::Reassign(partition) => self.reassign(&partition),
            PollerCommand::Reconnect => self.reconnect(),
        }
    }

    /// Unassigns a partition and assigns it again, so the client treats it as a new partition.
    fn reassign(&self, WatchedPartition { topic, partition, epoch, .. }: &WatchedPartition) {
        let assignment = &self.context().assignment;
        if assignment.epoch(topic, *partition) != Some(*epoch) {
            return;
        }
        let mut partitions = TopicPartitionList::new();
        let added = partitions.add_partition_offset(topic, *partition, Offset::Beginning);
        let assigned = added
            .and_then(|()| self.consumer.incremental_unassign(&partitions))
            .and_then(|()| self.consumer.incremental_assign(&partitions))
            .and_then(|()| self.consumer.pause(&partitions));
        if let Err(error) = assigned {
            warn!(%error, "poller: could not reassign a partition");
        }
        assignment.restart(|choice| choice.topic == topic && choice.partition == *partition);
    }

    /// Joins the group with a new client, which drops the old client's metadata of topics. A separate
    /// thread closes the old client, because closing may block.
    fn reconnect(&mut self) {
        let consumer = match (self.connect)() {
            Ok(consumer) => consumer,
            Err(error) => {
                return warn!(%error, "poller: could not create a new Kafka client; keeping the current one");
            }
        };
        warn!("poller: replaced the Kafka client, because it stalled");
        let retired = std::mem::replace(&mut self.consumer, consumer);
        retired.context().retire();
        self.context().assignment.clear();
        self.undelivered.clear();
        thread::spawn(move || drop(retired));
    }

    /// Requests start offsets for partitions that have none.
    fn request_starts(&self) {
        let pending = self.context().assignment.take_pending(Instant::now());
        if !pending.is_empty() {
            // The starter closes its channel only when the service stops.
            let _ = self.channels.start_requests.send(pending);
        }
    }

    /// Seeks the decided start offsets and starts reading there.
    fn start_partitions(&self, decisions: StartDecisions) {
        let assignment = &self.context().assignment;
        let (mut offsets, mut reading) = (TopicPartitionList::new(), Vec::new());
        for (pending, decision) in decisions {
            if assignment.epoch(&pending.topic, pending.partition) != Some(pending.epoch) {
                continue;
            }
            match decision {
                StartDecision::Read { from, log_start, tenant_enabled, before } => {
                    // Starts at the record before, which must be the known record.
                    let before =
                        before.map(|timestamp| OffsetAndTimestamp { offset: from - 1, timestamp });
                    let first = before.map_or(from, |known| known.offset);
                    let offset = Offset::Offset(first);
                    let added =
                        offsets.add_partition_offset(&pending.topic, pending.partition, offset);
                    debug_assert!(added.is_ok(), "the client accepts every offset of a log");
                    reading
                        .push((pending, StartPosition { from, log_start, tenant_enabled, before }));
                }
                StartDecision::Stopped => assignment.pause(&pending, None),
                StartDecision::TenantUnavailable => {
                    assignment.pause(&pending, Some(UNWRITABLE_RETRY_DELAY))
                }
            }
        }
        if reading.is_empty() {
            return;
        }
        let result = self
            .consumer
            .resume(&offsets)
            .and_then(|()| self.consumer.seek_partitions(offsets, Duration::from_secs(2)))
            .and_then(|results| self.reassign_unseekable(&results));
        if let Err(error) = result {
            debug!(%error, "poller: could not seek; retrying");
            return reading.iter().for_each(|(pending, ..)| assignment.requeue(pending));
        }
        let mut start_offsets = TopicPartitionList::new();
        for (pending, start) in reading {
            let StartPosition { from, tenant_enabled, .. } = start;
            add_offset(&mut start_offsets, &pending.topic, pending.partition, from, tenant_enabled);
            assignment.start(&pending, start);
        }
        self.store_offsets(&start_offsets);
    }

    /// Reassigns partitions after a failed seek. The client dropped such a partition when its log
    /// lacked an earlier requested offset. The new assignment starts at the offset of the failed
    /// seek, which the log contains.
    fn reassign_unseekable(&self, results: &TopicPartitionList) -> Result<(), KafkaError> {
        let mut unseekable = TopicPartitionList::new();
        for element in results.elements() {
            if element.error().is_err() {
                let (topic, partition) = (element.topic(), element.partition());
                unseekable.add_partition_offset(topic, partition, element.offset())?;
            }
        }
        if unseekable.count() > 0 {
            self.consumer.incremental_unassign(&unseekable)?;
            self.consumer.incremental_assign(&unseekable)?;
        }
        Ok(())
    }

    fn poll(&mut self) {
        match self.consumer.poll(POLL_TIMEOUT) {
            Some(Ok(message)) => {
                let timestamp = message::timestamp_of(&message);
                let (topic, partition) = (message.topic(), message.partition());
                let assignment = &self.context().assignment;
                let Admission { epoch, tenant_enabled, position } = match assignment.admit(
                    topic,
                    partition,
                    message.offset(),
                    timestamp,
                ) {
                    AdmitDecision::Admit(admission) => admission,
                    // The partition was revoked in this poll, has not started, or has read the record
                    // before.
                    AdmitDecision::Ignore => return,
                    AdmitDecision::TopicRecreated => {
                        warn!(
                            kafka.topic = topic,
                            kafka.partition = partition,
                            "poller: a read offset holds another record now; the topic was recreated"
                        );
                        return;
                    }
                };
                let Some((name, topic)) = cached_topic(&mut self.topics, &self.environment, topic)
                else {
                    // The subscription pattern and the parser implement one rule; tests compare them.
                    error!(
                        kafka.topic = topic,
                        "poller: received a record of a topic outside the subscription; it is ignored"
                    );
                    return;
                };
                let record = message::to_record(&message, name, timestamp);
                drop(message);
                let Some(cluster) = self.cluster_id() else { return };
                self.undelivered.push_back((
                    ConsumedRecord { record, topic, cluster, tenant_enabled, position },
                    epoch,
                ));
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                error!(%code, "poller: fatal Kafka error; stopping the service");
                self.stop.cancel();
            }
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                // The next offset is outside the log. The error omits the partition, so every
                // partition gets a new start offset.
                warn!("poller: the next offset is out of range; determining a new start offset");
                self.context().assignment.restart(|_| true);
            }
            Some(Err(error)) => self.context().warn_rate_limited(&error, "while reading"),
            None if !self.paused => self.context().status.record_idle_poll(),
            None => {}
        }
    }

    fn context(&self) -> &Context {
        self.consumer.context()
    }

    /// Returns the cluster id, which is part of the identity of records without their own id. The
    /// poller therefore reads nothing without it. Every broker since 0.10.1 sends the id with its
    /// metadata, which arrives before any record.
    fn cluster_id(&mut self) -> Option<Arc<str>> {
        while self.cluster_id.is_none() && !self.stop.is_cancelled() {
            self.cluster_id = self.consumer.client().fetch_cluster_id(POLL_TIMEOUT).map(Arc::from);
        }
        self.cluster_id.clone()
    }

    /// Moves undelivered records to their lanes. If a lane or the buffer stays full, the poller
    /// pauses the assignment and continues to poll. The group therefore retains this instance while
    /// the database is slow or unavailable.
    fn deliver(&mut self) {
        while let Some((incoming, epoch)) = self.undelivered.pop_front() {
            let position = &incoming.record.position;
            let lanes = &self.channels.lanes;
            let lane = lanes[lane_of(&position.topic, position.partition, lanes.len())].clone();
            let kib = incoming.record.size_bytes() / 1024 + 1;
            let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(self.buffer_kib);
            // Fast path: lane and buffer usually have room, so the record needs no timer.
            let available = self.buffer_permits.clone().try_acquire_many_owned(kib).ok();
            if let (Some(memory_permit), Ok(slot)) = (available, lane.clone().try_reserve_owned()) {
                slot.send(QueuedRecord { incoming, epoch, memory_permit });
                continue;
            }
            let (buffer_permits, wait) = (
                self.buffer_permits.clone(),
                if self.paused { POLL_TIMEOUT } else { LANE_FULL_TIMEOUT },
            );
            let reservation = async move {
                let room = buffer_permits.acquire_many_owned(kib).await.ok()?;
                Some((room, lane.reserve_owned().await.ok()?))
            };
            let reserved = self.runtime.block_on(async { timeout(wait, reservation).await });
            match reserved {
                Ok(Some((memory_permit, slot))) => {
                    slot.send(QueuedRecord { incoming, epoch, memory_permit });
                }
                // The writers end only when the service stops.
                Ok(None) => return,
                Err(_) => {
                    self.undelivered.push_front((incoming, epoch));
                    return self.pause();
                }
            }
        }
        if self.paused {
            self.resume();
        }
    }

    /// Pauses all partitions, again on each turn with undelivered records, because the group may have
    /// assigned more.
    fn pause(&mut self) {
        if !self.paused {
            warn!("poller: records can not be stored; pausing all partitions");
            self.paused = true;
            metrics().pauses.increment(1);
            self.context().status.set_paused(true);
        }
        let paused = self.consumer.assignment().and_then(|all| self.consumer.pause(&all));
        if let Err(error) = paused {
            warn!(%error, "poller: could not pause partitions");
        }
    }

    fn resume(&mut self) {
        // Resumes only reading partitions; a paused partition has a reason of its own.
        let mut reading = TopicPartitionList::new();
        for (topic, partition) in self.context().assignment.reading_partitions() {
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

    /// Applies committed offsets and pauses of a report. Ignores partitions that have changed their
    /// epoch since their records were read.
    fn apply_report(&self, report: WriteReport) {
        let assignment = &self.context().assignment;
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), epoch, PartitionProgress { next, committed, pause_reason }) in
            report
        {
            if assignment.epoch(&topic, partition) != Some(epoch) {
                continue;
            }
            add_offset(&mut offsets, &topic, partition, next, committed);
            assignment.advance_committed(&topic, partition, epoch, next);
            if !committed {
                assignment.mark_tenant_disabled(&topic, partition);
            }
            if let Some(reason) = pause_reason {
                self.pause_partition(&topic, partition, reason);
            }
        }
        self.store_offsets(&offsets);
    }

    /// Stores offsets for the client to commit: offsets of committed records, and start offsets. With
    /// start offsets the group's lag is correct even if a partition receives no records.
    fn store_offsets(&self, offsets: &TopicPartitionList) {
        if offsets.count() > 0
            && let Err(error) = self.consumer.store_offsets(offsets)
        {
            // The partition was lost after the epoch check. The new owner reads the records again,
            // and the inbox recognizes them.
            debug!(%error, "poller: could not store offsets for the next commit");
        }
    }

    fn pause_partition(&self, topic: &str, partition: i32, reason: PauseReason) {
        let delay = match reason {
            PauseReason::BadRecordLimit => None,
            PauseReason::TenantUnwritable => Some(UNWRITABLE_RETRY_DELAY),
            PauseReason::TenantMigrating => Some(MIGRATION_RETRY_DELAY),
            PauseReason::Restart => Some(Duration::ZERO),
        };
        self.context().assignment.pause_reading(topic, partition, delay);
        let mut paused = TopicPartitionList::new();
        paused.add_partition(topic, partition);
        if let Err(error) = self.consumer.pause(&paused) {
            // The assignment ignores records that still arrive from this partition.
            debug!(%error, "poller: could not pause a partition");
        }
        if reason == PauseReason::BadRecordLimit {
            error!(
                kafka.topic = topic,
                kafka.partition = partition,
                "poller: bad record limit reached; the partition is stopped until an operator resolves the incident"
            );
        }
    }

    /// Requests metadata of all topics, so the client matches its subscription against them at once.
    fn refresh_metadata(&self) {
        if let Err(error) = self.consumer.fetch_metadata(None, Duration::from_secs(5)) {
            warn!(%error, "poller: could not refresh the topic list; retrying at the next refresh");
        }
    }

    /// Waits for the writers to finish their batches, and leaves the group. The client commits the
    /// stored offsets when it closes.
    fn shut_down(mut self) {
        self.channels.lanes.clear();
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        while let Ok(report) = self.channels.reports.recv_timeout(remaining()) {
            self.apply_report(report);
        }
        drop(self.consumer);
        info!("poller: left the consumer group");
    }
}

/// Adds an offset with the commit tag that marks it as a commit of this module.
fn add_offset(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    offset: i64,
    tenant_enabled: bool,
) {
    let mut element = list.add_partition(topic, partition);
    let set = element.set_offset(Offset::Offset(offset));
    debug_assert!(set.is_ok(), "the client accepts every offset of a log");
    element.set_metadata(
        if tenant_enabled { CommitTag::Durable } else { CommitTag::TenantDisabled }.metadata(),
    );
}
