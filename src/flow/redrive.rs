//! Dead letters: looked at, tried again through the same ingest, or thrown away.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    ingest::{Incoming, Ingest, Retried},
    ledger::Database,
    tenants::Tenants,
};
use crate::{
    cql::{Condition, Query},
    event::{Environment, Reason, Reject, TenantId},
    store::{
        self, Db, Schema,
        dead_letters::{self, Parked},
    },
    telemetry::Chain,
};

/// How often records that wait for a tenant are retried.
const WAITING_RETRY: Duration = Duration::from_secs(5);

/// Letters that are read at once when many are tried again.
const PAGE: i64 = 100;

/// Works on dead letters.
pub struct Redrive {
    db: Db,
    environment: Environment,
    ingest: Arc<Ingest<Database>>,
}

/// What became of letters that were tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Applied, and dead letters no more.
    pub applied: usize,
    /// Still parked.
    pub still_parked: usize,
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
    /// `db` is the writers' pool.
    pub fn new(db: Db, environment: Environment, ingest: Arc<Ingest<Database>>) -> Self {
        Self { db, environment, ingest }
    }

    /// Tries one letter again.
    pub async fn retry(&self, letter: Parked) -> Result<Outcome, store::Error> {
        match self.reapply(letter).await {
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
                    warn!(error = %Chain(&error), "records that wait for a tenant can't be looked for");
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
                    info!(%tenant, applied, "records that waited for a tenant are applied")
                }
                Err(error) => {
                    debug!(%tenant, error = %Chain(&error), "a tenant can't be written yet")
                }
            }
        }
        Ok(())
    }

    /// Retries what waits for a tenant, until one fails for the tenant's sake. Returns how many were applied.
    async fn retry_waiting_of(&self, tenant: &TenantId) -> Result<usize, store::Error> {
        let (mut applied, mut after) = (0, Uuid::nil());
        loop {
            let page = dead_letters::waiting(&self.db, tenant, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for letter in page {
                let id = letter.id;
                match self.reapply(letter).await {
                    Ok(Retried::Applied) => applied += 1,
                    // Enabled again, it is retried.
                    Ok(Retried::NotEnabled(_)) => return Ok(applied),
                    Ok(Retried::StillBad(reject)) => {
                        dead_letters::leave_to_operators(&self.db, id, &reject).await?;
                    }
                    Err(error) if error.verdict() == store::Verdict::Refused => {
                        let rule = "the database refuses to store it";
                        let reject = Reject::new(Reason::RefusedByDatabase, None, rule);
                        dead_letters::leave_to_operators(&self.db, id, &reject).await?;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.ingest.usable_again(tenant).await;
        Ok(applied)
    }

    async fn reapply(&self, letter: Parked) -> Result<Retried, store::Error> {
        let Some(topic) = self.environment.parse(&letter.record.place.topic) else {
            let rule = "its topic is none that is read with the present settings";
            return Ok(Retried::StillBad(Reject::new(Reason::TenantUnusable, None, rule)));
        };
        let cluster = letter.cluster.into();
        let (record, topic, position) = (letter.record, Arc::new(topic), 0);
        let incoming = Incoming { record, topic, cluster, kept: true, position };
        self.ingest.retry(&incoming).await
    }

    /// Tries all letters again that are meant.
    pub async fn retry_all(
        &self,
        schema: &Schema,
        condition: Condition,
    ) -> Result<Report, store::Error> {
        let query = Query::from(condition); // by id, as the pages need it
        let mut report = Report::default();
        let mut after: Option<Uuid> = None;
        loop {
            let page = dead_letters::list(&self.db, schema, &query, after, (0, PAGE)).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for letter in page {
                match self.retry(letter).await? {
                    Outcome::Applied => report.applied += 1,
                    Outcome::StillParked(_) => report.still_parked += 1,
                }
            }
        }
        info!(schema = schema.name(), ?report, "dead letters were tried again");
        Ok(report)
    }

    /// Throws away one letter, or all that are meant, and tells how many.
    pub async fn discard(
        &self,
        schema: &Schema,
        condition: &Condition,
        id: Option<Uuid>,
        by: &str,
    ) -> Result<u64, store::Error> {
        let discarded = dead_letters::discard(&self.db, schema, condition, id).await?;
        info!(schema = schema.name(), query = %condition, discarded, by, "dead letters were thrown away");
        Ok(discarded)
    }
}

/// Where a tenant's letters are, or those of nobody.
pub fn schema_of(tenant: Option<&TenantId>) -> Schema {
    tenant.map_or_else(Schema::module, Schema::of)
}
