//! One history: a chaotic phase, then a calm phase until all records are processed, then the comparison.

use std::{collections::BTreeMap, time::Duration};

use patron_blocks::{
    config::BadRecordLimit,
    event::{DecodeOutcome, Event, Fact, Kind, TenantId, TopicPartition, decode},
    kafka::offsets::{CommitTag, CommittedOffset},
    patron::StateDelta,
};
use rand::{Rng, SeedableRng, seq::IteratorRandom};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::{
    instance::Instance,
    log::{CLUSTER, Log, NORTH, SOUTH},
    model::{Counters, InjectedFault, Model, Rows},
};
use crate::core::merging::fold_events;

const LOG_RECORDS_MAX: usize = 40;
const CHAOS_STEPS: usize = 400;
const SETTLE_ROUNDS_MAX: usize = 20_000;

struct Simulation {
    rng: ChaCha8Rng,
    log: Log,
    model: Model,
    instances: Vec<Instance>,
    batch_max: usize,
    rule: BadRecordLimit,
    /// The decoded form of each record, for the durability checks.
    readings: BTreeMap<TopicPartition, Vec<(DecodeOutcome, Uuid)>>,
    /// The greatest offset of each partition that was verified as durable.
    verified: BTreeMap<TopicPartition, i64>,
}

/// Runs the history of a seed.
pub(super) fn run(seed: u64, broken: InjectedFault) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(tokio::task::unconstrained(async {
        let mut simulation = Simulation::new(seed, broken);
        simulation.chaos().await?;
        simulation.settle_all().await?;
        simulation.compare()
    }))
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("the id is a valid tenant id")
}

impl Simulation {
    fn new(seed: u64, broken: InjectedFault) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        // Every other history includes storage events.
        let kinds = if seed.is_multiple_of(2) { &Kind::BUSINESS[..] } else { &Kind::ALL[..] };
        let log = Log::random(&mut chance, kinds, LOG_RECORDS_MAX);
        let enabled = [NORTH, SOUTH].into_iter().map(tenant).collect();
        let model = Model::new(seed, enabled, broken);
        let batch_max = [1, 2, 3, 7, 50][chance.random_range(0..5)];
        // Some histories have a limit so strict that partitions stop.
        let in_a_row = [2, 1000][chance.random_range(0..2)];
        let rule = BadRecordLimit { consecutive: in_a_row, per_window: 1000 };
        let read = |record| {
            let topic = &log.topics[&record_topic(record)];
            let reading = decode::decode_record(record, topic, CLUSTER);
            (reading, decode::position_key(record, CLUSTER))
        };
        let readings: BTreeMap<TopicPartition, Vec<(DecodeOutcome, Uuid)>> = log
            .partitions
            .iter()
            .map(|(at, records)| (at.clone(), records.iter().map(read).collect()))
            .collect();
        let (instances, verified) = (Vec::new(), BTreeMap::new());
        let mut simulation =
            Self { rng: chance, log, model, instances, batch_max, rule, readings, verified };
        for number in 0..2 {
            let instance = simulation.start(number);
            simulation.instances.push(instance);
        }
        simulation.refuse_some();
        simulation
    }

    fn start(&self, number: usize) -> Instance {
        Instance::start(number, &self.model, self.batch_max, self.rule)
    }

    /// Selects some events that the database always refuses.
    fn refuse_some(&mut self) {
        // The deletion of all loans is excluded: it runs in steps before its claim, and has no content
        // to refuse.
        let is_of_one = |event: &&Event| !matches!(event.fact, Fact::AllLoansDeleted);
        let events = self.readings.values().flatten().filter_map(|(reading, _)| event(reading));
        let events = events.filter(is_of_one);
        let keys: Vec<Uuid> = events.map(|event| event.key).collect();
        for key in keys {
            if self.rng.random_bool(0.03) {
                self.model.state().refused.insert(key);
            }
        }
    }

    async fn chaos(&mut self) -> Result<(), String> {
        self.redistribute(false);
        for _ in 0..CHAOS_STEPS {
            let number = self.rng.random_range(0..2);
            match self.rng.random_range(0..1000) {
                0..10 => self.crash(number),
                10..20 => self.redistribute(true),
                20..40 => {
                    let failing = [0, 0, 10, 30][self.rng.random_range(0..4)];
                    self.model.state().failing = failing;
                }
                40..60 => self.toggle_south(),
                60..70 => self.resume_all(),
                70..80 => self.slow_down(),
                80..130 => tokio::time::advance(Duration::from_millis(700)).await,
                _ => self.step(number)?,
            }
            self.check_durable()?;
        }
        Ok(())
    }

    async fn settle_all(&mut self) -> Result<(), String> {
        {
            let mut state = self.model.state();
            state.failing = 0;
            state.unusable.clear();
            state.timely_events.clear();
            state.enabled.insert(tenant(SOUTH));
        }
        for number in 0..2 {
            self.instances[number].rebalance(&mut self.log);
        }
        self.restart_south();
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.resume_all();
            tokio::time::advance(Duration::from_secs(3)).await;
            for number in 0..2 {
                self.run_all_steps(number)?;
            }
            self.check_durable()?;
            if self.instances.iter().all(|instance| instance.is_done(&self.log)) {
                return Ok(());
            }
        }
        Err("the history is stuck: some records are not settled".to_owned())
    }

    /// Runs every kind of step of an instance.
    fn run_all_steps(&mut self, number: usize) -> Result<(), String> {
        let instance = &mut self.instances[number];
        instance.request_starts(&self.log, true);
        instance.apply_starts(&self.log)?;
        for at in self.log.partitions.keys() {
            instance.read_record(&self.log, at);
        }
        for turn in 0..20 {
            instance.poll_writer(turn);
        }
        instance.apply_reports();
        instance.commit(&mut self.log);
        Ok(())
    }

    /// Runs one step of an instance's poller or of one of its writers.
    fn step(&mut self, number: usize) -> Result<(), String> {
        let at = self.log.partitions.keys().choose(&mut self.rng).expect("a partition").clone();
        let percent = self.rng.random_range(0..100);
        let instance = &mut self.instances[number];
        match percent {
            0..35 => instance.read_record(&self.log, &at),
            35..75 => instance.poll_writer(percent),
            75..85 => instance.apply_reports(),
            85..90 => instance.commit(&mut self.log),
            90..94 => instance.request_starts(&self.log, percent == 90),
            94..98 => instance.apply_starts(&self.log)?,
            // An isolated instance learns the group's decision only now.
            _ => instance.rebalance(&mut self.log),
        }
        Ok(())
    }

    /// Replaces an instance, at any await of its writers.
    fn crash(&mut self, number: usize) {
        self.instances[number] = self.start(number);
        self.instances[number].rebalance(&mut self.log);
    }

    /// Redistributes the partitions. One instance may miss the change; the other instances start at
    /// once.
    fn redistribute(&mut self, one_misses_it: bool) {
        let skipped_instance = one_misses_it.then(|| self.rng.random_range(0..2));
        let partitions: Vec<TopicPartition> = self.log.partitions.keys().cloned().collect();
        for at in partitions {
            let owner = self.rng.random_range(0..2);
            self.log.owners.insert(at, owner);
        }
        for number in (0..2).filter(|number| Some(*number) != skipped_instance) {
            self.instances[number].commit(&mut self.log);
            self.instances[number].rebalance(&mut self.log);
        }
    }

    /// Enables or disables `SOUTH`, or breaks or repairs its tables.
    fn toggle_south(&mut self) {
        let south = tenant(SOUTH);
        let mut state = self.model.state();
        if self.rng.random::<bool>() {
            if !state.enabled.remove(&south) {
                state.enabled.insert(south);
                drop(state);
                self.restart_south();
            }
        } else if !state.unusable.remove(&south) {
            state.unusable.insert(south);
        }
    }

    /// Makes a tenant's tables slow, or fast again. One transaction of a slow tenant fits only a few
    /// events, or none.
    fn slow_down(&mut self) {
        let most = self.rng.random_range(0..4);
        // Shared topics contain events of `NORTH`. They become dead letters if no event fits, so `NORTH`
        // always fits at least one.
        let (of, most) = if self.rng.random() { (NORTH, most.max(1)) } else { (SOUTH, most) };
        let mut state = self.model.state();
        if state.timely_events.remove(&tenant(of)).is_none() {
            state.timely_events.insert(tenant(of), most);
        }
    }

    fn restart_south(&self) {
        let of_south = |topic: &str| topic.starts_with(&format!("sim.{SOUTH}."));
        for instance in &self.instances {
            instance.assignment.restart(|choice| of_south(choice.topic));
        }
    }

    /// Resumes all stopped partitions, as an operator does.
    fn resume_all(&mut self) {
        self.model.state().stopped.clear();
        for instance in &self.instances {
            instance.assignment.restart(|choice| choice.stopped);
        }
    }

    /// Checks that all group offsets and positions are at most at the end of the durable records.
    fn check_durable(&mut self) -> Result<(), String> {
        let state = self.model.state();
        let is_durable = |(_, committed): &(&TopicPartition, &CommittedOffset)| {
            committed.tag == CommitTag::Durable
        };
        let committed = self.log.committed.iter().filter(is_durable);
        let mut reached: Vec<(TopicPartition, i64)> =
            committed.map(|(at, committed)| (at.clone(), committed.offset)).collect();
        for (tenant, rows) in &state.rows {
            for ((topic, partition), position) in &rows.positions {
                let at = (topic.as_str().into(), *partition);
                // In a shared topic, a tenant's own position is the offset after that tenant's last
                // record.
                if tenant.is_none() || self.log.topics[&at.0].tenant.is_some() {
                    reached.push((at, position.next_offset));
                }
            }
        }
        // A durable record stays durable.
        reached.retain(|(at, offset)| self.verified.get(at).is_none_or(|known| known < offset));
        for (at, offset) in &reached {
            self.is_durable(&state.rows, at, *offset)?;
        }
        drop(state);
        self.verified.extend(reached);
        Ok(())
    }

    fn is_durable(
        &self,
        rows: &BTreeMap<Option<TenantId>, Rows>,
        at: &TopicPartition,
        before: i64,
    ) -> Result<(), String> {
        let is_stored = |tenant: &Option<TenantId>, key: &Uuid, letter: &Uuid| {
            let is_in =
                |rows: &Rows| rows.inbox.contains(key) || rows.dead_letters.contains(letter);
            rows.get(tenant).is_some_and(is_in) || rows.get(&None).is_some_and(is_in)
        };
        for (offset, (reading, letter)) in
            self.readings[at].iter().take(before as usize).enumerate()
        {
            let durable = match reading {
                DecodeOutcome::Event(tenant, event) => {
                    is_stored(&Some(tenant.clone()), &event.key, letter)
                }
                DecodeOutcome::Rejected(tenant, _) => is_stored(tenant, letter, letter),
                DecodeOutcome::Tombstone | DecodeOutcome::Skipped(_) => true,
            };
            // Records of disabled tenants are skipped, also in a shared topic.
            let foreign = matches!(reading, DecodeOutcome::Event(t, _) | DecodeOutcome::Rejected(Some(t), _)
                if t.as_str() != NORTH && t.as_str() != SOUTH);
            if !durable && !foreign {
                return Err(format!(
                    "{at:?}: offset {before} is beyond record {offset}, which is lost: {reading:?}; \
                     the group offset is {:?}, positions are {:?}",
                    self.log.committed.get(at),
                    rows.values()
                        .map(|rows| rows.positions.get(&(at.0.to_string(), at.1)))
                        .collect::<Vec<_>>(),
                ));
            }
        }
        Ok(())
    }

    /// Checks that the state equals the pure core's result for all events, and that counters equal a
    /// recount.
    fn compare(&self) -> Result<(), String> {
        let state = self.model.state();
        for name in [NORTH, SOUTH] {
            let of = tenant(name);
            let events: Vec<Event> = self
                .readings
                .values()
                .flatten()
                .filter_map(|(reading, _)| match reading {
                    DecodeOutcome::Event(tenant, event) if *tenant == of => Some((**event).clone()),
                    _ => None,
                })
                .filter(|event| !state.refused.contains(&event.key))
                .collect();
            let (loans, fees) = fold_events(&events);
            let StateDelta { groups, loans_deleted_before: no_loans_before, .. } =
                StateDelta::from_events(&events);
            let empty = Rows::default();
            let rows = state.rows.get(&Some(of)).unwrap_or(&empty);
            let parked = rows.dead_letters.len();
            // An operator retries the dead letters of an unwritable tenant.
            if rows.loans != loans {
                return Err(format!(
                    "{name} ({parked} parked): {:#?} is not {loans:#?}",
                    rows.loans
                ));
            }
            if rows.fees != fees {
                return Err(format!("{name}: {:#?} is not {fees:#?}", rows.fees));
            }
            if rows.groups != groups {
                return Err(format!("{name}: {:#?} is not {groups:#?}", rows.groups));
            }
            if rows.no_loans_before != no_loans_before {
                let (stored, expected) = (rows.no_loans_before, no_loans_before);
                return Err(format!("{name}: no loans before {stored:?} is not {expected:?}"));
            }
            let recount = recount(rows);
            let stored: BTreeMap<_, _> = rows
                .counters
                .iter()
                .filter(|(_, counters)| **counters != Counters::default())
                .map(|(user, counters)| (*user, *counters))
                .collect();
            if stored != recount {
                return Err(format!("{name}: counters {stored:?} are not {recount:?}"));
            }
        }
        Ok(())
    }
}

fn recount(rows: &Rows) -> BTreeMap<Uuid, Counters> {
    let mut recount: BTreeMap<Uuid, Counters> = BTreeMap::new();
    let of_loan = |loan| Counters::of_loan(loan, rows.no_loans_before);
    let loans = rows.loans.values().filter_map(of_loan);
    for (user, counted) in loans.chain(rows.fees.values().filter_map(Counters::of_fee)) {
        recount.entry(user).or_default().add(&counted, 1);
    }
    recount
}

fn event(reading: &DecodeOutcome) -> Option<&Event> {
    match reading {
        DecodeOutcome::Event(_, event) => Some(event),
        DecodeOutcome::Rejected(..) | DecodeOutcome::Tombstone | DecodeOutcome::Skipped(_) => None,
    }
}

fn record_topic(record: &patron_blocks::event::Record) -> std::sync::Arc<str> {
    record.position.topic.clone()
}
