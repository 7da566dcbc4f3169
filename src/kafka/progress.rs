//! Detects stalled partitions and recreated topics by comparing each observation with the previous
//! one. The module does no I/O.

use crate::kafka::offsets::Watermarks;
use std::collections::{BTreeMap, HashMap};

use super::assignment::{AssignmentEpoch, OffsetAndTimestamp, WatchedPartition};

/// Idle polls in a row before a partition with more records counts as stalled. While other partitions
/// have records, a partition may have to wait.
pub const IDLE_POLLS_MIN: u64 = 20;

/// The name of a topic and the number of a partition.
pub type PartitionKey = (String, i32);

/// The previous observations of the watched partitions.
#[derive(Debug, Default)]
pub struct Progress {
    observations: HashMap<PartitionKey, Observation>,
    /// The round of the last probe for the earlier record, per partition.
    probed_rounds: HashMap<PartitionKey, u64>,
    /// The offset of the last stall, and the number of stalls there in a row.
    stalls: HashMap<PartitionKey, (i64, u32)>,
    round: u64,
}

#[derive(Debug, Clone, Copy)]
struct Observation {
    epoch: AssignmentEpoch,
    next: i64,
    end: i64,
    idle: u64,
}

/// The findings of one round.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProgressReport {
    /// Partitions that show that their topic was recreated.
    pub recreated: Vec<WatchedPartition>,
    /// Partitions without progress although they seem to have more records.
    pub stalled: Vec<WatchedPartition>,
    /// Partitions with an earlier record that the watchdog should probe.
    pub to_probe: Vec<WatchedPartition>,
    /// Partitions with an earlier record that retention has deleted.
    pub expired: Vec<WatchedPartition>,
}

impl Progress {
    /// Compares the partitions with the previous round. `idle_polls` counts polls without a record.
    /// `topics` limits the topics that are probed per round, in rotation.
    pub fn observe(
        &mut self,
        watched: Vec<WatchedPartition>,
        watermarks: impl Fn(&WatchedPartition) -> Option<Watermarks>,
        idle_polls: u64,
        topics: usize,
    ) -> ProgressReport {
        self.round += 1;
        let mut report = ProgressReport::default();
        let mut previous = std::mem::take(&mut self.observations);
        let mut to_search: BTreeMap<String, (u64, WatchedPartition)> = BTreeMap::new();
        for watched in watched {
            let Some(log) = watermarks(&watched) else { continue };
            let key = (watched.topic.clone(), watched.partition);
            let now = Observation {
                epoch: watched.epoch,
                next: watched.next,
                end: log.high,
                idle: idle_polls,
            };
            let before = previous.remove(&key);
            self.observations.insert(key.clone(), now);
            // A new leader may briefly report a lower end offset. It may also start its log earlier
            // than the previous leader, because each replica applies retention on its own.
            let ends_early = now.is_beyond_end() && before.is_some_and(Observation::is_beyond_end);
            let has_earlier_start = log.low < watched.log_start && watched.older.is_none();
            if ends_early || has_earlier_start {
                report.recreated.push(watched);
                continue;
            }
            if before.is_some_and(|before| before.is_stalled(now)) {
                report.stalled.push(watched.clone());
            }
            let Some(older) = watched.older else { continue };
            if older.offset < log.low {
                report.expired.push(watched);
                continue;
            }
            let last_probe = self.probed_rounds.get(&key).copied().unwrap_or_default();
            let of_topic = to_search.entry(watched.topic.clone());
            let oldest = of_topic.or_insert_with(|| (last_probe, watched.clone()));
            if last_probe < oldest.0 {
                *oldest = (last_probe, watched);
            }
        }
        self.probed_rounds.retain(|key, _| self.observations.contains_key(key));
        self.stalls.retain(|key, _| self.observations.contains_key(key));
        let mut to_search: Vec<_> = to_search.into_values().collect();
        to_search.sort_by_key(|(last_probe, _)| *last_probe);
        for (_, watched) in to_search.into_iter().take(topics) {
            self.probed_rounds.insert((watched.topic.clone(), watched.partition), self.round);
            report.to_probe.push(watched);
        }
        report
    }

    /// Records a stall and returns the number of stalls at this offset in a row.
    pub fn record_stall(&mut self, watched: &WatchedPartition) -> u32 {
        let key = (watched.topic.clone(), watched.partition);
        let (next, times) = self.stalls.entry(key).or_insert((watched.next, 0));
        if *next != watched.next {
            (*next, *times) = (watched.next, 0);
        }
        *times += 1;
        *times
    }
}

impl Observation {
    fn is_beyond_end(self) -> bool {
        self.end < self.next
    }

    /// Returns whether records were available all the time while the client had nothing else to
    /// return.
    fn is_stalled(self, now: Self) -> bool {
        self.epoch == now.epoch
            && self.next == now.next
            && self.end > self.next
            && now.end > now.next
            && now.idle.saturating_sub(self.idle) >= IDLE_POLLS_MIN
    }
}

/// Returns whether the log still contains an earlier record, judged by the first record at its offset
/// or later; `None` if no record was found.
pub fn is_same_log(older: OffsetAndTimestamp, found: &[OffsetAndTimestamp]) -> Option<bool> {
    let first = found.first()?;
    match first.offset.cmp(&older.offset) {
        std::cmp::Ordering::Equal => Some(first.timestamp == older.timestamp),
        // Compaction or retention has deleted the record meanwhile.
        std::cmp::Ordering::Greater => Some(true),
        // The log ends before the record.
        std::cmp::Ordering::Less => Some(false),
    }
}
