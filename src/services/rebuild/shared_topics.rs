//! Rebuilds of several tenants that one instance works on together: the topics that they share are read once
//! for all of them, and then each goes on by itself when its turn comes.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tracing::warn;

use super::{
    run_slot::RunSlot,
    topics::{self, ReplayRequest},
};
use crate::{config::KafkaConfig, kafka::BrokerClient, logging::ErrorChain};

/// One of them. Whoever drops it is not waited for any more.
pub(super) struct GroupMember {
    sender: Mutex<Option<mpsc::UnboundedSender<JoinRequest>>>,
}

/// What one of them wants of the topics that they share.
pub(super) struct JoinRequest {
    request: ReplayRequest,
    /// Told by being dropped.
    done: oneshot::Sender<()>,
}

/// Whether there is a topic that tenants share. Where the broker is away, each waits for it by itself.
pub(super) async fn has_shared_topics(
    broker: &Arc<BrokerClient>,
    kafka: &Arc<KafkaConfig>,
) -> bool {
    let (broker, kafka) = (broker.clone(), kafka.clone());
    let is_shared = move |name: &String| {
        kafka.environment.parse(name).is_some_and(|topic| topic.tenant.is_none())
    };
    let has_shared =
        spawn_blocking(move || broker.topic_names().map(|names| names.iter().any(is_shared)));
    matches!(has_shared.await, Ok(Ok(true)))
}

/// So many of them, and what they will want.
pub(super) fn read_group(size: usize) -> (Vec<GroupMember>, mpsc::UnboundedReceiver<JoinRequest>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let member = |_| GroupMember { sender: Mutex::new(Some(sender.clone())) };
    ((0..size).map(member).collect(), receiver)
}

/// Reads for all of them what they share, once each has said what it wants of it or that it wants nothing. Where
/// that fails, each reads by itself what is left, and fails by itself.
pub(super) async fn replay_for_group(mut requests: mpsc::UnboundedReceiver<JoinRequest>) {
    let (mut replay_requests, mut done_senders) = (Vec::new(), Vec::new());
    while let Some(JoinRequest { request: replay_request, done: read }) = requests.recv().await {
        replay_requests.push(replay_request);
        done_senders.push(read);
    }
    if let Err(failure) = topics::replay(replay_requests).await {
        warn!(error = %ErrorChain(&failure), "rebuild: reading shared topics for all tenants failed; each tenant reads the rest alone");
    }
    drop(done_senders);
}

impl GroupMember {
    /// Has others go on, and waits until what they share was read for all of them.
    pub(super) async fn replay_shared(&self, request: ReplayRequest, run_slot: &RunSlot) {
        let sender = self.sender().take();
        let Some(sender) = sender.filter(|_| request.has_records()) else { return };
        run_slot.release();
        let (read, is_read) = oneshot::channel();
        if sender.send(JoinRequest { request, done: read }).is_ok() {
            drop(sender);
            let _ = is_read.await;
        }
        run_slot.acquire().await;
    }

    /// Has nobody wait for it any more.
    pub(super) fn leave(&self) {
        *self.sender() = None;
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<mpsc::UnboundedSender<JoinRequest>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
