//! Reads about the certainty of evaluations, on connections of their own.
//!
//! An evaluation waits for a read only for a short time. The read itself continues, so its connection returns to the
//! pool in order.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::debug;
use uuid::Uuid;

use crate::{
    logging::ErrorChain,
    services::tenants::Tenant,
    store::{
        self, Db,
        settings::certainty_policy::{self, StoredCertainty},
        state::evidence::{self, PatronEvidence},
    },
};

/// Longest time that an evaluation waits. A lock of an operator on the dead letters must delay no evaluation.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Reads about the certainty of evaluations.
#[derive(Debug, Clone)]
pub struct CertaintyReads {
    /// A small pool with a short statement timeout.
    db: Db,
}

impl CertaintyReads {
    /// Creates the reads on a pool of their own.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Loads the certainty settings of a tenant; `None` if they could not be read in time.
    pub(super) async fn settings(&self, tenant: &Arc<Tenant>) -> Option<StoredCertainty> {
        let tenant = tenant.clone();
        self.within(move |db| {
            let tenant = tenant.clone();
            async move { certainty_policy::load(&db, &tenant.schema, &tenant.id).await }
        })
        .await
    }

    /// Loads what may be missing of a patron; `None` if that could not be read in time.
    pub(super) async fn evidence(
        &self,
        tenant: &Arc<Tenant>,
        user: Uuid,
    ) -> Option<PatronEvidence> {
        let tenant = tenant.clone();
        self.within(move |db| {
            let tenant = tenant.clone();
            async move { evidence::load(&db, &tenant.schema, &tenant.id, user).await }
        })
        .await
    }

    /// Runs a read in a task of its own, and waits for it for a limited time. Each pooled connection may have died
    /// since its last use.
    async fn within<T, F>(&self, read: impl Fn(Db) -> F + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, store::Error>> + Send + 'static,
    {
        let db = self.db.clone();
        let reading = tokio::spawn(async move {
            let mut result = read(db.clone()).await;
            for _ in 0..db.size() {
                if result.as_ref().is_err_and(store::Error::is_connection_lost) {
                    result = read(db.clone()).await;
                }
            }
            result
        });
        match timeout(WAIT_MAX, reading).await {
            Ok(Ok(Ok(found))) => Some(found),
            Ok(Ok(Err(error))) => {
                debug!(error = %ErrorChain(&error), "evaluation: could not read about its certainty");
                None
            }
            // The read takes too long, or the service stops.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}
