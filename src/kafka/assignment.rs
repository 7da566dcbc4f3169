//! The partitions that this instance owns, and the state of each from assignment to reading.

mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

pub use values::{
    Admission, AdmitDecision, AssignmentEpoch, OffsetAndTimestamp, PartitionCounts, PartitionView,
    PendingPartition, StartPosition, TopicRecreation, WatchedPartition,
};

/// The partitions that the group has assigned to this instance. Each assignment of a partition and
/// each restart has an epoch of its own. A record of an earlier epoch must not move the offset of a
/// later epoch.
#[derive(Debug, Default)]
pub struct Assignment(Mutex<AssignmentState>);

#[derive(Debug, Default)]
struct AssignmentState {
    partitions: BTreeMap<String, BTreeMap<i32, OwnedPartition>>,
    last_epoch: u64,
    /// `true` if a change happened since the last [`Assignment::take_pending`]. With `next_resume_at`
    /// it lets `take_pending`, which runs for every record, return without a walk through all
    /// partitions.
    changed: bool,
    next_resume_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct OwnedPartition {
    epoch: AssignmentEpoch,
    state: PartitionState,
    /// `false` if the partition's tenant is disabled and its records are skipped.
    tenant_enabled: bool,
    /// The next offset to read; 0 until the start offset is known.
    next: i64,
    /// The start offset; 0 until it is known.
    start: i64,
    /// The first offset that was read since the start, or since the client went back before it.
    first_read: Option<i64>,
    /// The offset up to which records are committed; `None` until the start offset is known.
    committed_offset: Option<i64>,
    /// The first offset of the log when reading started. In the same log the first offset can only
    /// increase.
    log_start: i64,
    /// An earlier record and the last record of this partition. Only the earlier record reveals an
    /// unnoticed change of the log, because the last record may already be from the new log.
    older: Option<OffsetAndTimestamp>,
    newest: Option<OffsetAndTimestamp>,
}

/// The stage of an owned partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartitionState {
    /// The partition needs a start offset, and no request for it is in progress.
    NeedsStart { recreation: TopicRecreation },
    /// The start offset has been requested.
    Starting,
    /// The partition is being read. If `before` is set, the first record must equal `before`.
    Reading { before: Option<OffsetAndTimestamp> },
    /// The partition is paused until this instant; with `None`, until an operator resumes it.
    Paused { until: Option<Instant> },
}

impl Assignment {
    /// Adds partitions that the group has assigned.
    pub fn add(&self, partitions: impl IntoIterator<Item = (String, i32)>) {
        let mut state = self.lock_for_update();
        for (topic, number) in partitions {
            let epoch = state.next_epoch();
            let of_topic = state.partitions.entry(topic).or_default();
            of_topic.insert(number, OwnedPartition::new(epoch));
        }
    }

    /// Removes partitions that the group has revoked.
    pub fn remove(&self, partitions: impl IntoIterator<Item = (String, i32)>) {
        let mut state = self.lock();
        for (topic, number) in partitions {
            if let Some(of_topic) = state.partitions.get_mut(&topic) {
                of_topic.remove(&number);
                if of_topic.is_empty() {
                    state.partitions.remove(&topic);
                }
            }
        }
    }

    /// Removes all partitions.
    pub fn clear(&self) {
        self.lock().partitions.clear();
    }

    /// Returns the current epoch of a partition, or `None` if this instance does not own it.
    pub fn epoch(&self, topic: &str, partition: i32) -> Option<AssignmentEpoch> {
        self.lock().get(topic, partition).map(|partition| partition.epoch)
    }

    /// Counts the partitions per stage.
    pub fn counts(&self) -> PartitionCounts {
        let mut counts = PartitionCounts::default();
        for partition in self.lock().partitions.values().flat_map(BTreeMap::values) {
            *match partition.state {
                PartitionState::NeedsStart { .. } | PartitionState::Starting => {
                    &mut counts.starting
                }
                PartitionState::Reading { .. } => &mut counts.reading,
                PartitionState::Paused { until: Some(_) } => &mut counts.paused,
                PartitionState::Paused { until: None } => &mut counts.stopped,
            } += 1;
        }
        counts
    }

    /// Returns the partitions that are being read.
    pub fn reading_partitions(&self) -> Vec<(String, i32)> {
        let mut list = Vec::new();
        for (topic, partitions) in &self.lock().partitions {
            for (number, partition) in partitions {
                if matches!(partition.state, PartitionState::Reading { .. }) {
                    list.push((topic.clone(), *number));
                }
            }
        }
        list
    }

    /// Returns the partitions that need a start offset now, and marks them as `Starting`.
    pub fn take_pending(&self, now: Instant) -> Vec<PendingPartition> {
        let mut state = self.lock();
        let mut pending = Vec::new();
        if !state.changed && state.next_resume_at.is_none_or(|until| now < until) {
            return pending;
        }
        let mut next_resume_at: Option<Instant> = None;
        for (topic, partitions) in &mut state.partitions {
            for (number, partition) in partitions {
                let recreation = match partition.state {
                    PartitionState::NeedsStart { recreation } => recreation,
                    PartitionState::Paused { until: Some(until) } if until <= now => {
                        TopicRecreation::NotDetected
                    }
                    PartitionState::Paused { until: Some(until) } => {
                        next_resume_at =
                            Some(next_resume_at.map_or(until, |known| known.min(until)));
                        continue;
                    }
                    _ => continue,
                };
                partition.state = PartitionState::Starting;
                let (topic, epoch) = (topic.clone(), partition.epoch);
                pending.push(PendingPartition { topic, partition: *number, epoch, recreation });
            }
        }
        (state.changed, state.next_resume_at) = (false, next_resume_at);
        pending
    }

    /// Starts reading at a position that the client has sought.
    pub fn start(&self, pending: &PendingPartition, start: StartPosition) {
        let StartPosition { from, log_start, tenant_enabled, before } = start;
        self.update(pending, |partition| {
            // A record of an earlier epoch identifies the log only if reading continues in the same
            // log.
            let older = partition.older.or(before).filter(|_| before.is_some());
            let state = PartitionState::Reading { before };
            *partition = OwnedPartition {
                state,
                tenant_enabled,
                next: from,
                start: from,
                first_read: None,
                committed_offset: Some(from),
                log_start,
                older,
                newest: before,
                ..*partition
            };
        });
    }

    /// Marks a partition as `NeedsStart` again after a failed seek.
    pub fn requeue(&self, pending: &PendingPartition) {
        self.update(pending, |partition| {
            partition.state = PartitionState::NeedsStart { recreation: pending.recreation }
        });
    }

    /// Pauses a starting partition for `time`; with `None`, until an operator resumes it.
    pub fn pause(&self, pending: &PendingPartition, time: Option<Duration>) {
        let until = time.map(|time| Instant::now() + time);
        self.update(pending, |partition| partition.state = PartitionState::Paused { until });
    }

    /// Pauses a reading partition for `time`, like [`Assignment::pause`] does for a starting
    /// partition.
    pub fn pause_reading(&self, topic: &str, partition: i32, time: Option<Duration>) {
        let mut state = self.lock_for_update();
        let epoch = state.next_epoch();
        if let Some(partition) = state.get_mut(topic, partition) {
            let new_state =
                PartitionState::Paused { until: time.map(|time| Instant::now() + time) };
            *partition = OwnedPartition { epoch, state: new_state, ..*partition };
        }
    }

    /// Records that the tenant of a partition is disabled. If the tenant was enabled at the start of
    /// reading, the partition gets a new epoch and needs a new start offset. The tenant may be
    /// enabled again by now.
    pub fn mark_tenant_disabled(&self, topic: &str, partition: i32) {
        let mut state = self.lock_for_update();
        let epoch = state.next_epoch();
        if let Some(partition) =
            state.get_mut(topic, partition).filter(|found| found.tenant_enabled)
        {
            let new_state = PartitionState::NeedsStart { recreation: TopicRecreation::NotDetected };
            *partition =
                OwnedPartition { epoch, state: new_state, tenant_enabled: false, ..*partition };
        }
    }

    /// Restarts the chosen partitions: each gets a new epoch and needs a new start offset.
    pub fn restart(&self, chosen: impl Fn(PartitionView<'_>) -> bool) {
        let mut state = self.lock_for_update();
        let mut last_epoch = state.last_epoch;
        for (topic, partitions) in &mut state.partitions {
            for (number, partition) in partitions.iter_mut() {
                let stopped = matches!(partition.state, PartitionState::Paused { until: None });
                if chosen(PartitionView { topic, partition: *number, stopped }) {
                    last_epoch += 1;
                    partition.epoch = AssignmentEpoch(last_epoch);
                    partition.state =
                        PartitionState::NeedsStart { recreation: TopicRecreation::NotDetected };
                }
            }
        }
        state.last_epoch = last_epoch;
    }

    /// Restarts all partitions of a recreated topic, except stopped partitions, which an operator has
    /// to resume. `found` is the partition that shows the recreation.
    pub fn restart_topic(&self, topic: &str, found: i32) {
        self.lock_for_update().restart_topic(topic, Some(found), |_| true);
    }

    /// Restarts like [`Assignment::restart_topic`] the partitions of the topic that are not in
    /// `known`.
    pub fn restart_other_partitions(&self, topic: &str, known: &[i32]) {
        self.lock_for_update().restart_topic(topic, None, |partition| !known.contains(&partition));
    }

    /// Returns the partitions that are being read, with their offsets.
    pub fn watched_partitions(&self) -> Vec<WatchedPartition> {
        let mut list = Vec::new();
        for (topic, partitions) in &self.lock().partitions {
            let reading = |partition: &OwnedPartition| {
                matches!(partition.state, PartitionState::Reading { .. })
            };
            for (number, partition) in partitions.iter().filter(|(_, found)| reading(found)) {
                let OwnedPartition { epoch, next, log_start, older, newest, .. } = *partition;
                let (topic, partition) = (topic.clone(), *number);
                list.push(WatchedPartition {
                    topic,
                    partition,
                    epoch,
                    next,
                    log_start,
                    older,
                    newest,
                });
            }
        }
        list
    }

    /// Records the offset up to which a partition is committed, unless the epoch has changed.
    pub fn advance_committed(
        &self,
        topic: &str,
        partition: i32,
        epoch: AssignmentEpoch,
        next: i64,
    ) {
        let mut state = self.lock();
        if let Some(found) = state.get_mut(topic, partition).filter(|found| found.epoch == epoch) {
            found.committed_offset = Some(next);
        }
    }

    /// Returns the committed offsets of all partitions with a known start offset.
    pub fn committed_offsets(&self) -> Vec<((String, i32), i64)> {
        let mut list = Vec::new();
        for (topic, partitions) in &self.lock().partitions {
            for (number, partition) in partitions {
                list.extend(
                    partition.committed_offset.map(|next| ((topic.clone(), *number), next)),
                );
            }
        }
        list
    }

    /// Returns the partitions that wait for an operator.
    pub fn stopped_partitions(&self) -> BTreeSet<(String, i32)> {
        let mut stopped = BTreeSet::new();
        for (topic, partitions) in &self.lock().partitions {
            let is_stopped = |found: &OwnedPartition| {
                matches!(found.state, PartitionState::Paused { until: None })
            };
            let numbers = partitions.iter().filter(|(_, found)| is_stopped(found));
            stopped.extend(numbers.map(|(number, _)| (topic.clone(), *number)));
        }
        stopped
    }

    /// Records that the log still contains the earlier record. The newest record at the time of the
    /// check becomes the next record to check.
    pub fn confirm(
        &self,
        WatchedPartition { topic, partition, epoch, newest, .. }: &WatchedPartition,
    ) {
        let mut state = self.lock();
        let found = state.get_mut(topic, *partition).filter(|found| found.epoch == *epoch);
        if let Some(found) = found {
            found.older = *newest;
        }
    }

    /// Decides about a polled record, and records its offset if the record is admitted.
    pub fn admit(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        timestamp: Option<DateTime<Utc>>,
    ) -> AdmitDecision {
        let mut state = self.lock();
        let Some(found) = state.get_mut(topic, partition) else { return AdmitDecision::Ignore };
        let PartitionState::Reading { before } = found.state else { return AdmitDecision::Ignore };
        if let Some(known) = before {
            if offset < known.offset {
                return AdmitDecision::Ignore;
            }
            if offset == known.offset && timestamp != Some(known.timestamp) {
                state.restart_topic(topic, Some(partition), |_| true);
                state.changed = true;
                return AdmitDecision::TopicRecreated;
            }
            // Compaction may have removed the known record; the log is still the same.
            found.state = PartitionState::Reading { before: None };
            if offset == known.offset {
                return AdmitDecision::Ignore;
            }
        }
        // A seek that ends late makes the client read records again. Such records would count twice for the bad
        // record limit.
        let is_read = found.first_read.is_some_and(|first| (first..found.next).contains(&offset));
        if is_read || offset < found.start {
            return AdmitDecision::Ignore;
        }
        AdmitDecision::Admit(found.admit(offset, timestamp))
    }

    fn update(&self, pending: &PendingPartition, change: impl FnOnce(&mut OwnedPartition)) {
        let mut state = self.lock_for_update();
        let partition = state.get_mut(&pending.topic, pending.partition);
        if let Some(partition) = partition.filter(|partition| partition.epoch == pending.epoch) {
            change(partition);
        }
    }

    /// Locks the state for a change, after which [`Assignment::take_pending`] walks through all
    /// partitions again.
    fn lock_for_update(&self) -> MutexGuard<'_, AssignmentState> {
        let mut state = self.lock();
        state.changed = true;
        state
    }

    fn lock(&self) -> MutexGuard<'_, AssignmentState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AssignmentState {
    fn next_epoch(&mut self) -> AssignmentEpoch {
        self.last_epoch += 1;
        AssignmentEpoch(self.last_epoch)
    }

    fn restart_topic(&mut self, topic: &str, found: Option<i32>, chosen: impl Fn(i32) -> bool) {
        let Some(partitions) = self.partitions.get_mut(topic) else { return };
        for (number, partition) in partitions.iter_mut().filter(|(number, _)| chosen(**number)) {
            if !matches!(partition.state, PartitionState::Paused { until: None }) {
                self.last_epoch += 1;
                let recreation = if found == Some(*number) {
                    TopicRecreation::OnThisPartition
                } else {
                    TopicRecreation::OnOtherPartition
                };
                *partition = OwnedPartition {
                    state: PartitionState::NeedsStart { recreation },
                    tenant_enabled: partition.tenant_enabled,
                    ..OwnedPartition::new(AssignmentEpoch(self.last_epoch))
                };
            }
        }
    }

    fn get(&self, topic: &str, partition: i32) -> Option<&OwnedPartition> {
        self.partitions.get(topic)?.get(&partition)
    }

    fn get_mut(&mut self, topic: &str, partition: i32) -> Option<&mut OwnedPartition> {
        self.partitions.get_mut(topic)?.get_mut(&partition)
    }
}

impl OwnedPartition {
    fn new(epoch: AssignmentEpoch) -> Self {
        let state = PartitionState::NeedsStart { recreation: TopicRecreation::NotDetected };
        Self {
            epoch,
            state,
            tenant_enabled: true,
            next: 0,
            start: 0,
            first_read: None,
            committed_offset: None,
            log_start: 0,
            older: None,
            newest: None,
        }
    }

    /// Records that the partition has read a record.
    fn admit(&mut self, offset: i64, timestamp: Option<DateTime<Utc>>) -> Admission {
        let admission = Admission {
            epoch: self.epoch,
            tenant_enabled: self.tenant_enabled,
            position: self.next.min(offset),
        };
        self.next = offset + 1;
        self.first_read = Some(self.first_read.map_or(offset, |first| first.min(offset)));
        self.newest =
            timestamp.map(|timestamp| OffsetAndTimestamp { offset, timestamp }).or(self.newest);
        self.older = self.older.or(self.newest);
        admission
    }
}
