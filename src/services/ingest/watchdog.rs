//! The watchdog: it finds stalled partitions and recreated topics. The client may silently stop
//! reading a partition, for example because it knows a leader epoch of the deleted topic. The client
//! also continues in a recreated log as if the log were the old one.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc as std_mpsc},
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::start_offset::StartOffsetResolver;
use crate::{
    event::{Environment, TopicPartition},
    kafka::{
        BrokerClient, ConsumerParts, ConsumerStatus, ProbeResults, RecordProbe,
        assignment::{Assignment, WatchedPartition},
        delivery::PollerCommand,
        offsets::Watermarks,
        progress::{Progress, ProgressReport, is_same_log},
    },
    logging::ErrorChain,
    store,
};

/// Longest time of the query for positions that another instance reset.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest interval between two checks.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Largest number of topics that one check probes.
const PROBED_TOPICS_MAX: usize = 100;

/// Time that a new client has to make progress before the next replacement. Doubles with each
/// replacement.
const RECONNECT_DELAY_MIN: Duration = Duration::from_secs(60);

/// The task that watches the partitions of this instance.
pub(super) struct Watchdog {
    assignment: Arc<Assignment>,
    status: Arc<ConsumerStatus>,
    environment: Environment,
    broker: Arc<BrokerClient>,
    start_offsets: Arc<StartOffsetResolver>,
    commands: std_mpsc::Sender<PollerCommand>,
    progress: Progress,
    /// The earliest time of the next new client, and the delay after it.
    reconnect_backoff: (Option<Instant>, Duration),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Watchdog {
    pub(super) fn new(
        ConsumerParts { assignment, status, broker }: &ConsumerParts,
        environment: Environment,
        start_offsets: Arc<StartOffsetResolver>,
        commands: std_mpsc::Sender<PollerCommand>,
    ) -> Self {
        Self {
            assignment: assignment.clone(),
            status: status.clone(),
            environment,
            broker: broker.clone(),
            start_offsets,
            commands,
            progress: Progress::default(),
            reconnect_backoff: (None, RECONNECT_DELAY_MIN),
        }
    }

    /// Checks until `stop`, at `interval` or every [`CHECK_INTERVAL_MAX`], whichever is shorter.
    pub(super) async fn run(mut self, interval: Duration, stop: CancellationToken) {
        let interval = interval.min(CHECK_INTERVAL_MAX);
        while stop.run_until_cancelled(sleep(interval)).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.check()).await {
                let error: &(dyn std::error::Error + 'static) = &*error;
                debug!(error = %ErrorChain(error), "watchdog: could not compare positions with log ends; retrying");
            }
            let restarted = stop.run_until_cancelled(self.restart_reset_partitions()).await;
            if let Some(Err(error)) = restarted {
                let error: &(dyn std::error::Error + 'static) = &*error;
                debug!(error = %ErrorChain(error), "watchdog: could not look for reset positions; retrying");
            }
        }
    }

    /// Restarts the partitions whose stored position another instance reset. A step of its own: the other checks
    /// need no database.
    async fn restart_reset_partitions(&self) -> Result<(), BoxError> {
        let committed = self.assignment.committed_offsets();
        let reset = self.start_offsets.reset_partitions(&self.environment, &committed);
        let reset = store::with_timeout(QUERY_TIMEOUT, reset).await?;
        self.assignment.restart(|partition| {
            !partition.stopped && reset.contains(&(partition.topic.to_owned(), partition.partition))
        });
        Ok(())
    }

    async fn check(&mut self) -> Result<(), BoxError> {
        let committed = self.assignment.committed_offsets();
        let (watched, idle_polls) =
            (self.assignment.watched_partitions(), self.status.idle_polls());
        let key_of = |((topic, partition), _)| (Arc::from(topic), partition);
        let partitions: Vec<TopicPartition> = committed.into_iter().map(key_of).collect();
        let broker = self.broker.clone();
        let watermarks: HashMap<TopicPartition, Watermarks> =
            spawn_blocking(move || broker.watermarks(&partitions)).await??;
        let log_of =
            |watched: &WatchedPartition| watermarks.get(&topic_partition(watched)).copied();
        let report = self.progress.observe(watched, log_of, idle_polls, PROBED_TOPICS_MAX);
        let results = self.probe(&report).await?;
        self.apply_probes(&report, &results);
        for watched in &report.stalled {
            // Offsets without records also lie before the end, for example transaction markers.
            if let Some(record) =
                results.get(&topic_partition(watched)).and_then(|found| found.first())
                && record.offset >= watched.next
            {
                self.handle_stall(watched, log_of(watched)).await?;
            }
        }
        Ok(())
    }

    /// Reads one record per suspect partition: the next record of a stalled partition, otherwise the
    /// earlier record.
    async fn probe(&self, report: &ProgressReport) -> Result<ProbeResults, BoxError> {
        let older = report.to_probe.iter().filter(|watched| !report.stalled.contains(watched));
        let older = older.filter_map(|watched| Some((watched, watched.older?.offset)));
        let next = report.stalled.iter().map(|watched| (watched, watched.next));
        let probe = |(watched, from)| RecordProbe {
            topic_partition: topic_partition(watched),
            offset: from,
            records_max: 1,
        };
        let probes: Vec<RecordProbe> = older.chain(next).map(probe).collect();
        if probes.is_empty() {
            return Ok(ProbeResults::new());
        }
        let broker = self.broker.clone();
        Ok(spawn_blocking(move || broker.probe(&probes)).await?)
    }

    /// Restarts recreated topics, and confirms partitions with an unchanged log.
    fn apply_probes(&self, report: &ProgressReport, results: &ProbeResults) {
        for watched in &report.expired {
            self.assignment.confirm(watched);
        }
        for watched in &report.recreated {
            self.restart_topic(watched);
        }
        for watched in report.to_probe.iter().filter(|watched| !report.stalled.contains(watched)) {
            let found = results.get(&topic_partition(watched)).map_or(&[][..], Vec::as_slice);
            match watched.older.and_then(|older| is_same_log(older, found)) {
                Some(true) => self.assignment.confirm(watched),
                Some(false) => self.restart_topic(watched),
                None => {}
            }
        }
    }

    fn restart_topic(&self, watched: &WatchedPartition) {
        let WatchedPartition { topic, partition, epoch, .. } = watched;
        // The partition may have restarted meanwhile, for any reason.
        if self.assignment.epoch(topic, *partition) == Some(*epoch) {
            warn!(
                kafka.topic = topic,
                kafka.partition = partition,
                "watchdog: the topic was recreated; its partitions start again"
            );
            self.assignment.restart_topic(topic, *partition);
        }
    }

    /// Reassigns a stalled partition; if the stall recurs, requests a new client for all partitions.
    async fn handle_stall(
        &mut self,
        watched: &WatchedPartition,
        log: Option<Watermarks>,
    ) -> Result<(), BoxError> {
        let WatchedPartition { topic, partition, next, .. } = watched;
        let end = log.map_or(*next, |log| log.high);
        let times = self.progress.record_stall(watched);
        error!(
            kafka.topic = topic,
            kafka.partition = partition,
            next,
            end,
            times,
            "watchdog: a partition stalled although its log holds more records"
        );
        if let Some(parsed) = self.environment.parse(topic) {
            self.start_offsets.record_stall(&parsed, (topic, *partition), *next..end).await?;
        }
        // The poller drops its receiver only when the service stops.
        if times == 1 {
            let _ = self.commands.send(PollerCommand::Reassign(watched.clone()));
        } else if self.reconnect_backoff.0.is_none_or(|deadline| deadline < Instant::now()) {
            let (_, delay) = self.reconnect_backoff;
            self.reconnect_backoff = (Some(Instant::now() + delay), delay.saturating_mul(2));
            let _ = self.commands.send(PollerCommand::Reconnect);
        }
        Ok(())
    }
}

fn topic_partition(watched: &WatchedPartition) -> TopicPartition {
    (Arc::from(&*watched.topic), watched.partition)
}
