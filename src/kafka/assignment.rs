//! Which partitions this instance owns at the moment, and how far each is on its way to being read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

/// The partitions that the group has assigned to this instance. Each assignment of a partition is an
/// era of its own, and so is each time it begins anew: what was read in an earlier era must not move
/// the offset of a later one.
#[derive(Debug, Default)]
pub struct Assignment(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    owned: BTreeMap<String, BTreeMap<i32, Partition>>,
    last_era: u64,
    /// Whether something has changed since it was last asked what is due, and when a partition that is
    /// held comes due. It is asked for every record, and must not walk through all partitions each time.
    changed: bool,
    held_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Partition {
    era: Era,
    stage: Stage,
    /// Whether its records are kept: not while its tenant isn't enabled.
    kept: bool,
    /// The offset that is read next, once it is known where to begin.
    next: i64,
    /// Up to where its records are settled, once it is known where to begin.
    settled: Option<i64>,
    /// Where its log began when reading did: it can only begin later since, as long as it is the same log.
    log_start: i64,
    /// A record that was read some time ago, and the one that was read last. An unnoticed change of the log
    /// shows at the older one only: the other one is of the new log already.
    older: Option<Landmark>,
    newest: Option<Landmark>,
}

/// One uninterrupted reading of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Era(u64);

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Where to begin is to be asked.
    Waiting { remade: Remade },
    /// Where to begin is being asked.
    Asking,
    /// It is read; the first record must be the known one, if one is known.
    Reading { before: Option<Landmark> },
    /// It is not read before this instant; `None`: before an operator says so.
    Held { until: Option<Instant> },
}

/// Whether a log is known to be another one than was read before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remade {
    /// Not as far as is known.
    #[default]
    No,
    /// This partition shows it.
    Here,
    /// Another partition of the topic has shown it: a topic is made anew with all its partitions.
    Elsewhere,
}

/// A record that was read before, by which a log is known to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landmark {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub at: DateTime<Utc>,
}

/// A partition whose beginning is to be asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The era that it begins.
    pub era: Era,
    /// Whether its topic was made anew.
    pub remade: Remade,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The offset of the first record to be taken.
    pub from: i64,
    /// Where the log begins.
    pub log_start: i64,
    /// Whether records are kept.
    pub kept: bool,
    /// The record that comes first and must be the known one, if one is known.
    pub before: Option<Landmark>,
}

/// A partition that is read, as the watchdog sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The era in which it is read.
    pub era: Era,
    /// The offset that is read next.
    pub next: i64,
    /// Where its log began when reading did.
    pub log_start: i64,
    /// A record that was read some time ago.
    pub older: Option<Landmark>,
    /// The record that was read last.
    pub newest: Option<Landmark>,
}

/// What to do with a record that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// To be settled.
    Take(Taken),
    /// Not to be read here and now, or read before.
    Leave,
    /// It is not the record that stood there: the topic was made anew.
    Remade,
}

/// A record that is to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The era in which it was read.
    pub era: Era,
    /// Whether it is to be kept, or its tenant wasn't enabled.
    pub kept: bool,
    /// The offset up to which the partition was read before.
    pub position: i64,
}

impl Assignment {
    /// Partitions were assigned.
    pub fn add(&self, partitions: impl IntoIterator<Item = (String, i32)>) {
        let mut state = self.lock_to_change();
        for (topic, number) in partitions {
            let era = state.next_era();
            let of_topic = state.owned.entry(topic).or_default();
            of_topic.insert(number, Partition::assigned(era));
        }
    }

    /// Partitions were revoked.
    pub fn remove(&self, partitions: impl IntoIterator<Item = (String, i32)>) {
        let mut state = self.lock();
        for (topic, number) in partitions {
            if let Some(of_topic) = state.owned.get_mut(&topic) {
                of_topic.remove(&number);
                if of_topic.is_empty() {
                    state.owned.remove(&topic);
                }
            }
        }
    }

    /// All partitions were given up.
    pub fn clear(&self) {
        self.lock().owned.clear();
    }

    /// The era in which the partition is owned now.
    pub fn era(&self, topic: &str, partition: i32) -> Option<Era> {
        self.lock().get(topic, partition).map(|partition| partition.era)
    }

    /// How many partitions are at which stage.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for partition in self.lock().owned.values().flat_map(BTreeMap::values) {
            *match partition.stage {
                Stage::Waiting { .. } | Stage::Asking => &mut counts.beginning,
                Stage::Reading { .. } => &mut counts.reading,
                Stage::Held { until: Some(_) } => &mut counts.held,
                Stage::Held { until: None } => &mut counts.stopped,
            } += 1;
        }
        counts
    }

    /// The partitions that are read.
    pub fn reading(&self) -> Vec<(String, i32)> {
        let mut list = Vec::new();
        for (topic, partitions) in &self.lock().owned {
            for (number, partition) in partitions {
                if matches!(partition.stage, Stage::Reading { .. }) {
                    list.push((topic.clone(), *number));
                }
            }
        }
        list
    }

    /// The partitions whose beginning is to be asked now; they count as being asked from here on.
    pub fn due(&self, now: Instant) -> Vec<Due> {
        let mut state = self.lock();
        let mut due = Vec::new();
        if !state.changed && state.held_until.is_none_or(|until| now < until) {
            return due;
        }
        let mut held_until: Option<Instant> = None;
        for (topic, partitions) in &mut state.owned {
            for (number, partition) in partitions {
                let remade = match partition.stage {
                    Stage::Waiting { remade } => remade,
                    Stage::Held { until: Some(until) } if until <= now => Remade::No,
                    Stage::Held { until: Some(until) } => {
                        held_until = Some(held_until.map_or(until, |known| known.min(until)));
                        continue;
                    }
                    _ => continue,
                };
                partition.stage = Stage::Asking;
                let (topic, era) = (topic.clone(), partition.era);
                due.push(Due { topic, partition: *number, era, remade });
            }
        }
        (state.changed, state.held_until) = (false, held_until);
        due
    }

    /// The beginning is known and sought: from now on records are taken.
    pub fn begin(&self, due: &Due, beginning: Beginning) {
        let Beginning { from, log_start, kept, before } = beginning;
        self.change(due, |partition| {
            // What was read in an earlier era tells of the log as long as reading goes on in it.
            let older = partition.older.or(before).filter(|_| before.is_some());
            let stage = Stage::Reading { before };
            *partition = Partition {
                stage,
                kept,
                next: from,
                settled: Some(from),
                log_start,
                older,
                newest: before,
                ..*partition
            };
        });
    }

    /// The beginning could not be sought: it is asked again.
    pub fn wait(&self, due: &Due) {
        self.change(due, |partition| partition.stage = Stage::Waiting { remade: due.remade });
    }

    /// The partition is not read, for so long, or until an operator says so.
    pub fn hold(&self, due: &Due, time: Option<Duration>) {
        let until = time.map(|time| Instant::now() + time);
        self.change(due, |partition| partition.stage = Stage::Held { until });
    }

    /// As [`Assignment::hold`], for a partition that was being read.
    pub fn stop_reading(&self, topic: &str, partition: i32, time: Option<Duration>) {
        let mut state = self.lock_to_change();
        let era = state.next_era();
        if let Some(partition) = state.get_mut(topic, partition) {
            let stage = Stage::Held { until: time.map(|time| Instant::now() + time) };
            *partition = Partition { era, stage, ..*partition };
        }
    }

    /// The records of this partition are passed by: their tenant isn't enabled. Where it was when
    /// reading began, that is asked once more: it may be enabled again already.
    pub fn pass_by(&self, topic: &str, partition: i32) {
        let mut state = self.lock_to_change();
        let era = state.next_era();
        if let Some(partition) = state.get_mut(topic, partition).filter(|found| found.kept) {
            let stage = Stage::Waiting { remade: Remade::No };
            *partition = Partition { era, stage, kept: false, ..*partition };
        }
    }

    /// Begins anew with what is chosen: where to read is asked again.
    pub fn begin_anew(&self, chosen: impl Fn(Choice<'_>) -> bool) {
        let mut state = self.lock_to_change();
        let mut last_era = state.last_era;
        for (topic, partitions) in &mut state.owned {
            for (number, partition) in partitions.iter_mut() {
                let held = matches!(partition.stage, Stage::Held { until: None });
                if chosen(Choice { topic, partition: *number, held }) {
                    last_era += 1;
                    partition.era = Era(last_era);
                    partition.stage = Stage::Waiting { remade: Remade::No };
                }
            }
        }
        state.last_era = last_era;
    }

    /// A topic was made anew: all its partitions begin anew, but those that an operator has to resume.
    /// `found` is the one that shows it.
    pub fn remake(&self, topic: &str, found: i32) {
        self.lock_to_change().remake(topic, Some(found), |_| true);
    }

    /// As [`Assignment::remake`], for the other partitions: of these somebody knows already.
    pub fn remake_others(&self, topic: &str, known: &[i32]) {
        self.lock_to_change().remake(topic, None, |partition| !known.contains(&partition));
    }

    /// The partitions that are read, and how far.
    pub fn watched(&self) -> Vec<Watched> {
        let mut list = Vec::new();
        for (topic, partitions) in &self.lock().owned {
            let reading = |partition: &Partition| matches!(partition.stage, Stage::Reading { .. });
            for (number, partition) in partitions.iter().filter(|(_, found)| reading(found)) {
                let Partition { era, next, log_start, older, newest, .. } = *partition;
                let (topic, partition) = (topic.clone(), *number);
                list.push(Watched { topic, partition, era, next, log_start, older, newest });
            }
        }
        list
    }

    /// The records of an era are settled up to an offset.
    pub fn settle(&self, topic: &str, partition: i32, era: Era, next: i64) {
        let mut state = self.lock();
        if let Some(found) = state.get_mut(topic, partition).filter(|found| found.era == era) {
            found.settled = Some(next);
        }
    }

    /// Up to where partitions are settled, as far as it is known where they begin.
    pub fn settled(&self) -> Vec<((String, i32), i64)> {
        let mut list = Vec::new();
        for (topic, partitions) in &self.lock().owned {
            for (number, partition) in partitions {
                list.extend(partition.settled.map(|next| ((topic.clone(), *number), next)));
            }
        }
        list
    }

    /// The older record was found again: what was the newest one when it was looked for is looked for the
    /// next time.
    pub fn confirm(&self, Watched { topic, partition, era, newest, .. }: &Watched) {
        let mut state = self.lock();
        let found = state.get_mut(topic, *partition).filter(|found| found.era == *era);
        if let Some(found) = found {
            found.older = *newest;
        }
    }

    /// Looks at a record that has come.
    pub fn arrive(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        at: Option<DateTime<Utc>>,
    ) -> Arrival {
        let mut state = self.lock();
        let Some(found) = state.get_mut(topic, partition) else { return Arrival::Leave };
        let Stage::Reading { before } = found.stage else { return Arrival::Leave };
        if let Some(landmark) = before {
            if offset < landmark.offset {
                return Arrival::Leave;
            }
            if offset == landmark.offset && at != Some(landmark.at) {
                state.remake(topic, Some(partition), |_| true);
                state.changed = true;
                return Arrival::Remade;
            }
            // A log that was compacted may not have the known record any more; it is the same log.
            found.stage = Stage::Reading { before: None };
            if offset == landmark.offset {
                return Arrival::Leave;
            }
        }
        Arrival::Take(found.take(offset, at))
    }

    fn change(&self, due: &Due, change: impl FnOnce(&mut Partition)) {
        let mut state = self.lock_to_change();
        let partition = state.get_mut(&due.topic, due.partition);
        if let Some(partition) = partition.filter(|partition| partition.era == due.era) {
            change(partition);
        }
    }

    /// To change something: whatever it is, [`Assignment::due`] looks again.
    fn lock_to_change(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.changed = true;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Partitions of this instance, by how far they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Where to begin is being found out.
    pub beginning: usize,
    /// Being read.
    pub reading: usize,
    /// Left alone for a while, because their tenant's tables can't be written.
    pub held: usize,
    /// Stopped for too many bad records, until an operator resumes them.
    pub stopped: usize,
}

/// What [`Assignment::begin_anew`] chooses by.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Whether it waits for an operator.
    pub held: bool,
}

impl State {
    fn next_era(&mut self) -> Era {
        self.last_era += 1;
        Era(self.last_era)
    }

    fn remake(&mut self, topic: &str, found: Option<i32>, chosen: impl Fn(i32) -> bool) {
        let Some(partitions) = self.owned.get_mut(topic) else { return };
        for (number, partition) in partitions.iter_mut().filter(|(number, _)| chosen(**number)) {
            if !matches!(partition.stage, Stage::Held { until: None }) {
                self.last_era += 1;
                let remade = if found == Some(*number) { Remade::Here } else { Remade::Elsewhere };
                *partition = Partition {
                    stage: Stage::Waiting { remade },
                    kept: partition.kept,
                    ..Partition::assigned(Era(self.last_era))
                };
            }
        }
    }

    fn get(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.owned.get(topic)?.get(&partition)
    }

    fn get_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        self.owned.get_mut(topic)?.get_mut(&partition)
    }
}

impl Partition {
    fn assigned(era: Era) -> Self {
        let stage = Stage::Waiting { remade: Remade::No };
        Self {
            era,
            stage,
            kept: true,
            next: 0,
            settled: None,
            log_start: 0,
            older: None,
            newest: None,
        }
    }

    /// A record is read.
    fn take(&mut self, offset: i64, at: Option<DateTime<Utc>>) -> Taken {
        let taken = Taken { era: self.era, kept: self.kept, position: self.next };
        self.next = offset + 1;
        self.newest = at.map(|at| Landmark { offset, at }).or(self.newest);
        self.older = self.older.or(self.newest);
        taken
    }
}
