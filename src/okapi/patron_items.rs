//! The open loans and fees/fines of one patron, from the storage modules, while an evaluation waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    CallError, Caller, Module, Storage,
    breaker::{BreakerKey, Breakers},
    storage::{PAGE_RECORDS_MAX, StorageResource},
};
use crate::{config::BreakerLimits, event::decode::storage_record, patron::Scope};

/// Any five failures in a row stop the calls of a tenant for 30 seconds. Evaluations are many, so a failure that
/// costs little counts as well.
const LIMITS: BreakerLimits =
    BreakerLimits { failure_threshold: 5, open_duration: Duration::from_secs(30) };

/// The open records of one patron.
#[derive(Debug)]
pub struct PatronRecords {
    /// The loans.
    pub loans: Vec<Box<RawValue>>,
    /// The accounts, which are fees/fines.
    pub accounts: Vec<Box<RawValue>>,
}

/// The reason why the records of a patron were not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The storage modules did not respond in time.
    #[error("the storage modules did not respond in time")]
    Timeout,
    /// The pages are not in the order of ids, so records may be missing.
    #[error("the pages of the storage modules are not in the order of ids")]
    Unordered,
    /// A call failed.
    #[error("a storage module {0}")]
    Call(#[from] CallError),
}

/// A client that reads the open records of one patron. A breaker of its own stops calls after failures.
#[derive(Debug, Clone)]
pub struct PatronItems {
    storage: Storage,
    breakers: Arc<Breakers>,
}

impl PatronItems {
    /// Creates a client.
    pub fn new(storage: Storage) -> Self {
        Self { storage, breakers: Arc::new(Breakers::new(LIMITS)) }
    }

    /// Reads all open records of a patron within a time limit.
    pub async fn fetch(
        &self,
        caller: &Caller,
        user: Uuid,
        limit: Duration,
    ) -> Result<PatronRecords, ReadError> {
        let (url, tenant) = (caller.okapi_url.clone(), caller.tenant.clone());
        let key = BreakerKey { module: Module::LoanStorage, url, tenant };
        let permit = self.breakers.permit(key, Instant::now()).ok_or(CallError::CircuitOpen)?;
        // The limit of a single call is longer, so that the limit of all calls expires first.
        let read = |resource| self.read(caller, resource, user, 2 * limit);
        let both = async {
            tokio::try_join!(read(StorageResource::Loans), read(StorageResource::Accounts))
        };
        let result = match timeout(limit, both).await {
            Ok(Ok((loans, accounts))) => Ok(PatronRecords { loans, accounts }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ReadError::Timeout),
        };
        // A rejected token says nothing about the module.
        let is_answered = match &result {
            Ok(_) => true,
            Err(ReadError::Call(error)) => error.is_token_rejected(),
            Err(ReadError::Timeout | ReadError::Unordered) => false,
        };
        permit.record_result(is_answered, Instant::now());
        result
    }

    async fn read(
        &self,
        caller: &Caller,
        resource: StorageResource,
        user: Uuid,
        limit: Duration,
    ) -> Result<Vec<Box<RawValue>>, ReadError> {
        let (mut records, mut after) = (Vec::new(), None);
        loop {
            let scope = Scope::Patron(user);
            let page = self.storage.fetch_page(caller, resource, scope, after, limit).await?;
            let is_last = page.len() < PAGE_RECORDS_MAX;
            let last = page.last().and_then(|record| storage_record::record_id(record.get()));
            records.extend(page);
            if is_last {
                return Ok(records);
            }
            if last <= after {
                return Err(ReadError::Unordered);
            }
            after = last;
        }
    }
}
