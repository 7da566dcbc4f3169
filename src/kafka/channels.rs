//! The channels between the poller and the tasks around it.

use std::sync::mpsc as std_mpsc;

use tokio::sync::mpsc;

use super::{
    assignment::{PendingPartition, WatchedPartition},
    lane::{QueuedRecord, WriteReport},
    takeover::StartDecisions,
};
use crate::event::TenantId;

/// A command to the polling thread.
pub(super) enum PollerCommand {
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
pub(super) struct Channels {
    /// One lane per writer.
    pub(super) lanes: Vec<mpsc::Sender<QueuedRecord>>,
    /// Reports of the writers about committed offsets. The channel closes with the last writer.
    pub(super) reports: std_mpsc::Receiver<WriteReport>,
    /// Requests to the partition starter.
    pub(super) start_requests: mpsc::UnboundedSender<Vec<PendingPartition>>,
    pub(super) commands: std_mpsc::Receiver<PollerCommand>,
}
