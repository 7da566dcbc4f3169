//! How far ingest has come: per topic and partition, what waits, and what operators must know.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{outcome::At, takeover::Span, tenants::Tenant};
use crate::{
    clock,
    cql::Condition,
    event::{Environment, Kind, TenantId},
    kafka::{self, Broker},
    store::{
        self, Db, Schema, dead_letters,
        incidents::{self, Raised},
        patrons::{self, Waiting},
        positions::{self, Position},
        records,
        tenants::Knowledge,
    },
};

/// Incidents that are told at most, the open ones first.
const INCIDENTS_MOST: i64 = 100;

/// How far ingest has come for one tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// How much is known of what happened to its patrons: complete, filling or incomplete.
    pub knowledge: &'static str,
    /// Where it is incomplete: not all that happened before this is known.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::clock::serialize_any"
    )]
    pub incomplete_before: Option<DateTime<Utc>>,
    /// What is advisable then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Its topics' partitions, and those of tenant collections.
    pub partitions: Vec<PartitionStanding>,
    /// Records that are not read yet, where the log could be asked.
    pub lag: Option<i64>,
    /// Why the log could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_problem: Option<String>,
    /// What waits and counts for nobody yet.
    pub waiting: Waiting,
    /// Parked records.
    pub dead_letters: i64,
    /// What went wrong, open ones first.
    pub incidents: Vec<Raised>,
    /// Number of partitions.
    pub total_records: usize,
}

/// How far a partition was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionStanding {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset after the last record that is durable; none where nothing was read.
    pub position: Option<i64>,
    /// First offset of the log.
    pub log_start: Option<i64>,
    /// The offset that the next record will get.
    pub log_end: Option<i64>,
    /// Records that are not read yet.
    pub lag: Option<i64>,
    /// Timestamp of the last record that was read.
    #[serde(serialize_with = "crate::clock::serialize_any")]
    pub last_record_at: Option<DateTime<Utc>>,
    /// Whether it has stopped for too many bad records.
    pub stopped: bool,
}

/// Asks the database and the log.
pub async fn standing(
    db: &Db,
    broker: &Arc<Broker>,
    environment: &Environment,
    tenant: &Tenant,
) -> Result<Standing, store::Error> {
    let (schema, id) = (&tenant.schema, &tenant.id);
    let (mut read, waiting, dead_letters, incidents, stopped) = store::read(db, async |db| {
        let mut read = positions::list(&mut *db, schema).await?;
        // Of a tenant collection the position is the topic's; a tenant's own lies where it last had a
        // record.
        read.extend(positions::list(&mut *db, &Schema::module()).await?);
        Ok((
            read,
            patrons::waiting(&mut *db, schema).await?,
            records::count(&mut *db, schema, &dead_letters::SEARCH, &Condition::All).await?,
            incidents::list(&mut *db, Some(id), true, INCIDENTS_MOST).await?,
            incidents::stopped(&mut *db).await?,
        ))
    })
    .await?;
    let known: BTreeSet<At> = read.keys().map(|(t, n)| (Arc::from(&**t), *n)).collect();
    let asked = ask(broker.clone(), known.clone(), topics(environment, id)).await;
    let (spans, log_problem) = match asked {
        Ok(spans) => (spans, None),
        Err(problem) => {
            (known.into_iter().map(|at| (at, None)).collect(), Some(problem.to_string()))
        }
    };
    let mut partitions = Vec::with_capacity(spans.len());
    for (at, span) in spans {
        let place = (at.0.to_string(), at.1);
        let stopped = stopped.contains(&place);
        partitions.push(PartitionStanding::of(at, read.remove(&place), span, stopped));
    }
    let lag = partitions.iter().map(|p| p.lag).sum();
    let total_records = partitions.len();
    let knowledge = tenant.knowledge();
    let incomplete_before = match knowledge {
        Knowledge::IncompleteBefore(before) => Some(before),
        Knowledge::Complete | Knowledge::Filling => None,
    };
    let advice = incomplete_before.map(|before| {
        format!(
            "the topics do not hold all that happened before {}: a synchronisation with the storage modules \
             (POST /automated-patron-blocks/synchronization/job, scope full) tells what is open",
            clock::written(before)
        )
    });
    let knowledge = knowledge.name();
    Ok(Standing {
        knowledge,
        incomplete_before,
        advice,
        partitions,
        lag,
        log_problem,
        waiting,
        dead_letters,
        incidents,
        total_records,
    })
}

impl PartitionStanding {
    fn of(at: At, position: Option<Position>, span: Option<Span>, stopped: bool) -> Self {
        let next = position.as_ref().map(|position| position.next_offset);
        let first_unread = |start: i64| next.map_or(start, |next| next.max(start));
        Self {
            position: next,
            log_start: span.map(|span| span.start),
            log_end: span.map(|span| span.end),
            lag: span.map(|span| (span.end - first_unread(span.start)).max(0)),
            last_record_at: position.and_then(|position| position.last_record_at),
            stopped,
            topic: at.0,
            partition: at.1,
        }
    }
}

/// What the log holds of the partitions that are known and of all others of those topics.
async fn ask(
    broker: Arc<Broker>,
    mut places: BTreeSet<At>,
    topics: Vec<String>,
) -> Result<BTreeMap<At, Option<Span>>, Box<dyn Error + Send + Sync>> {
    let asked = tokio::task::spawn_blocking(move || {
        places.extend(broker.partitions(&topics)?);
        let of: Vec<At> = places.into_iter().collect();
        let spans = broker.spans(&of)?;
        let span = |at: At| (at.clone(), spans.get(&at).copied());
        Ok::<_, kafka::Error>(of.into_iter().map(span).collect())
    });
    Ok(asked.await??)
}

/// The names of the topics of a tenant alone.
fn topics(environment: &Environment, tenant: &TenantId) -> Vec<String> {
    Kind::ALL.into_iter().flat_map(|kind| environment.names(tenant, kind)).collect()
}
