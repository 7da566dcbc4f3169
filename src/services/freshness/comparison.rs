//! The comparison of this instance's positions with the ends of the log.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::task::spawn_blocking;

use crate::{
    event::TopicPartition,
    kafka::{self, BrokerClient, ConsumerParts, ProbeResults, RecordProbe},
    store::ingest::instance_reports::{BehindPartition, OwnedPartitions},
};

/// Time that a partition is behind before its next record is read. Most partitions are behind for less.
const BEHIND_TIME_MIN: Duration = Duration::from_secs(2);

/// Largest number of partitions of which one round reads the next record.
const PROBES_MAX: usize = 100;

/// Shortest time between two rounds that read next records, because each round opens connections.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// The comparison of this instance's positions with the ends of the log, and the last results.
#[derive(Default)]
pub(super) struct LogComparison {
    partitions: HashMap<TopicPartition, PartitionHistory>,
    /// The start of the last successful comparison.
    pub(super) compared: Option<Instant>,
    /// The partitions of the last successful comparison.
    pub(super) owned: OwnedPartitions,
    /// Number of changes of `owned`.
    pub(super) owned_version: i64,
    last_probe: Option<Instant>,
}

/// What is known about one partition.
#[derive(Debug, Clone, Copy, Default)]
struct PartitionHistory {
    next: i64,
    /// The end of the log; `None` if the last comparison did not find the partition.
    end: Option<i64>,
    /// The last comparison at which all records were applied.
    at_end: Option<Instant>,
    behind_since: Option<Instant>,
    next_record: Option<NextRecord>,
}

/// The first record that is not applied.
#[derive(Debug, Clone, Copy)]
struct NextRecord {
    next: i64,
    end: i64,
    /// `None` if the log has no record before `end`, for example only transaction markers.
    at: Option<DateTime<Utc>>,
    read: Instant,
}

impl PartitionHistory {
    fn is_behind(&self) -> bool {
        let is_empty = self.next_record.is_some_and(|record| {
            record.at.is_none() && record.next == self.next && Some(record.end) == self.end
        });
        // An end before the position belongs to another log, or to a leader that lacks the last records.
        self.end != Some(self.next) && !is_empty
    }

    fn lag(&self) -> i64 {
        self.end.map_or(1, |end| if end < self.next { 1 } else { end - self.next })
    }

    /// Records a comparison that began at `started`.
    fn observe(&mut self, next: i64, end: Option<i64>, started: Instant) {
        if next < self.next {
            // Reading started again, possibly in another log.
            *self = Self::default();
        }
        (self.next, self.end) = (next, end);
        if self.is_behind() {
            self.behind_since = self.behind_since.or(Some(started));
        } else {
            (self.at_end, self.behind_since) = (Some(started), None);
        }
    }

    /// Returns whether the next record should be read: it is unknown, or belongs to another position.
    fn needs_probe(&self, now: Instant) -> bool {
        let is_known = self.next_record.is_some_and(|record| {
            record.next == self.next && (record.at.is_some() || Some(record.end) == self.end)
        });
        let is_behind_long = self.behind_since.is_some_and(|since| now - since >= BEHIND_TIME_MIN);
        is_behind_long && self.end.is_some() && !is_known
    }

    /// Returns the instant up to which the records are applied: that of the first other record, or the last
    /// known instant before. A record of a fast clock was at the latest written when it was read.
    fn as_of(&self, instant: impl Fn(Instant) -> DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.next_record {
            Some(NextRecord { next, at: Some(at), read, .. }) if next == self.next => {
                Some(at.min(instant(read)))
            }
            earlier => {
                let known = earlier.and_then(|record| Some((record.at?, record.read)));
                let known = known.map(|(at, read)| at.min(instant(read)));
                self.at_end.map(instant).max(known)
            }
        }
    }
}

impl LogComparison {
    /// Compares all positions with the ends of the log. If a broker does not respond, the last comparison
    /// remains.
    pub(super) async fn compare(&mut self, parts: &ConsumerParts) -> Result<(), kafka::Error> {
        let started = Instant::now();
        let committed = parts.assignment.committed_offsets();
        let owned = owned_partitions(&committed);
        let key = |((topic, partition), next)| ((Arc::from(topic), partition), next);
        let committed: HashMap<TopicPartition, i64> = committed.into_iter().map(key).collect();
        self.partitions.retain(|partition, _| committed.contains_key(partition));
        let partitions: Vec<TopicPartition> = committed.keys().cloned().collect();
        let broker = parts.broker.clone();
        let ends = run_blocking(move || broker.end_offsets(&partitions)).await?;
        for (partition, next) in committed {
            let end = ends.get(&partition).copied();
            self.partitions.entry(partition).or_default().observe(next, end, started);
        }
        self.set_owned(owned);
        self.compared = Some(started);
        parts.status.set_lags(self.lags());
        self.read_next_records(&parts.broker, started).await
    }

    /// Returns the partitions that are behind or stopped. `instant` converts times of this process.
    pub(super) fn behind(
        &self,
        stopped: &BTreeSet<(String, i32)>,
        instant: impl Fn(Instant) -> DateTime<Utc>,
    ) -> Vec<BehindPartition> {
        let mut stopped = stopped.clone();
        let mut behind = Vec::new();
        for ((topic, partition), history) in &self.partitions {
            let (topic, partition) = (topic.to_string(), *partition);
            let is_stopped = stopped.remove(&(topic.clone(), partition));
            if is_stopped || history.is_behind() {
                let lag = if history.is_behind() { history.lag() } else { 0 };
                let as_of = history.as_of(&instant);
                behind.push(BehindPartition { topic, partition, lag, as_of, is_stopped });
            }
        }
        // A partition that was stopped before this instance started has no known position.
        behind.extend(stopped.into_iter().map(|(topic, partition)| BehindPartition {
            topic,
            partition,
            lag: 0,
            as_of: None,
            is_stopped: true,
        }));
        behind
    }

    fn lags(&self) -> BTreeMap<(String, i32), i64> {
        let found = self.partitions.iter().filter(|(_, history)| history.end.is_some());
        found.map(|((topic, number), h)| ((topic.to_string(), *number), h.lag())).collect()
    }

    /// Sets the owned partitions after their comparison: a partition without one has an unknown instant.
    fn set_owned(&mut self, owned: OwnedPartitions) {
        if owned != self.owned {
            (self.owned, self.owned_version) = (owned, self.owned_version + 1);
        }
    }

    /// Reads the next record of partitions that are behind, those with the oldest knowledge first.
    async fn read_next_records(
        &mut self,
        broker: &Arc<BrokerClient>,
        now: Instant,
    ) -> Result<(), kafka::Error> {
        if self.last_probe.is_some_and(|last| now - last < PROBE_INTERVAL) {
            return Ok(());
        }
        let mut found: Vec<(&TopicPartition, &PartitionHistory)> =
            self.partitions.iter().filter(|(_, history)| history.needs_probe(now)).collect();
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by_key(|(_, history)| history.next_record.map(|record| record.read));
        found.truncate(PROBES_MAX);
        let probe =
            |(topic_partition, history): &(&TopicPartition, &PartitionHistory)| RecordProbe {
                topic_partition: (*topic_partition).clone(),
                offset: history.next,
                records_max: 1,
            };
        let probes: Vec<RecordProbe> = found.iter().map(probe).collect();
        self.last_probe = Some(now);
        let (broker, asked) = (broker.clone(), probes.clone());
        let results = run_blocking(move || Ok(broker.probe(&asked))).await?;
        self.record_probes(&probes, &results, now);
        Ok(())
    }

    fn record_probes(&mut self, probes: &[RecordProbe], results: &ProbeResults, read: Instant) {
        for RecordProbe { topic_partition, offset, .. } in probes {
            let history = self.partitions.get_mut(topic_partition);
            let (Some(history), Some(found)) = (history, results.get(topic_partition)) else {
                continue;
            };
            let Some(end) = history.end else { continue };
            let at = found.first().map(|record| record.timestamp);
            history.next_record = Some(NextRecord { next: *offset, end, at, read });
        }
    }
}

fn owned_partitions(committed: &[((String, i32), i64)]) -> OwnedPartitions {
    let mut owned = OwnedPartitions::new();
    for ((topic, partition), _) in committed {
        match owned.get_mut(topic) {
            Some(partitions) => partitions.push(*partition),
            None => drop(owned.insert(topic.clone(), vec![*partition])),
        }
    }
    owned
}

/// Runs a request to a broker on a thread that may block.
pub(super) async fn run_blocking<T: Send + 'static>(
    request: impl FnOnce() -> Result<T, kafka::Error> + Send + 'static,
) -> Result<T, kafka::Error> {
    match spawn_blocking(request).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, so nothing waits for the result.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(base: Instant, seconds: u64) -> Instant {
        base + Duration::from_secs(seconds)
    }

    fn time(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap()
    }

    #[test]
    fn partition_at_the_end_has_the_instant_of_the_comparison() {
        let base = Instant::now();
        let instant = |at: Instant| time((at - base).as_secs() as i64);
        let mut history = PartitionHistory::default();
        history.observe(5, Some(5), base);
        assert_eq!((history.is_behind(), history.as_of(instant)), (false, Some(time(0))));
        history.observe(5, Some(6), second(base, 1));
        assert_eq!((history.is_behind(), history.lag()), (true, 1));
        assert_eq!(history.as_of(instant), Some(time(0)));
        history.observe(6, Some(6), second(base, 2));
        assert_eq!((history.is_behind(), history.as_of(instant)), (false, Some(time(2))));
    }

    #[test]
    fn next_record_counts_once_it_was_read() {
        let base = Instant::now();
        let instant = |at: Instant| time((at - base).as_secs() as i64);
        let mut history = PartitionHistory::default();
        history.observe(5, Some(9), base);
        assert_eq!(history.as_of(instant), None);
        assert!(!history.needs_probe(second(base, 1)) && history.needs_probe(second(base, 2)));
        let record = NextRecord { next: 5, end: 9, at: Some(time(-90)), read: base };
        history.next_record = Some(record);
        assert_eq!(history.as_of(instant), Some(time(-90)));
        assert!(!history.needs_probe(second(base, 9)));
        // Later records were applied, and the next one was not read yet.
        history.observe(7, Some(9), second(base, 9));
        assert_eq!(history.as_of(instant), Some(time(-90)));
        assert!(history.needs_probe(second(base, 9)));
    }

    /// A transaction marker has an offset and is no record.
    #[test]
    fn partition_without_a_next_record_is_at_its_end() {
        let base = Instant::now();
        let instant = |at: Instant| time((at - base).as_secs() as i64);
        let mut history = PartitionHistory::default();
        history.observe(5, Some(6), base);
        history.next_record = Some(NextRecord { next: 5, end: 6, at: None, read: base });
        history.observe(5, Some(6), second(base, 3));
        assert_eq!((history.is_behind(), history.as_of(instant)), (false, Some(time(3))));
        history.observe(5, Some(7), second(base, 4));
        assert!(history.is_behind() && history.needs_probe(second(base, 9)));
    }

    #[test]
    fn record_of_a_fast_clock_counts_as_of_its_read() {
        let base = Instant::now();
        let instant = |at: Instant| time((at - base).as_secs() as i64);
        let mut history = PartitionHistory::default();
        history.observe(5, Some(9), base);
        history.next_record =
            Some(NextRecord { next: 5, end: 9, at: Some(time(3600)), read: second(base, 2) });
        assert_eq!(history.as_of(instant), Some(time(2)));
        history.observe(6, Some(9), second(base, 4));
        assert_eq!(history.as_of(instant), Some(time(2)));
    }

    /// A recreated topic begins at offset 0 again.
    #[test]
    fn end_before_the_position_is_no_end() {
        let base = Instant::now();
        let instant = |at: Instant| time((at - base).as_secs() as i64);
        let mut history = PartitionHistory::default();
        history.observe(100, Some(100), base);
        history.observe(100, Some(5), second(base, 1));
        assert_eq!((history.is_behind(), history.lag()), (true, 1));
        assert_eq!(history.as_of(instant), Some(time(0)));
        history.observe(0, Some(5), second(base, 2));
        assert_eq!((history.lag(), history.as_of(instant)), (5, None));
    }

    #[test]
    fn missing_end_is_no_proof_of_the_end() {
        let base = Instant::now();
        let mut history = PartitionHistory::default();
        history.observe(5, None, base);
        assert!(history.is_behind() && !history.needs_probe(second(base, 9)));
        assert_eq!(history.lag(), 1);
    }

    #[test]
    fn owned_partitions_have_a_version() {
        let mut comparison = LogComparison::default();
        let committed = |partition| (("topic".to_owned(), partition), 3);
        comparison.set_owned(owned_partitions(&[committed(0), committed(1)]));
        assert_eq!((&comparison.owned["topic"], comparison.owned_version), (&vec![0, 1], 1));
        comparison.set_owned(owned_partitions(&[committed(0), (("topic".to_owned(), 1), 9)]));
        assert_eq!(comparison.owned_version, 1);
        comparison.set_owned(OwnedPartitions::new());
        assert_eq!((comparison.owned.len(), comparison.owned_version), (0, 2));
    }

    #[test]
    fn stopped_partition_without_a_position_is_reported() {
        let stopped = BTreeSet::from([("topic".to_owned(), 3)]);
        let behind = LogComparison::default().behind(&stopped, |_| time(0));
        assert_eq!((behind.len(), behind[0].is_stopped, behind[0].lag), (1, true, 0));
    }
}
