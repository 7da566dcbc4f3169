//! What ingest writes into the module's schema: positions of tenant collections, incidents, and records that
//! wait for a tenant.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    batch::{Item, ItemKind},
    ingest::{ConsumedRecord, Ingest, RETRY_DELAY_MIN, Shutdown, back_off},
    ledger::{BeginOutcome, IngestStore, IngestTx, TenantLock},
    outcome::{self, BatchCounts, BatchProgress, PauseReason},
};
use crate::{
    event::{Reason, Reject, TenantId},
    logging::ErrorChain,
    metrics::metrics,
    store::{
        self, LockTimeout, dead_letters::DeadLetter, incidents::Incident, positions::Positions,
    },
};

/// What one transaction stores that belongs to no tenant.
#[derive(Default)]
struct ModuleWrites<'a> {
    incidents: Vec<Incident>,
    positions: Positions<'a>,
    /// Records of tenant collections that wait for a tenant.
    records_to_retry: Option<(&'a TenantId, &'a [DeadLetter<'a>])>,
}

impl<S: IngestStore> Ingest<S> {
    /// A topic of a tenant collection can't wait for one of its tenants for long: what can't be written is
    /// parked, and the service retries it. Where too much waits already, the topic waits.
    pub(super) async fn park_for_retry(
        &self,
        tenant: &TenantId,
        items: &[Item<'_>],
        progress: &mut BatchProgress,
        stop: &CancellationToken,
    ) -> Result<BatchCounts, Shutdown> {
        let Some(first) = items.first() else { return Ok(BatchCounts::default()) };
        let rule = "its tenant's tables can't be written at the moment";
        let reject = Reject::new(Reason::TenantUnusable, None, rule);
        let is_record = |item: &&Item<'_>| !matches!(item.kind, ItemKind::PositionOnly);
        let dead_letters: Vec<_> =
            items.iter().filter(is_record).map(|item| item.dead_letter_for(&reject)).collect();
        let writes = ModuleWrites {
            incidents: vec![outcome::tenant_unwritable(tenant, &first.incoming.record.position)],
            records_to_retry: Some((tenant, &dead_letters)),
            ..ModuleWrites::default()
        };
        let has_room = self.commit_until_durable(&writes, stop).await?;
        if !has_room {
            progress.pause_before(items, PauseReason::TenantUnwritable);
            return Ok(BatchCounts::default());
        }
        dead_letters.iter().zip(items.iter().filter(is_record)).for_each(|(dead_letter, item)| {
            metrics().record_dead_letter(item.incoming.topic.kind, dead_letter.reject.reason);
        });
        Ok(BatchCounts { dead_letters: dead_letters.len(), ..BatchCounts::default() })
    }

    /// What belongs to the log itself, when everything before it is durable: positions of topics that
    /// belong to no single tenant, and incidents of partitions that have stopped.
    pub(super) async fn commit_module_writes(
        &self,
        batch: &[&ConsumedRecord],
        progress: &mut BatchProgress,
        stop: &CancellationToken,
    ) -> Result<(), Shutdown> {
        let (positions, incidents) =
            (progress.collection_positions(batch), progress.incidents(batch));
        if positions.is_empty() && incidents.is_empty() {
            return Ok(());
        }
        let writes = ModuleWrites { incidents, positions, records_to_retry: None };
        if !self.commit_until_durable(&writes, stop).await? {
            progress.restart_collections(&writes.positions);
        }
        Ok(())
    }

    /// Stores what belongs to no tenant, again and again until it is durable. Returns whether the positions
    /// continue those that are stored, and whether there was room for the records that wait.
    async fn commit_until_durable(
        &self,
        writes: &ModuleWrites<'_>,
        stop: &CancellationToken,
    ) -> Result<bool, Shutdown> {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            match store::with_timeout(self.transaction_timeout, self.commit_once(writes)).await {
                Ok(fits) => return Ok(fits),
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "ingest: could not store positions or incidents of shared topics; retrying");
                    delay = back_off(delay, stop).await?;
                }
            }
        }
    }

    async fn commit_once(&self, writes: &ModuleWrites<'_>) -> Result<bool, store::Error> {
        let mut tx = match self.store.begin(None, TenantLock::Shared, LockTimeout::Normal).await? {
            BeginOutcome::Started(tx) | BeginOutcome::TenantReenabled(tx) => tx,
            // What belongs to no tenant is always enabled.
            BeginOutcome::TenantDisabled => return Ok(true),
        };
        for incident in &writes.incidents {
            tx.raise(incident).await?;
        }
        let fits = writes.positions.is_empty() || tx.advance(&writes.positions).await?;
        let has_room = match writes.records_to_retry {
            Some((tenant, dead_letters)) => tx.park_for_retry(tenant, dead_letters).await?,
            None => true,
        };
        tx.commit().await?;
        Ok(fits && has_room)
    }
}
