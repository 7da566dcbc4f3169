//! The run of a rebuild: the sequence of its stages.

use super::{
    apply, approval, compare,
    context::RebuildContext,
    error::RebuildError,
    finish::RebuildOutcome,
    read::{self, shared_topics::GroupMember},
    request::{ReadFrom, RebuildRequest, Source},
    target_state::load_complete_shadow,
};
use crate::{
    patron::Scope,
    store::{
        jobs::{self, Outcome},
        rebuild::{
            differences,
            rebuilds::{self, Status, Summary},
        },
        tenants,
    },
};

impl RebuildContext {
    /// Runs the stages until the rebuild ends or waits for an operator. `group_member` is the membership in
    /// a read group, if the instance claimed several rebuilds together.
    pub(super) async fn run(
        &self,
        group_member: Option<&GroupMember>,
    ) -> Result<RebuildOutcome, RebuildError> {
        self.run_slot.acquire().await;
        loop {
            let next = match self.status() {
                Status::Waiting | Status::Reading => {
                    self.record_status(Status::Reading).await?;
                    read::read(self, group_member).await?;
                    Status::Comparing
                }
                Status::Comparing => {
                    self.record_status(Status::Comparing).await?;
                    compare::compare(self).await?;
                    let approval_reason = approval::approval_reason(self).await?;
                    let needs_approval = self.request.dry_run || approval_reason.is_some();
                    self.set_approval_reason(approval_reason);
                    if needs_approval { Status::Compared } else { Status::Applying }
                }
                Status::Applying => {
                    self.record_status(Status::Applying).await?;
                    apply::apply(self).await?;
                    self.record_completeness().await?;
                    Status::Done
                }
                ended => {
                    let summary = self.summary().await?;
                    return Ok(RebuildOutcome::new(ended, summary, self.approval_reason()));
                }
            };
            self.set_status(next);
        }
    }

    /// Records the tenant's completeness if the rebuild read every record of the tenant.
    async fn record_completeness(&self) -> Result<(), RebuildError> {
        let mut tx = self.begin().await?;
        // If the database crashed, the shadow is empty and its completeness is unknown; the load returns
        // `ShadowLost`.
        let incomplete_before = load_complete_shadow(&mut tx, self).await?.incomplete_before;
        let skipped_records = rebuilds::count_skipped_records(&mut *tx, self.id).await?;
        let RebuildRequest { source, ref from, scope, covered_by_inbox, fill, .. } = self.request;
        let is_all = match source {
            Source::Storage => skipped_records == 0,
            Source::Topics => *from == ReadFrom::Earliest && !covered_by_inbox,
            Source::Inbox => false,
        };
        if is_all && scope == Scope::Tenant {
            let initial_fill_id = fill.then_some(self.id);
            tenants::finish_initial_fill(
                &mut tx,
                &self.tenant.id,
                initial_fill_id,
                incomplete_before,
            )
            .await?;
            self.commit(tx).await?;
        }
        Ok(())
    }

    async fn record_status(&self, status: Status) -> Result<(), RebuildError> {
        let outcome = Outcome::default();
        Ok(jobs::set_status(self.db(), self.id, self.lease, status, outcome).await?)
    }

    async fn summary(&self) -> Result<Summary, RebuildError> {
        let found = differences::summarize(self.db(), &self.tenant.schema, self.id).await?;
        let mut tx = self.begin().await?;
        Ok(Summary {
            patrons: found.patrons,
            wrong_counters: found.counters,
            applied: found.applied,
            blocks_imposed: found.blocked,
            blocks_lifted: found.unblocked,
            loans: found.counts(true),
            fees_fines: found.counts(false),
            patron_groups: load_complete_shadow(&mut tx, self).await?.changed_groups,
            skipped_records: rebuilds::count_skipped_records(&mut *tx, self.id).await?,
        })
    }
}
