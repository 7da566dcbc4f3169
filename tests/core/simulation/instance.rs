//! An instance of the service: real lanes, writers, ingest and assignment, and a stand-in for the
//! poller. The seed chooses the order of the stand-in's steps.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, mpsc as std_mpsc},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use patron_blocks::{
    clock::Clock,
    config::BadRecordLimit,
    event::TopicPartition,
    kafka::{
        assignment::{
            Admission, AdmitDecision, Assignment, OffsetAndTimestamp, PendingPartition,
            StartPosition, TopicRecreation,
        },
        delivery::{
            ConsumedRecord, PartitionProgress, PauseReason, QueuedRecord, WriteReport, lane_of,
        },
        offsets::{CommitTag, CommittedOffset},
    },
    services::ingest::{
        Ingest,
        start_offset::{self, PartitionFacts},
        writer::Writer,
    },
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    log::{CLUSTER, Log},
    model::Model,
};
use crate::support::history::noon;

const LANES: usize = 2;

type Task = Pin<Box<dyn Future<Output = ()>>>;

pub(super) struct Instance {
    number: usize,
    model: Model,
    pub(super) assignment: Arc<Assignment>,
    ingest: Arc<Ingest<Model>>,
    lanes: Vec<mpsc::Sender<QueuedRecord>>,
    writers: Vec<Option<Task>>,
    reports: std_mpsc::Receiver<WriteReport>,
    /// Requested starts, each with the group offset at the time of the request.
    pending_starts: Vec<(PendingPartition, Option<CommittedOffset>)>,
    /// The next fetch offset of each partition that this instance believes to own.
    fetch_offsets: BTreeMap<TopicPartition, i64>,
    /// Offsets that the instance may commit.
    stored: BTreeMap<TopicPartition, CommittedOffset>,
    buffer_permits: Arc<Semaphore>,
}

impl Instance {
    pub(super) fn start(
        number: usize,
        model: &Model,
        batch_max: usize,
        rule: BadRecordLimit,
    ) -> Self {
        let assignment = Arc::new(Assignment::default());
        let ingest = Arc::new(Ingest::new(
            model.clone(),
            Clock::fixed_at(noon()),
            Duration::from_secs(60),
            rule,
        ));
        let (reports, settled) = std_mpsc::channel();
        let (mut lanes, mut writers) = (Vec::new(), Vec::new());
        for _ in 0..LANES {
            let (sender, lane) = mpsc::channel(batch_max);
            let writer =
                Writer::new(lane, ingest.clone(), assignment.clone(), reports.clone(), batch_max);
            // The simulation is the scheduler, so tokio's cooperative budget is off.
            let task = tokio::task::unconstrained(writer.run(CancellationToken::new()));
            lanes.push(sender);
            writers.push(Some(Box::pin(task) as Task));
        }
        Self {
            number,
            model: model.clone(),
            assignment,
            ingest,
            lanes,
            writers,
            reports: settled,
            pending_starts: Vec::new(),
            fetch_offsets: BTreeMap::new(),
            stored: BTreeMap::new(),
            buffer_permits: Arc::new(Semaphore::new(1_000_000)),
        }
    }

    /// Applies the group's current assignment.
    pub(super) fn rebalance(&mut self, log: &mut Log) {
        let owned: Vec<TopicPartition> = log
            .owners
            .iter()
            .filter(|(_, owner)| **owner == self.number)
            .map(|(at, _)| at.clone())
            .collect();
        let lost: Vec<TopicPartition> =
            self.fetch_offsets.keys().filter(|at| !owned.contains(at)).cloned().collect();
        self.assignment.remove(lost.iter().map(|(topic, n)| (topic.to_string(), *n)));
        for at in lost {
            self.fetch_offsets.remove(&at);
            self.stored.remove(&at);
        }
        let new: Vec<TopicPartition> =
            owned.into_iter().filter(|at| !self.fetch_offsets.contains_key(at)).collect();
        self.assignment.add(new.iter().map(|(topic, n)| (topic.to_string(), *n)));
        self.fetch_offsets.extend(new.into_iter().map(|at| (at, 0)));
    }

    /// Requests the start offsets of due partitions; `apply_starts` applies them in a later step.
    pub(super) fn request_starts(&mut self, log: &Log, far_future: bool) {
        let now =
            Instant::now() + if far_future { Duration::from_secs(3600) } else { Duration::ZERO };
        for due in self.assignment.take_pending(now) {
            let at = (Arc::from(&*due.topic), due.partition);
            let committed = log.committed.get(&at).copied();
            self.pending_starts.push((due, committed));
        }
    }

    /// Decides and applies the start offsets of the requested partitions.
    pub(super) fn apply_starts(&mut self, log: &Log) -> Result<(), String> {
        for (due, committed) in std::mem::take(&mut self.pending_starts) {
            let at: TopicPartition = (Arc::from(&*due.topic), due.partition);
            if self.assignment.epoch(&due.topic, due.partition) != Some(due.epoch) {
                continue;
            }
            let state = self.model.state();
            let tenant = &log.topics[&at.0].tenant;
            let partition_key = (due.topic.clone(), due.partition);
            if state.stopped.contains(&partition_key) {
                self.assignment.pause(&due, None);
                continue;
            }
            if tenant.as_ref().is_some_and(|id| state.unusable.contains(id)) {
                self.assignment.pause(&due, Some(Duration::from_secs(5)));
                continue;
            }
            let tenant_enabled = tenant.as_ref().is_none_or(|id| state.enabled.contains(id));
            let rows = state.rows.get(tenant);
            let position =
                rows.and_then(|rows| rows.positions.get(&partition_key)).filter(|_| tenant_enabled);
            let span = log.span(&at);
            let known = PartitionFacts {
                position,
                tenant_enabled,
                committed,
                log: span,
                cluster_id: CLUSTER,
                topic_recreated: due.recreation != TopicRecreation::NotDetected,
            };
            let (from, anomaly) = start_offset::start_offset(&known);
            if let Some(anomaly) = anomaly {
                return Err(format!("{anomaly:?} without a cause: {known:?}"));
            }
            let before = position
                .filter(|position| position.next_offset == from && from > span.low)
                .and_then(|position| position.last_record_at);
            let before = before.map(|at| OffsetAndTimestamp { offset: from - 1, timestamp: at });
            self.fetch_offsets.insert(at.clone(), before.map_or(from, |landmark| landmark.offset));
            self.ingest.reset_bad_record_window(&at.0, at.1);
            let tag = if tenant_enabled { CommitTag::Durable } else { CommitTag::TenantDisabled };
            self.stored.insert(at, CommittedOffset { offset: from, tag });
            let log_start = span.low;
            self.assignment.start(&due, StartPosition { from, log_start, tenant_enabled, before });
        }
        Ok(())
    }

    /// Reads one record of a partition, if a record exists and its lane has room.
    pub(super) fn read_record(&mut self, log: &Log, at: &TopicPartition) {
        let Some(next) = self.fetch_offsets.get_mut(at) else { return };
        let Some(record) = log.partitions[at].get(*next as usize) else { return };
        let lane = &self.lanes[lane_of(&at.0, at.1, LANES)];
        let Ok(slot) = lane.try_reserve() else { return };
        let arrival = self.assignment.admit(&at.0, at.1, *next, record.timestamp);
        if let AdmitDecision::Admit(Admission { epoch, tenant_enabled, position }) = arrival {
            *next += 1;
            let permit =
                self.buffer_permits.clone().try_acquire_owned().expect("the queue has room");
            let incoming = ConsumedRecord {
                record: record.clone(),
                topic: log.topics[&at.0].clone(),
                cluster: Arc::from(CLUSTER),
                tenant_enabled,
                position,
            };
            slot.send(QueuedRecord { incoming, epoch, memory_permit: permit });
        } else if self.assignment.reading_partitions().contains(&(at.0.to_string(), at.1)) {
            // The known record before the start offset is read again and skipped.
            *next += 1;
        }
    }

    /// Runs a writer until its next await.
    pub(super) fn poll_writer(&mut self, lane: usize) {
        let mut context = Context::from_waker(Waker::noop());
        if let Some(task) = &mut self.writers[lane % LANES]
            && task.as_mut().poll(&mut context).is_ready()
        {
            panic!("a writer has ended");
        }
    }

    /// Applies one report of the writers.
    pub(super) fn apply_reports(&mut self) {
        let Ok(settled) = self.reports.try_recv() else { return };
        for (at, epoch, PartitionProgress { next, committed, pause_reason }) in settled {
            if self.assignment.epoch(&at.0, at.1) != Some(epoch) {
                continue;
            }
            let tag = if committed { CommitTag::Durable } else { CommitTag::TenantDisabled };
            self.stored.insert(at.clone(), CommittedOffset { offset: next, tag });
            if !committed {
                self.assignment.mark_tenant_disabled(&at.0, at.1);
            }
            match pause_reason {
                Some(PauseReason::BadRecordLimit) => {
                    self.assignment.pause_reading(&at.0, at.1, None)
                }
                Some(PauseReason::TenantUnwritable) => {
                    self.assignment.pause_reading(&at.0, at.1, Some(Duration::from_secs(5)));
                }
                Some(PauseReason::TenantMigrating) => {
                    self.assignment.pause_reading(&at.0, at.1, Some(Duration::from_secs(1)));
                }
                Some(PauseReason::Restart) => {
                    self.assignment.pause_reading(&at.0, at.1, Some(Duration::ZERO));
                }
                None => {}
            }
        }
    }

    /// Commits the stored offsets that the group accepts.
    pub(super) fn commit(&mut self, log: &mut Log) {
        for (at, committed) in &self.stored {
            log.commit(self.number, at, *committed);
        }
    }

    /// Returns `true` if all records of owned partitions are processed.
    pub(super) fn is_done(&self, log: &Log) -> bool {
        let settled = |at: &TopicPartition| {
            let end = log.span(at).high;
            let stored = self.stored.get(at).or(log.committed.get(at));
            end == 0 || stored.is_some_and(|c| c.offset == end && c.tag == CommitTag::Durable)
        };
        self.fetch_offsets.keys().all(settled)
            && self.assignment.counts().reading == self.fetch_offsets.len()
    }
}
