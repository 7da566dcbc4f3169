//! Events that come from no partition: over HTTP, and dead letters that are tried again.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    ending::Ended,
    ingest::{Incoming, Ingest, fold},
    ledger::{Beside, Entry, Ledger, Opening},
    outcome::Tally,
};
use crate::{
    event::{Event, Reading, Record, Reject, TenantId, callback::Call, decode},
    figures::figures,
    store::{self, LockWait},
};

/// A call that waits to be applied.
#[derive(Debug)]
pub struct Received {
    /// The call.
    pub call: Call,
    /// When it came, by the clock of this machine that never steps.
    pub at: Instant,
}

impl Received {
    /// As it came, where it was `now` at the shared clock after this machine's showed `asked`.
    fn by(&self, asked: Instant, now: DateTime<Utc>) -> (Record, Event) {
        let waited = asked.saturating_duration_since(self.at);
        let at = now - TimeDelta::from_std(waited).unwrap_or_default();
        (self.call.record(at), self.call.event(at))
    }
}

/// What became of a dead letter that was tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It is applied, or was known already.
    Applied,
    /// It can't be understood still.
    StillBad(Reject),
    /// Its tenant isn't enabled.
    NotEnabled(TenantId),
}

impl<L: Ledger> Ingest<L> {
    /// Tries a dead letter again: if it can be applied by now it is, and is a dead letter no more.
    pub async fn retry(
        &self,
        incoming: &Incoming,
        wait: LockWait,
    ) -> Result<Retried, store::Error> {
        let Incoming { record, topic, cluster, .. } = incoming;
        let (tenant, event) = match decode::read(record, topic, cluster) {
            Reading::Event(tenant, event) => (tenant, Some(event)),
            // What it was parked for is known by now to mean nothing.
            Reading::Skipped(tenant) => (tenant, None),
            Reading::Dead(_, reject) => return Ok(Retried::StillBad(reject)),
            Reading::Tombstone => unreachable!("a record without a value is never parked"),
        };
        let letter = decode::place_key(record, cluster);
        let events: Vec<(&Record, &Event)> = event.iter().map(|e| (record, &**e)).collect();
        let all = events.iter().map(|(_, event)| *event);
        let never = CancellationToken::new();
        if !matches!(self.end_loans(&tenant, all, wait, &never).await?, Ended::All) {
            return Ok(Retried::NotEnabled(tenant));
        }
        let entry = match self.ledger.open(Some(&tenant), Beside::of(&events), wait).await? {
            Opening::NotEnabled => return Ok(Retried::NotEnabled(tenant)),
            Opening::Open(entry) | Opening::Renewed(entry) => entry,
        };
        Self::absorb(entry, &events, Some(letter)).await?;
        Ok(Retried::Applied)
    }

    /// Applies events that came over HTTP, all or none of them. `None` where the tenant isn't enabled. How
    /// long it may take is the caller's to say. When they came, the clock says that all instances share: it is
    /// asked before the first of them is answered, so what is sent after an answer is the later.
    pub async fn take(
        &self,
        tenant: &TenantId,
        calls: &[&Received],
    ) -> Result<Option<Tally>, store::Error> {
        let began = Instant::now();
        // No call is about all loans of a tenant.
        let (beside, wait) = (Beside::Others, LockWait::Usual);
        let mut entry = match self.ledger.open(Some(tenant), beside, wait).await? {
            Opening::NotEnabled => return Ok(None),
            Opening::Open(entry) | Opening::Renewed(entry) => entry,
        };
        let asked = Instant::now();
        let now = entry.now().await?;
        let came = calls.iter().map(|received| received.by(asked, now));
        let came: Vec<(Record, Event)> = came.collect();
        let events: Vec<_> = came.iter().map(|(record, event)| (record, event)).collect();
        let tally = Self::absorb(entry, &events, None).await?;
        let figures = figures();
        events.iter().for_each(|(record, event)| figures.event(event, record.timestamp, now));
        figures.batch(events.len(), began.elapsed(), tally);
        if self.by_tenant {
            figures.of_tenant(tenant, tally);
        }
        Ok(Some(tally))
    }

    /// What belongs to no partition, in one transaction, with the dead letter that it was.
    async fn absorb(
        mut entry: L::Entry,
        events: &[(&Record, &Event)],
        letter: Option<Uuid>,
    ) -> Result<Tally, store::Error> {
        let fresh = entry.claim(events).await?;
        let (applied, repeated) = (fresh.len(), events.len() - fresh.len());
        if !fresh.is_empty() {
            entry.merge(&fold(events, fresh)).await?;
        }
        if let Some(letter) = letter {
            entry.unpark(letter).await?;
        }
        entry.commit().await?;
        Ok(Tally { applied, repeated, ..Tally::default() })
    }
}
