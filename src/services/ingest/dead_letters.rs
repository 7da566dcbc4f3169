//! Dead letters: retries them through ingest, or discards them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Ingest, ingest_store::PgIngestStore, single_events::ReapplyOutcome};
use crate::{
    cql::{Condition, Query},
    event::{Environment, Reason, Reject, TenantId},
    kafka::delivery::ConsumedRecord,
    logging::ErrorChain,
    services::tenants::TenantRegistry,
    store::{
        self, Db, LockTimeout, Schema,
        ingest::dead_letters::{self, StoredDeadLetter},
    },
};

/// Interval between retries of records that wait for a tenant.
const WAITING_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Dead letters per page when a request retries many.
const PAGE_LETTERS_MAX: i64 = 100;

/// Largest number of dead letters that one statement deletes.
const STEP_LETTERS_MAX: i64 = 1000;

/// Tolerated timeouts among a tenant's waiting dead letters. After another timeout the rest waits for
/// the next round.
const FAILED_LETTERS_MAX: usize = 3;

/// Time limit of the retry of one dead letter over HTTP, while the caller waits.
const LETTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of a request about many dead letters. Its response contains the id after which the next
/// request continues.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The operations on dead letters.
pub struct DeadLetterService {
    db: Db,
    environment: Environment,
    ingest: Arc<Ingest<PgIngestStore>>,
    /// Permit of the only retry of a request, because a retry uses a connection of the writers' pool.
    retry_permit: Semaphore,
}

/// The result of retrying dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryReport {
    /// Number of dead letters that were applied and deleted.
    pub applied: u64,
    /// Number of dead letters that are still parked.
    pub still_parked: u64,
    /// The id of the last retried dead letter, if the time expired; dead letters with greater ids
    /// were not retried.
    pub continue_after: Option<Uuid>,
}

/// The result of discarding dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiscardReport {
    /// Number of discarded dead letters.
    pub discarded: u64,
    /// The greatest discarded id, if the time expired; dead letters with greater ids still exist.
    pub continue_after: Option<Uuid>,
}

/// The result of retrying one dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryOutcome {
    /// The dead letter is applied.
    Applied,
    /// The dead letter is still parked, for this reason.
    StillParked(String),
}

impl DeadLetterService {
    /// Creates the service; `db` is the operators' pool. Retries use connections of the writers'
    /// pool.
    pub fn new(db: Db, environment: Environment, ingest: Arc<Ingest<PgIngestStore>>) -> Self {
        Self { db, environment, ingest, retry_permit: Semaphore::new(1) }
    }

    /// Retries one dead letter without a time limit.
    pub async fn retry(&self, letter: StoredDeadLetter) -> Result<RetryOutcome, store::Error> {
        match self.reapply(letter, LockTimeout::Normal).await {
            Ok(ReapplyOutcome::Applied) => Ok(RetryOutcome::Applied),
            Ok(ReapplyOutcome::StillRejected(reject)) => {
                Ok(RetryOutcome::StillParked(reject.to_string()))
            }
            Ok(ReapplyOutcome::TenantDisabled(tenant)) => {
                Ok(RetryOutcome::StillParked(format!("tenant {tenant} is not enabled")))
            }
            Err(error) if error.verdict() == store::Verdict::Retry => Err(error),
            Err(error) => Ok(RetryOutcome::StillParked(error.to_string())),
        }
    }

    /// Retries records of shared topics that wait for a tenant, in rounds until `stop`.
    pub async fn run(self: Arc<Self>, tenants: Arc<TenantRegistry>, stop: CancellationToken) {
        let rounds = async {
            tenants.ready().await;
            loop {
                if let Err(error) = self.retry_waiting().await {
                    warn!(error = %ErrorChain(&error), "dead letters: could not look for records of tenants that could not be written; retrying");
                }
                tokio::time::sleep(WAITING_RETRY_INTERVAL).await;
            }
        };
        let ended: Option<std::convert::Infallible> = stop.run_until_cancelled(rounds).await;
        debug_assert!(ended.is_none(), "the loop ends only when the service stops");
    }

    async fn retry_waiting(&self) -> Result<(), store::Error> {
        for tenant in dead_letters::list_waiting_tenants(&self.db).await? {
            match self.retry_waiting_of(&tenant).await {
                Ok(0) => {}
                Ok(applied) => {
                    info!(%tenant, applied, "dead letters: applied records of a tenant that can be written again")
                }
                Err(error) => {
                    debug!(%tenant, error = %ErrorChain(&error), "dead letters: the tenant can still not be written; its records stay")
                }
            }
        }
        Ok(())
    }

    /// Retries the records that wait for a tenant, until a write fails or too many time out. Returns
    /// the number of applied records.
    async fn retry_waiting_of(&self, tenant: &TenantId) -> Result<usize, store::Error> {
        let (mut applied, mut failed, mut after) = (0, 0, Uuid::nil());
        loop {
            let page =
                dead_letters::list_waiting_ids(&self.db, tenant, after, PAGE_LETTERS_MAX).await?;
            if page.is_empty() {
                break;
            }
            for id in page {
                after = id;
                match store::with_timeout(LETTER_TIMEOUT, self.retry_waiting_letter(id)).await {
                    Ok(Some(ReapplyOutcome::Applied)) => applied += 1,
                    // After the tenant is enabled again, its records are retried.
                    Ok(Some(ReapplyOutcome::TenantDisabled(_))) => return Ok(applied),
                    Ok(Some(ReapplyOutcome::StillRejected(reject))) => {
                        dead_letters::clear_waiting_tenant(&self.db, id, &reject).await?;
                    }
                    // Another instance has applied the dead letter.
                    Ok(None) => {}
                    Err(error) if error.verdict() == store::Verdict::Refused => {
                        let rule = "the database refuses to store the record";
                        let reject = Reject::new(Reason::RefusedByDatabase, None, rule);
                        dead_letters::clear_waiting_tenant(&self.db, id, &reject).await?;
                    }
                    // A few timeouts do not stop the retries of the other dead letters.
                    Err(error) if error.is_timeout() && failed < FAILED_LETTERS_MAX => failed += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        if failed == 0 {
            self.ingest.mark_writable(tenant).await;
        }
        Ok(applied)
    }

    async fn retry_waiting_letter(&self, id: Uuid) -> Result<Option<ReapplyOutcome>, store::Error> {
        match dead_letters::find(&self.db, &Schema::module(), id).await? {
            Some(letter) => self.reapply(letter, LockTimeout::Short).await.map(Some),
            None => Ok(None),
        }
    }

    async fn reapply(
        &self,
        letter: StoredDeadLetter,
        wait: LockTimeout,
    ) -> Result<ReapplyOutcome, store::Error> {
        let Some(topic) = self.environment.parse(&letter.record.position.topic) else {
            let rule = "the current settings exclude the topic of the record";
            return Ok(ReapplyOutcome::StillRejected(Reject::new(
                Reason::TenantUnusable,
                None,
                rule,
            )));
        };
        let cluster = letter.cluster.into();
        let (record, topic, position) = (letter.record, Arc::new(topic), 0);
        let incoming = ConsumedRecord { record, topic, cluster, tenant_enabled: true, position };
        self.ingest.retry(&incoming, wait).await
    }

    /// Retries one dead letter within the time limit of a request. After a timeout the dead letter
    /// may have been applied nevertheless; a further retry recognizes it as a duplicate.
    pub async fn retry_with_timeout(
        &self,
        letter: StoredDeadLetter,
    ) -> Result<RetryOutcome, store::Error> {
        self.retry_until(letter, Instant::now() + LETTER_TIMEOUT).await
    }

    async fn retry_until(
        &self,
        letter: StoredDeadLetter,
        deadline: Instant,
    ) -> Result<RetryOutcome, store::Error> {
        let retry = async {
            // An error would mean that the semaphore is closed, but no code closes it.
            let _turn = self.retry_permit.acquire().await;
            self.retry(letter).await
        };
        timeout_at(deadline, retry).await.unwrap_or(Err(store::Error::Timeout))
    }

    /// Retries all dead letters that match `condition`, until the time expires.
    pub async fn retry_all(
        &self,
        schema: &Schema,
        condition: Condition,
    ) -> Result<RetryReport, store::Error> {
        let query = Query::from(condition); // by id, as the pages need it
        let end = Instant::now() + REQUEST_TIMEOUT;
        let mut report = RetryReport::default();
        let mut after: Option<Uuid> = None;
        loop {
            let page = store::read(&self.db, async |db| {
                dead_letters::list(db, schema, &query, after, (0, PAGE_LETTERS_MAX)).await
            })
            .await?;
            if page.is_empty() {
                break;
            }
            for summary in page {
                // Loads one dead letter at a time, because each may have megabytes.
                let found = store::read(&self.db, async |db| {
                    dead_letters::find(db, schema, summary.id).await
                });
                if let Some(letter) = found.await? {
                    let letter_deadline = end.min(Instant::now() + LETTER_TIMEOUT);
                    match self.retry_until(letter, letter_deadline).await {
                        Ok(RetryOutcome::Applied) => report.applied += 1,
                        Ok(RetryOutcome::StillParked(_)) => report.still_parked += 1,
                        // The next request continues after this dead letter.
                        Err(store::Error::Timeout) => {
                            report.still_parked += 1;
                            report.continue_after = Some(summary.id);
                            return Ok(report);
                        }
                        Err(error) => return Err(error),
                    }
                }
                after = Some(summary.id);
            }
        }
        info!(schema = schema.name(), ?report, "dead letters: retried the dead letters of a query");
        Ok(report)
    }

    /// Discards one dead letter and returns whether it existed.
    pub async fn discard(&self, schema: &Schema, id: Uuid, by: &str) -> Result<bool, store::Error> {
        let discard = dead_letters::discard(&self.db, schema, id);
        let discarded =
            timeout(LETTER_TIMEOUT, discard).await.unwrap_or(Err(store::Error::Timeout))?;
        info!(schema = schema.name(), letter.id = %id, discarded, by, "dead letters: discarded a dead letter");
        Ok(discarded)
    }

    /// Discards all dead letters that match `condition` in steps, until the time expires.
    pub async fn discard_all(
        &self,
        schema: &Schema,
        condition: &Condition,
        by: &str,
    ) -> Result<DiscardReport, store::Error> {
        let end = Instant::now() + REQUEST_TIMEOUT;
        let (mut report, mut after) = (DiscardReport::default(), None);
        loop {
            let step = dead_letters::discard_matching(
                &self.db,
                schema,
                condition,
                after,
                STEP_LETTERS_MAX,
            );
            let discarded =
                timeout(LETTER_TIMEOUT, step).await.unwrap_or(Err(store::Error::Timeout))?;
            report.discarded += discarded.len() as u64;
            let Some(last) = discarded.into_iter().max() else { break };
            after = Some(last);
            if Instant::now() > end {
                report.continue_after = after;
                break;
            }
        }
        info!(schema = schema.name(), query = %condition, ?report, by, "dead letters: discarded the dead letters of a query");
        Ok(report)
    }
}

/// Returns the schema of a tenant's dead letters, or the module's schema for dead letters without a
/// tenant.
pub fn schema_of(tenant: Option<&TenantId>) -> Schema {
    tenant.map_or_else(Schema::module, Schema::of)
}
