//! Dead letters: retries them through ingest, or discards them.

use std::{sync::Arc, time::Duration};

use serde_json::json;
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
    event::{
        Environment, Fact, Reason, Reject, TenantId,
        decode::{DecodeOutcome, decode_record},
    },
    kafka::delivery::ConsumedRecord,
    logging::ErrorChain,
    services::{operator_actions::ActEnd, tenants::TenantRegistry},
    store::{
        self, Db, LockTimeout, Schema,
        ingest::{
            dead_letters::{self, StoredDeadLetter},
            discarded_dead_letters,
        },
    },
};

/// Interval between retries of records that wait for a tenant.
const WAITING_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Dead letters per page when a request retries many.
const PAGE_LETTERS_MAX: i64 = 100;

/// Largest number of dead letters that one statement deletes.
const STEP_LETTERS_MAX: i64 = 1000;

/// Divisor of the number of dead letters of a statement that took too long.
const STEP_DIVISOR: i64 = 10;

/// Tolerated timeouts among a tenant's waiting dead letters. After another timeout the rest waits for
/// the next round.
const FAILED_LETTERS_MAX: usize = 3;

/// Time limit of the retry of one dead letter over HTTP, while the caller waits.
const LETTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of a retry that begins just before the end of a request about many dead letters.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Time limit of an HTTP request about many dead letters. Its response contains the id after which the next
/// request continues.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

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

/// Which of the matching dead letters a retry concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryScope {
    /// All of them.
    All,
    /// Not those that delete all loans of the tenant, because no preview shows what they change.
    WithPreview,
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

impl RetryReport {
    /// Returns the end of the act, for the log of acts.
    pub fn act_end(&self) -> ActEnd {
        let Self { applied, still_parked, continue_after } = self;
        ActEnd::done(json!({
            "applied": applied, "stillParked": still_parked, "continueAfter": continue_after,
        }))
    }
}

impl DiscardReport {
    /// Returns the end of the act, for the log of acts.
    pub fn act_end(&self) -> ActEnd {
        let Self { discarded, continue_after } = self;
        ActEnd::done(json!({ "discarded": discarded, "continueAfter": continue_after }))
    }
}

impl RetryOutcome {
    /// Returns the end of the act, for the log of acts.
    pub fn act_end(&self) -> ActEnd {
        match self {
            Self::Applied => ActEnd::done(json!({})),
            Self::StillParked(why) => ActEnd::rejected(why),
        }
    }
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

    /// Retries all dead letters that match `condition`, only ids greater than `after` if given, until the time
    /// expires.
    pub async fn retry_all(
        &self,
        schema: &Schema,
        (condition, scope): (Condition, RetryScope),
        mut after: Option<Uuid>,
        time_limit: Duration,
    ) -> Result<RetryReport, store::Error> {
        let query = Query::from(condition); // by id, as the pages need it
        let end = Instant::now() + time_limit;
        let mut report = RetryReport::default();
        loop {
            let page = store::read(&self.db, async |db| {
                dead_letters::list(db, schema, &query, after, (0, PAGE_LETTERS_MAX)).await
            })
            .await?;
            if page.is_empty() {
                break;
            }
            for summary in page {
                if Instant::now() >= end {
                    report.continue_after = Some(after.unwrap_or_default());
                    return Ok(report);
                }
                // Loads one dead letter at a time, because each may have megabytes.
                let found = store::read(&self.db, async |db| {
                    dead_letters::find(db, schema, summary.id).await
                });
                let found = found.await?;
                if scope == RetryScope::WithPreview
                    && found.as_ref().is_some_and(|letter| self.deletes_all_loans(letter))
                {
                    report.still_parked += 1;
                } else if let Some(letter) = found {
                    // A dead letter that begins just before the end has some time as well.
                    let now = Instant::now();
                    let letter_deadline = (now + LETTER_TIMEOUT).min(end.max(now + GRACE_PERIOD));
                    match self.retry_until(letter, letter_deadline).await {
                        Ok(RetryOutcome::Applied) => report.applied += 1,
                        Ok(RetryOutcome::StillParked(_)) => report.still_parked += 1,
                        // The next request continues after this dead letter.
                        Err(store::Error::Timeout) => {
                            report.still_parked += 1;
                            report.continue_after = Some(summary.id);
                            return Ok(report);
                        }
                        // The database responds, so another dead letter may be quicker.
                        Err(error) if error.is_timeout() => report.still_parked += 1,
                        // What is applied is applied, and the caller has to know it.
                        Err(error) if report.applied > 0 => {
                            warn!(error = %ErrorChain(&error), "dead letters: could not retry all; the rest stays parked");
                            report.continue_after = Some(after.unwrap_or_default());
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

    fn deletes_all_loans(&self, letter: &StoredDeadLetter) -> bool {
        let Some(topic) = self.environment.parse(&letter.record.position.topic) else {
            return false;
        };
        match decode_record(&letter.record, &topic, &letter.cluster) {
            DecodeOutcome::Event(_, event) => event.fact == Fact::AllLoansDeleted,
            _ => false,
        }
    }

    /// Discards one dead letter and returns whether it existed.
    pub async fn discard(&self, schema: &Schema, id: Uuid, by: &str) -> Result<bool, store::Error> {
        let discard = discarded_dead_letters::discard(&self.db, schema, id);
        let discarded =
            timeout(LETTER_TIMEOUT, discard).await.unwrap_or(Err(store::Error::Timeout))?;
        info!(schema = schema.name(), letter.id = %id, discarded, by, "dead letters: discarded a dead letter");
        Ok(discarded)
    }

    /// Parks a discarded dead letter again, and returns whether it was discarded.
    pub async fn restore(&self, schema: &Schema, id: Uuid, by: &str) -> Result<bool, store::Error> {
        let restore = discarded_dead_letters::restore(&self.db, schema, id);
        let restored =
            timeout(LETTER_TIMEOUT, restore).await.unwrap_or(Err(store::Error::Timeout))?;
        info!(schema = schema.name(), letter.id = %id, restored, by, "dead letters: restored a dead letter");
        Ok(restored)
    }

    /// Parks all discarded dead letters again, until the time expires. Returns their number, and whether some are left.
    pub async fn restore_all(
        &self,
        schema: &Schema,
        by: &str,
        time_limit: Duration,
    ) -> Result<(usize, bool), store::Error> {
        let end = Instant::now() + time_limit;
        let (mut restored, mut most) = (0, STEP_LETTERS_MAX);
        let has_more = loop {
            let step = discarded_dead_letters::restore_some(&self.db, schema, most);
            let step = timeout(LETTER_TIMEOUT, step).await.unwrap_or(Err(store::Error::Timeout));
            let moved = match step {
                Err(error) if can_shrink(&error, &mut most) => continue,
                // What is restored is restored, and the caller has to know it.
                Err(error) if restored > 0 => {
                    warn!(error = %ErrorChain(&error), "dead letters: could not restore all; the rest stays discarded");
                    break true;
                }
                step => step?,
            };
            restored += moved;
            if moved == 0 || Instant::now() > end {
                break moved > 0;
            }
        };
        info!(
            schema = schema.name(),
            restored, by, "dead letters: restored all discarded dead letters"
        );
        Ok((restored, has_more))
    }

    /// Discards all dead letters that match `condition` in steps, until the time expires.
    pub async fn discard_all(
        &self,
        schema: &Schema,
        condition: &Condition,
        by: &str,
        time_limit: Duration,
    ) -> Result<DiscardReport, store::Error> {
        let end = Instant::now() + time_limit;
        let (mut report, mut after) = (DiscardReport::default(), None);
        let mut most = STEP_LETTERS_MAX;
        loop {
            let step =
                discarded_dead_letters::discard_matching(&self.db, schema, condition, after, most);
            let step = timeout(LETTER_TIMEOUT, step).await.unwrap_or(Err(store::Error::Timeout));
            let discarded = match step {
                Err(error) if can_shrink(&error, &mut most) => continue,
                // What is discarded is discarded, and the caller has to know it.
                Err(error) if report.discarded > 0 => {
                    warn!(error = %ErrorChain(&error), "dead letters: could not discard all; the rest stays parked");
                    report.continue_after = after;
                    break;
                }
                step => step?,
            };
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

/// Reduces the number of dead letters of a step that took too long, because each may have megabytes. Returns `false` if
/// the step failed for another reason, or cannot be smaller.
fn can_shrink(error: &store::Error, most: &mut i64) -> bool {
    let is_too_large = error.is_timeout() && !matches!(error, store::Error::Timeout) && *most > 1;
    if is_too_large {
        *most = (*most / STEP_DIVISOR).max(1);
    }
    is_too_large
}

/// Returns the schema of a tenant's dead letters, or the module's schema for dead letters without a
/// tenant.
pub fn schema_of(tenant: Option<&TenantId>) -> Schema {
    tenant.map_or_else(Schema::module, Schema::of)
}
