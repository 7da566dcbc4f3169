//! The end of a rebuild. One transaction stores the outcome and its consequences; if the transaction fails,
//! the next claim reaches the same end.

use std::time::Duration;

use serde_json::json;

use crate::{
    clock::Clock,
    store::{
        self, Db, Schema, Tx,
        ingest::incidents::IncidentKind,
        jobs::{self, Lease, Outcome},
        rebuild::{
            differences,
            rebuilds::{self, Rebuild, Status, Summary, incidents},
            shadow,
        },
        tenants,
    },
};

/// Maximum wait for locks. After a timeout, an instance claims the rebuild again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a rebuild that has ended or waits to be applied.
pub(super) struct RebuildOutcome {
    pub(super) status: Status,
    pub(super) summary: Option<Summary>,
    pub(super) problem: Option<String>,
    /// If `true`, `save` deletes the recorded differences.
    pub(super) discard_differences: bool,
}

impl RebuildOutcome {
    /// Creates an outcome with a summary, and with the cause for an operator's approval, if any.
    pub(super) fn new(status: Status, summary: Summary, approval_reason: Option<String>) -> Self {
        Self {
            status,
            summary: Some(summary),
            problem: approval_reason,
            discard_differences: false,
        }
    }

    pub(super) fn cancelled(discard_differences: bool) -> Self {
        Self { status: Status::Cancelled, summary: None, problem: None, discard_differences }
    }

    pub(super) fn failed(problem: String, discard_differences: bool) -> Self {
        Self { status: Status::Failed, summary: None, problem: Some(problem), discard_differences }
    }

    /// Stores the outcome, unless the lease is lost. Removes the shadow, unless the differences may still be
    /// applied.
    pub(super) async fn save(
        &self,
        db: &Db,
        rebuild: &Rebuild,
        lease: Lease,
        clock: &Clock,
    ) -> Result<(), store::Error> {
        let (id, tenant) = (rebuild.id, &rebuild.tenant);
        let mut tx = store::begin(db).await?;
        // An interrupted statement may still lock the shadow. Meanwhile other workers look for rebuilds.
        tenants::set_lock_timeout(&mut tx, LOCK_TIMEOUT).await?;
        // A purge acquires the same locks in another order. A cancel locks the rebuild before the tenant.
        tenants::lock_shared(&mut tx, tenant).await?;
        if jobs::is_lease_lost(&mut tx, id, lease).await? {
            return Ok(());
        }
        // If an initial fill ends without success, older events of the tenant may be missing.
        if self.status != Status::Done {
            tenants::finish_initial_fill(&mut tx, tenant, Some(id), Some(rebuild.requested_at))
                .await?;
        }
        self.update_incidents(&mut tx, rebuild, clock).await?;
        if self.status != Status::Compared {
            shadow::remove(&mut *tx, &Schema::shadow(tenant, id)).await?;
        }
        if self.discard_differences {
            differences::delete(&mut tx, &Schema::of(tenant), id).await?;
        }
        let summary = self.summary.as_ref().map(|summary| json!(summary));
        let (summary, error) = (summary.as_ref(), self.problem.as_deref());
        let outcome = Outcome { summary, error, ..Outcome::default() };
        jobs::set_status(&mut *tx, id, lease, self.status, outcome).await?;
        store::commit(tx).await
    }

    /// Raises the incidents of the outcome, and resolves the incidents that no longer apply.
    async fn update_incidents(
        &self,
        tx: &mut Tx,
        rebuild: &Rebuild,
        clock: &Clock,
    ) -> Result<(), store::Error> {
        let now = clock.now();
        if self.status.has_ended() {
            incidents::resolve(tx, rebuild.id, self.status.name(), now).await?;
        }
        match (self.status, &self.problem) {
            (Status::Compared, Some(approval_reason)) => {
                let kind = IncidentKind::SnapshotNotApplied;
                incidents::raise(tx, kind, rebuild, approval_reason, now).await?;
                rebuilds::supersede(tx, rebuild).await
            }
            (Status::Done, _) if rebuild.request["source"] == "storage" => {
                incidents::resolve_incomplete_repairs(tx, rebuild, now).await?;
                let skipped_records =
                    rebuilds::count_skipped_records(&mut **tx, rebuild.id).await?;
                if skipped_records == 0 {
                    return Ok(());
                }
                let detail = format!(
                    "rebuild {} skipped {skipped_records} unreadable records of the storage modules; the \
                     stored state of these records is unchanged, and the problems of the rebuild list the \
                     records; until a repair reads every record, an old event may open an unknown loan or \
                     fee/fine",
                    rebuild.id
                );
                incidents::raise(tx, IncidentKind::RepairIncomplete, rebuild, &detail, now).await
            }
            _ => Ok(()),
        }
    }
}
