//! Dead letters: looked at, tried again through the same ingest, or thrown away.

use std::sync::Arc;

use tracing::info;
use uuid::Uuid;

use super::{
    ingest::{Incoming, Ingest, Retried},
    ledger::Database,
};
use crate::{
    cql::{Condition, Query},
    event::{Environment, TenantId},
    store::{
        self, Db, Schema,
        dead_letters::{self, Parked},
    },
};

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
        let Some(topic) = self.environment.parse(&letter.record.place.topic) else {
            let why = "its topic is none that is read with the settings of now";
            return Ok(Outcome::StillParked(why.to_owned()));
        };
        let cluster = letter.cluster.into();
        let (record, topic, position) = (letter.record, Arc::new(topic), 0);
        let incoming = Incoming { record, topic, cluster, kept: true, position };
        match self.ingest.retry(&incoming).await {
            Ok(Retried::Applied) => Ok(Outcome::Applied),
            Ok(Retried::StillBad(reject)) => Ok(Outcome::StillParked(reject.to_string())),
            Ok(Retried::NotEnabled(tenant)) => {
                Ok(Outcome::StillParked(format!("tenant {tenant} is not enabled")))
            }
            Err(error) if error.verdict() == store::Verdict::Retry => Err(error),
            Err(error) => Ok(Outcome::StillParked(error.to_string())),
        }
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
