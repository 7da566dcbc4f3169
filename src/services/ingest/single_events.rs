//! Events without a partition: events over HTTP, and retried dead letters.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Ingest, delta_of,
    end_loans::EndLoansOutcome,
    ingest_store::{BeginOutcome, IngestStore, IngestTx, TenantLock},
    metrics::metrics,
    outcome::BatchCounts,
};
use crate::{
    event::{DecodeOutcome, Event, Record, Reject, TenantId, decode, decode::http_body::HttpEvent},
    kafka::delivery::ConsumedRecord,
    store::{self, LockTimeout},
};

/// An HTTP event that waits for its transaction.
#[derive(Debug)]
pub struct ReceivedCall {
    /// The event from the request.
    pub call: HttpEvent,
    /// Time of arrival, by the monotonic clock of this host.
    pub at: Instant,
}

impl ReceivedCall {
    /// Returns the record and the event, with the arrival time in the shared clock. The shared clock
    /// showed `now` after this host's clock showed `queried_at`.
    fn record_and_event(&self, queried_at: Instant, now: DateTime<Utc>) -> (Record, Event) {
        let waited = queried_at.saturating_duration_since(self.at);
        let received_at = now - TimeDelta::from_std(waited).unwrap_or_default();
        (self.call.to_record(received_at), self.call.to_event(received_at))
    }
}

/// The result of retrying a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReapplyOutcome {
    /// The dead letter is applied, or was a duplicate.
    Applied,
    /// Decoding still rejects the record.
    StillRejected(Reject),
    /// The record's tenant is disabled.
    TenantDisabled(TenantId),
}

impl<S: IngestStore> Ingest<S> {
    /// Retries a dead letter; if its record is applied, deletes the dead letter.
    pub async fn retry(
        &self,
        incoming: &ConsumedRecord,
        wait: LockTimeout,
    ) -> Result<ReapplyOutcome, store::Error> {
        let ConsumedRecord { record, topic, cluster, .. } = incoming;
        let (tenant, event) = match decode::decode_record(record, topic, cluster) {
            DecodeOutcome::Event(tenant, event) => (tenant, Some(event)),
            // The record is irrelevant by now, so only the dead letter is deleted.
            DecodeOutcome::Skipped(tenant) => (tenant, None),
            DecodeOutcome::Rejected(_, reject) => return Ok(ReapplyOutcome::StillRejected(reject)),
            DecodeOutcome::Tombstone => {
                unreachable!("the service stores no record without a value as a dead letter")
            }
        };
        let letter_id = decode::position_key(record, cluster);
        let events: Vec<(&Record, &Event)> = event.iter().map(|e| (record, &**e)).collect();
        let all = events.iter().map(|(_, event)| *event);
        let never = CancellationToken::new();
        if !matches!(self.end_loans(&tenant, all, wait, &never).await?, EndLoansOutcome::All) {
            return Ok(ReapplyOutcome::TenantDisabled(tenant));
        }
        let tx =
            match self.store.begin(Some(&tenant), TenantLock::for_events(&events), wait).await? {
                BeginOutcome::TenantDisabled => return Ok(ReapplyOutcome::TenantDisabled(tenant)),
                BeginOutcome::Started(tx) | BeginOutcome::TenantReenabled(tx) => tx,
            };
        Self::commit_events(tx, &events, Some(letter_id)).await?;
        Ok(ReapplyOutcome::Applied)
    }

    /// Applies events that arrived over HTTP, all or none; returns `None` if the tenant is disabled.
    /// The caller sets the time limit. The function converts each arrival time to the database clock.
    /// It reads that clock before any caller gets a response. A client's next event after a response
    /// therefore gets no earlier time.
    pub async fn apply_calls(
        &self,
        tenant: &TenantId,
        calls: &[&ReceivedCall],
    ) -> Result<Option<BatchCounts>, store::Error> {
        let started = Instant::now();
        // No HTTP event concerns all loans of a tenant.
        let (lock, wait) = (TenantLock::Shared, LockTimeout::Normal);
        let mut tx = match self.store.begin(Some(tenant), lock, wait).await? {
            BeginOutcome::TenantDisabled => return Ok(None),
            BeginOutcome::Started(tx) | BeginOutcome::TenantReenabled(tx) => tx,
        };
        let queried_at = Instant::now();
        let now = tx.now().await?;
        let owned = calls.iter().map(|received| received.record_and_event(queried_at, now));
        let owned: Vec<(Record, Event)> = owned.collect();
        let events: Vec<_> = owned.iter().map(|(record, event)| (record, event)).collect();
        let counts = Self::commit_events(tx, &events, None).await?;
        let metrics = metrics();
        events
            .iter()
            .for_each(|(record, event)| metrics.record_event(event, record.timestamp, now));
        metrics.record_batch(events.len(), started.elapsed(), counts);
        if self.by_tenant {
            metrics.record_tenant_batch(tenant, counts);
        }
        Ok(Some(counts))
    }

    /// Commits events without a partition in one transaction, and deletes the dead letter that they
    /// came from.
    async fn commit_events(
        mut tx: S::Tx,
        events: &[(&Record, &Event)],
        letter_id: Option<Uuid>,
    ) -> Result<BatchCounts, store::Error> {
        let new_keys = tx.claim(events).await?;
        let (applied, duplicates) = (new_keys.len(), events.len() - new_keys.len());
        if !new_keys.is_empty() {
            tx.merge(&delta_of(events, new_keys)).await?;
        }
        if let Some(id) = letter_id {
            tx.unpark(id).await?;
        }
        tx.commit().await?;
        Ok(BatchCounts { applied, duplicates, ..BatchCounts::default() })
    }
}
