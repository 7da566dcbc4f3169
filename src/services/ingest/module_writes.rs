//! Writes of ingest to the module's schema: positions of shared topics, incidents, and records that
//! wait for a tenant.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Ingest, RETRY_DELAY_MIN, Shutdown, back_off,
    batch::{Item, ItemKind, records},
    ingest_store::{BeginOutcome, IngestStore, IngestTx, TenantLock},
    metrics::metrics,
    outcome::{self, BatchCounts, BatchProgress},
};
use crate::{
    event::{Reason, Reject, TenantId},
    kafka::delivery::{ConsumedRecord, PauseReason},
    logging::ErrorChain,
    store::{
        self, LockTimeout,
        ingest::{dead_letters::DeadLetter, incidents::Incident, positions::Positions},
    },
};

/// The data that one transaction writes to the module's schema.
#[derive(Default)]
struct ModuleWrites<'a> {
    incidents: Vec<Incident>,
    positions: Positions<'a>,
    /// Records of shared topics that wait for a tenant with unwritable tables.
    records_to_retry: Option<(&'a TenantId, &'a [DeadLetter<'a>])>,
}

impl<S: IngestStore> Ingest<S> {
    /// Parks the records of an unwritable tenant, because its shared topics cannot wait long. The
    /// service retries the records later. If too many records already wait, pauses the topics.
    pub(super) async fn park_for_retry(
        &self,
        tenant: &TenantId,
        items: &[Item<'_>],
        progress: &mut BatchProgress,
        stop: &CancellationToken,
    ) -> Result<BatchCounts, Shutdown> {
        let Some(first) = items.first() else { return Ok(BatchCounts::default()) };
        let rule = "the tables of the record's tenant cannot be written now";
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
            progress.pause_before(records(items), PauseReason::TenantUnwritable);
            return Ok(BatchCounts::default());
        }
        dead_letters.iter().zip(items.iter().filter(is_record)).for_each(|(dead_letter, item)| {
            metrics().record_dead_letter(item.incoming.topic.kind, dead_letter.reject.reason);
        });
        Ok(BatchCounts { dead_letters: dead_letters.len(), ..BatchCounts::default() })
    }

    /// Commits positions of shared topics and incidents of paused partitions, after all earlier
    /// writes of the batch are durable.
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

    /// Commits the writes with retries until they are durable. Returns `false` if a stored position
    /// was reset, or if too many records already wait.
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
            // Data without a tenant has no enabling.
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
