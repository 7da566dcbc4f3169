//! Questions to the storage modules about one patron, while an evaluation waits. The service merges the response as
//! a complete snapshot of the patron, so the next evaluation is certain without a question.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::{EvaluationRequest, ask_outcome::AskOutcome};
use crate::{
    blocks::Cause,
    clock::Clock,
    config::Gateway,
    event::stamp::Horizon,
    logging::ErrorChain,
    okapi::{
        CallError, PatronItems, Storage,
        patron_items::{PatronRecords, ReadError},
        storage::StorageResource,
    },
    patron::{Loan, StateDelta},
    services::{
        metrics::metrics,
        storage_page::{CLOCK_SKEW_MAX, StoragePage},
        tenants::TenantRegistry,
    },
    store::{
        self, Db, LockTimeout,
        messages::pending_patrons,
        state::{evidence, merge, rows},
        tenants,
    },
};

/// Number of open loans, or fees/fines, from which an empty response is implausible. A response without records
/// looks the same as a response to a caller without access.
const IMPLAUSIBLE_ITEMS_MIN: usize = 3;

/// Share of the deadline for the response; the rest is for the merge.
const READ_SHARE: f64 = 0.9;

/// Asks the storage modules about single patrons.
pub struct StorageQuestions {
    items: PatronItems,
    tenants: Arc<TenantRegistry>,
    clock: Clock,
    /// The pool of operators, so that no evaluation waits for a merge.
    db: Db,
    /// Whether `OKAPI_URL` is set. Otherwise a request may name any gateway, and its responses must not be merged.
    is_gateway_configured: bool,
}

impl StorageQuestions {
    /// Creates the service; `db` is the pool for merges.
    pub fn new(
        storage: Storage,
        (tenants, clock): (Arc<TenantRegistry>, Clock),
        db: Db,
        gateway: &Gateway,
    ) -> Self {
        let is_gateway_configured = gateway.is_configured;
        Self { items: PatronItems::new(storage), tenants, clock, db, is_gateway_configured }
    }

    /// Asks for the open loans and fees/fines of a patron, and merges the response. The deadline includes the
    /// merge.
    pub(super) async fn ask(&self, request: &EvaluationRequest, deadline: Duration) -> AskOutcome {
        let EvaluationRequest { tenant, user, caller, .. } = request;
        let outcome = if caller.is_foreign_gateway || !self.is_gateway_configured {
            AskOutcome::OtherGateway
        } else if let Ok(_permit) = tenant.storage_questions.try_acquire() {
            let read_limit = deadline.mul_f64(READ_SHARE);
            let asked = timeout(deadline, self.fetch_and_merge(request, read_limit));
            asked.await.unwrap_or(AskOutcome::Timeout)
        } else {
            AskOutcome::Busy
        };
        metrics().record_question(outcome);
        info!(tenant = %tenant.id, user.id = %user, outcome = outcome.name(),
            "evaluation: asked the storage modules about a patron");
        outcome
    }

    async fn fetch_and_merge(&self, request: &EvaluationRequest, limit: Duration) -> AskOutcome {
        let EvaluationRequest { tenant, user, caller, .. } = request;
        let started = match store::now(&self.db).await {
            Ok(now) => now,
            Err(error) => return failed(request, &error),
        };
        // A horizon of the future would close the later loans of the patron.
        if (started - self.clock.now()).abs() > CLOCK_SKEW_MAX {
            warn!(tenant = %tenant.id, "evaluation: the clocks of database and instance differ too much for a question");
            return AskOutcome::Failed;
        }
        let records = match self.items.fetch(caller, *user, limit).await {
            Ok(records) => records,
            Err(error) => return read_failure(request, &error),
        };
        let Some(page) = decode(&records, started - CLOCK_SKEW_MAX, *user) else {
            warn!(tenant = %tenant.id, user.id = %user,
                "evaluation: the response about a patron has unreadable records");
            return AskOutcome::Unreadable;
        };
        match self.merge(request, Horizon::at(started - CLOCK_SKEW_MAX), &page).await {
            Ok(outcome) => outcome,
            Err(error) => failed(request, &error),
        }
    }

    /// Merges the response, unless it is implausible.
    async fn merge(
        &self,
        EvaluationRequest { tenant, user, .. }: &EvaluationRequest,
        horizon: Horizon,
        page: &StoragePage,
    ) -> Result<AskOutcome, store::Error> {
        let mut tx = store::begin_with_lock_timeout(&self.db, LockTimeout::Short).await?;
        tenants::lock_exclusive(&mut tx, &tenant.id).await?;
        if tenants::enabled_since(&mut *tx, &tenant.id).await? != Some(tenant.enabled_at) {
            return Ok(AskOutcome::Failed);
        }
        let known = rows::open_subjects(&mut tx, &tenant.schema, &[*user]).await?;
        let loans = known.iter().filter(|(_, is_loan)| *is_loan).count();
        let fees = known.len() - loans;
        let is_implausible = |known: usize, got: usize| got == 0 && known >= IMPLAUSIBLE_ITEMS_MIN;
        if is_implausible(loans, page.delta.loans.len())
            || is_implausible(fees, page.delta.fees.len())
        {
            warn!(tenant = %tenant.id, user.id = %user, loans, fees_fines = fees,
                "evaluation: the storage modules returned nothing about a patron with open items; nothing is merged");
            return Ok(AskOutcome::Implausible);
        }
        // Any id may be in a request, and each merge stores a row.
        if known.is_empty()
            && page.delta == StateDelta::default()
            && !evidence::is_known_patron(&mut *tx, &tenant.schema, *user).await?
        {
            return Ok(AskOutcome::Answered);
        }
        pending_patrons::set_cause(&mut tx, Cause::Rebuild).await?;
        merge::apply_patron_snapshot(&mut tx, &tenant.schema, *user, horizon, &page.delta).await?;
        store::commit(tx).await?;
        self.tenants.patron_changes.wake(&tenant.id);
        Ok(AskOutcome::Answered)
    }
}

/// Decodes the records, or returns `None` if one is unreadable or belongs to another patron.
fn decode(records: &PatronRecords, snapshot_at: DateTime<Utc>, user: Uuid) -> Option<StoragePage> {
    let loans = StoragePage::decode(StorageResource::Loans, &records.loans, snapshot_at);
    let mut page = StoragePage::decode(StorageResource::Accounts, &records.accounts, snapshot_at);
    page.delta = page.delta.merge(loans.delta);
    page.problems.extend(loans.problems);
    let owner = |loan: &Loan| loan.opening().map(|(_, owner)| owner);
    let is_of_patron = page.delta.loans.values().all(|loan| owner(loan) == Some(user))
        && page.delta.fees.values().all(|fee| fee.user.is_some_and(|(_, owner)| owner == user));
    (page.problems.is_empty() && is_of_patron).then_some(page)
}

fn failed(request: &EvaluationRequest, error: &store::Error) -> AskOutcome {
    warn!(tenant = %request.tenant.id, user.id = %request.user, error = %ErrorChain(error),
        "evaluation: could not merge the response about a patron");
    AskOutcome::Failed
}

fn read_failure(request: &EvaluationRequest, error: &ReadError) -> AskOutcome {
    let outcome = match error {
        ReadError::Timeout => AskOutcome::Timeout,
        ReadError::Call(CallError::CircuitOpen) => return AskOutcome::CircuitOpen,
        ReadError::Call(error) if error.is_token_rejected() => AskOutcome::Rejected,
        ReadError::Call(_) | ReadError::Unordered => AskOutcome::Failed,
    };
    warn!(tenant = %request.tenant.id, user.id = %request.user, error = %ErrorChain(error),
        "evaluation: could not read a patron's open items from the storage modules");
    outcome
}
