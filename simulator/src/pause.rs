//! A pause in publishing, requested by another task.

use tokio::sync::watch;

/// Two flags: a pause is requested, and every published record is acknowledged.
#[derive(Debug, Default)]
pub struct Pause {
    requested: watch::Sender<bool>,
    acknowledged: watch::Sender<bool>,
}

impl Pause {
    /// Requests a pause. Returns when the broker has acknowledged every published record.
    pub async fn request(&self) {
        self.requested.send_replace(true);
        // `self` owns the sender, so the channel stays open.
        let _ = self.acknowledged.subscribe().wait_for(|quiet| *quiet).await;
    }

    /// Ends the pause, so that publishing continues.
    pub fn release(&self) {
        self.acknowledged.send_replace(false);
        self.requested.send_replace(false);
    }

    /// Returns true if a pause is requested.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Acknowledges the pause after every record is acknowledged. Returns when publishing may continue.
    pub async fn acknowledge(&self) {
        let mut requested = self.requested.subscribe();
        self.acknowledged.send_replace(true);
        let _ = requested.wait_for(|is_requested| !is_requested).await;
    }
}
