//! The reaction to a failed transaction of a tenant batch.

use tracing::{debug, error, warn};

use super::batch::{Item, ItemKind};
use crate::{
    event::TenantId,
    logging::ErrorChain,
    store::{self, Verdict},
};

/// The next step after a failed transaction. A failure of a tenant's own tables stops only that tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureReaction {
    /// The tenant's records wait for the migration of its schema.
    AwaitMigration,
    /// The only record of the transaction is bad and becomes a dead letter.
    RejectRecord,
    /// One of the records is bad; smaller transactions isolate the record.
    Bisect,
    /// The tenant's partitions are paused.
    PauseTenant,
    /// One record alone timed out on the server; the tenant's partitions are paused.
    PauseSlowTenant,
    /// The records timed out together; fewer records are retried.
    RetryFewer,
    /// The same records are retried.
    Retry,
}

impl FailureReaction {
    /// Decides by the error, the records of the transaction, and whether they belong to a tenant.
    pub(super) fn decide(error: &store::Error, batch: &[Item<'_>], has_tenant: bool) -> Self {
        let is_single = batch.len() == 1;
        let is_server_timeout = error.is_timeout() && !matches!(error, store::Error::Timeout);
        match error.verdict() {
            _ if error.awaits_migration() => Self::AwaitMigration,
            Verdict::Refused if !is_dead_letter(batch) && is_single => Self::RejectRecord,
            Verdict::Refused if !is_dead_letter(batch) => Self::Bisect,
            Verdict::Unusable if has_tenant => Self::PauseTenant,
            _ if is_server_timeout && is_single && has_tenant => Self::PauseSlowTenant,
            _ if error.is_timeout() && !is_single => Self::RetryFewer,
            _ => Self::Retry,
        }
    }

    /// Logs the reaction. `records` is the number of records in the transaction, and `remaining` the number
    /// of the tenant's uncommitted records.
    pub(super) fn log(
        self,
        error: &store::Error,
        tenant: Option<&TenantId>,
        records: usize,
        remaining: usize,
    ) {
        let error = ErrorChain(error);
        match self {
            Self::AwaitMigration => {
                debug!(?tenant, records, %error, "ingest: the schema of the tenant is not migrated yet; its records wait");
            }
            Self::RejectRecord | Self::Bisect => {
                warn!(?tenant, records, %error, "ingest: the database rejected the records of a tenant; bisecting to find the bad record");
            }
            Self::PauseTenant => {
                error!(?tenant, records = remaining, %error, "ingest: could not write the tables of a tenant; its partitions are paused");
            }
            Self::PauseSlowTenant => {
                error!(?tenant, records = remaining, %error, "ingest: writing the tables of a tenant timed out; its partitions are paused");
            }
            Self::RetryFewer => {
                warn!(?tenant, records, %error, "ingest: writing the records of a tenant timed out; retrying with fewer records");
            }
            Self::Retry => {
                warn!(?tenant, records, %error, "ingest: could not commit the batch; retrying");
            }
        }
    }
}

fn is_dead_letter(batch: &[Item<'_>]) -> bool {
    matches!(batch, [Item { kind: ItemKind::Rejected(_), .. }])
}
