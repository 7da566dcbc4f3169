//! Rebuilds of several tenants that one instance works on together: the topics that they share are read once
//! for all of them, and then each goes on by itself when its turn comes.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tracing::warn;

use super::{
    topics::{self, Share},
    turn::Turn,
};
use crate::{config::KafkaConfig, kafka::Broker, telemetry::Chain};

/// One of them. Whoever drops it is not waited for any more.
pub(super) struct Member {
    joining: Mutex<Option<mpsc::UnboundedSender<Joining>>>,
}

/// What one of them wants of the topics that they share.
pub(super) struct Joining {
    share: Share,
    /// Told by being dropped.
    read: oneshot::Sender<()>,
}

/// Whether there is a topic that tenants share. Where the broker is away, each waits for it by itself.
pub(super) async fn is_worth_it(broker: &Arc<Broker>, kafka: &Arc<KafkaConfig>) -> bool {
    let (broker, kafka) = (broker.clone(), kafka.clone());
    let is_shared = move |name: &String| {
        kafka.environment.parse(name).is_some_and(|topic| topic.tenant.is_none())
    };
    let asked = spawn_blocking(move || broker.topics().map(|names| names.iter().any(is_shared)));
    matches!(asked.await, Ok(Ok(true)))
}

/// So many of them, and what they will want.
pub(super) fn members(many: usize) -> (Vec<Member>, mpsc::UnboundedReceiver<Joining>) {
    let (sender, joining) = mpsc::unbounded_channel();
    let member = |_| Member { joining: Mutex::new(Some(sender.clone())) };
    ((0..many).map(member).collect(), joining)
}

/// Reads for all of them what they share, once each has said what it wants of it or that it wants nothing. Where
/// that fails, each reads by itself what is left, and fails by itself.
pub(super) async fn read(mut joining: mpsc::UnboundedReceiver<Joining>) {
    let (mut shares, mut waiting) = (Vec::new(), Vec::new());
    while let Some(Joining { share, read }) = joining.recv().await {
        shares.push(share);
        waiting.push(read);
    }
    if let Err(failure) = topics::read(shares).await {
        warn!(error = %Chain(&failure), "rebuild: reading shared topics for all tenants failed; each tenant reads the rest alone");
    }
    drop(waiting);
}

impl Member {
    /// Has others go on, and waits until what they share was read for all of them.
    pub(super) async fn read(&self, share: Share, turn: &Turn) {
        let joining = self.joining().take();
        let Some(joining) = joining.filter(|_| share.is_left()) else { return };
        turn.leave();
        let (read, is_read) = oneshot::channel();
        if joining.send(Joining { share, read }).is_ok() {
            drop(joining);
            let _ = is_read.await;
        }
        turn.take().await;
    }

    /// Has nobody wait for it any more.
    pub(super) fn leave(&self) {
        *self.joining() = None;
    }

    fn joining(&self) -> std::sync::MutexGuard<'_, Option<mpsc::UnboundedSender<Joining>>> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
