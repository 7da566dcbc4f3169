//! How a rebuild ends: what there is to tell of it and what it leaves behind are stored together, or nothing is
//! and whoever takes it next comes to the same end.

use std::time::Duration;

use serde_json::Value;

use crate::{
    clock::Clock,
    store::{
        self, Db, Schema, Tx, differences,
        incidents::Kind,
        rebuilds::{self, Hold, Rebuild, Status, incidents},
        shadow, tenants,
    },
};

/// How long to wait for what is still being done. Where that isn't enough, the rebuild is taken again.
const WAIT: Duration = Duration::from_secs(2);

/// A rebuild that goes no further, or waits to be applied.
pub(super) struct End {
    pub(super) status: Status,
    pub(super) summary: Option<Value>,
    pub(super) problem: Option<String>,
    /// What it has found is forgotten.
    pub(super) forgets: bool,
}

impl End {
    /// With what it has found and put right, or why that has to wait for an operator.
    pub(super) fn with(status: Status, summary: Value, caution: Option<String>) -> Self {
        Self { status, summary: Some(summary), problem: caution, forgets: false }
    }

    /// Nobody asked for more of it.
    pub(super) fn cancelled(forgets: bool) -> Self {
        Self { status: Status::Cancelled, summary: None, problem: None, forgets }
    }

    /// It can't be done.
    pub(super) fn failed(problem: String, forgets: bool) -> Self {
        Self { status: Status::Failed, summary: None, problem: Some(problem), forgets }
    }

    /// Stores it, unless another instance works on the rebuild by now. What is laid out stays only where it may
    /// still be applied.
    pub(super) async fn store(
        &self,
        db: &Db,
        rebuild: &Rebuild,
        hold: Hold,
        clock: &Clock,
    ) -> Result<(), store::Error> {
        let (id, tenant) = (rebuild.id, &rebuild.tenant);
        let mut tx = store::begin(db).await?;
        // A statement that was broken off may still hold what is laid out; others look for rebuilds meanwhile.
        tenants::wait_at_most(&mut tx, WAIT).await?;
        // A purge takes the same locks in another order. A cancel locks the rebuild before the tenant.
        tenants::enter(&mut tx, tenant).await?;
        if rebuilds::is_anothers(&mut tx, id, hold).await? {
            return Ok(());
        }
        // What was to fill a tenant has ended without that: what happened before may be missing.
        if self.status != Status::Done {
            tenants::filled(&mut tx, tenant, Some(id), Some(rebuild.asked_at)).await?;
        }
        self.tell_operators(&mut tx, rebuild, clock).await?;
        if self.status != Status::Compared {
            shadow::remove(&mut *tx, &Schema::shadow(tenant, id)).await?;
        }
        if self.forgets {
            differences::forget(&mut tx, &Schema::of(tenant), id).await?;
        }
        let (summary, problem) = (self.summary.as_ref(), self.problem.as_deref());
        rebuilds::set_status(&mut *tx, id, hold, self.status, summary, problem).await?;
        store::commit(tx).await
    }

    /// Raises what operators must know of it, and resolves what is over.
    async fn tell_operators(
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
            (Status::Compared, Some(caution)) => {
                let kind = Kind::SnapshotNotApplied;
                incidents::raise(tx, kind, rebuild, caution, now).await?;
                rebuilds::supersede(tx, rebuild).await
            }
            (Status::Done, _) if rebuild.request["source"] == "storage" => {
                incidents::resolve_left_standing(tx, rebuild, now).await?;
                let passed_over = rebuilds::passed_over(&mut **tx, rebuild.id).await?;
                if passed_over == 0 {
                    return Ok(());
                }
                let detail = format!(
                    "rebuild {} has passed over {passed_over} records of the storage modules that it could not \
                     read; what is known of them stays, and its problems name them; until a repair reads all of \
                     them, an old event may open what is not known here",
                    rebuild.id
                );
                incidents::raise(tx, Kind::RepairIncomplete, rebuild, &detail, now).await
            }
            _ => Ok(()),
        }
    }
}
