//! A play: it writes the library's events as records, applies faults, and updates the truth.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chrono::{DateTime, TimeDelta, Utc};

use super::faults::{FaultQueue, Faults};
use super::outbox::Outbox;
use super::storage_events::Entity;
use super::{Record, RecordWriter, Wire, rng_for};
use crate::model::{Event, Library, Settings, Transaction, Truth};

/// The shared truth about a played library, as of the newest event.
#[derive(Debug, Clone)]
pub struct SharedTruth(Arc<RwLock<Truth>>);

impl SharedTruth {
    /// Shares `truth`.
    pub fn new(truth: Truth) -> Self {
        Self(Arc::new(RwLock::new(truth)))
    }

    /// Locks the truth for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Truth> {
        // Applying an event cannot panic half-way, so a poisoned truth is still consistent.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the truth for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, Truth> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a copy of the truth.
    pub fn snapshot(&self) -> Truth {
        self.read().clone()
    }
}

/// One published record and the library's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The library's clock at publication; a delayed record has a clock long after its event.
    pub clock: DateTime<Utc>,
    /// The published record.
    pub record: Record,
}

/// A library at work: an iterator over its records in the order of publication.
#[derive(Debug)]
pub struct Play {
    library: Library,
    writer: RecordWriter,
    faults: FaultQueue,
    truth: SharedTruth,
    clock: DateTime<Utc>,
    closed: bool,
    /// Whether storage publishes its changes.
    storage: bool,
    /// The outbox of all events of circulation, if the wire has one.
    outbox: Option<Outbox>,
}

/// The time between the publication of the users and the first day.
const REGISTRATION_LEAD: TimeDelta = TimeDelta::days(90);

impl Play {
    /// Prepares a play without events.
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

    /// Runs the whole play without Kafka. Returns the records and the final truth.
    pub fn in_memory(settings: &Settings, wire: &Wire, faults: Faults) -> (Vec<Record>, Truth) {
        let mut play = Self::new(settings, wire, faults);
        let records = play.by_ref().map(|step| step.record).collect();
        (records, play.truth.snapshot())
    }

    /// Returns the shared truth, which each iteration updates.
    pub fn truth(&self) -> SharedTruth {
        self.truth.clone()
    }

    /// Returns the settings of the library.
    pub fn settings(&self) -> &Settings {
        self.library.settings()
    }

    /// Stops new events. The remaining iterations return the delayed records.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Advances the library to `now` after its last day. Returns each event with its records, in time order
    /// and without faults.
    pub fn advance_to(&mut self, now: DateTime<Utc>) -> Vec<(Event, Vec<Record>)> {
        let events = self.library.advance_to(now);
        self.apply_all(events)
    }

    /// Performs a requested transaction after the last day. Returns each event with its records, as
    /// [`Play::advance_to`] does.
    pub fn perform(
        &mut self,
        transaction: Transaction,
        now: DateTime<Utc>,
    ) -> Vec<(Event, Vec<Record>)> {
        let events = self.library.perform_transaction(transaction, now);
        self.apply_all(events)
    }

    fn apply_all(&mut self, events: Vec<Event>) -> Vec<(Event, Vec<Record>)> {
        events.into_iter().map(|event| (event.clone(), self.apply(&event, None))).collect()
    }

    /// Applies an event to the truth and returns its records, the storage record first. If there is an
    /// outbox, the records of loans are written to the outbox instead.
    fn apply(&mut self, event: &Event, outbox: Option<&mut Outbox>) -> Vec<Record> {
        let mut truth = self.truth.write();
        let before = Entity::from_event(event, &truth).filter(|_| self.storage);
        truth.apply(event);
        let after = Entity::from_event(event, &truth).filter(|_| self.storage);
        let stored = self.writer.stored(event, before, after);
        let mut records: Vec<Record> =
            stored.into_iter().chain(self.writer.record(event)).collect();
        // The outbox receives the message before the truth is unlocked.
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
