//! The partition starter: it determines start offsets of assigned partitions away from the polling
//! thread. The database and the brokers may respond slowly, and the polling thread must not wait for
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Ingest,
    ingest_store::IngestStore,
    start_offset::{StartCandidate, StartOffsetResolver, StartPlan, StoredPositions},
};
use crate::{
    event::{Environment, TopicPartition},
    kafka::{
        BrokerClient, ProbeResults, RecordProbe,
        assignment::{Assignment, PendingPartition, TopicRecreation},
        delivery::{PollerCommand, StartDecisions},
        offsets::Watermarks,
    },
    logging::ErrorChain,
    store::{self, ingest::incidents::IncidentKind},
};

/// Delay before a retry if the database or the brokers fail, or a partition has no leader.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Time limit of one database operation. If an incident cannot be stored, its partition is retried
/// after `ANOMALY_RETRY_DELAY`.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
const ANOMALY_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The task that determines start offsets.
pub(super) struct PartitionStarter<S> {
    pub(super) requests: mpsc::UnboundedReceiver<Vec<PendingPartition>>,
    pub(super) environment: Environment,
    pub(super) broker: Arc<BrokerClient>,
    pub(super) start_offsets: Arc<StartOffsetResolver>,
    pub(super) ingest: Arc<Ingest<S>>,
    pub(super) assignment: Arc<Assignment>,
    pub(super) commands: std_mpsc::Sender<PollerCommand>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A partition with the plan of its start.
struct PartitionStart {
    pending: PendingPartition,
    candidate: StartCandidate,
    log: Watermarks,
    plan: StartPlan,
}

impl<S: IngestStore> PartitionStarter<S> {
    /// Handles requests until `stop`, and retries failed ones.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut batches = Vec::new();
        while self.requests.recv_many(&mut batches, 64).await > 0 {
            let mut pending: Vec<PendingPartition> = batches.drain(..).flatten().collect();
            while !pending.is_empty() && !stop.is_cancelled() {
                pending.retain(|partition| {
                    self.assignment.epoch(&partition.topic, partition.partition)
                        == Some(partition.epoch)
                });
                match stop.run_until_cancelled(self.start_partitions(&mut pending)).await {
                    Some(Ok(())) => pending.clear(),
                    Some(Err(error)) => {
                        let error: &(dyn std::error::Error + 'static) = &*error;
                        warn!(partitions = pending.len(), error = %ErrorChain(error),
                            "partition start: could not determine start offsets; retrying");
                        stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
                    }
                    None => {}
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Starts the pending partitions and removes them from `pending`. The order of the queries
    /// matters: see [`StartOffsetResolver::load_positions`].
    async fn start_partitions(&self, pending: &mut Vec<PendingPartition>) -> Result<(), BoxError> {
        let candidates = self.candidates(pending).await?;
        let partitions: Vec<TopicPartition> =
            candidates.values().map(|c| c.topic_partition.clone()).collect();
        let positions = self.start_offsets.load_positions(candidates.values());
        let positions = store::with_timeout(QUERY_TIMEOUT, positions).await?;
        positions
            .unwritable_tenants
            .iter()
            .for_each(|tenant| self.ingest.mark_unwritable(tenant.clone()));
        let watermarks = self.query_broker(&partitions, BrokerClient::watermarks).await?;
        let broker = self.broker.clone();
        let cluster_id = tokio::task::spawn_blocking(move || broker.cluster_id()).await?;
        let cluster_id = cluster_id.ok_or("no broker returns the cluster id")?;
        let mut starts = Vec::with_capacity(candidates.len());
        for (pending, candidate) in candidates {
            let Some(log) = watermarks.get(&candidate.topic_partition).copied() else {
                let (topic, partition) = &candidate.topic_partition;
                debug!(kafka.topic = %topic, kafka.partition = partition, "partition start: the partition has no leader yet; retrying");
                self.assignment.pause(&pending, Some(RETRY_DELAY));
                continue;
            };
            let plan = self.start_offsets.decide(&candidate, &positions, log, &cluster_id);
            starts.push(PartitionStart { pending, candidate, log, plan });
        }
        self.restart_recreated_topics(&mut starts, |start| {
            let PartitionStart { candidate, log, .. } = start;
            start.plan = self.start_offsets.decide(candidate, &positions, *log, &cluster_id);
        });
        // A consistent partition waits for no other, unless its topic was recreated. Recording the
        // anomaly of one partition resets the positions of all partitions of that topic, so none may
        // have been read by then.
        let recreated: BTreeSet<String> = starts
            .iter()
            .filter(|start| start.shows_recreation())
            .map(|start| start.pending.topic.clone())
            .collect();
        let (consistent, anomalous): (Vec<_>, Vec<_>) = starts.into_iter().partition(|start| {
            start.plan.anomaly.is_none() && !recreated.contains(&start.pending.topic)
        });
        *pending = anomalous.iter().map(|start| start.pending.clone()).collect();
        self.send_decisions(consistent);
        self.start_anomalous(anomalous, &recreated, &positions, &cluster_id).await?;
        pending.clear();
        Ok(())
    }

    /// Records the anomaly of each partition before the partition starts. The partitions of a recreated
    /// topic start together, after the last of them.
    async fn start_anomalous(
        &self,
        anomalous: Vec<PartitionStart>,
        recreated: &BTreeSet<String>,
        positions: &StoredPositions,
        cluster_id: &str,
    ) -> Result<(), BoxError> {
        let probes: Vec<RecordProbe> =
            anomalous.iter().filter_map(PartitionStart::record_probe).collect();
        let results = self.probe(probes).await?;
        let mut of_recreated_topics = Vec::new();
        for start in anomalous {
            let PartitionStart { pending, candidate, plan, .. } = &start;
            let records = results.get(&candidate.topic_partition).map_or(&[][..], Vec::as_slice);
            let recorded =
                self.start_offsets.record_anomaly(candidate, positions, plan, cluster_id, records);
            match store::with_timeout(QUERY_TIMEOUT, recorded).await {
                Ok(()) if recreated.contains(&pending.topic) => of_recreated_topics.push(start),
                Ok(()) => self.send_decisions(vec![start]),
                // A failure of one tenant delays no partition of other tenants.
                Err(error) => {
                    warn!(kafka.topic = pending.topic, kafka.partition = pending.partition, error = %ErrorChain(&error),
                        "partition start: could not store an incident about offsets; retrying the partition");
                    self.assignment.pause(pending, Some(ANOMALY_RETRY_DELAY));
                }
            }
        }
        self.send_decisions(of_recreated_topics);
        Ok(())
    }

    /// If a partition shows that its topic was recreated, restarts the topic's other partitions as
    /// well. Records already read from them may belong to the new log.
    fn restart_recreated_topics(
        &self,
        starts: &mut [PartitionStart],
        decide: impl Fn(&mut PartitionStart),
    ) {
        let is_recreated = |start: &&PartitionStart| {
            start.pending.recreation == TopicRecreation::NotDetected && start.shows_recreation()
        };
        let recreated: BTreeSet<String> =
            starts.iter().filter(is_recreated).map(|start| start.pending.topic.clone()).collect();
        for topic in recreated {
            let of_topic = |start: &&mut PartitionStart| start.pending.topic == topic;
            let mut known = Vec::new();
            for start in starts.iter_mut().filter(of_topic) {
                known.push(start.pending.partition);
                if !is_recreated(&&*start) {
                    start.candidate.recreation = TopicRecreation::OnOtherPartition;
                    decide(start);
                }
            }
            self.assignment.restart_other_partitions(&topic, &known);
        }
    }

    async fn probe(&self, probes: Vec<RecordProbe>) -> Result<ProbeResults, BoxError> {
        if probes.is_empty() {
            return Ok(ProbeResults::new());
        }
        let broker = self.broker.clone();
        Ok(tokio::task::spawn_blocking(move || broker.probe(&probes)).await?)
    }

    fn send_decisions(&self, starts: Vec<PartitionStart>) {
        let mut decisions = StartDecisions::with_capacity(starts.len());
        for PartitionStart { pending, candidate, log, plan: StartPlan { decision, .. } } in starts {
            let (topic, partition) = &candidate.topic_partition;
            debug!(kafka.topic = %topic, kafka.partition = partition, ?log, ?decision,
                "partition start: determined the start offset");
            self.ingest.reset_bad_record_window(topic, *partition);
            decisions.push((pending, decision));
        }
        if !decisions.is_empty() {
            // The poller drops its receiver only when the service stops.
            let _ = self.commands.send(PollerCommand::Start(decisions));
        }
    }

    async fn candidates(
        &self,
        pending: &[PendingPartition],
    ) -> Result<BTreeMap<PendingPartition, StartCandidate>, BoxError> {
        let partitions: Vec<TopicPartition> =
            pending.iter().map(|pending| (Arc::from(&*pending.topic), pending.partition)).collect();
        let committed = self.query_broker(&partitions, BrokerClient::committed_offsets).await?;
        let candidate = |(pending, topic_partition): (&PendingPartition, TopicPartition)| {
            let topic = Arc::new(self.environment.parse(&pending.topic)?);
            let committed = committed.get(&topic_partition).copied();
            Some((
                pending.clone(),
                StartCandidate {
                    topic_partition,
                    topic,
                    committed,
                    recreation: pending.recreation,
                },
            ))
        };
        Ok(pending.iter().zip(partitions).filter_map(candidate).collect())
    }

    async fn query_broker<T: Send + 'static>(
        &self,
        partitions: &[TopicPartition],
        query: fn(&BrokerClient, &[TopicPartition]) -> Result<T, crate::kafka::Error>,
    ) -> Result<T, BoxError> {
        let (broker, partitions) = (self.broker.clone(), partitions.to_vec());
        Ok(tokio::task::spawn_blocking(move || query(&broker, &partitions)).await??)
    }
}

impl PartitionStart {
    /// Returns whether the partition shows that its topic was recreated.
    fn shows_recreation(&self) -> bool {
        let anomaly = self.plan.anomaly.as_ref();
        anomaly.is_some_and(|anomaly| anomaly.kind == IncidentKind::TopicRecreated)
    }

    /// Returns the records to read for the incident, if the plan needs any.
    fn record_probe(&self) -> Option<RecordProbe> {
        self.plan.probe_from.map(|offset| RecordProbe {
            topic_partition: self.candidate.topic_partition.clone(),
            offset,
            records_max: 2,
        })
    }
}
