//! Whether partitions that are read come on, and whether their logs are the ones that they were. What is seen
//! is compared with what was seen before; nothing here asks anybody.

use std::collections::{BTreeMap, HashMap};

use super::assignment::{AssignmentEpoch, OffsetAndTimestamp, WatchedPartition};
use crate::services::takeover::Watermarks;

/// So many polls in a row brought nothing before a partition with records counts as standing still: as long as
/// others have records, it may have to wait for its turn.
pub const IDLE_POLLS_MIN: u64 = 20;

/// A topic's name and a partition.
pub type PartitionKey = (String, i32);

/// What was seen when it was looked last.
#[derive(Debug, Default)]
pub struct Progress {
    observations: HashMap<PartitionKey, Observation>,
    /// When an older record was looked for last, in looks.
    probed_rounds: HashMap<PartitionKey, u64>,
    /// Where partitions stood still, and how often in a row.
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

/// What a look at logs shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProgressReport {
    /// Partitions that show that their topics were made anew.
    pub recreated: Vec<WatchedPartition>,
    /// Partitions that were read no further although they seem to hold more.
    pub stalled: Vec<WatchedPartition>,
    /// Partitions whose older record is to be looked for.
    pub to_probe: Vec<WatchedPartition>,
    /// Partitions whose older record was taken by retention.
    pub expired: Vec<WatchedPartition>,
}

impl Progress {
    /// Compares with what was seen last. `idle` counts polls that brought nothing; of so many topics older
    /// records are looked for, in turns.
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
            // A leader that has just taken over may know of less for a moment, and may hold more than the one
            // before: another copy's retention has other bounds.
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

    /// A partition stands still: how often it was found so at this offset.
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

    /// Records were there all the time, and the client had nothing else to give.
    fn is_stalled(self, now: Self) -> bool {
        self.epoch == now.epoch
            && self.next == now.next
            && self.end > self.next
            && now.end > now.next
            && now.idle.saturating_sub(self.idle) >= IDLE_POLLS_MIN
    }
}

/// Whether the log is the one in which a record was read before, by the first one that stands there now or
/// later; `None` where that is unknown.
pub fn is_same_log(older: OffsetAndTimestamp, found: &[OffsetAndTimestamp]) -> Option<bool> {
    let first = found.first()?;
    match first.offset.cmp(&older.offset) {
        std::cmp::Ordering::Equal => Some(first.timestamp == older.timestamp),
        // It was compacted away, or retention has taken it meanwhile.
        std::cmp::Ordering::Greater => Some(true),
        // The log ends before it.
        std::cmp::Ordering::Less => Some(false),
    }
}
