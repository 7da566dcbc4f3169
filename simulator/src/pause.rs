//! A pause in publishing, asked for from outside.

use tokio::sync::watch;

/// Whether a pause is asked for, and whether everything is quiet.
#[derive(Debug, Default)]
pub struct Pause {
    asked: watch::Sender<bool>,
    quiet: watch::Sender<bool>,
}

impl Pause {
    /// Asks for a pause. Returns when everything published so far is acknowledged.
    pub async fn begin(&self) {
        self.asked.send_replace(true);
        // The sender lives as long as we do.
        let _ = self.quiet.subscribe().wait_for(|quiet| *quiet).await;
    }

    /// Publishing goes on.
    pub fn end(&self) {
        self.quiet.send_replace(false);
        self.asked.send_replace(false);
    }

    /// Whether a pause is asked for.
    pub fn is_asked_for(&self) -> bool {
        *self.asked.borrow()
    }

    /// Takes the pause: everything is acknowledged. Returns when publishing may go on.
    pub async fn take(&self) {
        let mut asked = self.asked.subscribe();
        self.quiet.send_replace(true);
        let _ = asked.wait_for(|asked| !asked).await;
    }
}
