//! Being told to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether to stop, shared by everything that should.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Stops at SIGINT and SIGTERM.
    pub fn on_signals() -> anyhow::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let _ = tell.send(true);
            // Whoever asks later must still hear it.
            tell.closed().await;
        });
        Ok(Self(told))
    }

    /// Nobody will say stop.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Whether it is time to stop.
    pub fn is_asked_for(&self) -> bool {
        *self.0.borrow()
    }

    /// Until it is time to stop.
    pub async fn asked_for(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
