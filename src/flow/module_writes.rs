//! What ingest writes into the module's schema: positions of tenant collections, incidents, and records that
//! wait for a tenant.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    batch::{Item, What},
    ingest::{FIRST_PAUSE, Incoming, Ingest, Stopped, wait},
    ledger::{Beside, Entry, Ledger, Opening},
    outcome::{self, Ends, Hold, Tally},
};
use crate::{
    event::{Reason, Reject, TenantId},
    figures::figures,
    store::{self, LockWait, dead_letters::DeadLetter, incidents::Incident, positions::Positions},
    telemetry::Chain,
};

/// What one transaction stores that belongs to no tenant.
#[derive(Default)]
struct Rest<'a> {
    incidents: Vec<Incident>,
    positions: Positions<'a>,
    /// Records of tenant collections that wait for a tenant.
    waiting: Option<(&'a TenantId, &'a [DeadLetter<'a>])>,
}

impl<L: Ledger> Ingest<L> {
    /// A topic of a tenant collection can't wait for one of its tenants for long: what can't be written is
    /// parked, and the service retries it. Where too much waits already, the topic waits.
    pub(super) async fn park_waiting(
        &self,
        tenant: &TenantId,
        items: &[Item<'_>],
        ends: &mut Ends,
        stop: &CancellationToken,
    ) -> Result<Tally, Stopped> {
        let Some(first) = items.first() else { return Ok(Tally::default()) };
        let rule = "its tenant's tables can't be written at the moment";
        let reject = Reject::new(Reason::TenantUnusable, None, rule);
        let is_record = |item: &&Item<'_>| !matches!(item.what, What::Nothing);
        let letters: Vec<_> =
            items.iter().filter(is_record).map(|item| item.parked_for(&reject)).collect();
        let rest = Rest {
            incidents: vec![outcome::tenant_unusable(tenant, &first.incoming.record.place)],
            waiting: Some((tenant, &letters)),
            ..Rest::default()
        };
        let has_room = self.persist(&rest, stop).await?;
        if !has_room {
            ends.pause(items, Hold::Unusable);
            return Ok(Tally::default());
        }
        letters.iter().zip(items.iter().filter(is_record)).for_each(|(letter, item)| {
            figures().parked(item.incoming.topic.kind, letter.reject.reason);
        });
        Ok(Tally { parked: letters.len(), ..Tally::default() })
    }

    /// What belongs to the log itself, when everything before it is durable: positions of topics that
    /// belong to no single tenant, and incidents of partitions that have stopped.
    pub(super) async fn settle_rest(
        &self,
        batch: &[&Incoming],
        ends: &mut Ends,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let (positions, incidents) = (ends.of_collections(batch), ends.incidents(batch));
        if positions.is_empty() && incidents.is_empty() {
            return Ok(());
        }
        let rest = Rest { incidents, positions, waiting: None };
        if !self.persist(&rest, stop).await? {
            ends.hold_collections(&rest.positions);
        }
        Ok(())
    }

    /// Stores what belongs to no tenant, again and again until it is durable. Returns whether the positions
    /// continue those that are stored, and whether there was room for the records that wait.
    async fn persist(&self, rest: &Rest<'_>, stop: &CancellationToken) -> Result<bool, Stopped> {
        let mut pause = FIRST_PAUSE;
        loop {
            match store::within(self.patience, self.persist_once(rest)).await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    warn!(error = %Chain(&error), "ingest: could not store positions or incidents of shared topics; retrying");
                    pause = wait(pause, stop).await?;
                }
            }
        }
    }

    async fn persist_once(&self, rest: &Rest<'_>) -> Result<bool, store::Error> {
        let mut entry = match self.ledger.open(None, Beside::Others, LockWait::Usual).await? {
            Opening::Open(entry) | Opening::Renewed(entry) => entry,
            // What belongs to no tenant is always enabled.
            Opening::NotEnabled => return Ok(true),
        };
        for incident in &rest.incidents {
            entry.raise(incident).await?;
        }
        let fits = rest.positions.is_empty() || entry.advance(&rest.positions).await?;
        let has_room = match rest.waiting {
            Some((tenant, letters)) => entry.park_waiting(tenant, letters).await?,
            None => true,
        };
        entry.commit().await?;
        Ok(fits && has_room)
    }
}
