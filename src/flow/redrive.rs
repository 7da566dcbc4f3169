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
    ingest::{Incoming, Ingest},
    ledger::Database,
    single_events::Retried,
    tenants::Tenants,
};
use crate::{
    cql::{Condition, Query},
    event::{Environment, Reason, Reject, TenantId},
    store::{
        self, Db, LockWait, Schema,
        dead_letters::{self, Parked},
    },
    telemetry::Chain,
};

/// How often records that wait for a tenant are retried.
const WAITING_RETRY: Duration = Duration::from_secs(5);

/// Letters that are looked up at once when many are tried again.
const PAGE: i64 = 100;

/// Letters that go in one statement.
const STEP: i64 = 1000;

/// Waiting letters of a tenant that may take too long before the others wait for the next round.
const FAILED_MAX: usize = 3;

/// How long one letter may take that is tried again over HTTP: who asks waits for it.
const LETTER_MOST: Duration = Duration::from_secs(10);

/// How long a request about many letters may take. The answer says where the next one goes on.
const REQUEST_MOST: Duration = Duration::from_secs(20);

/// Works on dead letters.
pub struct Redrive {
    db: Db,
    environment: Environment,
    ingest: Arc<Ingest<Database>>,
    /// Requests try letters again one after the other: each takes a connection of the writers'.
    turn: Semaphore,
}

/// What became of letters that were tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
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
pub struct Discarded {
    /// How many.
    pub discarded: u64,
    /// Time was up after the letter of this id: those of greater ones are still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_after: Option<Uuid>,
}

/// Why a letter is still parked, for whoever tried it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is applied.
    Applied,
    /// It is not, for this reason.
    StillParked(String),
}

impl Redrive {
    /// `db` is the operators' pool; a retry takes a connection of the writers'.
    pub fn new(db: Db, environment: Environment, ingest: Arc<Ingest<Database>>) -> Self {
        Self { db, environment, ingest, turn: Semaphore::new(1) }
    }

    /// Tries one letter again, however long that takes.
    pub async fn retry(&self, letter: Parked) -> Result<Outcome, store::Error> {
        match self.reapply(letter, LockWait::Usual).await {
            Ok(Retried::Applied) => Ok(Outcome::Applied),
            Ok(Retried::StillBad(reject)) => Ok(Outcome::StillParked(reject.to_string())),
            Ok(Retried::NotEnabled(tenant)) => {
                Ok(Outcome::StillParked(format!("tenant {tenant} is not enabled")))
            }
            Err(error) if error.verdict() == store::Verdict::Retry => Err(error),
            Err(error) => Ok(Outcome::StillParked(error.to_string())),
        }
    }

    /// Retries records of tenant collections that wait for a tenant, once it can be written, until `stop`.
    pub async fn follow(self: Arc<Self>, tenants: Arc<Tenants>, stop: CancellationToken) {
        let followed = async {
            tenants.ready().await;
            loop {
                if let Err(error) = self.retry_waiting().await {
                    warn!(error = %Chain(&error), "dead letters: could not look for records of tenants that could not be written; retrying");
                }
                tokio::time::sleep(WAITING_RETRY).await;
            }
        };
        let followed: Option<std::convert::Infallible> = stop.run_until_cancelled(followed).await;
        debug_assert!(followed.is_none(), "the loop has no end of its own");
    }

    async fn retry_waiting(&self) -> Result<(), store::Error> {
        for tenant in dead_letters::waiting_tenants(&self.db).await? {
            match self.retry_waiting_of(&tenant).await {
                Ok(0) => {}
                Ok(applied) => {
                    info!(%tenant, applied, "dead letters: applied records of a tenant that can be written again")
                }
                Err(error) => {
                    debug!(%tenant, error = %Chain(&error), "dead letters: the tenant can still not be written; its records stay")
                }
            }
        }
        Ok(())
    }

    /// Retries what waits for a tenant, until some fail for the tenant's sake. Returns how many were applied.
    async fn retry_waiting_of(&self, tenant: &TenantId) -> Result<usize, store::Error> {
        let (mut applied, mut failed, mut after) = (0, 0, Uuid::nil());
        loop {
            let page = dead_letters::waiting(&self.db, tenant, after, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for id in page {
                after = id;
                match store::within(LETTER_MOST, self.retry_one_waiting(id)).await {
                    Ok(Some(Retried::Applied)) => applied += 1,
                    // Enabled again, it is retried.
                    Ok(Some(Retried::NotEnabled(_))) => return Ok(applied),
                    Ok(Some(Retried::StillBad(reject))) => {
                        dead_letters::leave_to_operators(&self.db, id, &reject).await?;
                    }
                    // Another instance was quicker.
                    Ok(None) => {}
                    Err(error) if error.verdict() == store::Verdict::Refused => {
                        let rule = "the database refuses to store it";
                        let reject = Reject::new(Reason::RefusedByDatabase, None, rule);
                        dead_letters::leave_to_operators(&self.db, id, &reject).await?;
                    }
                    // One that takes too long keeps none of the others waiting.
                    Err(error) if error.is_timeout() && failed < FAILED_MAX => failed += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        if failed == 0 {
            self.ingest.usable_again(tenant).await;
        }
        Ok(applied)
    }

    async fn retry_one_waiting(&self, id: Uuid) -> Result<Option<Retried>, store::Error> {
        match dead_letters::find(&self.db, &Schema::module(), id).await? {
            Some(letter) => self.reapply(letter, LockWait::Brief).await.map(Some),
            None => Ok(None),
        }
    }

    async fn reapply(&self, letter: Parked, wait: LockWait) -> Result<Retried, store::Error> {
        let Some(topic) = self.environment.parse(&letter.record.place.topic) else {
            let rule = "its topic is none that is read with the present settings";
            return Ok(Retried::StillBad(Reject::new(Reason::TenantUnusable, None, rule)));
        };
        let cluster = letter.cluster.into();
        let (record, topic, position) = (letter.record, Arc::new(topic), 0);
        let incoming = Incoming { record, topic, cluster, kept: true, position };
        self.ingest.retry(&incoming, wait).await
    }

    /// Tries one letter again within a time that a request may take. Given up, it may be applied all the
    /// same: tried again it is known then.
    pub async fn retry_in_time(&self, letter: Parked) -> Result<Outcome, store::Error> {
        self.retry_until(letter, Instant::now() + LETTER_MOST).await
    }

    async fn retry_until(&self, letter: Parked, end: Instant) -> Result<Outcome, store::Error> {
        let retry = async {
            // An error would say that the semaphore is closed, which nobody does.
            let _turn = self.turn.acquire().await;
            self.retry(letter).await
        };
        timeout_at(end, retry).await.unwrap_or(Err(store::Error::Silent))
    }

    /// Tries all letters again that are meant, as many as there is time for.
    pub async fn retry_all(
        &self,
        schema: &Schema,
        condition: Condition,
    ) -> Result<Report, store::Error> {
        let query = Query::from(condition); // by id, as the pages need it
        let end = Instant::now() + REQUEST_MOST;
        let mut report = Report::default();
        let mut after: Option<Uuid> = None;
        loop {
            let page = store::read(&self.db, async |db| {
                dead_letters::list(db, schema, &query, after, (0, PAGE)).await
            })
            .await?;
            if page.is_empty() {
                break;
            }
            for head in page {
                // One at a time: each may be megabytes.
                let found =
                    store::read(&self.db, async |db| dead_letters::find(db, schema, head.id).await);
                if let Some(letter) = found.await? {
                    let letter_end = end.min(Instant::now() + LETTER_MOST);
                    match self.retry_until(letter, letter_end).await {
                        Ok(Outcome::Applied) => report.applied += 1,
                        Ok(Outcome::StillParked(_)) => report.still_parked += 1,
                        // The next request goes on behind it.
                        Err(store::Error::Silent) => {
                            report.still_parked += 1;
                            report.continue_after = Some(head.id);
                            return Ok(report);
                        }
                        Err(error) => return Err(error),
                    }
                }
                after = Some(head.id);
            }
        }
        info!(schema = schema.name(), ?report, "dead letters: retried the dead letters of a query");
        Ok(report)
    }

    /// Throws one letter away, and tells whether it was there.
    pub async fn discard(&self, schema: &Schema, id: Uuid, by: &str) -> Result<bool, store::Error> {
        let discard = dead_letters::discard(&self.db, schema, id);
        let discarded = timeout(LETTER_MOST, discard).await.unwrap_or(Err(store::Error::Silent))?;
        info!(schema = schema.name(), letter.id = %id, discarded, by, "dead letters: discarded a dead letter");
        Ok(discarded)
    }

    /// Throws away all letters that are meant, as many as there is time for, some at a time.
    pub async fn discard_all(
        &self,
        schema: &Schema,
        condition: &Condition,
        by: &str,
    ) -> Result<Discarded, store::Error> {
        let end = Instant::now() + REQUEST_MOST;
        let (mut report, mut after) = (Discarded::default(), None);
        loop {
            let step = dead_letters::discard_some(&self.db, schema, condition, after, STEP);
            let gone = timeout(LETTER_MOST, step).await.unwrap_or(Err(store::Error::Silent))?;
            report.discarded += gone.len() as u64;
            let Some(last) = gone.into_iter().max() else { break };
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
