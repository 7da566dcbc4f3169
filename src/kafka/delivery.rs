//! The data that the poller exchanges with the writers, the partition starter and the watchdog, and the
//! channels that carry the data.
//!
//! A lane is a bounded queue of records to one writer. A partition always uses the same lane, so its
//! writer commits records in order and the stored position has no gaps.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, mpsc as std_mpsc},
};

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::assignment::{AssignmentEpoch, PendingPartition, WatchedPartition};
use crate::event::{Record, TenantId, Topic, TopicPartition};

/// A record with the facts that its topic and its broker add.
#[derive(Debug)]
pub struct ConsumedRecord {
    /// The record as Kafka delivered it.
    pub record: Record,
    /// The parsed name of its topic.
    pub topic: Arc<Topic>,
    /// The broker's cluster id.
    pub cluster: Arc<str>,
    /// `true` if earlier records of the partition were stored; `false` if they were skipped because
    /// the tenant was disabled.
    pub tenant_enabled: bool,
    /// The offset up to which its partition was read before.
    pub position: i64,
}

/// A record in a lane, on its way to a writer.
pub struct QueuedRecord {
    /// The record with its topic, cluster and position.
    pub incoming: ConsumedRecord,
    /// The epoch in which the record was read.
    pub epoch: AssignmentEpoch,
    /// The record's share of the buffer, in KiB; dropping the record frees it.
    pub memory_permit: OwnedSemaphorePermit,
}

/// The progress of a batch per partition, with the epoch in which the records were read.
pub type WriteReport = Vec<(TopicPartition, AssignmentEpoch, PartitionProgress)>;

/// Returns the lane of a partition, from 0 to `lanes - 1`.
pub fn lane_of(topic: &str, partition: i32, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (topic, partition).hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}

/// The progress of a batch in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionProgress {
    /// The offset up to which every record is durable or skipped.
    pub next: i64,
    /// `true` if the records up to `next` are committed; `false` if they were skipped because the
    /// tenant is disabled.
    pub committed: bool,
    /// Why the partition pauses after `next`; `None` if it continues.
    pub pause_reason: Option<PauseReason>,
}

/// The cause of a paused partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PauseReason {
    /// The partition reached the bad record limit and waits for an operator.
    BadRecordLimit,
    /// The tenant's tables are unwritable; the partition pauses for a few seconds.
    TenantUnwritable,
    /// The tenant's schema is being migrated; the partition pauses for about a second.
    TenantMigrating,
    /// Earlier records must be read first, so the partition restarts at once. Either its tenant was
    /// enabled while records were skipped, or its topic was recreated.
    Restart,
}

/// The decision about the start of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartDecision {
    /// The poller reads from an offset.
    Read {
        /// The first offset to store.
        from: i64,
        /// The first offset of the log.
        log_start: i64,
        /// `true` if records are stored; `false` if the tenant is disabled.
        tenant_enabled: bool,
        /// The timestamp of the record before `from`, if known. The poller reads this record first to
        /// verify the log.
        before: Option<DateTime<Utc>>,
    },
    /// The partition stays stopped until an operator resumes it.
    Stopped,
    /// The partition waits, because its tenant's tables are unreadable or being migrated.
    TenantUnavailable,
}

/// Partitions with the decision about their start.
pub type StartDecisions = Vec<(PendingPartition, StartDecision)>;

/// A command to the polling thread.
pub enum PollerCommand {
    /// The partition starter has decided where partitions start.
    Start(StartDecisions),
    /// A tenant was enabled: new topics may exist, and partitions of the tenant need a new start
    /// offset.
    TenantEnabled(TenantId),
    /// An operator may have resumed stopped partitions.
    RestartStopped,
    /// The watchdog found a partition that stalls although its log has more records.
    Reassign(WatchedPartition),
    /// The watchdog found a partition that stalls even after a reassignment.
    Reconnect,
}

/// The ends of all channels that the poller uses.
pub struct Channels {
    /// One lane per writer.
    pub lanes: Vec<mpsc::Sender<QueuedRecord>>,
    /// Reports of the writers about committed offsets. The channel closes with the last writer.
    pub reports: std_mpsc::Receiver<WriteReport>,
    /// Requests to the partition starter.
    pub start_requests: mpsc::UnboundedSender<Vec<PendingPartition>>,
    /// Commands of the tasks around the poller.
    pub commands: std_mpsc::Receiver<PollerCommand>,
}
