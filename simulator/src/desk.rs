//! Transactions at the desk of the simulated library, requested by another task.

use tokio::sync::{
    Mutex,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
};

use crate::model::Transaction;

/// A queue of requested transactions.
#[derive(Debug)]
pub struct Desk {
    sender: UnboundedSender<Transaction>,
    receiver: Mutex<UnboundedReceiver<Transaction>>,
}

impl Default for Desk {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Desk {
    /// Requests a transaction.
    pub fn request(&self, transaction: Transaction) {
        // `self` owns the receiver, so the channel stays open.
        let _ = self.sender.send(transaction);
    }

    /// Waits for the next requested transaction.
    pub async fn next(&self) -> Transaction {
        let next = self.receiver.lock().await.recv().await;
        next.expect("`self` owns a sender, so the channel stays open")
    }
}
