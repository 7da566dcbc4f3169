//! The request to stop, shared by all tasks.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A shared flag that requests the end of all work.
#[derive(Debug, Clone)]
pub struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Returns a signal that SIGINT and SIGTERM set.
    pub fn on_signals() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let _ = sender.send(true);
            // The sender lives as long as its receivers, so a later receiver also sees the flag.
            sender.closed().await;
        });
        Ok(Self(receiver))
    }

    /// Returns a signal that is never set.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Returns true if a stop was requested.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until a stop is requested.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
