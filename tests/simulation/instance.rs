//! An instance of the service: real lanes, writers, ingest and assignment, and a stand-in for the
//! polling thread, which takes its steps in whatever order the seed says.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, mpsc as std_mpsc},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use patron_blocks::{
    clock::Clock,
    flow::{
        ingest::{Incoming, Ingest},
        outcome::{At, End, Hold},
        stop_rule::StopRule,
        takeover::{self, Committed, Known, Mark},
    },
    kafka::{
        assignment::{Arrival, Assignment, Beginning, Due, Landmark, Remade, Taken},
        lane::{Carried, Settled, Writer, lane_of},
    },
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    log::{CLUSTER, Log},
    model::Model,
};
use crate::history::noon;

const LANES: usize = 2;

type Task = Pin<Box<dyn Future<Output = ()>>>;

pub(super) struct Instance {
    number: usize,
    model: Model,
    pub(super) assignment: Arc<Assignment>,
    ingest: Arc<Ingest<Model>>,
    lanes: Vec<mpsc::Sender<Carried>>,
    writers: Vec<Option<Task>>,
    settled: std_mpsc::Receiver<Settled>,
    /// Asked where to begin; the group's offset was read then.
    asked: Vec<(Due, Option<Committed>)>,
    /// The next offset that is fetched, and whether its partition is owned as far as it knows.
    fetch: BTreeMap<At, i64>,
    /// Offsets that may be committed.
    stored: BTreeMap<At, Committed>,
    room: Arc<Semaphore>,
}

impl Instance {
    pub(super) fn start(number: usize, model: &Model, batch_most: usize, rule: StopRule) -> Self {
        let assignment = Arc::new(Assignment::default());
        let ingest = Arc::new(Ingest::new(
            model.clone(),
            Clock::standing_at(noon()),
            Duration::from_secs(60),
            rule,
        ));
        let (settle, settled) = std_mpsc::channel();
        let (mut lanes, mut writers) = (Vec::new(), Vec::new());
        for _ in 0..LANES {
            let (sender, lane) = mpsc::channel(batch_most);
            let writer =
                Writer::new(lane, ingest.clone(), assignment.clone(), settle.clone(), batch_most);
            // The scheduler is ours, and so is when it is enough.
            let task = tokio::task::unconstrained(writer.write(CancellationToken::new()));
            lanes.push(sender);
            writers.push(Some(Box::pin(task) as Task));
        }
        Self {
            number,
            model: model.clone(),
            assignment,
            ingest,
            lanes,
            writers,
            settled,
            asked: Vec::new(),
            fetch: BTreeMap::new(),
            stored: BTreeMap::new(),
            room: Arc::new(Semaphore::new(1_000_000)),
        }
    }

    /// The group says what is ours from now on.
    pub(super) fn rebalance(&mut self, log: &mut Log) {
        let ours: Vec<At> = log
            .owners
            .iter()
            .filter(|(_, owner)| **owner == self.number)
            .map(|(at, _)| at.clone())
            .collect();
        let lost: Vec<At> = self.fetch.keys().filter(|at| !ours.contains(at)).cloned().collect();
        self.assignment.remove(lost.iter().map(|(topic, n)| (topic.to_string(), *n)));
        for at in lost {
            self.fetch.remove(&at);
            self.stored.remove(&at);
        }
        let new: Vec<At> = ours.into_iter().filter(|at| !self.fetch.contains_key(at)).collect();
        self.assignment.add(new.iter().map(|(topic, n)| (topic.to_string(), *n)));
        self.fetch.extend(new.into_iter().map(|at| (at, 0)));
    }

    /// Asks where partitions begin that are due; the answer comes in a later step.
    pub(super) fn ask(&mut self, log: &Log, far_future: bool) {
        let now =
            Instant::now() + if far_future { Duration::from_secs(3600) } else { Duration::ZERO };
        for due in self.assignment.due(now) {
            let at = (Arc::from(&*due.topic), due.partition);
            let committed = log.committed.get(&at).copied();
            self.asked.push((due, committed));
        }
    }

    /// Learns where partitions begin.
    pub(super) fn begin(&mut self, log: &Log) -> Result<(), String> {
        for (due, committed) in std::mem::take(&mut self.asked) {
            let at: At = (Arc::from(&*due.topic), due.partition);
            if self.assignment.era(&due.topic, due.partition) != Some(due.era) {
                continue;
            }
            let state = self.model.state();
            let tenant = &log.topics[&at.0].tenant;
            let place = (due.topic.clone(), due.partition);
            if state.stopped.contains(&place) {
                self.assignment.hold(&due, None);
                continue;
            }
            if tenant.as_ref().is_some_and(|id| state.unusable.contains(id)) {
                self.assignment.hold(&due, Some(Duration::from_secs(5)));
                continue;
            }
            let kept = tenant.as_ref().is_none_or(|id| state.enabled.contains(id));
            let rows = state.rows.get(tenant);
            let position = rows.and_then(|rows| rows.positions.get(&place)).filter(|_| kept);
            let span = log.span(&at);
            let known = Known {
                position,
                kept,
                committed,
                log: span,
                cluster: CLUSTER,
                remade: due.remade != Remade::No,
            };
            let (from, misfit) = takeover::start_at(&known);
            if let Some(misfit) = misfit {
                return Err(format!("{misfit:?} where nothing is amiss: {known:?}"));
            }
            let before = position
                .filter(|position| position.next_offset == from && from > span.start)
                .and_then(|position| position.last_record_at);
            let before = before.map(|at| Landmark { offset: from - 1, at });
            self.fetch.insert(at.clone(), before.map_or(from, |landmark| landmark.offset));
            self.ingest.look_afresh(&at.0, at.1);
            let mark = if kept { Mark::Kept } else { Mark::PassedBy };
            self.stored.insert(at, Committed { offset: from, mark });
            let log_start = span.start;
            self.assignment.begin(&due, Beginning { from, log_start, kept, before });
        }
        Ok(())
    }

    /// Reads one record of a partition, if there is one and its lane has room.
    pub(super) fn read(&mut self, log: &Log, at: &At) {
        let Some(next) = self.fetch.get_mut(at) else { return };
        let Some(record) = log.partitions[at].get(*next as usize) else { return };
        let lane = &self.lanes[lane_of(&at.0, at.1, LANES)];
        let Ok(place) = lane.try_reserve() else { return };
        let arrival = self.assignment.arrive(&at.0, at.1, *next, record.timestamp);
        if let Arrival::Take(Taken { era, kept, position }) = arrival {
            *next += 1;
            let room = self.room.clone().try_acquire_owned().expect("there is room");
            let incoming = Incoming {
                record: record.clone(),
                topic: log.topics[&at.0].clone(),
                cluster: Arc::from(CLUSTER),
                kept,
                position,
            };
            place.send(Carried { incoming, era, room });
        } else if self.assignment.reading().contains(&(at.0.to_string(), at.1)) {
            // The known one, before the beginning.
            *next += 1;
        }
    }

    /// Lets a writer go on until its next await.
    pub(super) fn write(&mut self, lane: usize) {
        let mut context = Context::from_waker(Waker::noop());
        if let Some(task) = &mut self.writers[lane % LANES]
            && task.as_mut().poll(&mut context).is_ready()
        {
            panic!("a writer has ended");
        }
    }

    /// Takes note of what is settled.
    pub(super) fn settle(&mut self) {
        let Ok(settled) = self.settled.try_recv() else { return };
        for (at, era, End { next, kept, hold }) in settled {
            if self.assignment.era(&at.0, at.1) != Some(era) {
                continue;
            }
            let mark = if kept { Mark::Kept } else { Mark::PassedBy };
            self.stored.insert(at.clone(), Committed { offset: next, mark });
            if !kept {
                self.assignment.pass_by(&at.0, at.1);
            }
            match hold {
                Some(Hold::Stopped) => self.assignment.stop_reading(&at.0, at.1, None),
                Some(Hold::Unusable) => {
                    self.assignment.stop_reading(&at.0, at.1, Some(Duration::from_secs(5)));
                }
                Some(Hold::Migrating) => {
                    self.assignment.stop_reading(&at.0, at.1, Some(Duration::from_secs(1)));
                }
                Some(Hold::Anew) => {
                    self.assignment.stop_reading(&at.0, at.1, Some(Duration::ZERO));
                }
                None => {}
            }
        }
    }

    /// Commits what is stored, as far as the group takes it.
    pub(super) fn commit(&mut self, log: &mut Log) {
        for (at, committed) in &self.stored {
            log.commit(self.number, at, *committed);
        }
    }

    /// Whether everything that is ours is settled.
    pub(super) fn is_done(&self, log: &Log) -> bool {
        let settled = |at: &At| {
            let end = log.span(at).end;
            let stored = self.stored.get(at).or(log.committed.get(at));
            end == 0 || stored.is_some_and(|c| c.offset == end && c.mark == Mark::Kept)
        };
        self.fetch.keys().all(settled) && self.assignment.counts().reading == self.fetch.len()
    }
}
