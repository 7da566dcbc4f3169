//! Which partitions this instance owns at the moment, and how far each is on its way to being read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

/// The partitions that the group has assigned to this instance. Each assignment of a partition is an
/// era of its own, and so is each time it begins anew: what was read in an earlier era must not move
/// the offset of a later one.
#[derive(Debug, Default)]
pub struct Assignment(Mutex<AssignmentState>);

#[derive(Debug, Default)]
struct AssignmentState {
    partitions: BTreeMap<String, BTreeMap<i32, OwnedPartition>>,
    last_epoch: u64,
    /// Whether something has changed since it was last asked what is due, and when a partition that is
    /// held comes due. It is asked for every record, and must not walk through all partitions each time.
    changed: bool,
    next_resume_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct OwnedPartition {
    epoch: AssignmentEpoch,
    state: PartitionState,
    /// Whether its records are kept: not while its tenant isn't enabled.
    tenant_enabled: bool,
    /// The offset that is read next, once it is known where to begin.
    next: i64,
    /// Up to where its records are settled, once it is known where to begin.
    committed_offset: Option<i64>,
    /// Where its log began when reading did: it can only begin later since, as long as it is the same log.
    log_start: i64,
    /// A record that was read some time ago, and the one that was read last. An unnoticed change of the log
    /// shows at the older one only: the other one is of the new log already.
    older: Option<OffsetAndTimestamp>,
    newest: Option<OffsetAndTimestamp>,
}

/// One uninterrupted reading of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AssignmentEpoch(u64);

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartitionState {
    /// Where to begin is to be asked.
    NeedsStart { recreation: TopicRecreation },
    /// Where to begin is being asked.
    Starting,
    /// It is read; the first record must be the known one, if one is known.
    Reading { before: Option<OffsetAndTimestamp> },
    /// It is not read before this instant; `None`: before an operator says so.
    Paused { until: Option<Instant> },
}

/// Whether a log is known to be another one than was read before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRecreation {
    /// Not as far as is known.
    #[default]
    NotDetected,
    /// This partition shows it.
    OnThisPartition,
    /// Another partition of the topic has shown it: a topic is made anew with all its partitions.
    OnOtherPartition,
}

/// A record that was read before, by which a log is known to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: DateTime<Utc>,
}

/// A partition whose beginning is to be asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The era that it begins.
    pub epoch: AssignmentEpoch,
    /// Whether its topic was made anew.
    pub recreation: TopicRecreation,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPosition {
    /// The offset of the first record to be taken.
    pub from: i64,
    /// Where the log begins.
    pub log_start: i64,
    /// Whether records are kept.
    pub tenant_enabled: bool,
    /// The record that comes first and must be the known one, if one is known.
    pub before: Option<OffsetAndTimestamp>,
}

/// A partition that is read, as the watchdog sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The era in which it is read.
    pub epoch: AssignmentEpoch,
    /// The offset that is read next.
    pub next: i64,
    /// Where its log began when reading did.
    pub log_start: i64,
    /// A record that was read some time ago.
    pub older: Option<OffsetAndTimestamp>,
    /// The record that was read last.
    pub newest: Option<OffsetAndTimestamp>,
}

/// What to do with a record that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitDecision {
    /// To be settled.
    Admit(Admission),
    /// Not to be read here and now, or read before.
    Ignore,
    /// It is not the record that stood there: the topic was made anew.
    TopicRecreated,
}

/// A record that is to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The era in which it was read.
    pub epoch: AssignmentEpoch,
    /// Whether it is to be kept, or its tenant wasn't enabled.
    pub tenant_enabled: bool,
    /// The offset up to which the partition was read before.
    pub position: i64,
}

impl Assignment {
    /// Partitions were assigned.
    pub fn add(&self, partitions: impl IntoIterator<Item = (String, i32)>) {
        let mut state = self.lock_for_update();
        for (topic, number) in partitions {
            let epoch = state.next_epoch();
            let of_topic = state.partitions.entry(topic).or_default();
            of_topic.insert(number, OwnedPartition::new(epoch));
        }
    }

    /// Partitions were revoked.
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

    /// All partitions were given up.
    pub fn clear(&self) {
        self.lock().partitions.clear();
    }

    /// The era in which the partition is owned now.
    pub fn epoch(&self, topic: &str, partition: i32) -> Option<AssignmentEpoch> {
        self.lock().get(topic, partition).map(|partition| partition.epoch)
    }

    /// How many partitions are at which stage.
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

    /// The partitions that are read.
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

    /// The partitions whose beginning is to be asked now; they count as being asked from here on.
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

    /// The beginning is known and sought: from now on records are taken.
    pub fn start(&self, pending: &PendingPartition, start: StartPosition) {
        let StartPosition { from, log_start, tenant_enabled, before } = start;
        self.update(pending, |partition| {
            // What was read in an earlier era tells of the log as long as reading goes on in it.
            let older = partition.older.or(before).filter(|_| before.is_some());
            let state = PartitionState::Reading { before };
            *partition = OwnedPartition {
                state,
                tenant_enabled,
                next: from,
                committed_offset: Some(from),
                log_start,
                older,
                newest: before,
                ..*partition
            };
        });
    }

    /// The beginning could not be sought: it is asked again.
    pub fn requeue(&self, pending: &PendingPartition) {
        self.update(pending, |partition| {
            partition.state = PartitionState::NeedsStart { recreation: pending.recreation }
        });
    }

    /// The partition is not read, for so long, or until an operator says so.
    pub fn pause(&self, pending: &PendingPartition, time: Option<Duration>) {
        let until = time.map(|time| Instant::now() + time);
        self.update(pending, |partition| partition.state = PartitionState::Paused { until });
    }

    /// As [`Assignment::hold`], for a partition that was being read.
    pub fn pause_reading(&self, topic: &str, partition: i32, time: Option<Duration>) {
        let mut state = self.lock_for_update();
        let epoch = state.next_epoch();
        if let Some(partition) = state.get_mut(topic, partition) {
            let new_state =
                PartitionState::Paused { until: time.map(|time| Instant::now() + time) };
            *partition = OwnedPartition { epoch, state: new_state, ..*partition };
        }
    }

    /// The records of this partition are passed by: their tenant isn't enabled. Where it was when
    /// reading began, that is asked once more: it may be enabled again already.
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

    /// Begins anew with what is chosen: where to read is asked again.
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

    /// A topic was made anew: all its partitions begin anew, but those that an operator has to resume.
    /// `found` is the one that shows it.
    pub fn restart_topic(&self, topic: &str, found: i32) {
        self.lock_for_update().restart_topic(topic, Some(found), |_| true);
    }

    /// As [`Assignment::remake`], for the other partitions: of these somebody knows already.
    pub fn restart_other_partitions(&self, topic: &str, known: &[i32]) {
        self.lock_for_update().restart_topic(topic, None, |partition| !known.contains(&partition));
    }

    /// The partitions that are read, and how far.
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

    /// The records of an era are settled up to an offset.
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

    /// Up to where partitions are settled, as far as it is known where they begin.
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

    /// The older record was found again: what was the newest one when it was looked for is looked for the
    /// next time.
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

    /// Looks at a record that has come.
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
            // A log that was compacted may not have the known record any more; it is the same log.
            found.state = PartitionState::Reading { before: None };
            if offset == known.offset {
                return AdmitDecision::Ignore;
            }
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

    /// To change something: whatever it is, [`Assignment::due`] looks again.
    fn lock_for_update(&self) -> MutexGuard<'_, AssignmentState> {
        let mut state = self.lock();
        state.changed = true;
        state
    }

    fn lock(&self) -> MutexGuard<'_, AssignmentState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Partitions of this instance, by how far they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionCounts {
    /// Where to begin is being found out.
    pub starting: usize,
    /// Being read.
    pub reading: usize,
    /// Left alone for a while, because their tenant's tables can't be written.
    pub paused: usize,
    /// Stopped for too many bad records, until an operator resumes them.
    pub stopped: usize,
}

/// What [`Assignment::begin_anew`] chooses by.
#[derive(Debug, Clone, Copy)]
pub struct PartitionView<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Whether it waits for an operator.
    pub stopped: bool,
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
            committed_offset: None,
            log_start: 0,
            older: None,
            newest: None,
        }
    }

    /// A record is read.
    fn admit(&mut self, offset: i64, timestamp: Option<DateTime<Utc>>) -> Admission {
        let admission = Admission {
            epoch: self.epoch,
            tenant_enabled: self.tenant_enabled,
            position: self.next,
        };
        self.next = offset + 1;
        self.newest =
            timestamp.map(|timestamp| OffsetAndTimestamp { offset, timestamp }).or(self.newest);
        self.older = self.older.or(self.newest);
        admission
    }
}
