//! Dead letters: looked at, tried again through the same ingest, or thrown away.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    ingest::{ConsumedRecord, Ingest},
    ledger::PgIngestStore,
    single_events::ReapplyOutcome,
    tenants::TenantRegistry,
};
use crate::{
    cql::{Condition, Query},
    event::{Environment, Reason, Reject, TenantId},
    logging::ErrorChain,
    store::{
        self, Db, LockTimeout, Schema,
        dead_letters::{self, StoredDeadLetter},
    },
};

/// How often records that wait for a tenant are retried.
const WAITING_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Letters that are looked up at once when many are tried again.
const PAGE_LETTERS_MAX: i64 = 100;

/// Letters that go in one statement.
const STEP_LETTERS_MAX: i64 = 1000;

/// Waiting letters of a tenant that may take too long before the others wait for the next round.
const FAILED_LETTERS_MAX: usize = 3;

/// How long one letter may take that is tried again over HTTP: who asks waits for it.
const LETTER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request about many letters may take. The answer says where the next one goes on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Works on dead letters.
pub struct DeadLetterService {
    db: Db,
    environment: Environment,
    ingest: Arc<Ingest<PgIngestStore>>,
    /// Requests try letters again one after the other: each takes a connection of the writers'.
    retry_permit: Semaphore,
}

/// What became of letters that were tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryReport {
    /// Applied, and dead letters no more.
    pub applied: usize,
    /// Still parked.
    pub still_parked: usize,
    /// Time was up after the letter of this id: those of greater ones were not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_after: Option<Uuid>,
}

/// How many letters were thrown away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscardReport {
    /// How many.
    pub discarded: u64,
    /// Time was up after the letter of this id: those of greater ones are still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_after: Option<Uuid>,
}

/// Why a letter is still parked, for whoever tried it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is applied.
    Applied,
    /// It is not, for this reason.
    StillParked(String),
}

impl DeadLetterService {
    /// `db` is the operators' pool; a retry takes a connection of the writers'.
    pub fn new(db: Db, environment: Environment, ingest: Arc<Ingest<PgIngestStore>>) -> Self {
        Self { db, environment, ingest, retry_permit: Semaphore::new(1) }
    }

    /// Tries one letter again, however long that takes.
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

    /// Retries records of tenant collections that wait for a tenant, once it can be written, until `stop`.
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
        debug_assert!(ended.is_none(), "the loop has no end of its own");
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

    /// Retries what waits for a tenant, until some fail for the tenant's sake. Returns how many were applied.
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
                    // Enabled again, it is retried.
                    Ok(Some(ReapplyOutcome::TenantDisabled(_))) => return Ok(applied),
                    Ok(Some(ReapplyOutcome::StillRejected(reject))) => {
                        dead_letters::clear_waiting_tenant(&self.db, id, &reject).await?;
                    }
                    // Another instance was quicker.
                    Ok(None) => {}
                    Err(error) if error.verdict() == store::Verdict::Refused => {
                        let rule = "the database refuses to store it";
                        let reject = Reject::new(Reason::RefusedByDatabase, None, rule);
                        dead_letters::clear_waiting_tenant(&self.db, id, &reject).await?;
                    }
                    // One that takes too long keeps none of the others waiting.
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
            let rule = "its topic is none that is read with the present settings";
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

    /// Tries one letter again within a time that a request may take. Given up, it may be applied all the
    /// same: tried again it is known then.
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
            // An error would say that the semaphore is closed, which nobody does.
            let _turn = self.retry_permit.acquire().await;
            self.retry(letter).await
        };
        timeout_at(deadline, retry).await.unwrap_or(Err(store::Error::Timeout))
    }

    /// Tries all letters again that are meant, as many as there is time for.
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
                // One at a time: each may be megabytes.
                let found = store::read(&self.db, async |db| {
                    dead_letters::find(db, schema, summary.id).await
                });
                if let Some(letter) = found.await? {
                    let letter_deadline = end.min(Instant::now() + LETTER_TIMEOUT);
                    match self.retry_until(letter, letter_deadline).await {
                        Ok(RetryOutcome::Applied) => report.applied += 1,
                        Ok(RetryOutcome::StillParked(_)) => report.still_parked += 1,
                        // The next request goes on behind it.
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

    /// Throws one letter away, and tells whether it was there.
    pub async fn discard(&self, schema: &Schema, id: Uuid, by: &str) -> Result<bool, store::Error> {
        let discard = dead_letters::discard(&self.db, schema, id);
        let discarded =
            timeout(LETTER_TIMEOUT, discard).await.unwrap_or(Err(store::Error::Timeout))?;
        info!(schema = schema.name(), letter.id = %id, discarded, by, "dead letters: discarded a dead letter");
        Ok(discarded)
    }

    /// Throws away all letters that are meant, as many as there is time for, some at a time.
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

/// Where a tenant's letters are, or those of nobody.
pub fn schema_of(tenant: Option<&TenantId>) -> Schema {
    tenant.map_or_else(Schema::module, Schema::of)
}
