//! A pause in publishing, asked for from outside.

use tokio::sync::watch;

/// Whether a pause is asked for, and whether everything is quiet.
#[derive(Debug, Default)]
pub struct Pause {
    requested: watch::Sender<bool>,
    acknowledged: watch::Sender<bool>,
}

impl Pause {
    /// Asks for a pause. Returns when everything published so far is acknowledged.
    pub async fn request(&self) {
        self.requested.send_replace(true);
        // The sender lives as long as we do.
        let _ = self.acknowledged.subscribe().wait_for(|quiet| *quiet).await;
    }

    /// Publishing goes on.
    pub fn release(&self) {
        self.acknowledged.send_replace(false);
        self.requested.send_replace(false);
    }

    /// Whether a pause is asked for.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Takes the pause: everything is acknowledged. Returns when publishing may go on.
    pub async fn acknowledge(&self) {
        let mut requested = self.requested.subscribe();
        self.acknowledged.send_replace(true);
        let _ = requested.wait_for(|asked| !asked).await;
    }
}
