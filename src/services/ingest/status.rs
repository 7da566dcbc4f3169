//! The status of ingest: progress per partition, pending data, and incidents for operators.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
};

use chrono::{DateTime, Utc};

use crate::{
    cql::Condition,
    event::{Environment, Kind, TenantId, TopicPartition},
    kafka::{self, BrokerClient, offsets::Watermarks},
    services::tenants::Tenant,
    store::{
        self, Db, Schema,
        ingest::{
            dead_letters,
            incidents::{self, StoredIncident},
            positions::{self, Position},
        },
        settings::records,
        state::patrons::{self, WaitingCounts},
        tenants::Completeness,
    },
};

/// Largest number of incidents in the status, open incidents first.
const INCIDENTS_MAX: i64 = 100;

/// The status of ingest for one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct IngestStatus {
    /// Completeness of the tenant's history.
    pub completeness: Completeness,
    /// Partitions of the tenant's own topics and of shared topics.
    pub partitions: Vec<PartitionStatus>,
    /// Why the log could not be queried.
    pub log_problem: Option<String>,
    /// Counts of rows that do not count for any patron yet.
    pub waiting: WaitingCounts,
    /// Number of dead letters.
    pub dead_letters: i64,
    /// Incidents, open ones first.
    pub incidents: Vec<StoredIncident>,
}

/// The progress of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Full name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// The offset after the last durable record; `None` if nothing was read.
    pub position: Option<i64>,
    /// First offset of the log.
    pub log_start: Option<i64>,
    /// The end offset of the log, which the next record gets.
    pub log_end: Option<i64>,
    /// Number of unread records.
    pub lag: Option<i64>,
    /// Timestamp of the last record that was read.
    pub last_record_at: Option<DateTime<Utc>>,
    /// `true` if the partition stopped at the bad record limit.
    pub stopped: bool,
}

/// Returns the status of ingest from the database and the log.
pub async fn ingest_status(
    db: &Db,
    broker: &Arc<BrokerClient>,
    environment: &Environment,
    tenant: &Tenant,
) -> Result<IngestStatus, store::Error> {
    let (schema, id) = (&tenant.schema, &tenant.id);
    let (mut read, waiting, dead_letters, incidents, stopped) = store::read(db, async |db| {
        let mut read = positions::list(&mut *db, schema).await?;
        // For a shared topic, the module's position applies; the tenant's own position is after the
        // tenant's last record.
        read.extend(positions::list(&mut *db, &Schema::module()).await?);
        Ok((
            read,
            patrons::count_waiting(&mut *db, schema).await?,
            records::count(&mut *db, schema, &dead_letters::SEARCH_TARGET, &Condition::All).await?,
            incidents::list(&mut *db, Some(id), true, INCIDENTS_MAX).await?,
            incidents::list_stopped_partitions(&mut *db).await?,
        ))
    })
    .await?;
    let partitions_read: BTreeSet<TopicPartition> =
        read.keys().map(|(t, n)| (Arc::from(&**t), *n)).collect();
    let log_answer =
        query_log(broker.clone(), partitions_read.clone(), topics(environment, id)).await;
    let (logs, log_problem) = match log_answer {
        Ok(logs) => (logs, None),
        Err(problem) => (
            partitions_read.into_iter().map(|partition| (partition, None)).collect(),
            Some(problem.to_string()),
        ),
    };
    let mut partitions = Vec::with_capacity(logs.len());
    for (topic_partition, log) in logs {
        let key = (topic_partition.0.to_string(), topic_partition.1);
        let (position, stopped) = (read.remove(&key), stopped.contains(&key));
        partitions.push(PartitionStatus::new(key, position, log, stopped));
    }
    let completeness = tenant.completeness();
    Ok(IngestStatus { completeness, partitions, log_problem, waiting, dead_letters, incidents })
}

impl PartitionStatus {
    fn new(
        (topic, partition): (String, i32),
        position: Option<Position>,
        log: Option<Watermarks>,
        stopped: bool,
    ) -> Self {
        let next = position.as_ref().map(|position| position.next_offset);
        let first_unread = |start: i64| next.map_or(start, |next| next.max(start));
        Self {
            position: next,
            log_start: log.map(|log| log.low),
            log_end: log.map(|log| log.high),
            lag: log.map(|log| (log.high - first_unread(log.low)).max(0)),
            last_record_at: position.and_then(|position| position.last_record_at),
            stopped,
            topic,
            partition,
        }
    }
}

/// Returns the watermarks of the known partitions and of all other partitions of `topics`.
async fn query_log(
    broker: Arc<BrokerClient>,
    mut partitions: BTreeSet<TopicPartition>,
    topics: Vec<String>,
) -> Result<BTreeMap<TopicPartition, Option<Watermarks>>, Box<dyn Error + Send + Sync>> {
    let query = tokio::task::spawn_blocking(move || {
        partitions.extend(broker.partitions(&topics)?);
        let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
        let watermarks = broker.watermarks(&partitions)?;
        let log_of =
            |partition: TopicPartition| (partition.clone(), watermarks.get(&partition).copied());
        Ok::<_, kafka::Error>(partitions.into_iter().map(log_of).collect())
    });
    Ok(query.await??)
}

/// Returns the names of the topics of this tenant alone.
fn topics(environment: &Environment, tenant: &TenantId) -> Vec<String> {
    Kind::ALL.into_iter().flat_map(|kind| environment.topic_names(tenant, kind)).collect()
}
