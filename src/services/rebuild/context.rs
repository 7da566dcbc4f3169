//! The context of one rebuild: its identity, state and services, which all stages share.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    connections::Connections, error::RebuildError, progress::Progress, request::RebuildRequest,
    run_slot::RunSlot,
};
use crate::{
    clock::Clock,
    config::{KafkaConfig, RebuildConfig},
    kafka::{self, BrokerClient},
    okapi::{Caller, Storage},
    services::{tenants::Tenant, throttle::Throttle},
    store::{
        self, Db, Schema, Tx,
        ingest::inbox::{self, InboxExtent},
        jobs::{self, Lease, Status},
        state::prune,
    },
};

/// Resources that a claim passes to the context of a rebuild.
pub(super) struct RebuildServices {
    pub(super) caller: Option<Caller>,
    pub(super) run_slot: RunSlot,
    pub(super) connections: Arc<Connections>,
}

/// Identity, state and services of one rebuild, shared by all stages.
#[derive(Clone)]
pub(super) struct RebuildContext {
    pub(super) id: Uuid,
    pub(super) lease: Lease,
    pub(super) request: RebuildRequest,
    pub(super) tenant: Arc<Tenant>,
    pub(super) shadow: Arc<Schema>,
    pub(super) clock: Clock,
    pub(super) kafka: Arc<KafkaConfig>,
    pub(super) config: RebuildConfig,
    pub(super) throttle: Throttle,
    pub(super) progress: Arc<Progress>,
    pub(super) status: Arc<Mutex<Status>>,
    /// The cause for which an operator has to approve the differences, if any.
    pub(super) approval_reason: Arc<Mutex<Option<String>>>,
    /// Cancelled when the service stops, or when this instance ends its work on the rebuild.
    pub(super) stop: CancellationToken,
    pub(super) broker: Arc<BrokerClient>,
    pub(super) storage: Storage,
    /// Gateway, tenant and token for requests to the storage modules, in memory only.
    pub(super) caller: Option<Caller>,
    /// Connection pools of all rebuilds of the instance.
    pub(super) connections: Arc<Connections>,
    /// The right to use the database and the processor; released during waits.
    pub(super) run_slot: Arc<RunSlot>,
}

impl RebuildContext {
    /// Begins a transaction on the main pool.
    pub(super) async fn begin(&self) -> Result<Tx, RebuildError> {
        Ok(store::begin(self.db()).await?)
    }

    /// Returns the main pool.
    pub(super) fn db(&self) -> &Db {
        &self.connections.main
    }

    /// Runs a request to the broker on a thread that may block.
    pub(super) async fn query_broker<T: Send + 'static>(
        &self,
        query: impl FnOnce(Arc<BrokerClient>) -> Result<T, kafka::Error> + Send + 'static,
    ) -> Result<T, RebuildError> {
        let broker = self.broker.clone();
        let result = tokio::task::spawn_blocking(move || query(broker)).await;
        Ok(result
            .map_err(|end| RebuildError::from_join_error(&end, "a request to the broker"))??)
    }

    /// Commits `tx` if the lease is valid; otherwise returns `LeaseLost`. If the instance was frozen, another
    /// instance may have claimed the rebuild. Every stage commits its transactions through this function.
    pub(super) async fn commit(&self, mut tx: Tx) -> Result<(), RebuildError> {
        if !jobs::is_lease_valid(&mut tx, self.id, self.lease).await? {
            return Err(RebuildError::LeaseLost);
        }
        Ok(store::commit(tx).await?)
    }

    /// Returns the extent of the inbox, or a fatal error if the tenant is not enabled.
    pub(super) async fn inbox_extent(&self, tx: &mut Tx) -> Result<InboxExtent, RebuildError> {
        let extent = inbox::load_extent(tx, &self.tenant.schema, &self.tenant.id).await?;
        extent.ok_or_else(|| RebuildError::Fatal("the tenant is not enabled".to_owned()))
    }

    /// Estimates the number of events in the inbox.
    pub(super) async fn inbox_size(&self) -> Result<u64, RebuildError> {
        let sizes = prune::table_sizes(self.db(), &self.tenant.schema).await?;
        Ok(u64::try_from(sizes.inbox).unwrap_or_default())
    }

    /// Returns the stage at which a retry resumes.
    pub(super) fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Returns the cause for an operator's approval, as found by the comparison. The cause outlives a retry,
    /// as the status does.
    pub(super) fn approval_reason(&self) -> Option<String> {
        self.approval_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_approval_reason(&self, approval_reason: Option<String>) {
        *self.approval_reason.lock().unwrap_or_else(PoisonError::into_inner) = approval_reason;
    }
}
