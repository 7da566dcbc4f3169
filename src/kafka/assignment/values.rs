//! The values that [`Assignment`](super::Assignment) exchanges with the poller, the partition starter and the watchdog.

use chrono::{DateTime, Utc};

/// The number of one uninterrupted reading of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AssignmentEpoch(pub(super) u64);

/// The evidence that a topic was deleted and recreated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRecreation {
    /// No evidence.
    #[default]
    NotDetected,
    /// This partition shows the recreation.
    OnThisPartition,
    /// Another partition of the topic shows the recreation, which affects all partitions of the
    /// topic.
    OnOtherPartition,
}

/// A record that was read before; its timestamp identifies the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// Offset of the record in its partition.
    pub offset: i64,
    /// Timestamp of the record, set by the producer or the broker.
    pub timestamp: DateTime<Utc>,
}

/// A partition that needs a start offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingPartition {
    /// Full name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// The epoch that the start offset is for.
    pub epoch: AssignmentEpoch,
    /// The evidence that the topic was recreated.
    pub recreation: TopicRecreation,
}

/// The offset at which reading starts, and the state of the partition at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPosition {
    /// The offset of the first record to admit.
    pub from: i64,
    /// The first offset of the log.
    pub log_start: i64,
    /// `true` if records are stored; `false` if the tenant is disabled.
    pub tenant_enabled: bool,
    /// The record that arrives first and must equal this known record, if one is known.
    pub before: Option<OffsetAndTimestamp>,
}

/// The watchdog's copy of the state of a reading partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedPartition {
    /// Full name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// The epoch of the reading.
    pub epoch: AssignmentEpoch,
    /// The next offset to read.
    pub next: i64,
    /// The first offset of the log when reading started.
    pub log_start: i64,
    /// An earlier record of this partition.
    pub older: Option<OffsetAndTimestamp>,
    /// The last record of this partition.
    pub newest: Option<OffsetAndTimestamp>,
}

/// The decision about a polled record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitDecision {
    /// The record is delivered to a writer.
    Admit(Admission),
    /// The record is skipped: the partition is not reading, or has read the record before.
    Ignore,
    /// Another record has the offset of the known record, so the topic was recreated.
    TopicRecreated,
}

/// The state of a partition at the moment of an admitted record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The epoch in which the record was read.
    pub epoch: AssignmentEpoch,
    /// `true` if the record is stored; `false` if its tenant is disabled.
    pub tenant_enabled: bool,
    /// The offset up to which the partition was read before.
    pub position: i64,
}

/// Numbers of this instance's partitions per stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionCounts {
    /// Partitions with an unknown start offset.
    pub starting: usize,
    /// Partitions that are being read.
    pub reading: usize,
    /// Partitions that pause for a limited time, for example because their tenant's tables are
    /// unwritable.
    pub paused: usize,
    /// Partitions that stopped at the bad record limit and wait for an operator.
    pub stopped: usize,
}

/// A partition as [`Assignment::restart`](super::Assignment::restart) shows it to its predicate.
#[derive(Debug, Clone, Copy)]
pub struct PartitionView<'a> {
    /// Full name of the topic.
    pub topic: &'a str,
    /// Number of the partition.
    pub partition: i32,
    /// `true` if the partition waits for an operator.
    pub stopped: bool,
}
