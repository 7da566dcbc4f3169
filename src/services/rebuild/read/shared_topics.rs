//! Read groups: one instance reads the shared topics of several tenants once, and each rebuild then continues
//! alone in its run slot.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tracing::warn;

use super::topics::{self, ReplayRequest};
use crate::{
    config::KafkaConfig, kafka::BrokerClient, logging::ErrorChain,
    services::rebuild::run_slot::RunSlot,
};

/// Membership of a rebuild in a read group. The group does not wait for a dropped member.
pub(in crate::services::rebuild) struct GroupMember {
    sender: Mutex<Option<mpsc::UnboundedSender<JoinRequest>>>,
}

/// The offset ranges of shared topics that one member needs.
pub(in crate::services::rebuild) struct JoinRequest {
    request: ReplayRequest,
    /// Dropped after the replay; the drop wakes the member.
    done: oneshot::Sender<()>,
}

/// Returns `true` if the broker has a topic that tenants share. If the broker is unreachable, returns
/// `false`, and each rebuild waits for the broker alone.
pub(in crate::services::rebuild) async fn has_shared_topics(
    broker: &Arc<BrokerClient>,
    kafka: &Arc<KafkaConfig>,
) -> bool {
    let (broker, environment) = (broker.clone(), kafka.environment());
    let is_shared =
        move |name: &String| environment.parse(name).is_some_and(|topic| topic.tenant.is_none());
    let has_shared =
        spawn_blocking(move || broker.topic_names().map(|names| names.iter().any(is_shared)));
    matches!(has_shared.await, Ok(Ok(true)))
}

/// Creates the members of a read group of `size`, and the receiver of their requests.
pub(in crate::services::rebuild) fn read_group(
    size: usize,
) -> (Vec<GroupMember>, mpsc::UnboundedReceiver<JoinRequest>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let member = |_| GroupMember { sender: Mutex::new(Some(sender.clone())) };
    ((0..size).map(member).collect(), receiver)
}

/// Replays the shared topics for all members, after each member has sent a request or left. If the replay
/// fails, each member reads the remaining records alone, and fails alone.
pub(in crate::services::rebuild) async fn replay_for_group(
    mut requests: mpsc::UnboundedReceiver<JoinRequest>,
) {
    let (mut replay_requests, mut done_senders) = (Vec::new(), Vec::new());
    while let Some(JoinRequest { request, done }) = requests.recv().await {
        replay_requests.push(request);
        done_senders.push(done);
    }
    if let Err(failure) = topics::replay(replay_requests).await {
        warn!(error = %ErrorChain(&failure), "rebuild: reading shared topics for all tenants failed; each tenant reads the rest alone");
    }
    drop(done_senders);
}

impl GroupMember {
    /// Releases the run slot, waits until the group has replayed the shared topics, and acquires the slot
    /// again.
    pub(in crate::services::rebuild) async fn replay_shared(
        &self,
        request: ReplayRequest,
        run_slot: &RunSlot,
    ) {
        let sender = self.sender().take();
        let Some(sender) = sender.filter(|_| request.has_records()) else { return };
        run_slot.release();
        let (done, replayed) = oneshot::channel();
        if sender.send(JoinRequest { request, done }).is_ok() {
            drop(sender);
            let _ = replayed.await;
        }
        run_slot.acquire().await;
    }

    /// Leaves the group, so that the group does not wait for this member.
    pub(in crate::services::rebuild) fn leave(&self) {
        *self.sender() = None;
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<mpsc::UnboundedSender<JoinRequest>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
