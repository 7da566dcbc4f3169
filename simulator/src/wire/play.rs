//! A play: the library's events, written down and sent through the weather, while its truth is
//! kept beside.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chrono::{DateTime, TimeDelta, Utc};

use super::faults::{FaultQueue, Faults};
use super::outbox::Outbox;
use super::storage_events::Entity;
use super::{Record, RecordWriter, Wire, rng_for};
use crate::model::{Event, Library, Settings, Truth};

/// The truth about a library that is being played, as of what has happened so far.
#[derive(Debug, Clone)]
pub struct SharedTruth(Arc<RwLock<Truth>>);

impl SharedTruth {
    /// Shares this truth.
    pub fn new(truth: Truth) -> Self {
        Self(Arc::new(RwLock::new(truth)))
    }

    /// To look something up.
    pub fn read(&self) -> RwLockReadGuard<'_, Truth> {
        // Applying an event can't panic half-way, so the truth is whole even then.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change it.
    pub fn write(&self) -> RwLockWriteGuard<'_, Truth> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy as of now.
    pub fn snapshot(&self) -> Truth {
        self.read().clone()
    }
}

/// A record that leaves its producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The library's clock when the record is published; with a delay it is long after the event.
    pub clock: DateTime<Utc>,
    /// The record.
    pub record: Record,
}

/// A library at work. Iterating gives the records in the order of their publication.
#[derive(Debug)]
pub struct Play {
    library: Library,
    writer: RecordWriter,
    faults: FaultQueue,
    truth: SharedTruth,
    clock: DateTime<Utc>,
    closed: bool,
    /// Whether storage tells, too.
    storage: bool,
    /// Through which all that circulation tells goes, if it does.
    outbox: Option<Outbox>,
}

/// So long before the first day the library's users were told of.
const REGISTRATION_LEAD: TimeDelta = TimeDelta::days(90);

impl Play {
    /// Sets everything up; nothing has happened yet.
    pub fn new(settings: &Settings, wire: &Wire, faults: Faults) -> Self {
        let settings = Settings { edits: wire.storage, ..settings.clone() };
        let library = Library::new(&settings);
        let truth = SharedTruth::new(Truth::for_library(&library));
        let seed = settings.seed ^ settings.end.timestamp_millis().unsigned_abs().rotate_left(32);
        let mut writer = RecordWriter::new(wire, rng_for(seed, 1));
        let mut fault_queue = FaultQueue::new(faults, rng_for(seed, 2));
        if wire.storage {
            let at = settings.first_day() - REGISTRATION_LEAD;
            let records = library.patrons().flat_map(|patron| writer.registration(patron, at));
            records.for_each(|record| fault_queue.push(record));
        }
        Self {
            writer,
            faults: fault_queue,
            clock: settings.first_day() - REGISTRATION_LEAD,
            closed: false,
            storage: wire.storage,
            outbox: wire.outbox.then(|| Outbox::new(rng_for(seed, 3))),
            library,
            truth,
        }
    }

    /// All of it at once, without Kafka: the records and what is true after them.
    pub fn in_memory(settings: &Settings, wire: &Wire, faults: Faults) -> (Vec<Record>, Truth) {
        let mut play = Self::new(settings, wire, faults);
        let records = play.by_ref().map(|step| step.record).collect();
        (records, play.truth.snapshot())
    }

    /// The truth, which grows with the iteration.
    pub fn truth(&self) -> SharedTruth {
        self.truth.clone()
    }

    /// What the library was made from.
    pub fn settings(&self) -> &Settings {
        self.library.settings()
    }

    /// Nothing happens any more: what is left of the iteration is what the weather held back.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// After the last day: something more happens, now. Gives each event with its records, in time
    /// order and good weather.
    pub fn advance_to(&mut self, now: DateTime<Utc>) -> Vec<(Event, Vec<Record>)> {
        let events = self.library.advance_to(now);
        events.into_iter().map(|event| (event.clone(), self.apply(&event, None))).collect()
    }

    /// The truth takes note, and whoever tells of it does: storage first, which is written first. What goes into the
    /// outbox is not among what is given back.
    fn apply(&mut self, event: &Event, outbox: Option<&mut Outbox>) -> Vec<Record> {
        let mut truth = self.truth.write();
        let before = Entity::from_event(event, &truth).filter(|_| self.storage);
        truth.apply(event);
        let after = Entity::from_event(event, &truth).filter(|_| self.storage);
        let stored = self.writer.stored(event, before, after);
        let mut records: Vec<Record> =
            stored.into_iter().chain(self.writer.record(event)).collect();
        // With the loan, before anybody can see it.
        if let Some(outbox) = outbox.filter(|_| event.fact.loan().is_some()) {
            records.drain(..).for_each(|record| outbox.write(record));
        }
        drop(truth);
        records
    }
}

impl Iterator for Play {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let record = loop {
            let sent = self.outbox.as_mut().and_then(Outbox::next);
            if let Some(record) = sent.or_else(|| self.faults.pop_due()) {
                break record;
            }
            let event = if self.closed { None } else { self.library.next() };
            let Some(event) = event else {
                let left = self.outbox.as_mut().and_then(Outbox::flush_next);
                break left.or_else(|| self.faults.pop_any())?;
            };
            self.clock = event.at;
            let mut outbox = self.outbox.take();
            let records = self.apply(&event, outbox.as_mut());
            self.outbox = outbox;
            records.into_iter().for_each(|record| self.faults.push(record));
        };
        Some(Step { clock: self.clock, record })
    }
}
